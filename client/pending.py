"""Packets of resources that have no gateway yet."""

from typing import Final

from connectivity.clock import SECOND, Instant
from connectivity.packet_queue import PacketQueue

INTENT_INTERVAL: Final = 2 * SECOND


class PendingFlow(PacketQueue):
    """Waits for the portal's answer about one resource; the intent is repeated only as packets keep arriving."""

    def __init__(self) -> None:
        super().__init__()
        self._asked_at: Instant | None = None

    def wants_intent(self, now: Instant) -> bool:
        """Whether to ask the portal (again); a True counts as asked."""
        if self._asked_at is not None and now - self._asked_at < INTENT_INTERVAL:
            return False
        self._asked_at = now
        return True

    def forget_intent(self) -> None:
        """Nobody is going to answer: ask again."""
        self._asked_at = None
