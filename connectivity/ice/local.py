"""Our own candidates, as numbered for one agent.

Only addresses that packets can leave from take part: host and relayed ones. Server-reflexive candidates are signalled
past the agent, because one sends from their base anyway (RFC 8445 §6.1.2.4), and the peer-reflexive ones that answers
reveal are not recorded: they would never be paired or signalled.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from connectivity.endpoint import Endpoint
from connectivity.ice.candidate import Candidate, CandidateKind

MAX_ENTRIES: Final = 100  # relays come and go for months: the oldest discarded candidate makes room

_PAIRED: Final = (CandidateKind.HOST, CandidateKind.RELAY)


@dataclass(slots=True, eq=False)
class _Entry:
    candidate: Candidate
    discarded: bool = False


class LocalCandidates:
    """The candidates in order of arrival, discarded ones included."""

    def __init__(self, ufrag: str) -> None:
        self._ufrag = ufrag
        self._entries: list[_Entry] = []
        self._known: Counter[tuple[CandidateKind, int]] = Counter()  # never falls: numbers are not given out twice

    def __len__(self) -> int:
        return len(self._entries)

    def live(self) -> Iterator[Candidate]:
        """Our candidates that are not discarded."""
        return (entry.candidate for entry in self._entries if not entry.discarded)

    def at(self, address: Endpoint) -> Candidate | None:
        """The live candidate on which packets to ``address`` arrive."""
        return next((candidate for candidate in self.live() if candidate.address == address), None)

    def add(self, candidate: Candidate) -> Candidate | None:
        """Number and keep ``candidate``; one that was discarded comes back with its old number.

        Returns:
            The candidate to signal, or None if it is known, of a kind that never takes part, or one too many.
        """
        if candidate.kind not in _PAIRED or self.at(candidate.address) is not None:
            return None
        entry = self._find(candidate)
        if entry is not None:
            entry.discarded = False
            return entry.candidate
        if len(self._entries) >= MAX_ENTRIES:
            oldest = next((entry for entry in self._entries if entry.discarded), None)
            if oldest is None:
                return None
            self._entries.remove(oldest)
        kind_and_family = candidate.kind, candidate.address.ip.version
        numbered = candidate.numbered(self._known[kind_and_family], self._ufrag)
        self._known[kind_and_family] += 1
        self._entries.append(_Entry(numbered))
        return numbered

    def discard(self, candidate: Candidate) -> Candidate | None:
        """Take ``candidate`` out of use; returns it as numbered, or None if it was not in use."""
        entry = self._find(candidate)
        if entry is None or entry.discarded:
            return None
        entry.discarded = True
        return entry.candidate

    def _find(self, candidate: Candidate) -> _Entry | None:
        for entry in self._entries:
            if entry.candidate.kind is candidate.kind and entry.candidate.address == candidate.address:
                return entry
        return None
