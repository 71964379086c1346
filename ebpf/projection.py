"""From channel bindings to map entries: pure, no kernel in sight.

A binding gives one entry per direction. A peer that is this relay itself (its address is one of ours) is another client
of ours: once both have bound each other's relayed address, each gets one entry that goes straight into the other's
channel; before that, and after either is gone, the packets take the Python path. Every change is a set of entries to
write and keys to delete, so that the maps always hold what the present bindings imply.
"""

from collections.abc import Iterable
from typing import NamedTuple

from connectivity.clock import Instant
from connectivity.endpoint import Endpoint, IPAddress
from ebpf.layout import FlowKey, FlowValue
from ebpf.settings import ChannelFlow


class Changes(NamedTuple):
    """Entries to delete first, then entries to write."""

    deletes: tuple[FlowKey, ...] = ()
    writes: tuple[tuple[FlowKey, FlowValue], ...] = ()


class Projection:
    """The bindings that are offloaded, and the map entries that they imply.

    ``sources`` maps an IP version to the address that the relay sends from in that family; ``own`` are all addresses
    under which peers may know this relay.
    """

    def __init__(self, *, listen_port: int, own: Iterable[IPAddress], sources: dict[int, IPAddress]) -> None:
        self._listen_port = listen_port
        self._own = tuple(dict.fromkeys(own))
        self._sources = sources
        self._flows: dict[tuple[Endpoint, int], ChannelFlow] = {}
        # (relayed port, peer) names a binding too, and a peer at our own address names its mirror image.
        self._by_relayed: dict[tuple[int, Endpoint], ChannelFlow] = {}

    def __len__(self) -> int:
        return len(self._flows)

    @property
    def flows(self) -> tuple[ChannelFlow, ...]:
        """All bindings, oldest first."""
        return tuple(self._flows.values())

    def install(self, flow: ChannelFlow) -> Changes:
        """Add or refresh a binding; one of the same client and channel to another peer is replaced."""
        replaced = [
            present
            for present in (
                self._flows.get((flow.client, flow.channel)),
                self._by_relayed.get((flow.relayed_port, flow.peer)),
            )
            if present is not None
        ]
        return self._change(replaced, flow)

    def remove(self, client: Endpoint, channel: int) -> Changes:
        """Forget a binding; an unknown one changes nothing. What it implied for its mirrors goes with it."""
        flow = self._flows.get((client, channel))
        return Changes() if flow is None else self._change([flow], None)

    def _change(self, gone: list[ChannelFlow], added: ChannelFlow | None) -> Changes:
        """Swap bindings, and work anew what all bindings that may be mirrors of these imply."""
        touched = [*gone, *([] if added is None else [added])]
        before = dict(pair for flow in self._related(touched) for pair in self.entries(flow))
        for flow in gone:
            self._flows.pop((flow.client, flow.channel), None)
            self._by_relayed.pop((flow.relayed_port, flow.peer), None)
        if added is not None:
            self._flows[added.client, added.channel] = added
            self._by_relayed[added.relayed_port, added.peer] = added
        after = dict(pair for flow in self._related(touched) for pair in self.entries(flow))
        return Changes(tuple(key for key in before if key not in after), tuple(after.items()))

    def _related(self, touched: list[ChannelFlow]) -> list[ChannelFlow]:
        """Those of the bindings that exist, and others between the same two relayed ports of ours."""
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
        """The binding of the other client, where ``flow`` and it are bound to each other's relayed address."""
        if flow.peer.ip not in self._own:
            return None
        candidates = (flow.peer.ip, *(address for address in self._own if address.version == flow.peer.ip.version))
        for address in candidates:
            found = self._by_relayed.get((flow.peer.port, Endpoint(address, flow.relayed_port)))
            if found is not None and found is not flow:
                return found
        return None

    def entries(self, flow: ChannelFlow) -> tuple[tuple[FlowKey, FlowValue], ...]:
        """The map entries that ``flow`` implies now: two, one (between clients) or none."""
        to_peer = FlowKey(flow.client, flow.channel)
        if flow.peer.ip in self._own:
            other = self.mirror(flow)
            if other is None:
                return ()
            expires_at = min(flow.expires_at, other.expires_at)
            value = self._towards_client(flow.client, other, expires_at)
            return () if value is None else ((to_peer, value),)
        pairs = (
            (to_peer, self._towards_peer(flow)),
            (FlowKey(flow.peer, flow.relayed_port), self._towards_client(flow.peer, flow, flow.expires_at)),
        )
        return tuple((key, value) for key, value in pairs if value is not None)

    def _towards_peer(self, flow: ChannelFlow) -> FlowValue | None:
        same_family = flow.peer.ip.version == flow.client.ip.version
        source = None if same_family else self._sources.get(flow.peer.ip.version)
        if source is None and not same_family:
            return None
        return FlowValue(flow.peer, flow.relayed_port, 0, flow.expires_at, source)

    def _towards_client(self, sender: Endpoint, flow: ChannelFlow, expires_at: Instant) -> FlowValue | None:
        same_family = sender.ip.version == flow.client.ip.version
        source = flow.local
        if source is None and not same_family:
            source = self._sources.get(flow.client.ip.version)
            if source is None:
                return None
        return FlowValue(flow.client, self._listen_port, flow.channel, expires_at, source)
