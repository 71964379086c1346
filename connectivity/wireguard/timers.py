"""The timers of a tunnel (WireGuard paper, section 6, with the values that Firezone's peers use).

=================  =======  ==========================================================================================
rekey after        120 s    the initiator of the last session, if it has sent data since
rekey on receive   165 s    the initiator of the last session, if it has received data since
no reply           15 s     after the first data that nothing authentic has answered; both roles
retransmission     5 s      after an initiation that has not been answered
attempt            15 s     after the first initiation of a series the tunnel is expired, unless an older session still
                            brought something authentic meanwhile: then the network only loses much, and a new
                            series begins
keep-alive         10 s     after data was received while nothing was sent
expiry             540 s    after the last establishment, or creation
=================  =======  ==========================================================================================

Every initiation that a timer causes is put off by a random jitter. While an initiation is planned or under way the
rules that would start one are off. Says *what* is due; the tunnel does it. What data has passed is read from an
``Activity``, which whoever carries packets writes.
"""

from collections.abc import Callable
from enum import Enum
from typing import Final

from connectivity.clock import MILLISECOND, SECOND, Duration, Instant, earliest
from connectivity.wireguard.activity import Activity

REKEY_AFTER: Final[Duration] = 120 * SECOND
REKEY_ON_RECEIVE_AFTER: Final[Duration] = 165 * SECOND
REKEY_TIMEOUT: Final[Duration] = 5 * SECOND
REKEY_ATTEMPT_TIME: Final[Duration] = 15 * SECOND
KEEP_ALIVE_TIMEOUT: Final[Duration] = 10 * SECOND
NO_REPLY_TIMEOUT: Final[Duration] = KEEP_ALIVE_TIMEOUT + REKEY_TIMEOUT
EXPIRE_AFTER: Final[Duration] = 540 * SECOND
MAX_JITTER: Final[Duration] = 333 * MILLISECOND


class Action(Enum):
    """What is due."""

    EXPIRE = "expire"
    INITIATE = "initiate"
    KEEP_ALIVE = "keep_alive"


class Timers:
    """Deadlines of one tunnel. ``note_*`` say what has happened."""

    __slots__ = (
        "_activity",
        "_attempt_time",
        "_established_at",
        "_initiate_at",
        "_is_initiator",
        "_jitter",
        "_series_started_at",
    )

    def __init__(
        self, *, activity: Activity, jitter: Callable[[], Duration], attempt_time: Duration, now: Instant
    ) -> None:
        self._activity = activity
        self._jitter = jitter
        self._attempt_time = attempt_time
        self._established_at = now
        self._is_initiator = False
        self._series_started_at: Instant | None = None
        self._initiate_at: Instant | None = None

    @property
    def handshake_in_flight(self) -> bool:
        """Whether an initiation of ours waits for its response."""
        return self._series_started_at is not None

    def poll_timeout(self) -> Instant:
        """When something is due."""
        deadline = self._established_at + EXPIRE_AFTER
        since = self._activity.unacknowledged_since
        if since is not None:
            deadline = min(deadline, since + KEEP_ALIVE_TIMEOUT)
        if self._series_started_at is not None:
            deadline = min(deadline, self._series_started_at + self._attempt_time)
        rekey_at = self._initiate_at if self._initiate_at is not None else self._rekey_at()
        return deadline if rekey_at is None else min(deadline, rekey_at)

    def due(self, now: Instant) -> list[Action]:
        """What is due now, in order. The caller answers INITIATE by ``note_initiation_sent``."""
        activity = self._activity
        gave_up = self._series_started_at is not None and now >= self._series_started_at + self._attempt_time
        if gave_up and activity.has_heard:
            gave_up, activity.has_heard, self._series_started_at = False, False, now
        if gave_up or now >= self._established_at + EXPIRE_AFTER:
            return [Action.EXPIRE]
        if self._initiate_at is None:
            rekey_at = self._rekey_at()
            if rekey_at is not None and now >= rekey_at:
                self.plan_initiation(now)
        actions = []
        if self._initiate_at is not None and now >= self._initiate_at:
            actions.append(Action.INITIATE)
        since = activity.unacknowledged_since
        if since is not None and now >= since + KEEP_ALIVE_TIMEOUT:
            activity.unacknowledged_since = None
            actions.append(Action.KEEP_ALIVE)
        return actions

    def plan_initiation(self, now: Instant) -> None:
        """A timer asks for a handshake: start one after the jitter."""
        self._activity.unanswered_since = None
        if self._initiate_at is None:
            self._initiate_at = now + self._jitter()

    def want_initiation(self, now: Instant) -> None:
        """A packet asks for a handshake: start one at once, unless one is under way."""
        if self._series_started_at is None:
            self._initiate_at = now if self._initiate_at is None else min(now, self._initiate_at)

    def note_initiation_sent(self, now: Instant) -> None:
        """The first initiation of a series, or the next one."""
        if self._series_started_at is None:
            self._series_started_at, self._activity.has_heard = now, False
        self._initiate_at = now + REKEY_TIMEOUT + self._jitter()
        self._activity.unacknowledged_since = None

    def note_established(self, now: Instant, *, is_initiator: bool) -> None:
        """A session was established; it ends the series, even if the peer began it."""
        self._established_at = now
        self._is_initiator = is_initiator
        self._series_started_at = self._initiate_at = None
        activity = self._activity
        activity.has_sent_data = activity.has_received_data = False
        activity.unacknowledged_since = activity.unanswered_since = None

    def _rekey_at(self) -> Instant | None:
        activity = self._activity
        since = activity.unanswered_since
        no_reply_at = None if since is None else since + NO_REPLY_TIMEOUT
        if not self._is_initiator:
            return no_reply_at
        if activity.has_sent_data:
            return earliest(no_reply_at, self._established_at + REKEY_AFTER)
        if activity.has_received_data:
            return earliest(no_reply_at, self._established_at + REKEY_ON_RECEIVE_AFTER)
        return no_reply_at
