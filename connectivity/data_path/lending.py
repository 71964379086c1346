"""The core's side of worker processes: peers are lent to workers, and taken back when one dies.

A peer is a worker's by the index of its connection, which is how the kernel steers. While its worker runs, what the
core does with the peer's sessions and path is told to the worker, and what the core wants sent is sent by the worker;
while it does not, the peer is the core's own, like any without workers. So nothing above has to know about workers.

Sessions stay here, too: with what the shared memory says of their counters, the core or another worker goes on.
"""

from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from typing import Final, Protocol

from connectivity.clock import Instant
from connectivity.data_path import messages
from connectivity.data_path.data_path import DataPath, Opened, Stirred
from connectivity.data_path.messages import Message
from connectivity.data_path.peer import Path, Peer
from connectivity.data_path.shared import HEARD_AT, LAST_DATA_AT, RESERVED, ROW_BYTES, Mirror, rows_of
from connectivity.endpoint import Endpoint
from connectivity.flow_table import Key
from connectivity.ip.flow import PacketRun
from connectivity.run import Received, Run
from connectivity.verdict import Forward, Translation
from connectivity.wireguard import DropReason, SessionValues, Workspace
from connectivity.wireguard.session import Session

Tell = Callable[[int, Message], None]
REASONS: Final = tuple(DropReason)  # their numbers are places in it
_CHANGING: Final = [LAST_DATA_AT, HEARD_AT]  # one of these changes with everything that passes


class Lender(Protocol):
    """The data path that lends peers: the way to their workers."""

    tell: Tell


class LentPeer(Peer):
    """A peer of the core that may be a worker's for now."""

    __slots__ = ("_lender", "_values", "mirror", "slot", "worker")

    def __init__(
        self, peer_id: str, index: int, workspace: Workspace, now: Instant, lender: Lender, mirror: Mirror, slot: int
    ) -> None:
        super().__init__(peer_id, index, workspace, now)
        self._lender = lender
        self._values: dict[Session, SessionValues] = {}
        self.mirror = mirror
        self.slot = slot
        self.worker: int | None = None  # None: it is the core's own

    def lend(self, worker: int) -> None:
        """From now on it is this worker's."""
        self.worker = worker
        self._tell(messages.AddPeer(self.index, self.slot))
        for session in self.sessions:
            if session is not None:
                self._tell_session(session)
        if self.current is not None:
            self._tell(messages.UseSession(self.index, self.current.local_index))
        self.tell_path()

    def take_back(self) -> None:
        """Its worker is gone. Counters that it may have used without a word are left out."""
        self.mirror.take(self.activity)
        for session in self.sessions:
            if session is not None:
                counter, highest = self.mirror.counters(session.local_index)
                session.resume(max(counter, session.send_counter) + RESERVED, highest)
        self.worker = None

    def tell_path(self) -> None:
        """Tell the worker how to send."""
        path = self.path
        if path is None:
            self._tell(messages.SetPath(self.index, None, None, None, None))
        else:
            self._tell(messages.SetPath(self.index, path.source, path.destination, path.channel, path.until))

    def used(self, local_index: int) -> None:
        """The worker sends on this session now."""
        for session in self.sessions:
            if session is not None and session.local_index == local_index:
                super().use(session)

    # As a transport ------------------------------------------------------------------------------------------------

    def add(self, values: SessionValues) -> Session:
        """Open on a new session, in its worker as well."""
        session = super().add(values)
        self._values = {held: self._values[held] for held in self.sessions if held in self._values}
        self._values[session] = values
        if self.worker is not None:
            self._tell_session(session)
        return session

    def use(self, session: Session) -> None:
        """Send on this session unless the current one is younger, in its worker as well."""
        super().use(session)
        if self.worker is not None and self.current is session:
            self._tell(messages.UseSession(self.index, session.local_index))

    def remove(self, local_index: int) -> None:
        """Forget the session in the place of this index, in its worker as well."""
        super().remove(local_index)
        if self.worker is not None:
            self._tell(messages.EndSession(self.index, local_index))

    def clear(self) -> None:
        """Forget all sessions, in its worker as well."""
        for session in self.sessions:
            if session is not None:
                self.remove(session.local_index)

    def seal(self, run: Run, now: Instant, headroom: int = 0, tos: int = 0) -> Run | None:
        """Seal a run of IP packets; while the peer is lent, its worker seals and sends it, and this returns None."""
        if self.worker is None or not self.can_send(now):
            return super().seal(run, now, headroom, tos)
        self._tell(messages.Seal(self.index, tos, run))
        return None

    def keep_alive(self, now: Instant) -> bytes | None:
        """A data message without a packet; while the peer is lent, its worker sends it, and this returns None."""
        if self.worker is None or not self.can_send(now):
            return super().keep_alive(now)
        self.activity.unacknowledged_since = None
        self._tell(messages.KeepAlive(self.index))
        return None

    def _tell_session(self, session: Session) -> None:
        values = self._values[session]
        told = messages.AddSession(
            self.index,
            values.local_index,
            values.remote_index,
            values.is_initiator,
            values.established_at,
            session.send_counter,
            session.window.highest,
            values.keys,
        )
        self._tell(told)

    def _tell(self, message: Message) -> None:
        if self.worker is not None:
            self._lender.tell(self.worker, message)


