"""One candidate pair and the checks that were sent on it (RFC 8445 §6.1.2, §7.2.5).

There is no failed state: the agent removes a pair in the moment in which it has failed. There is no frozen state
either, since there is only one component.

Invariant: ``next_check_at`` is also the instant at which a pair that got no answer at all fails, so one deadline per
pair is enough.
"""

from dataclasses import dataclass, field
from typing import Final

from connectivity.clock import Duration, Instant
from connectivity.endpoint import Endpoint
from connectivity.ice.candidate import Candidate
from connectivity.ice.remote import RemoteCandidate
from connectivity.ice.timing import CheckTiming

MAX_EXTRAS: Final = 8  # a few seconds' worth


@dataclass(slots=True)
class Attempt:
    """A check that went out."""

    sent_at: Instant
    answered: bool = False


@dataclass(slots=True, eq=False)
class CandidatePair:
    """A local and a remote candidate of one family. ``priority`` is kept up to date by the check list."""

    local: Candidate
    remote: RemoteCandidate
    priority: int
    next_check_at: Instant
    nominated: bool = False
    succeeded: bool = False
    triggered: bool = False
    round_trip: Duration | None = None  # of the last check that was answered
    attempts: dict[bytes, Attempt] = field(default_factory=dict)  # by transaction id, oldest first
    extras: dict[bytes, Attempt] = field(default_factory=dict)  # likewise, beside the timetable

    @property
    def source(self) -> Endpoint:
        """The local address that packets on this pair leave from."""
        return self.local.base

    @property
    def destination(self) -> Endpoint:
        """The remote address."""
        return self.remote.candidate.address

    def trigger(self, now: Instant) -> None:
        """The peer reached us on a pair without an answer: check it again at once, but only once (RFC 8445 §7.3.1.4).

        Our own check may have come before the peer, or its relay, was ready to let it in. Once, because a pair that
        works in one direction only must not use up its attempts in half the time.
        """
        if not self.succeeded and not self.triggered:
            self.triggered = True
            self.next_check_at = now

    def record_check(self, transaction_id: bytes, timing: CheckTiming, now: Instant) -> None:
        """A check leaves now; the oldest attempts beyond the limit are forgotten."""
        self.attempts[transaction_id] = Attempt(now)
        while len(self.attempts) > timing.attempt_count:
            del self.attempts[next(iter(self.attempts))]
        self.reschedule(timing, now)

    def record_extra(self, transaction_id: bytes, now: Instant) -> None:
        """A check leaves that nobody waits for: without an answer it changes nothing."""
        self.extras[transaction_id] = Attempt(now)
        while len(self.extras) > MAX_EXTRAS:
            del self.extras[next(iter(self.extras))]

    def has_sent(self, transaction_id: bytes) -> bool:
        """Whether this check was sent on this pair and is remembered."""
        return transaction_id in self.attempts or transaction_id in self.extras

    def record_answer(self, transaction_id: bytes, timing: CheckTiming, now: Instant) -> None:
        """The check with this transaction id was answered."""
        attempt = self.attempts.get(transaction_id) or self.extras[transaction_id]
        if not attempt.answered:
            self.round_trip = now - attempt.sent_at
        attempt.answered = True
        self.succeeded = True
        if self.next_check_at > now:  # a check that is due already, say one that carries a nomination, stays due
            self.reschedule(timing, now)

    def reschedule(self, timing: CheckTiming, now: Instant) -> None:
        """Work the next deadline out anew: after a check, an answer, or a change of the timetable."""
        if not self.attempts:
            self.next_check_at = now
            return
        unanswered_count, since = self._outage()
        lost = unanswered_count > 0 and now - since > timing.max_ns // 2
        sent_count = unanswered_count if lost else len(self.attempts)
        self.next_check_at = self._last_sent_at() + timing.delay(sent_count)

    def has_failed(self, timing: CheckTiming, now: Instant) -> bool:
        """Whether the last checks all went unanswered and the wait after the last one is over."""
        unanswered_count, _ = self._outage()
        return unanswered_count >= timing.attempt_count and now >= self._last_sent_at() + _last_wait(timing)

    def _outage(self) -> tuple[int, Instant]:
        """How many attempts since the last answered one, and when the first of them was sent."""
        count, since = 0, 0
        for attempt in reversed(self.attempts.values()):
            if attempt.answered:
                break
            count, since = count + 1, attempt.sent_at
        return count, since

    def _last_sent_at(self) -> Instant:
        return next(reversed(self.attempts.values())).sent_at

    def __str__(self) -> str:
        return f"{self.source} -> {self.destination}"


def pair_priority(controlling: int, controlled: int) -> int:
    """RFC 8445 §6.1.2.3; the arguments are the priorities of each side's candidate."""
    lower, higher = sorted((controlling, controlled))
    return (lower << 32) + 2 * higher + (controlling > controlled)


def _last_wait(timing: CheckTiming) -> Duration:
    return timing.delay(timing.attempt_count)
