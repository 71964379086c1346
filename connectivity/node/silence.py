"""Notices that a peer is silent while data is sent to it, long before ICE gives its path up.

Data without an answer for a second is nothing unusual: it may flow in one direction only. A peer that answers no check
either is gone, or the way to it is; whoever can have another connection made then asks for it, beside this one, which
goes on as if nothing was: a network that only pauses costs nothing, and no other program notices.

=========  ============================================================================================
1.0 s      since the first data that was not answered, or the last check that was: the path is checked
1.25 s     and again
1.5 s      and again
1.75 s     the silence is told, and every 2 s from then on; later by twice the last round trip
=========  ============================================================================================
"""

from typing import Final, NamedTuple

from connectivity.clock import MILLISECOND, SECOND, Duration, Instant

QUIET_NS: Final = SECOND
CHECKS: Final = 3
BETWEEN_CHECKS_NS: Final = 250 * MILLISECOND
TELL_AGAIN_NS: Final = 2 * SECOND


class Due(NamedTuple):
    """What is to be done now."""

    check: bool = False
    tell: bool = False


class Silence:
    """That of one peer. ``since`` is when it began; None while nothing sent waits for an answer."""

    def __init__(self) -> None:
        self._since: Instant | None = None
        self._done = 0  # checks, then tellings

    def due(self, since: Instant | None, round_trip: Duration, now: Instant) -> Due:
        """What to do; counts as done."""
        deadline = self.poll_timeout(since, round_trip)
        if deadline is None or now < deadline:
            return Due()
        self._done += 1
        return Due(check=True, tell=self._done > CHECKS)

    def poll_timeout(self, since: Instant | None, round_trip: Duration) -> Instant | None:
        """When something is to be done next."""
        if since != self._since:
            self._since, self._done = since, 0
        if since is None:
            return None
        if self._done < CHECKS:
            return since + QUIET_NS + self._done * BETWEEN_CHECKS_NS
        first_told = since + QUIET_NS + CHECKS * BETWEEN_CHECKS_NS + 2 * round_trip
        return first_told + (self._done - CHECKS) * TELL_AGAIN_NS
