"""The pairs of one agent, best first (RFC 8445 §6.1.2).

Invariants: no two pairs share local base and remote address; priorities never rise from front to back, pairs of equal
priority stand in the order in which they were formed; at most ``MAX_PAIRS`` pairs, of which the worst that carries no
nomination goes when one more is formed.
"""

from collections.abc import Callable, Iterator
from typing import Final

from connectivity.clock import Instant
from connectivity.endpoint import Endpoint
from connectivity.ice.candidate import Candidate
from connectivity.ice.pair import CandidatePair, pair_priority
from connectivity.ice.remote import RemoteCandidate

MAX_PAIRS: Final = 100  # RFC 8445 §6.1.2.5


class CheckList:
    """Pairs in order of falling priority."""

    def __init__(self, *, controlling: bool) -> None:
        self._controlling = controlling
        self._pairs: list[CandidatePair] = []
        self.overflowed = False

    def __iter__(self) -> Iterator[CandidatePair]:
        return iter(self._pairs)

    def __contains__(self, pair: object) -> bool:
        return pair in self._pairs

    def find(self, source: Endpoint, destination: Endpoint) -> CandidatePair | None:
        """The pair between these two addresses."""
        return next((pair for pair in self._pairs if pair.destination == destination and pair.source == source), None)

    def sent(self, transaction_id: bytes) -> CandidatePair | None:
        """The pair on which this check was sent, if it is remembered."""
        return next((pair for pair in self._pairs if pair.has_sent(transaction_id)), None)

    def uses(self, remote: RemoteCandidate) -> bool:
        """Whether some pair is formed with ``remote``."""
        return any(pair.remote is remote for pair in self._pairs)

    def form(self, local: Candidate, remote: RemoteCandidate, now: Instant) -> CandidatePair | None:
        """Pair two candidates of one family; the check is due at once.

        Where the two addresses are paired already, the better remote candidate stands for them from now on, and the
        pair keeps its history and nomination.

        Returns:
            The new pair; None if the families differ, there is one already, or a full list has no room for it.
        """
        if local.address.ip.version != remote.candidate.address.ip.version:
            return None
        priority = self._priority(local, remote.candidate)
        redundant = self.find(local.base, remote.candidate.address)
        if redundant is not None:
            if priority > redundant.priority:
                redundant.local, redundant.remote, redundant.priority = local, remote, priority
                self._sort()
            return None
        pair = CandidatePair(local, remote, priority, next_check_at=now)
        self._pairs.append(pair)
        self._sort()
        return None if self._shed() is pair else pair

    def reprioritise(self, remote: RemoteCandidate) -> None:
        """The candidate behind ``remote`` was replaced."""
        for pair in self._pairs:
            if pair.remote is remote:
                pair.priority = self._priority(pair.local, remote.candidate)
        self._sort()

    def remove(self, doomed: Callable[[CandidatePair], bool]) -> list[CandidatePair]:
        """Take pairs out; returns them."""
        removed = [pair for pair in self._pairs if doomed(pair)]
        self._pairs = [pair for pair in self._pairs if pair not in removed]
        return removed

    def _priority(self, local: Candidate, remote: Candidate) -> int:
        if self._controlling:
            return pair_priority(local.priority, remote.priority)
        return pair_priority(remote.priority, local.priority)

    def _sort(self) -> None:
        self._pairs.sort(key=lambda pair: -pair.priority)

    def _shed(self) -> CandidatePair | None:
        if len(self._pairs) <= MAX_PAIRS:
            return None
        self.overflowed = True
        worst = next(pair for pair in reversed(self._pairs) if not pair.nominated)  # the newest one at least is not
        self._pairs.remove(worst)
        return worst
