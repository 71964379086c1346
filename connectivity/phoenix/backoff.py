"""How long to wait before the next attempt to reach the portal.

The first failure after a good connection is retried at once; then delays grow by half from 0.5 s to 60 s, each spread
by ±50 %. The whole partition may last ``maximum_ns``; its clock starts at the first failure and is forgotten by any
successful upgrade. Randomness is an argument, so the same inputs give the same delays.
"""

from collections.abc import Callable
from typing import Final

from connectivity.clock import MILLISECOND, SECOND, Duration, Instant

INITIAL_DELAY_NS: Final = 500 * MILLISECOND
MAXIMUM_DELAY_NS: Final = 60 * SECOND
FACTOR: Final = 1.5
JITTER: Final = 0.5

_RANDOM_BYTES: Final = 4


class Backoff:
    """One partition's delays."""

    def __init__(self, *, maximum_ns: Duration | None, rng: Callable[[int], bytes]) -> None:
        """``maximum_ns`` None never gives up."""
        self._maximum_ns = maximum_ns
        self._rng = rng
        self._started_at: Instant | None = None
        self._interval_ns = float(INITIAL_DELAY_NS)

    def reset(self) -> None:
        """Forget the partition: the portal answered, or somebody asked for a new connection."""
        self._started_at = None
        self._interval_ns = float(INITIAL_DELAY_NS)

    def next_delay(self, now: Instant) -> Duration | None:
        """Note one more failure; returns how long to wait, or None to give up."""
        if self._started_at is None:
            self._started_at = now
            return 0
        elapsed = now - self._started_at
        delay = min(self._jittered(), MAXIMUM_DELAY_NS)
        self._interval_ns = min(self._interval_ns * FACTOR, MAXIMUM_DELAY_NS)
        if self._maximum_ns is not None and elapsed + delay > self._maximum_ns:
            return None
        return delay

    def _jittered(self) -> Duration:
        fraction = int.from_bytes(self._rng(_RANDOM_BYTES), "big") / float(1 << 8 * _RANDOM_BYTES)
        return int(self._interval_ns * (1 - JITTER + 2 * JITTER * fraction))