class Lending(DataPath):
    """A data path whose peers are workers' as far as these run.

    Args:
        workers: How many there may be.
        owner: Whose a connection is, by its index.
        memory: What is shared with the workers; who finds no place in it stays the core's own.
        tell: Takes a message for a worker. It must not lose one, nor reorder them.
    """

    def __init__(self, workers: int, owner: Callable[[int], int], memory: memoryview, tell: Tell) -> None:
        super().__init__()
        self.tell = tell
        self.handed_over: Counter[str] = Counter()
        self._owner = owner
        self._rows = rows_of(memory)
        self._seen = self._rows[:, _CHANGING].copy()
        self._free = deque(range(len(memory) // ROW_BYTES))  # the one that was freed last is used last
        self._used = 0  # no row behind these was ever used
        self._slots: dict[int, LentPeer] = {}
        self._running = [False] * workers
        self._flows: dict[Key, tuple[str, int]] = {}  # what workers know, of or to which peer, and which of them do
        self._flows_of: dict[str, set[Key]] = {}

    # Workers -------------------------------------------------------------------------------------------------------

    def start(self, worker: int) -> None:
        """This worker runs: lend it what is its."""
        self._running[worker] = True
        for server, numbers in self._channels.items():
            for number, until in numbers.items():
                self.tell(worker, messages.AllowChannel(server, number, until))
        for peer in self._lendable(worker):
            peer.lend(worker)

    def end(self, worker: int) -> None:
        """This worker is gone: everything that was its is the core's own, and nobody hands it anything any more."""
        self._running[worker] = False
        for key, (peer_id, holders) in list(self._flows.items()):
            self._keep(key, peer_id, holders & ~(1 << worker))
        for peer in self._lendable(worker):
            peer.take_back()
            self._forget_flows_of(peer.peer_id)

    def peer(self, index: int) -> LentPeer | None:
        """The peer with this index, if there is a place for it in the shared memory."""
        found = self._peers.get(index)
        return found if isinstance(found, LentPeer) else None

    # Flows ---------------------------------------------------------------------------------------------------------

    def remember(self, worker: int, key: Key, flow: Forward) -> bool:
        """Tell a worker about a flow; False if its peer is nobody's that runs."""
        peer = self._by_id.get(flow.peer_id)
        if not isinstance(peer, LentPeer) or peer.worker is None or not self._running[worker]:
            return False
        inbound, flow_key = not isinstance(key, bytes), key if isinstance(key, bytes) else key[1]
        put_in = flow.translation or Translation()
        told = messages.Remember(
            peer.worker,
            peer.index,
            inbound,
            flow_key,
            put_in.source,
            put_in.destination,
            put_in.source_port,
            put_in.destination_port,
            translated=flow.translation is not None,
        )
        self.tell(worker, told)
        self._keep(key, flow.peer_id, self._flows.get(key, ("", 0))[1] | 1 << worker)
        return True

    def forget(self, key: Key) -> None:
        """A decision does not hold any more: nobody is to act by it."""
        peer_id, holders = self._flows.get(key, ("", 0))
        peer = self._by_id.get(peer_id)
        self._keep(key, peer_id, 0)
        inbound, flow_key = not isinstance(key, bytes), key if isinstance(key, bytes) else key[1]
        for worker in _numbers(holders):
            self.tell(worker, messages.Forget(0 if peer is None else peer.index, inbound, flow_key))

    def forget_all(self) -> None:
        """No decision holds any more."""
        self._flows.clear()
        self._flows_of.clear()
        self._tell_all(messages.ForgetFlows())

    # As a data path ------------------------------------------------------------------------------------------------

    def add_peer(self, peer_id: str, index: int, now: Instant) -> Peer:
        """A peer, lent at once if its worker runs."""
        if not self._free:
            return super().add_peer(peer_id, index, now)
        slot = self._free.popleft()
        self._used = max(self._used, slot + 1)
        peer = LentPeer(peer_id, index, self.workspace, now, self, Mirror(self._rows[slot]), slot)
        self._seen[slot] = 0
        self._slots[slot] = peer
        self.put(peer)
        worker = self._owner(index)
        if self._running[worker]:
            peer.lend(worker)
        return peer

    def welcomes(self, index: int) -> bool:
        """So that each worker has as many peers as any other."""
        loads = Counter(self._owner(peer.index) for peer in self._slots.values())
        return loads[self._owner(index)] == min(loads[worker] for worker in range(len(self._running)))

    def remove_peer(self, index: int) -> None:
        """Forget a peer, and what workers know of its flows."""
        peer = self.peer(index)
        if peer is not None:
            self._forget_flows_of(peer.peer_id)
            if peer.worker is not None:
                self.tell(peer.worker, messages.RemovePeer(index))
                peer.worker = None
            del self._slots[peer.slot]
            self._free.append(peer.slot)
        super().remove_peer(index)

    def set_path(self, index: int, path: Path | None) -> None:
        """Send to a peer in this way, or ask the core; its worker is told if that is news."""
        peer = self.peer(index)
        changed = peer is not None and peer.path != path
        super().set_path(index, path)
        if peer is not None and changed:
            peer.tell_path()

    def allow_channel(self, server: Endpoint, number: int, until: Instant) -> None:
        """Take data of this channel without asking, until then: here and in all workers."""
        super().allow_channel(server, number, until)
        self._tell_all(messages.AllowChannel(server, number, until))

    def forget_channels(self) -> None:
        """Ask again about all channels, here and in all workers."""
        if self._channels or self._leased:
            self._tell_all(messages.ForgetChannels())
        super().forget_channels()

    def take_active(self) -> list[int]:
        """The peers to or from which something went, here or in a worker."""
        active = super().take_active()
        now = self._rows[: self._used, _CHANGING]
        changed = (now != self._seen[: self._used]).any(axis=1).nonzero()[0].tolist()
        for slot in changed:
            peer = self._slots.get(slot)
            if peer is not None and peer.worker is not None and peer.mirror.take(peer.activity):
                active.append(peer.index)
        self._seen[changed] = self._rows[changed][:, _CHANGING]
        return active

    def _way(self, packets: PacketRun, now: Instant) -> tuple[Peer, Path, PacketRun] | None:
        """Where packets of the host go; None for those to a lent peer, too: the core hands them to its worker."""
        flow = self._verdict(packets.flow)
        peer = self._by_id.get(flow.peer_id) if type(flow) is Forward else None
        return None if isinstance(peer, LentPeer) and peer.worker is not None else super()._way(packets, now)

    def decrypt(self, received: Received, now: Instant, core: Stirred) -> Opened | bool:
        """Decrypt a uniform run of one peer; one of a lent peer goes to its worker as it came."""
        index = self.index_of(received, now)
        peer = None if index is None else self.peer(index)
        if peer is None or peer.worker is None:
            return super().decrypt(received, now, core)
        self.handed_over["datagrams"] += received.run.segment_count
        local, remote, run, tos = received
        self.tell(peer.worker, messages.Datagrams(local, remote, tos, True, run))
        return True

    # Private -------------------------------------------------------------------------------------------------------

    def _lendable(self, worker: int) -> Iterator[LentPeer]:
        return (peer for peer in self._slots.values() if self._owner(peer.index) == worker)

    def _forget_flows_of(self, peer_id: str) -> None:
        for key in list(self._flows_of.get(peer_id, ())):
            self.forget(key)

    def _tell_all(self, message: Message) -> None:
        for worker, running in enumerate(self._running):
            if running:
                self.tell(worker, message)

    def _keep(self, key: Key, peer_id: str, holders: int) -> None:
        if holders:
            self._flows[key] = peer_id, holders
            self._flows_of.setdefault(peer_id, set()).add(key)
        elif self._flows.pop(key, None) is not None:
            keys = self._flows_of[peer_id]
            keys.discard(key)
            if not keys:
                del self._flows_of[peer_id]


def _numbers(holders: int) -> Iterable[int]:
    return (worker for worker in range(holders.bit_length()) if holders >> worker & 1)
