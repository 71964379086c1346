"""Shared memory of a worker and the core, a row a peer: what has passed, and its sessions' send and receive counters.

One row of words a peer. Only the worker writes while the peer is its; the core reads when it likes. Words change one by
one, so what is read together may be of two moments, which nothing here minds.

A worker that dies may have used counters that it did not write down, so who goes on leaves some out (``RESERVED``).
"""

from collections.abc import Callable
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from connectivity.clock import Instant
from connectivity.data_path.peer import Peer
from connectivity.run import Run
from connectivity.wireguard import Workspace
from connectivity.wireguard.activity import Activity
from connectivity.wireguard.session import Session
from connectivity.wireguard.transport import SESSION_COUNT

# Of what passed; 0 is never.
LAST_DATA_AT: Final = 0
SENT_BYTES: Final = 1
RECEIVED_BYTES: Final = 2
SENT_AT: Final = 3
RECEIVED_AT: Final = 4
HEARD_AT: Final = 5
UNANSWERED_SINCE: Final = 6
UNACKNOWLEDGED_SINCE: Final = 7
_SESSIONS: Final = 8  # for each place: the next counter to send with, and one more than the highest seen
ROW_WORDS: Final = _SESSIONS + 2 * SESSION_COUNT
ROW_BYTES: Final = 8 * ROW_WORDS

RESERVED: Final = 1 << 16  # more than a worker sends in one turn

Rows = NDArray[np.int64]


def rows_of(memory: memoryview) -> Rows:
    """The memory as rows, to look at many at once."""
    return np.frombuffer(memory, np.int64).reshape(-1, ROW_WORDS)


class Counters(NamedTuple):
    """How far a session is: what to send with next, the highest seen or -1."""

    counter: int
    highest: int


class SharedPeer(Peer):
    """A worker's peer: writes into its row what passes, before it passes on."""

    __slots__ = ("_at", "_renew", "_words", "renew_at")

    def __init__(
        self,
        index: int,
        workspace: Workspace,
        now: Instant,
        *,
        words: memoryview,
        slot: int,
        renew: Callable[[int], None],
    ) -> None:
        """``words`` are the shared memory; ``renew`` has the core say how to send from now on."""
        super().__init__(str(index), index, workspace, now)
        self._words = words
        self._at = slot * ROW_WORDS
        self._renew = renew
        self.renew_at: Instant | None = None

    def seal(self, run: Run, now: Instant, headroom: int = 0, tos: int = 0) -> Run | None:
        """Seal a run of IP packets; the counters used are in shared memory before anybody sends it."""
        if self.renew_at is not None and now >= self.renew_at:
            self.renew_at = None
            self._renew(self.index)
        sealed = super().seal(run, now, headroom, tos)
        session = self.current
        if sealed is not None and session is not None:
            words, at = self._words, self._at
            words[at + SENT_AT] = now
            words[at + _SESSIONS + 2 * (session.local_index % SESSION_COUNT)] = session.send_counter
            self._note(now)
        return sealed

    def keep_alive(self, now: Instant) -> bytes | None:
        """A data message without a packet; the counter used is in shared memory before anybody sends it."""
        message = super().keep_alive(now)
        session = self.current
        if message is not None and session is not None:
            self._words[self._at + _SESSIONS + 2 * (session.local_index % SESSION_COUNT)] = session.send_counter
            self._note(self.activity.last_data_at)
        return message

    def open_session(self, index: int, run: Run, now: Instant, headroom: int = 0) -> Run | None:
        """Decrypt a run; the highest counter seen is in shared memory before anybody gets the packets."""
        activity = self.activity
        activity.has_heard = False
        packets = super().open_session(index, run, now, headroom)
        if activity.has_heard:
            words, at = self._words, self._at
            words[at + HEARD_AT] = now
            if packets is not None:
                words[at + RECEIVED_AT] = now
            place = index % SESSION_COUNT
            session = self.sessions[place]
            assert session is not None, "it has just opened something"
            words[at + _SESSIONS + 2 * place + 1] = session.window.highest + 1
            self._note(activity.last_data_at)
        return packets

    def note_session(self, session: Session) -> None:
        """Write down where the counters of a session begin that was put in."""
        place = self._at + _SESSIONS + 2 * (session.local_index % SESSION_COUNT)
        self._words[place] = session.send_counter
        self._words[place + 1] = session.window.highest + 1

    def _note(self, last_data_at: Instant) -> None:
        words, at, activity = self._words, self._at, self.activity
        words[at + LAST_DATA_AT] = last_data_at
        words[at + SENT_BYTES] = activity.sent_bytes
        words[at + RECEIVED_BYTES] = activity.received_bytes
        words[at + UNANSWERED_SINCE] = activity.unanswered_since or 0
        words[at + UNACKNOWLEDGED_SINCE] = activity.unacknowledged_since or 0


class Mirror:
    """The core's view of a row: brings what has passed since the last look into an ``Activity`` that timers read."""

    __slots__ = ("_seen", "row")

    def __init__(self, row: Rows) -> None:
        row[:] = 0
        self.row = row
        self._seen: list[int] = [0] * _SESSIONS

    def counters(self, local_index: int) -> Counters:
        """Of the session in this place."""
        place = _SESSIONS + 2 * (local_index % SESSION_COUNT)
        return Counters(int(self.row[place]), int(self.row[place + 1]) - 1)

    def take(self, activity: Activity) -> bool:
        """Take over what has passed; False if nothing has.

        The timers may have reset a ``since`` in the meantime: then it begins with what came after the last look.
        """
        now: list[int] = self.row[:_SESSIONS].tolist()
        seen, self._seen = self._seen, now
        if now == seen:
            return False
        looked_at = max(seen[LAST_DATA_AT], seen[HEARD_AT])
        sent, heard = now[SENT_AT] > seen[SENT_AT], now[HEARD_AT] > seen[HEARD_AT]
        received = now[RECEIVED_AT] > seen[RECEIVED_AT]
        activity.last_data_at = max(activity.last_data_at, now[LAST_DATA_AT])
        activity.sent_bytes += now[SENT_BYTES] - seen[SENT_BYTES]
        activity.received_bytes += now[RECEIVED_BYTES] - seen[RECEIVED_BYTES]
        activity.has_sent_data |= sent
        activity.has_received_data |= received
        activity.has_heard |= heard
        if heard:
            activity.unanswered_since = now[UNANSWERED_SINCE] or None
        elif sent and activity.unanswered_since is None:
            activity.unanswered_since = max(now[UNANSWERED_SINCE], looked_at) or None
        if sent or not now[UNACKNOWLEDGED_SINCE]:
            activity.unacknowledged_since = now[UNACKNOWLEDGED_SINCE] or None
        elif received and activity.unacknowledged_since is None:
            activity.unacknowledged_since = max(now[UNACKNOWLEDGED_SINCE], looked_at)
        return True
