"""The candidates that one relay gives us: what we are on our own interface, behind the NAT, and on the relay.

Each kind has one slot per family. A new value is announced before the old one is withdrawn, so that a connection is
never without; the absence of a value in a response changes nothing.
"""

from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TypeAlias

from connectivity.endpoint import Endpoint
from connectivity.ice.candidate import Candidate, CandidateKind


@dataclass(frozen=True, slots=True)
class CandidateAdded:
    """A candidate to use and to signal."""

    candidate: Candidate


@dataclass(frozen=True, slots=True)
class CandidateRemoved:
    """A candidate that no longer works."""

    candidate: Candidate


CandidateEvent: TypeAlias = CandidateAdded | CandidateRemoved

_KINDS = (CandidateKind.HOST, CandidateKind.SRFLX, CandidateKind.RELAY)


class CandidateSlots:
    """Host, server-reflexive and relayed candidate, IPv4 and IPv6."""

    def __init__(self) -> None:
        self._slots: dict[tuple[CandidateKind, int], Candidate] = {}
        self._events: deque[CandidateEvent] = deque()

    def observe(self, local: Endpoint, mapped: Endpoint | None) -> bool:
        """A relay answered to ``local`` and saw us as ``mapped``; values that cannot be candidates are passed over.

        Returns whether it saw us as another than before.
        """
        self._put(Candidate.host, local)
        return mapped is not None and self._put(Candidate.server_reflexive, mapped, local)

    def allocate(self, relayed: Iterable[Endpoint], local: Endpoint) -> None:
        """The relay gave us these addresses, asked for from ``local``: the first of each family counts."""
        first: dict[int, Endpoint] = {}
        for address in relayed:
            first.setdefault(address.ip.version, address)
        for version in sorted(first):
            self._put(Candidate.relayed, first[version], local)

    def invalidate_relayed(self) -> None:
        """Withdraw what the relay gave us; what we learnt about ourselves stays."""
        for version in (4, 6):
            old = self._slots.pop((CandidateKind.RELAY, version), None)
            if old is not None:
                self._events.append(CandidateRemoved(old))

    def relayed_address(self, version: int) -> Endpoint | None:
        """Our address on the relay, of IP version 4 or 6."""
        candidate = self._slots.get((CandidateKind.RELAY, version))
        return None if candidate is None else candidate.address

    @property
    def has_relayed(self) -> bool:
        """Whether the relay gave us an address."""
        return (CandidateKind.RELAY, 4) in self._slots or (CandidateKind.RELAY, 6) in self._slots

    def all(self) -> list[Candidate]:
        """What is held now, host first, IPv4 first."""
        keys = ((kind, version) for kind in _KINDS for version in (4, 6))
        return [self._slots[key] for key in keys if key in self._slots]

    @property
    def has_events(self) -> bool:
        """Whether ``poll_event`` would return one."""
        return bool(self._events)

    def poll_event(self) -> CandidateEvent | None:
        """The next change, in order."""
        return self._events.popleft() if self._events else None

    def _put(self, make: Callable[..., Candidate], address: Endpoint, *base: Endpoint) -> bool:
        """Whether another one was there."""
        try:
            candidate = make(address, *base)
        except ValueError:
            return False  # what a NAT or a relay invents costs us this one candidate, nothing else
        key = (candidate.kind, address.ip.version)
        old = self._slots.get(key)
        if old == candidate:
            return False
        self._slots[key] = candidate
        self._events.append(CandidateAdded(candidate))
        if old is not None:
            self._events.append(CandidateRemoved(old))
        return old is not None
