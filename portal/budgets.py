"""How much one component may ask of the portal, and of others through it, before it is told no or cut off.

What a component does costs itself: its budgets stay with the device over its connections, and candidates are paid for
by who sends them, for each receiver apart. Within its means is what real programs do at their worst: a laptop that
opens a hundred resources, a gateway whose relay went away.
"""

from typing import Final

from connectivity.budget import Budget, Rate
from connectivity.clock import Instant
from portal.configuration import TokenType

# Frames of any kind. A gateway answers for all its clients.
FRAMES: Final = {
    TokenType.CLIENT: Rate(8192, 128),
    TokenType.GATEWAY: Rate(65_536, 4096),
    TokenType.RELAY: Rate(256, 8),
}
# ``create_flow``: a client asks once in two seconds for a resource.
FLOWS: Final = Rate(256, 16)
# Bytes of candidates for one receiver. A connection has about a dozen, told again with each resource.
SIGNALS: Final = Rate(128 << 10, 8 << 10)
SIGNAL_OVERHEAD_BYTES: Final = 256  # so that empty messages cost something, too
# Refusals of the two above that a component may collect; who goes on nevertheless is no program that lost its way.
REFUSALS: Final = Rate(1024, 16)
MAXIMUM_RECEIVERS: Final = 4096


class Allowance:
    """All budgets of one component."""

    def __init__(self, kind: TokenType, now: Instant) -> None:
        self._frames = Budget(FRAMES[kind], now)
        self._flows = Budget(FLOWS, now)
        self._refusals = Budget(REFUSALS, now)
        self._signals: dict[str, Budget] = {}  # by receiver, in the order of their first message

    def may_speak(self, now: Instant) -> bool:
        """Whether it may send one more frame."""
        return self._frames.take(1, now)

    def may_ask(self, now: Instant) -> bool:
        """Whether it may ask for one more flow."""
        return self._flows.take(1, now)

    def may_signal(self, receiver: str, size: int, now: Instant) -> bool:
        """Whether it may send so many bytes of candidates to that receiver."""
        budget = self._signals.get(receiver)
        if budget is None:
            if len(self._signals) >= MAXIMUM_RECEIVERS:
                del self._signals[next(iter(self._signals))]
            budget = self._signals[receiver] = Budget(SIGNALS, now)
        return budget.take(SIGNAL_OVERHEAD_BYTES + size, now)

    def may_be_refused(self, now: Instant) -> bool:
        """Whether one more refusal is no reason to cut it off."""
        return self._refusals.take(1, now)
