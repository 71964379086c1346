"""From channel bindings to map entries: pure, no kernel in sight.

A binding gives one entry per direction. A peer that is this relay itself (its address is one of ours) is another client
of ours: once the other has bound the first one's relayed address, the first gets one entry that goes straight into the
other's channel; before that, and after either is gone, the packets take the Python path. Every change is a set of
entries to write and keys to delete, so that the maps always hold what the present bindings imply. Each binding has a
slot, which its entries name; a slot that became free is used again after all others, when nothing is on its way by it.
"""

from collections import deque
from collections.abc import Iterable
from typing import NamedTuple

from connectivity.endpoint import Endpoint, IPAddress
from ebpf.layout import FlowKey, FlowValue
from ebpf.settings import ChannelFlow


class Changes(NamedTuple):
    """Slots to end first, then entries to delete, then entries to write."""

    ended: tuple[int, ...] = ()
    deletes: tuple[FlowKey, ...] = ()
    writes: tuple[tuple[FlowKey, FlowValue], ...] = ()


class Projection:
    """The bindings that are offloaded, and the map entries that they imply.

    ``public`` maps an IP version to the address that relayed addresses have, ``sources`` to the one that the relay
    sends from; ``own`` are all addresses under which peers may know this relay. ``capacity`` bindings fit.
    """

    def __init__(
        self,
        *,
        public: dict[int, IPAddress],
        own: Iterable[IPAddress],
        sources: dict[int, IPAddress],
        capacity: int,
    ) -> None:
        self._own = tuple(dict.fromkeys(own))
        self._public = public
        self._sources = sources
        self._flows: dict[tuple[Endpoint, int], ChannelFlow] = {}
        # (relayed port, peer) names a binding too, and a peer at our own address names its mirror image.
        self._by_relayed: dict[tuple[int, Endpoint], ChannelFlow] = {}
        self._slots: dict[tuple[Endpoint, int], int] = {}
        self._free = deque(range(1, capacity + 1))

    def __len__(self) -> int:
        return len(self._flows)

    @property
    def flows(self) -> tuple[ChannelFlow, ...]:
        """All bindings, oldest first."""
        return tuple(self._flows.values())

    def slot(self, client: Endpoint, channel: int) -> int:
        """Where a binding lives; 0 if it is unknown."""
        return self._slots.get((client, channel), 0)

    def has_room(self, flow: ChannelFlow) -> bool:
        """Whether ``flow`` can be installed."""
        return bool(self._free) or bool(self._replaced_by(flow))

    def install(self, flow: ChannelFlow) -> Changes:
        """Add or refresh a binding; one of the same client and channel to another peer is replaced."""
        return self._change(self._replaced_by(flow), flow)

    def remove(self, client: Endpoint, channel: int) -> Changes:
        """Forget a binding; an unknown one changes nothing. What it implied for its mirrors goes with it."""
        flow = self._flows.get((client, channel))
        return Changes() if flow is None else self._change([flow], None)

    def _replaced_by(self, flow: ChannelFlow) -> list[ChannelFlow]:
        names = (
            self._flows.get((flow.client, flow.channel)),
            self._by_relayed.get((flow.relayed_port, flow.peer)),
        )
        return [present for present in names if present is not None]

    def _change(self, gone: list[ChannelFlow], added: ChannelFlow | None) -> Changes:
        """Swap bindings, and work anew what all bindings that may be mirrors of these imply."""
        touched = [*gone, *([] if added is None else [added])]
        before = dict(pair for flow in self._related(touched) for pair in self.entries(flow))
        for flow in gone:
            self._flows.pop((flow.client, flow.channel), None)
            self._by_relayed.pop((flow.relayed_port, flow.peer), None)
        kept = None if added is None else (added.client, added.channel)
        names = dict.fromkeys((flow.client, flow.channel) for flow in gone)
        ended = tuple(self._slots.pop(name) for name in names if name != kept)
        self._free.extend(ended)
        if added is not None and kept is not None:
            self._flows[kept] = added
            self._by_relayed[added.relayed_port, added.peer] = added
            if kept not in self._slots:
                self._slots[kept] = self._free.popleft()
        after = dict(pair for flow in self._related(touched) for pair in self.entries(flow))
        return Changes(ended, tuple(key for key in before if key not in after), tuple(after.items()))

    def _related(self, touched: list[ChannelFlow]) -> list[ChannelFlow]:
        """The bindings of these that exist, and others between the same two relayed ports of ours."""
        found: dict[tuple[Endpoint, int], ChannelFlow] = {}
        for flow in touched:
            names = [(flow.relayed_port, flow.peer)]
            if flow.peer.ip in self._own:
                for address in self._own:  # the relay may be bound under several of its addresses
                    names.append((flow.relayed_port, Endpoint(address, flow.peer.port)))
                    names.append((flow.peer.port, Endpoint(address, flow.relayed_port)))
            for name in names:
                related = self._by_relayed.get(name)
                if related is not None:
                    found[related.client, related.channel] = related
        return list(found.values())

    def mirror(self, flow: ChannelFlow) -> ChannelFlow | None:
        """The other client's binding: to where ``flow`` comes from, which is a public address of ours."""
        public = self._public.get(flow.peer.ip.version)
        if flow.peer.ip not in self._own or public is None:
            return None
        return self._by_relayed.get((flow.peer.port, Endpoint(public, flow.relayed_port)))

    def entries(self, flow: ChannelFlow) -> tuple[tuple[FlowKey, FlowValue], ...]:
        """The map entries that ``flow`` implies now: two, one (between clients) or none."""
        to_peer = FlowKey(flow.client, flow.channel)
        if flow.peer.ip in self._own:
            other = self.mirror(flow)
            if other is None:
                return ()
            value = self._towards_client(flow.client, other, flow)
            return () if value is None else ((to_peer, value),)
        pairs = (
            (to_peer, self._towards_peer(flow)),
            (FlowKey(flow.peer, flow.relayed_port), self._towards_client(flow.peer, flow)),
        )
        return tuple((key, value) for key, value in pairs if value is not None)

    def _towards_peer(self, flow: ChannelFlow) -> FlowValue | None:
        same_family = flow.peer.ip.version == flow.client.ip.version
        source = None if same_family else self._sources.get(flow.peer.ip.version)
        if source is None and not same_family:
            return None
        slot = self.slot(flow.client, flow.channel)
        return FlowValue(flow.peer, flow.relayed_port, 0, sender=slot, source=source, listen_port=flow.listen_port)

    def _towards_client(
        self, remote: Endpoint, flow: ChannelFlow, sender: ChannelFlow | None = None
    ) -> FlowValue | None:
        same_family = remote.ip.version == flow.client.ip.version
        source = flow.local
        if source is None and not same_family:
            source = self._sources.get(flow.client.ip.version)
            if source is None:
                return None
        return FlowValue(
            flow.client,
            flow.listen_port,
            flow.channel,
            sender=0 if sender is None else self.slot(sender.client, sender.channel),
            receiver=self.slot(flow.client, flow.channel),
            source=source,
            listen_port=0 if sender is None else sender.listen_port,
        )
