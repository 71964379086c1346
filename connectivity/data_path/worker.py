"""A worker without IO: carries the packets of its peers as the core has told, and asks about what it does not know.

::

    network, device -> open, seal -> device, network        what is known
                    -> another worker                       what is another's: merged datagrams, a queue chosen by hash
                    -> the core                             what is nobody's: a question, or datagrams as they came

What was handed over is never handed on: if it is not ours the core gets it. Handling messages comes first: a decision
that the core has taken back does not let the next batch through.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from enum import Enum, auto
from typing import Protocol

from connectivity.clock import SECOND, Instant
from connectivity.data_path import messages
from connectivity.data_path.data_path import DataPath, forwarded
from connectivity.data_path.lending import REASONS
from connectivity.data_path.messages import Message
from connectivity.data_path.peer import MAX_DATAGRAM_BYTES, Path
from connectivity.data_path.questions import Questions
from connectivity.data_path.shared import SharedPeer
from connectivity.endpoint import Endpoint
from connectivity.flow_table import Key, names_one_flow
from connectivity.ip.flow import FlowKey, PacketRun
from connectivity.ip.packet import FRAGMENT
from connectivity.run import Received, Run, Transmit
from connectivity.turn.channel_data import HEADER_BYTES
from connectivity.verdict import Forward, Translation
from connectivity.wireguard import DATA, SessionValues, connection_of, receiver_index

GRACE = SECOND  # how long a channel or a path whose time is over is used while the core is asked
_INDEX_BYTES = 8
_UNASKED = 0  # the number of what the core sees to without an answer


class By(Enum):
    """Who gave a worker datagrams: who was handed some never hands them back."""

    KERNEL = auto()
    WORKER = auto()
    CORE = auto()


class Outside(Protocol):
    """Where a worker's output goes."""

    def tell_core(self, message: Message) -> bool:
        """A message to the core; False if there is no room for it."""

    def hand_over(self, worker: int, message: Message) -> bool:
        """A message to another worker; likewise."""

    def send(self, transmit: Transmit) -> None:
        """Send datagrams to the network."""

    def write(self, packets: PacketRun) -> None:
        """Give packets to the host, through the TUN device."""


class _LenientDataPath(DataPath):
    """A data path that goes on with a channel or a path for a moment while the core is asked about it."""

    def __init__(self, tell_core: Callable[[Message], bool]) -> None:
        super().__init__()
        self._tell_core = tell_core
        self._asked: dict[tuple[Endpoint, int] | int, Instant] = {}  # about what, and when

    def forget_channels(self) -> None:
        """Ask again about all channels, while they are used."""
        for numbers in self._channels.values():
            for number, until in numbers.items():
                numbers[number] = min(until, 1)

    def _headroom(self, remote: Endpoint, data: memoryview, now: Instant) -> int:
        if len(data) < HEADER_BYTES or not 0x40 <= data[0] <= 0x4F:
            return 0
        number = data[0] << 8 | data[1]
        channels = self._channels.get(remote)
        until = None if channels is None else channels.get(number)
        if channels is None or until is None:
            return 0
        if now < until:
            return HEADER_BYTES
        asked = self._asked.get((remote, number))
        if asked is None:
            self._asked[remote, number] = now
            self._tell_core(messages.RenewChannel(remote, number))
        elif now - asked > GRACE:
            del channels[number]
            del self._asked[remote, number]
            return 0
        return HEADER_BYTES

    def allow_channel(self, server: Endpoint, number: int, until: Instant) -> None:
        """Take data of this channel, until then; the core has answered if it was asked."""
        super().allow_channel(server, number, until)
        self._asked.pop((server, number), None)


