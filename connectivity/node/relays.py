"""The relays a node may use, each with its TURN allocation: the list rules of relay updates and freeing."""

import logging
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Final

from connectivity.clock import Instant, earliest
from connectivity.endpoint import Endpoint, IPAddress
from connectivity.ice import Candidate, CandidateKind
from connectivity.run import Transmit
from connectivity.turn.allocation import Allocation
from connectivity.turn.local_candidates import CandidateAdded, CandidateRemoved

log = logging.getLogger("connectivity.node")

_REMEMBERED_ADDRESSES: Final = 64  # late answers of relays just dropped must not pass for peer traffic


@dataclass(frozen=True, slots=True)
class RelayServer:
    """One TURN server as the portal describes it: one address per family, all with the same credentials."""

    relay_id: str
    addresses: tuple[Endpoint, ...]
    username: str
    password: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class CandidateChange:
    """A local candidate that appeared at, or vanished with, one relay."""

    relay_id: str
    candidate: Candidate
    added: bool


class RelaySet:
    """All allocations of a node, in the order in which the portal named them."""

    def __init__(self, *, software: str, rng: Callable[[int], bytes]) -> None:
        self._software = software
        self._rng = rng
        self._allocations: dict[str, Allocation] = {}
        self._by_server: dict[Endpoint, Allocation] = {}
        self._remembered: dict[IPAddress, None] = {}
        self._changes: list[CandidateChange] = []

    def __len__(self) -> int:
        return len(self._allocations)

    def __contains__(self, relay_id: str) -> bool:
        return relay_id in self._allocations

    def get(self, relay_id: str | None) -> Allocation | None:
        """The allocation of this relay, if it is held."""
        return self._allocations.get(relay_id) if relay_id is not None else None

    def at(self, server: Endpoint) -> Allocation | None:
        """The allocation whose relay answers from this address."""
        return self._by_server.get(server)

    def is_relay_address(self, remote: Endpoint) -> bool:
        """Whether a datagram from here is relay traffic, also from a relay that was dropped a moment ago."""
        return remote in self._by_server or (remote.port == 3478 and remote.ip in self._remembered)

    def update(self, remove: Iterable[str], add: Iterable[RelayServer], now: Instant) -> None:
        """Apply a relay list: removals, then new and changed relays, then a probe of every one not named."""
        for relay_id in remove:
            if relay_id in self._allocations:
                log.info("Removing relay", extra={"fields": {"rid": relay_id}})
                self._drop(relay_id)
        named = set()
        for server in add:
            named.add(server.relay_id)
            held = self._allocations.get(server.relay_id)
            if held is not None:
                if held.same_configuration(server.addresses, server.username, server.password):
                    continue
                self._drop(server.relay_id)
            self._allocate(server, replaced=held is not None, now=now)
        for relay_id, allocation in self._allocations.items():
            if relay_id not in named:
                allocation.probe(now)

    def pick(self) -> str | None:
        """A relay uniformly at random; None when there is none."""
        ids = list(self._allocations)
        return ids[int.from_bytes(self._rng(8), "big") % len(ids)] if ids else None

    def owner_of(self, relayed: Endpoint) -> str | None:
        """The relay that lent us this relayed address."""
        for relay_id, allocation in self._allocations.items():
            if allocation.relayed_address(relayed.ip.version) == relayed:
                return relay_id
        return None

    def candidates(self) -> list[tuple[str, Candidate]]:
        """Every candidate held now, with the relay that it was learnt from."""
        return [(relay_id, c) for relay_id, allocation in self._allocations.items() for c in allocation.candidates()]

    def handle_timeout(self, now: Instant) -> None:
        """Run the timers of every allocation."""
        for allocation in self._allocations.values():
            allocation.handle_timeout(now)

    def free_dead(self) -> bool:
        """Remove the allocations that gave up; whether there was one."""
        count = len(self._allocations)
        for relay_id, allocation in list(self._allocations.items()):
            if allocation.freed_reason is not None:
                fields = {"rid": relay_id, "reason": allocation.freed_reason}
                log.info("Freeing relay", extra={"fields": fields})
                self._drop(relay_id)
        return len(self._allocations) < count

    def poll_timeout(self) -> Instant | None:
        """The first deadline of any allocation."""
        return earliest(*(allocation.poll_timeout() for allocation in self._allocations.values()))

    def poll_transmit(self) -> Transmit | None:
        """The next TURN message to send."""
        for allocation in self._allocations.values():
            transmit = allocation.poll_transmit()
            if transmit is not None:
                return transmit
        return None

    def poll_changes(self) -> Iterator[CandidateChange]:
        """Candidates that came and went since the last call; a host address seen by another relay too stays."""
        for relay_id, allocation in self._allocations.items():
            while (event := allocation.poll_event()) is not None:
                match event:
                    case CandidateAdded(candidate):
                        self._changes.append(CandidateChange(relay_id, candidate, added=True))
                    case CandidateRemoved(candidate):
                        self._removed(relay_id, candidate)
        changes, self._changes = self._changes, []
        yield from changes

    def _allocate(self, server: RelayServer, *, replaced: bool, now: Instant) -> None:
        allocation = Allocation(
            relay_id=server.relay_id,
            addresses=server.addresses,
            username=server.username,
            password=server.password,
            software=self._software,
            rng=self._rng,
            now=now,
        )
        self._allocations[server.relay_id] = allocation
        for address in server.addresses:
            self._by_server[address] = allocation
        phrase = "Replaced relay" if replaced else "Added new relay"
        log.info(phrase, extra={"fields": {"rid": server.relay_id, "addresses": list(map(str, server.addresses))}})

    def _drop(self, relay_id: str) -> None:
        allocation = self._allocations.pop(relay_id)
        for address in [address for address, held in self._by_server.items() if held is allocation]:
            del self._by_server[address]
            self._remembered.pop(address.ip, None)
            self._remembered[address.ip] = None
        while len(self._remembered) > _REMEMBERED_ADDRESSES:
            del self._remembered[next(iter(self._remembered))]
        for candidate in allocation.candidates():
            if candidate.kind is CandidateKind.RELAY:  # our own addresses do not vanish with the relay that told us
                self._changes.append(CandidateChange(relay_id, candidate, added=False))

    def _removed(self, relay_id: str, candidate: Candidate) -> None:
        still_held = any(
            candidate in allocation.candidates() for other, allocation in self._allocations.items() if other != relay_id
        )
        if not still_held:
            self._changes.append(CandidateChange(relay_id, candidate, added=False))
