"""How long a relay holds an allocation for us, and when to ask it to go on (RFC 8656 §8)."""

from typing import Final

from connectivity.clock import SECOND, Instant

RETRY_NS: Final = 5 * SECOND  # doubles with each refused refresh
LONGEST_RETRY_NS: Final = 60 * SECOND


class Lease:
    """Of one allocation; both times are None while there is none."""

    __slots__ = ("_retry_delay", "expires_at", "refresh_at")

    def __init__(self) -> None:
        self.end()

    def grant(self, seconds: int, now: Instant) -> None:
        """The relay holds the allocation for so long from now on; half of that later it is asked again."""
        self.expires_at: Instant | None = now + seconds * SECOND
        self.refresh_at: Instant | None = now + seconds * SECOND // 2
        self._retry_delay = RETRY_NS

    def refused(self, now: Instant) -> None:
        """The relay would not prolong it: ask again, less and less often."""
        self.refresh_at = now + self._retry_delay
        self._retry_delay = min(self._retry_delay * 2, LONGEST_RETRY_NS)

    def end(self) -> None:
        """The allocation is gone."""
        self.expires_at = self.refresh_at = None
        self._retry_delay = RETRY_NS
