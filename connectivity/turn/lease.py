"""How long a relay holds an allocation for us, when to ask it to go on (RFC 8656 §8), and NATs to go on with us."""

from typing import Final

from connectivity.clock import SECOND, Instant, earliest

KEEP_ALIVE_NS: Final = 25 * SECOND  # below the 30 s that NATs keep an unconfirmed UDP binding
RETRY_NS: Final = 5 * SECOND  # doubles with each refused refresh
LONGEST_RETRY_NS: Final = 60 * SECOND


class Lease:
    """Of one allocation: the times are None while there is none, ``keep_alive_at`` while there is no active socket."""

    __slots__ = ("_retry_delay", "expires_at", "keep_alive_at", "refresh_at")

    def __init__(self) -> None:
        self.keep_alive_at: Instant | None = None
        self.end()

    def keep_alive(self, now: Instant) -> None:
        """Something leaves by the active socket."""
        self.keep_alive_at = now + KEEP_ALIVE_NS

    def grant(self, seconds: int, now: Instant) -> None:
        """The relay holds the allocation for so long from now on; half of that later it is asked again."""
        self.expires_at: Instant | None = now + seconds * SECOND
        self.refresh_at: Instant | None = now + seconds * SECOND // 2
        self._retry_delay = RETRY_NS
        if self.keep_alive_at is None or self.keep_alive_at <= now:
            self.keep_alive(now)

    def refused(self, now: Instant) -> None:
        """The relay would not prolong it: ask again, less and less often."""
        self.refresh_at = now + self._retry_delay
        self._retry_delay = min(self._retry_delay * 2, LONGEST_RETRY_NS)

    def end(self) -> None:
        """The allocation is gone."""
        self.expires_at = self.refresh_at = None
        self._retry_delay = RETRY_NS

    def poll_timeout(self, *, is_refreshing: bool) -> Instant | None:
        """The first of its times; while a refresh is under way, none is due."""
        if self.expires_at is None:
            return None
        return earliest(None if is_refreshing else self.refresh_at, self.keep_alive_at, self.expires_at)