class Worker:
    """One worker. ``number`` is its own among ``owner``'s results."""

    def __init__(
        self, number: int, owner: Callable[[int], int], memory: memoryview, outside: Outside, now: Instant
    ) -> None:
        self._number = number
        self._owner = owner
        self._words = memory.cast("B").cast("q")
        self._outside = outside
        self._data_path = _LenientDataPath(outside.tell_core)
        self._peers: dict[int, SharedPeer] = {}
        self._flows: dict[Key, Forward] = {}
        self._elsewhere: dict[FlowKey, int] = {}
        self._keys: dict[int, set[Key]] = {}  # of flows, by peer
        self._coming: dict[Key, Forward] = {}  # known, but packets that came before still wait
        self._questions = Questions()
        self._outer_tos = 0  # of the datagrams in hand
        self._reported: dict[int, Counter[int]] = {}
        self._reported_at = now
        self.counts: Counter[str] = Counter()
        self.running = False
        self.stopped = False
        self._data_path.use_flows(self._flows.get)

    # From the network and from the host ----------------------------------------------------------------------------

    def handle_datagrams(self, received: Received, now: Instant, by: By = By.KERNEL) -> None:
        """What came from the network."""
        errors: list[Exception] = []
        self._outer_tos = received.tos
        if self._data_path.open(received, now, self._outside.write, self, errors):
            self.counts["faulty"] += len(errors)
            return
        for owner, run in self._parts(received.run):
            part = received._replace(run=run)
            if owner == self._number and self._data_path.open(part, now, self._outside.write, self, errors):
                continue
            message = messages.Datagrams(received.local, received.remote, received.tos, False, run)
            if by is By.CORE:  # which knows it no better
                self.counts["dropped"] += run.segment_count
            elif owner in (None, self._number) or by is By.WORKER:
                self._count("to_core", run, sent=self._outside.tell_core(message))
            else:
                self._count("handed_over", run, sent=self._outside.hand_over(owner, message))

    def handle_batch(self, batch: list[PacketRun], now: Instant) -> None:
        """Packets of the host, of many flows; they may be rewritten in place."""
        self._data_path.seal_batch(batch, now, self._outside.send, self._unknown)

    def handle_packets(self, packets: PacketRun, now: Instant, *, handed_over: bool = False) -> None:
        """Packets of one flow of the host; they may be rewritten in place."""
        transmit = self._data_path.seal(packets, now)
        if transmit is None:
            self._unknown(packets, handed_over=handed_over)
        else:
            self._outside.send(transmit)

    def _unknown(self, packets: PacketRun, *, handed_over: bool = False) -> None:
        elsewhere = self._elsewhere.get(packets.flow)
        if elsewhere is None or handed_over or packets.flow in self._questions:
            self._outer_tos = 0
            self._ask(packets.flow, packets)
        else:
            message = messages.HostPackets(packets.tos, packets.flow, packets.run)
            self._count("handed_over", packets.run, sent=self._outside.hand_over(elsewhere, message))

    # As the core of its data path ----------------------------------------------------------------------------------

    def judge_inbound(self, peer_id: str, packets: PacketRun, now: Instant) -> Forward | None:
        """Packets of a flow that is not known: the core is asked."""
        del now
        self._ask((peer_id, packets.flow), packets)
        return None

    def peer_stirred(self, index: int, now: Instant) -> None:
        """The core wants to know."""
        peer = self._peers[index]
        current = 0 if peer.current is None else peer.current.local_index
        self._outside.tell_core(messages.Stirred(index, current, peer.activity.last_data_at == now))

    def _ask(self, key: Key, packets: PacketRun) -> None:
        inbound, index = (False, 0) if isinstance(key, bytes) else (True, int(key[0]))
        number = _UNASKED
        if packets.flow[1] != FRAGMENT and names_one_flow(packets.flow):
            kept = self._questions.keep(key, packets.run, packets.tos, self._outer_tos)
            if kept is None:
                return
            number = kept
            known = self._flows.pop(key, None)  # there is no way for it now; what comes meanwhile waits, too
            if known is not None:
                self._coming[key] = known
        question = messages.Question(number, index, inbound, packets.tos, self._outer_tos, packets.flow, packets.run)
        if not self._outside.tell_core(question) and number != _UNASKED:
            self._questions.answer(number, taken=True)
            self._questions.dropped += packets.run.segment_count

    # From the core and from other workers --------------------------------------------------------------------------

    def handle_message(self, message: Message, now: Instant) -> None:
        """What the core says, or another worker hands over."""
        match message:
            case messages.Datagrams(local, remote, tos, final, run):
                by = By.CORE if final else By.WORKER
                self.handle_datagrams(Received(local, remote, run, tos), now, by)
            case messages.HostPackets(tos, key, run):
                self.handle_packets(PacketRun(run, key, tos), now, handed_over=True)
            case messages.Answer(question, taken):
                self._handle_answer(question, taken, now)
            case messages.Seal() | messages.KeepAlive():
                self._handle_send(message, now)
            case messages.Remember():
                self._remember(message)
            case messages.Forget(index, inbound, key):
                self._forget((str(index), key) if inbound else key)
            case messages.ForgetFlows():
                for flow in [*self._flows, *self._coming, *self._elsewhere]:
                    self._forget(flow)
            case messages.AllowChannel(server, number, until):
                self._data_path.allow_channel(server, number, until)
            case messages.ForgetChannels():
                self._data_path.forget_channels()
                for peer in self._peers.values():
                    peer.renew_at = None if peer.path is None or peer.path.channel is None else 0
            case messages.Start():
                self.running = True
            case messages.Stop():
                self.stopped = True
            case _:
                self._handle_peer(message, now)

    def _handle_peer(self, message: Message, now: Instant) -> None:
        match message:
            case messages.AddPeer(index, slot):
                workspace = self._data_path.workspace
                added = SharedPeer(index, workspace, now, words=self._words, slot=slot, renew=self._renew)
                self._peers[index] = added
                self._data_path.put(added)
            case messages.RemovePeer(index):
                del self._peers[index]
                self._reported.pop(index, None)
                self._data_path.remove_peer(index)
                for key in list(self._keys.get(index, ())):
                    self._forget(key)
            case messages.AddSession(index, local_index, remote_index, is_initiator, at, counter, highest, keys):
                peer = self._peers[index]
                session = peer.add(SessionValues(keys, local_index, remote_index, is_initiator, at))
                session.resume(counter, highest)
                peer.note_session(session)
            case messages.UseSession(index, local_index):
                for held in self._peers[index].sessions:
                    if held is not None and held.local_index == local_index:
                        self._peers[index].use(held)
            case messages.EndSession(index, local_index):
                self._peers[index].remove(local_index)
            case messages.SetPath(index, source, destination, channel, until):
                used_until = None if until is None else until + GRACE
                path = None if destination is None else Path(source, destination, channel, used_until)
                self._data_path.set_path(index, path)
                self._peers[index].renew_at = until
            case _:
                raise AssertionError(f"not for a worker: {type(message).__name__}")

    def _handle_answer(self, question: int, taken: bool, now: Instant) -> None:
        answered = self._questions.answer(question, taken=taken)
        if answered is None:
            return
        key, runs = answered
        flow = self._coming.pop(key, None)
        if flow is not None:
            self._flows[key] = flow
        for run, tos, outer_tos in runs:
            if isinstance(key, bytes):
                self.handle_packets(PacketRun(run, key, tos), now)
            else:
                self._deliver(key, PacketRun(run, key[1], tos), outer_tos, now)

    def _deliver(self, key: tuple[str, FlowKey], packets: PacketRun, outer_tos: int, now: Instant) -> None:
        """Packets of a peer that have waited."""
        flow = self._flows.get(key)
        if flow is None:
            self._outer_tos = outer_tos
            self._ask(key, packets)
        else:
            self._outside.write(forwarded(packets, flow, outer_tos, now))

    def _handle_send(self, message: messages.Seal | messages.KeepAlive, now: Instant) -> None:
        """What the core itself wants sent."""
        peer = self._peers.get(message.peer)
        if peer is None or peer.path is None:
            self.counts["unsent"] += 1
            return
        path = peer.path
        if isinstance(message, messages.Seal):
            sealed, tos = peer.seal(message.run, now, path.headroom), message.tos
        else:
            data = peer.keep_alive(now)
            framed = None if data is None else memoryview(bytearray(path.headroom) + data)
            sealed, tos = None if framed is None else Run(framed, len(framed)), 0
        if sealed is not None:
            self._outside.send(path.addressed(sealed, tos))

    def _remember(self, message: messages.Remember) -> None:
        owner, index, inbound, key, source, destination, source_port, destination_port, translated = message
        if owner != self._number:
            self._elsewhere[key] = owner
            return
        translation = None
        if translated:
            translation = Translation(
                source=source, destination=destination, source_port=source_port, destination_port=destination_port
            )
        flow = Forward(str(index), translation)
        known: Key = (flow.peer_id, key) if inbound else key
        self._keys.setdefault(index, set()).add(known)
        (self._coming if known in self._questions else self._flows)[known] = flow

    def _forget(self, key: Key) -> None:
        flow = self._flows.pop(key, None) or self._coming.pop(key, None)
        if isinstance(key, bytes):
            self._elsewhere.pop(key, None)
        if flow is not None:
            keys = self._keys[int(flow.peer_id)]
            keys.discard(key)
            if not keys:
                del self._keys[int(flow.peer_id)]

    def _renew(self, index: int) -> None:
        self._outside.tell_core(messages.Renew(index))

    # Time ----------------------------------------------------------------------------------------------------------

    def report(self, now: Instant) -> None:
        """Tell the core, once a second, what was translated and what was dropped since the last time."""
        self.counts["unanswered"] += self._questions.dropped
        self._questions.dropped = 0
        since, self._reported_at = self._reported_at, now
        for key, flow in self._flows.items():
            translation = flow.translation
            if translation is not None and translation.last_used is not None and translation.last_used >= since:
                inbound, index = not isinstance(key, bytes), int(flow.peer_id)
                flow_key = key if isinstance(key, bytes) else key[1]
                used = messages.Used(index, inbound, translation.last_used, translation.tcp_flags, flow_key)
                self._outside.tell_core(used)
        for index, peer in self._peers.items():
            reported = self._reported.setdefault(index, Counter())
            for reason, count in peer.drops.items():
                place = REASONS.index(reason)
                if count > reported[place]:
                    self._outside.tell_core(messages.Dropped(index, place, count - reported[place]))
                    reported[place] = count

    # Private -------------------------------------------------------------------------------------------------------

    def _count(self, name: str, run: Run, *, sent: bool) -> None:
        self.counts[name if sent else "dropped"] += run.segment_count

    def _parts(self, run: Run) -> Iterator[tuple[int | None, Run]]:
        """A run that is not uniform, cut where the next segment is another's; None is the core's.

        Other than ``segments.stretches`` it leaves together what is the core's: that is one message.
        """
        data, size = run.data, run.segment_size
        start, before = 0, self._whose(data[:size])
        for offset in range(size, len(data), size or 1):
            whose = self._whose(data[offset : offset + size])
            if whose != before:
                yield before[0], Run(data[start:offset], min(size, offset - start))
                start, before = offset, whose
        yield before[0], Run(data[start:], min(size, len(data) - start))

    def _whose(self, segment: memoryview) -> tuple[int | None, bytes]:
        """Who carries a datagram, and what all of a uniform run have in common."""
        headroom = HEADER_BYTES if segment and 0x40 <= segment[0] <= 0x4F else 0
        inner = segment[headroom : headroom + _INDEX_BYTES]
        if len(inner) < _INDEX_BYTES or inner[0] != DATA or len(segment) > MAX_DATAGRAM_BYTES:
            return None, b""
        return self._owner(connection_of(receiver_index(inner))), bytes(segment[: 2 if headroom else 0]) + bytes(inner)
