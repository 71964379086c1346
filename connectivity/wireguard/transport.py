"""The data half of a tunnel: the sessions with one peer, which of them is sent on, and what has passed.

It knows nothing of handshakes or deadlines and holds plain values only. A ``Tunnel`` puts sessions in and takes them
out; whoever carries packets, the tunnel itself or a data path, seals and opens with them.
"""

from collections import Counter
from typing import Final, NamedTuple

from connectivity.clock import Instant
from connectivity.run import Run
from connectivity.wireguard.activity import Activity
from connectivity.wireguard.errors import DropReason
from connectivity.wireguard.messages import DATA_OVERHEAD_BYTES, receiver_index
from connectivity.wireguard.noise import TransportKeys
from connectivity.wireguard.session import Session
from connectivity.wireguard.workspace import Workspace

SESSION_COUNT: Final = 8
_KEEP_ALIVE: Final = Run(memoryview(b""), 0)


class SessionValues(NamedTuple):
    """All that a session is made of."""

    keys: TransportKeys
    local_index: int
    remote_index: int
    is_initiator: bool
    established_at: Instant


class Transport:
    """One peer. Invariant: ``current``, on which we send, is among ``sessions`` and no older one ever replaces it."""

    __slots__ = ("_workspace", "activity", "current", "drops", "sessions")

    def __init__(self, workspace: Workspace, now: Instant) -> None:
        self._workspace = workspace
        self.activity = Activity(now)
        self.drops: Counter[DropReason] = Counter()
        self.sessions: list[Session | None] = [None] * SESSION_COUNT  # by local index modulo 8
        self.current: Session | None = None

    def add(self, values: SessionValues) -> Session:
        """Open on this session from now on, and no more on the one whose place it takes."""
        keys, local_index, remote_index, is_initiator, now = values
        session = Session(
            keys=keys,
            local_index=local_index,
            remote_index=remote_index,
            is_initiator=is_initiator,
            workspace=self._workspace,
            now=now,
        )
        self.remove(local_index)
        self.sessions[local_index % SESSION_COUNT] = session
        return session

    def use(self, session: Session) -> None:
        """Send on this session from now on, unless the current one is younger."""
        current = self.current
        if current is None or session.established_at >= current.established_at:
            self.current = session

    def remove(self, local_index: int) -> None:
        """Forget the session in the place of this index."""
        slot = local_index % SESSION_COUNT
        if self.current is not None and self.current is self.sessions[slot]:
            self.current = None
        self.sessions[slot] = None

    def clear(self) -> None:
        """Forget all sessions."""
        self.sessions[:] = [None] * SESSION_COUNT
        self.current = None

    def can_send(self, now: Instant) -> bool:
        """Whether there is a session to send on."""
        return self.current is not None and now < self.current.send_until

    def seal(self, run: Run, now: Instant, headroom: int = 0, tos: int = 0) -> Run | None:
        """Data messages of a run of IP packets, each behind ``headroom`` unspecified bytes.

        Args:
            run: Packets with this ``tos``, which who sends the messages elsewhere has to know.

        Returns:
            A run borrowed until the next call, or None without a session to send on, or if it is sent elsewhere.
        """
        del tos
        session = self.current
        if session is None or now >= session.send_until:
            return None
        self.activity.note_sent(now, len(run.data))
        return session.seal(run, headroom)

    def keep_alive(self, now: Instant) -> bytes | None:
        """A data message without a packet, or None without a session to send on."""
        session = self.current
        if session is None or now >= session.send_until:
            return None
        self.activity.unacknowledged_since = None
        return bytes(session.seal(_KEEP_ALIVE).data)

    def open(self, run: Run, now: Instant, headroom: int = 0) -> Run | None:
        """Decrypt whatever was received, as ``open_session`` does; what is shorter than a data message is dropped."""
        if len(run.data) < headroom + DATA_OVERHEAD_BYTES:
            self.drops[DropReason.MALFORMED] += run.segment_count
            return None
        return self.open_session(receiver_index(run.data[headroom:]), run, now, headroom)

    def open_session(self, index: int, run: Run, now: Instant, headroom: int = 0) -> Run | None:
        """Decrypt data messages that all have this receiver index, each behind ``headroom`` bytes to skip.

        A session on which something authentic came is sent on from then on, if it is younger than the one so far.

        Returns:
            The packets in order, those refused taken out, as one run with rows of (segment size - headroom - 32) bytes,
            untrimmed and borrowed until the next call; None if there are none.
        """
        session = self.sessions[index % SESSION_COUNT]
        if session is None or session.local_index != index:
            self.drops[DropReason.UNKNOWN_SESSION] += run.segment_count
            return None
        if now >= session.reject_at:
            self.drops[DropReason.EXPIRED_SESSION] += run.segment_count
            return None
        authentic, packets = session.open(run, headroom, self.drops)
        if not authentic:
            return None
        if packets is None:
            self.activity.note_keep_alive()
        else:
            self.activity.note_received(now, len(packets.data))
        if session is not self.current:
            self.use(session)
        return packets
