"""The last answers, so that a retransmitted request gets the same one again (RFC 8489 §6.3.1, RFC 8656 §5).

Only answers to authenticated requests are kept, so nobody without credentials can fill it. Bounded twice: by age and by
count, oldest first.
"""

from collections import OrderedDict
from typing import Final

from connectivity.clock import MILLISECOND, Duration, Instant
from relay.core.outputs import FiveTuple

# Specification constant: a client gives up after 39.5 s (RFC 8489 §6.2.1), so no copy comes later than that.
ANSWER_LIFETIME: Final[Duration] = 39_500 * MILLISECOND
# Implementation constant: 16 384 answers of about 200 bytes.
MOST_ANSWERS: Final = 16_384


class AnswerMemory:
    """Answers by five-tuple, method and transaction id."""

    def __init__(self) -> None:
        # The order of insertion is the order of expiry. A plain dict finds its first entry behind the gaps of all those
        # that were deleted before it, one by one.
        self._answers: OrderedDict[tuple[FiveTuple, int, bytes], tuple[Instant, bytes]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._answers)

    def recall(self, five_tuple: FiveTuple, method: int, transaction_id: bytes, now: Instant) -> bytes | None:
        """The answer already given to this very request."""
        found = self._answers.get((five_tuple, method, transaction_id))
        return None if found is None or found[0] <= now else found[1]

    def remember(self, five_tuple: FiveTuple, method: int, transaction_id: bytes, answer: bytes, now: Instant) -> None:
        """Keep an answer that ``recall`` did not know for as long as copies of the request may come."""
        self.forget_expired(now)
        self._answers[five_tuple, method, transaction_id] = (now + ANSWER_LIFETIME, answer)
        if len(self._answers) > MOST_ANSWERS:
            self._answers.popitem(last=False)

    def forget_expired(self, now: Instant) -> None:
        """Drop what nobody will ask for again."""
        while self._answers and next(iter(self._answers.values()))[0] <= now:
            self._answers.popitem(last=False)
