"""When connectivity checks of one pair follow each other, and when a pair has failed (RFC 8445 §14, tuned).

A pair is checked for its whole life: the checks double as consent freshness (RFC 7675), so there is one timetable for
finding a path and for noticing its loss. The delay doubles from ``initial_ns`` and saturates at ``max_ns``.

| | healthy | never answered: sent, failed | outage: sent from the first lost check on, failed |
|---|---|---|---|
| active | each 1.5 s | 0, 0.25, 0.75, 1.75, 3.25 ... 13.75, 15.25 s | 0, 1.5, 2, 3, 4.5 ... 15, 16.5 s |
| idle | each 25 s | 0, 25, 50, 75, 100 s | the same |
"""

from dataclasses import dataclass
from typing import Final

from connectivity.clock import MILLISECOND, SECOND, Duration


@dataclass(frozen=True, slots=True)
class CheckTiming:
    """A timetable. ``attempt_count`` checks in a row without an answer, and the delay after them, fail a pair."""

    initial_ns: Duration
    max_ns: Duration
    attempt_count: int

    def delay(self, sent_count: int) -> Duration:
        """How long to wait after the ``sent_count``-th check of a series."""
        delay = self.initial_ns
        for _ in range(sent_count - 1):
            if delay >= self.max_ns:
                break
            delay *= 2
        return min(delay, self.max_ns)


ACTIVE: Final = CheckTiming(initial_ns=250 * MILLISECOND, max_ns=1500 * MILLISECOND, attempt_count=12)
IDLE: Final = CheckTiming(initial_ns=25 * SECOND, max_ns=25 * SECOND, attempt_count=4)
