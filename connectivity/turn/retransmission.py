"""When an unanswered request is sent again and when it is given up.

The interval grows by half each time. With the values below a request leaves at 0, 1, 2.5 and 4.75 s, and the wake-up
at 8.125 s finds more than 8 s gone and gives up. The driver's delays shift the rest of the series, never compress it.
"""

from typing import Final

from connectivity.clock import SECOND, Duration, Instant

FIRST_INTERVAL_NS: Final = SECOND
LIMIT_NS: Final = 8 * SECOND


class Series:
    """The schedule of one request, from its first transmission on."""

    __slots__ = ("_interval", "_limit", "due_at", "sent_at", "started_at")

    def __init__(self, now: Instant, *, limit: Duration = LIMIT_NS) -> None:
        """``limit`` equal to the first interval makes a series of a single transmission."""
        self.started_at = self.sent_at = now
        self._limit = limit
        self._interval = FIRST_INTERVAL_NS
        self.due_at = now + self._interval

    def is_over(self, now: Instant) -> bool:
        """Whether it is too late to send again."""
        return now - self.started_at >= self._limit

    def advance(self, now: Instant) -> None:
        """The request was sent again at ``now``."""
        self.sent_at = now
        self._interval = self._interval * 3 // 2
        self.due_at = now + self._interval
