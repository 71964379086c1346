"""The replay window: which of the last 1024 data counters have been seen (RFC 6479 has the idea).

One Python integer: bit n stands for the counter n below the highest one seen. It changes only for counters whose
message has been authenticated, so a forger cannot move it.
"""

from typing import Final

from connectivity.wireguard.errors import DropReason

WINDOW: Final = 1024
_MASK: Final = (1 << WINDOW) - 1


class ReplayWindow:
    """Counters seen by one session."""

    __slots__ = ("_bits", "highest")

    def __init__(self) -> None:
        self.highest = -1
        self._bits = 0

    def refusal(self, counter: int) -> DropReason | None:
        """Why ``counter`` would be refused, without marking it."""
        behind = self.highest - counter
        if behind < 0:
            return None
        if behind >= WINDOW:
            return DropReason.TOO_OLD
        return DropReason.DUPLICATE if self._bits >> behind & 1 else None

    def mark(self, counter: int) -> DropReason | None:
        """Mark the counter of an authenticated message as seen, or say why the message is refused."""
        ahead = counter - self.highest
        if ahead > 0:
            # A peer may jump by up to 2**64: never shift by more than the window.
            self._bits = (self._bits << ahead | 1) & _MASK if ahead < WINDOW else 1
            self.highest = counter
            return None
        if ahead <= -WINDOW:
            return DropReason.TOO_OLD
        bit = 1 << -ahead
        if self._bits & bit:
            return DropReason.DUPLICATE
        self._bits |= bit
        return None

    def mark_next(self, first: int, count: int) -> None:
        """Mark ``count`` consecutive counters from ``first`` on, which is higher than any seen."""
        ahead = first + count - 1 - self.highest
        seen = (1 << min(count, WINDOW)) - 1
        self._bits = (self._bits << ahead | seen) & _MASK if ahead < WINDOW else seen
        self.highest += ahead

    def close(self, highest: int) -> None:
        """Refuse every counter up to ``highest``, whoever has seen it."""
        self._bits, self.highest = _MASK, highest
