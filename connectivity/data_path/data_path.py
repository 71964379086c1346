"""Carries runs of known flows between the host and known peers: seals, opens, translates, judges by the flow table.

``open`` and ``seal`` are the hot calls. What they do not know is the core's: a received run that is no data of a known
session or not uniform (``open`` says so), packets of a flow without a verdict (``Core.judge_inbound``, or ``seal``
gives None), a peer without a path. What they lend is valid until the next call.

Activity comes back by ``Peer.activity``; ``take_active`` says whose has changed.
"""

from collections.abc import Callable
from struct import Struct
from typing import Final, NamedTuple, Protocol, TypeAlias

from connectivity.clock import Instant
from connectivity.data_path.peer import MAX_DATAGRAM_BYTES, Path, Peer
from connectivity.data_path.segments import uniform
from connectivity.data_path.trains import Trains
from connectivity.endpoint import Endpoint
from connectivity.flow_table import Key, translate
from connectivity.ip.flow import ECN_CE, ECN_MASK, PacketRun, mark_congestion, split_flows
from connectivity.ip.packet import IpError
from connectivity.run import Received, Run, Transmit
from connectivity.turn.channel_data import HEADER_BYTES
from connectivity.verdict import Forward, Lasting
from connectivity.wireguard import DATA, DATA_OVERHEAD_BYTES, Workspace

_INDEX: Final = Struct("<4xI")  # the receiver index of a data message

Verdicts: TypeAlias = Callable[[Key], Lasting | None]


class Opened(NamedTuple):
    """Decrypted packets of one peer; the run is borrowed, its rows are not yet checked as IP packets."""

    peer_id: str
    run: Run
    tos: int  # of the datagrams


class Stirred(Protocol):
    """The node, as far as a data path tells it that a connection has to look at its path or its session."""

    def peer_stirred(self, index: int, now: Instant) -> None:
        """Data came from a peer that has no path here, or its messages began to use another session."""


class Core(Stirred, Protocol):
    """The core, as far as a data path asks it."""

    def judge_inbound(self, peer_id: str, packets: PacketRun, now: Instant) -> Forward | None:
        """Packets of a flow that nothing here says to forward; None: the core has seen to them."""


