"""What an allocation tells operators: life-cycle at INFO, detail at DEBUG, trouble at WARNING.

Addresses appear at DEBUG only. Finished transactions go to the target ``wire.turn``; nonces are hidden by their type.
"""

import logging
from collections.abc import Sequence

from connectivity.clock import MILLISECOND, Instant
from connectivity.ice.candidate import Candidate
from connectivity.stun import Message
from connectivity.turn.transactions import Transaction

_log = logging.getLogger("connectivity.turn.allocation")
_wire = logging.getLogger("wire.turn")


class AllocationLog:
    """Log lines that carry the id of one relay."""

    def __init__(self, relay_id: str) -> None:
        self._relay_id = relay_id

    def event(self, text: str, **fields: object) -> None:
        """A step in the life of the allocation."""
        self._write(logging.INFO, text, fields)

    def detail(self, text: str, **fields: object) -> None:
        """Protocol detail; may name addresses."""
        self._write(logging.DEBUG, text, fields)

    def trouble(self, text: str, **fields: object) -> None:
        """Unexpected, but survivable."""
        self._write(logging.WARNING, text, fields)

    def updated(self, lifetime: int, candidates: Sequence[Candidate]) -> None:
        """The relay granted an allocation, or prolonged it, for so many seconds."""
        self.event("Allocation updated", lifetime=lifetime)
        if _log.isEnabledFor(logging.DEBUG):
            texts = [f"{candidate.kind.value} {candidate.address}" for candidate in candidates]
            self.detail("Candidates of the allocation", candidates=", ".join(texts))

    def finished(self, transaction: Transaction, response: Message, now: Instant) -> None:
        """A request got its response; the time counts from the first transmission of its series."""
        if not _wire.isEnabledFor(logging.DEBUG):
            return
        fields = {
            "rid": self._relay_id,
            "tid": response.transaction_id.hex().upper(),
            "method": type(transaction.request).__name__,
            "class": response.message_class.name.lower(),
            "rtt": f"{(now - transaction.series.started_at) / MILLISECOND:.1f}ms",
            "request": transaction.attributes,
            "response": response.attributes,
        }
        _wire.debug("TURN transaction finished", extra={"fields": fields})

    def _write(self, level: int, text: str, fields: dict[str, object]) -> None:
        if _log.isEnabledFor(level):
            _log.log(level, text, extra={"fields": {"rid": self._relay_id, **fields}})
