"""What an agent knows of its peer's candidates.

An entry is *provisional* while only a connectivity check (peer-reflexive) or a guess (optimistic) put it there: the
signalled candidate with that address takes its place and the pairs keep running. A *discarded* entry was invalidated
by the peer. It is kept, so that checks still on their way from it do not bring it back; signalling does.

The table is bounded: when full, the oldest entry that no pair uses makes room, else the newcomer is refused.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

from connectivity.endpoint import Endpoint
from connectivity.ice.candidate import Candidate, CandidateKind, optimistic

# Implementation constants.
MAX_ENTRIES: Final = 100  # as many as there can be pairs
OPTIMISTIC_LIMIT: Final = 2  # guesses per agent: enough for a gateway behind two addresses, no port scan


@dataclass(slots=True, eq=False)
class RemoteCandidate:
    """An entry; ``index`` counts up and names it in logs."""

    index: int
    candidate: Candidate
    provisional: bool = False
    discarded: bool = False


class RemoteCandidates:
    """The entries in order of arrival."""

    def __init__(self, in_use: Callable[[RemoteCandidate], bool]) -> None:
        """``in_use`` tells whether a pair needs an entry."""
        self._in_use = in_use
        self._entries: list[RemoteCandidate] = []
        self._next_index = 0
        self._guess_count = 0

    def __len__(self) -> int:
        return len(self._entries)

    def live(self) -> Iterator[RemoteCandidate]:
        """The peer's candidates that are not discarded."""
        return (entry for entry in self._entries if not entry.discarded)

    def same(self, candidate: Candidate) -> RemoteCandidate | None:
        """The entry that an invalidation or a repetition of ``candidate`` means."""
        return next((entry for entry in self._entries if _identity(entry.candidate) == _identity(candidate)), None)

    def at(self, address: Endpoint) -> RemoteCandidate | None:
        """The entry for packets from ``address``: the best live one, else a discarded one."""
        entries = [entry for entry in self._entries if entry.candidate.address == address]
        return max(entries, key=lambda entry: (not entry.discarded, entry.candidate.priority), default=None)

    def provisional_at(self, address: Endpoint) -> RemoteCandidate | None:
        """The live entry at ``address`` that waits for its signalled candidate."""
        return next((e for e in self.live() if e.provisional and e.candidate.address == address), None)

    def add(self, candidate: Candidate, *, provisional: bool = False) -> RemoteCandidate | None:
        """Append; None if the table is full of entries in use."""
        if len(self._entries) >= MAX_ENTRIES:
            idle = next((entry for entry in self._entries if not self._in_use(entry)), None)
            if idle is None:
                return None
            self._entries.remove(idle)
        entry = RemoteCandidate(self._next_index, candidate, provisional)
        self._next_index += 1
        self._entries.append(entry)
        return entry

    def guess(self) -> list[RemoteCandidate]:
        """Add optimistic candidates while the limit allows it: each reflexive IPv4 address with each host port.

        They bet on an administrator who forwards the gateway's port unchanged; IPv6 needs no such luck.
        """
        ipv4 = [entry.candidate for entry in self.live() if entry.candidate.address.ip.version == 4]
        added: list[RemoteCandidate] = []
        for reflexive in (candidate for candidate in ipv4 if candidate.kind is CandidateKind.SRFLX):
            for host in (candidate for candidate in ipv4 if candidate.kind is CandidateKind.HOST):
                address = Endpoint(reflexive.address.ip, host.address.port)
                if self._guess_count >= OPTIMISTIC_LIMIT or self.at(address) is not None:
                    continue
                entry = self.add(optimistic(address, host.address), provisional=True)
                if entry is not None:
                    self._guess_count += 1
                    added.append(entry)
        return added


def _identity(candidate: Candidate) -> tuple[object, ...]:
    return candidate.address, candidate.base, candidate.related, candidate.kind