class DataPath:
    """The way through this process."""

    def __init__(self) -> None:
        self.workspace = Workspace()  # one for all peers: what they hand out is borrowed until the next call
        self._verdict: Verdicts = lambda _: None
        self._peers: dict[int, Peer] = {}
        self._by_id: dict[str, Peer] = {}
        self._channels: dict[Endpoint, dict[int, Instant]] = {}
        self._leased: dict[Peer, None] = {}  # those with a path that may end
        self._active: list[int] = []
        self._trains = Trains()

    # What the core hands over --------------------------------------------------------------------------------------

    def use_flows(self, verdict: Verdicts) -> None:
        """What was decided about flows: of the host, and of a peer."""
        self._verdict = verdict

    def add_peer(self, peer_id: str, index: int, now: Instant) -> Peer:
        """A peer; sessions are put into it, a path follows."""
        peer = Peer(peer_id, index, self.workspace, now)
        self.put(peer)
        return peer

    def put(self, peer: Peer) -> None:
        """Enter a peer under its index and its id."""
        self._peers[peer.index] = self._by_id[peer.peer_id] = peer

    def welcomes(self, index: int) -> bool:
        """Whether a new peer may have this index: any will do, unless peers are to be spread by it."""
        del index
        return True

    def remove_peer(self, index: int) -> None:
        """Forget a peer: nothing is sealed for it or opened from it any more."""
        peer = self._peers.pop(index, None)
        if peer is not None:
            self._leased.pop(peer, None)
            if self._by_id.get(peer.peer_id) is peer:
                del self._by_id[peer.peer_id]

    def set_path(self, index: int, path: Path | None) -> None:
        """Send to a peer in this way; None: ask the core, and tell it of what comes."""
        peer = self._peers.get(index)
        if peer is None:
            return
        peer.path = path
        if path is not None and path.until is not None:
            self._leased[peer] = None
        else:
            self._leased.pop(peer, None)

    def allow_channel(self, server: Endpoint, number: int, until: Instant) -> None:
        """Take data of this channel without asking, until then."""
        self._channels.setdefault(server, {})[number] = until

    def forget_channels(self) -> None:
        """Something has changed about relays: ask again about all channels, both ways."""
        self._channels.clear()
        for peer in self._leased:
            if peer.path is not None:
                peer.path = peer.path._replace(until=0)
        self._leased.clear()

    def take_active(self) -> list[int]:
        """The peers to or from which something went since the last call."""
        active, self._active = self._active, []
        for index in active:
            peer = self._peers.get(index)
            if peer is not None:
                peer.is_reported = False
        return active

    # Traffic -------------------------------------------------------------------------------------------------------

    def seal(self, packets: PacketRun, now: Instant) -> Transmit | None:
        """Packets of one flow of the host, which may be rewritten in place; None: they are the core's, untouched."""
        found = self._way(packets, now)
        if found is None:
            return None
        peer, path, packets = found
        return self._sealed(peer, path, packets.run, packets.tos, now)

    def seal_batch(
        self,
        batch: list[PacketRun],
        now: Instant,
        send: Callable[[Transmit], None],
        ask: Callable[[PacketRun], None],
    ) -> None:
        """Packets of many flows of the host, which may be rewritten in place, in as few sends as possible.

        Those of a flow stay in order. ``ask`` gets what is the core's, untouched, after all that came before has left.
        """
        if len(batch) == 1:
            transmit = self.seal(batch[0], now)
            if transmit is None:
                ask(batch[0])
            else:
                send(transmit)
            return
        trains = self._trains
        for packets in batch:
            found = self._way(packets, now)
            if found is None:
                self._leave(now, send)
                ask(packets)
            else:
                trains.add(packets.flow, *found)
        self._leave(now, send)

    def _leave(self, now: Instant, send: Callable[[Transmit], None]) -> None:
        for train in self._trains.take():
            transmit = self._sealed(train.peer, train.path, train.run, train.tos, now)
            if transmit is not None:
                send(transmit)

    def _way(self, packets: PacketRun, now: Instant) -> tuple[Peer, Path, PacketRun] | None:
        """Where packets of the host go, translated; None: the core has to be asked, and they are untouched."""
        flow = self._verdict(packets.flow)
        if type(flow) is not Forward:
            return None
        peer = self._by_id.get(flow.peer_id)
        if peer is None:
            return None
        session, path = peer.current, peer.path
        if session is None or now >= session.send_until:
            return None
        if path is None or (path.until is not None and now >= path.until):
            return None
        if flow.translation is not None:
            packets = translate(packets, flow.translation, now)
        return peer, path, packets

    def _sealed(self, peer: Peer, path: Path, run: Run, tos: int, now: Instant) -> Transmit | None:
        sealed = peer.seal(run, now, 0 if path.channel is None else HEADER_BYTES)
        if sealed is None:
            return None
        if not peer.is_reported:
            self._report(peer)
        return path.addressed(sealed, tos)

    def open(
        self,
        received: Received,
        now: Instant,
        sink: Callable[[PacketRun], None],
        core: Core,
        errors: list[Exception],
    ) -> bool:
        """Datagrams from the network; ``sink`` gets what the host is to receive. False: they are the core's."""
        opened = self.decrypt(received, now, core)
        if isinstance(opened, Opened):
            self.deliver(opened, now, sink, core, errors)
            return True
        return opened

    def decrypt(self, received: Received, now: Instant, core: Stirred) -> Opened | bool:
        """What a uniform run of data messages of one known peer holds.

        Returns:
            False if it is another run, which is the core's; True if it held no packets.
        """
        _, remote, run, tos = received
        data, size = run
        length = len(data)
        if length < DATA_OVERHEAD_BYTES or size > MAX_DATAGRAM_BYTES:
            return False
        headroom = 0 if data[0] == DATA else self._headroom(remote, data, now)
        if data[headroom] != DATA or length < headroom + DATA_OVERHEAD_BYTES:
            return False
        if (length > size or headroom) and not uniform(run, headroom):
            return False
        index: int
        (index,) = _INDEX.unpack_from(data, headroom)
        peer = self._peers.get(index >> 8)
        if peer is None:
            return False
        current = peer.current
        packets = peer.open_session(index, run, now, headroom)
        if not peer.is_reported:
            self._report(peer)
        if peer.current is not current or (packets is not None and peer.path is None):
            core.peer_stirred(peer.index, now)
        return True if packets is None else Opened(peer.peer_id, packets, tos)

    def deliver(
        self,
        opened: Opened,
        now: Instant,
        sink: Callable[[PacketRun], None],
        core: Core,
        errors: list[Exception],
    ) -> None:
        """Hand the host what it is to have of a peer's packets."""
        peer_id, run, outer_tos = opened
        faulty: list[IpError] = []
        verdict, is_marked = self._verdict, outer_tos & ECN_MASK == ECN_CE
        for packets in split_flows(run, faulty):
            flow = verdict((peer_id, packets.flow))
            if type(flow) is not Forward:
                flow = core.judge_inbound(peer_id, packets, now)
                if flow is None:
                    continue
            # As ``forwarded`` does, without a call for each flow.
            if flow.translation is not None:
                packets = translate(packets, flow.translation, now)  # the same packets still
            sink(mark_congestion(packets) if is_marked else packets)
        errors += faulty

    def index_of(self, received: Received, now: Instant) -> int | None:
        """The connection that all of these data messages name; None if they are something else, or not all alike."""
        _, remote, (data, size), _ = received
        if len(data) < DATA_OVERHEAD_BYTES or size > MAX_DATAGRAM_BYTES:
            return None
        headroom = self._headroom(remote, data, now)
        if len(data) < headroom + DATA_OVERHEAD_BYTES or data[headroom] != DATA or not uniform(received.run, headroom):
            return None
        index: int
        (index,) = _INDEX.unpack_from(data, headroom)
        return index >> 8

    def _headroom(self, remote: Endpoint, data: memoryview, now: Instant) -> int:
        """The bytes of a channel header, if this is data of a channel that is known."""
        if not 0x40 <= data[0] <= 0x4F:
            return 0
        channels = self._channels.get(remote)
        until = None if channels is None else channels.get(data[0] << 8 | data[1])
        return HEADER_BYTES if until is not None and now < until else 0

    def _report(self, peer: Peer) -> None:
        peer.is_reported = True
        self._active.append(peer.index)


def forwarded(packets: PacketRun, flow: Forward, outer_tos: int, now: Instant) -> PacketRun:
    """A peer's packets as the host is to have them, in place; ``outer_tos`` is that of the datagrams."""
    if flow.translation is not None:
        packets = translate(packets, flow.translation, now)  # the same packets still
    return mark_congestion(packets) if outer_tos & ECN_MASK == ECN_CE else packets
