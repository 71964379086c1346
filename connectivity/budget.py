"""How often something may be done: a burst at once, then so many a second (a token bucket)."""

from dataclasses import dataclass

from connectivity.clock import SECOND, Instant


@dataclass(frozen=True, slots=True)
class Rate:
    """``burst`` at once, then ``per_second``."""

    burst: int
    per_second: float


class Budget:
    """What is left of a rate; full at first."""

    __slots__ = ("_at", "_left", "_rate")

    def __init__(self, rate: Rate, now: Instant) -> None:
        self._rate = rate
        self._left: float = rate.burst
        self._at = now

    def take(self, cost: int, now: Instant) -> bool:
        """Whether ``cost`` was there to be spent."""
        self._left = min(self._rate.burst, self._left + (now - self._at) * self._rate.per_second / SECOND)
        self._at = now
        if cost > self._left:
            return False
        self._left -= cost
        return True
