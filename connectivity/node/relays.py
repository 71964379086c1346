"""The relays a node may use, each with its TURN allocation: the list rules of relay updates, freeing and leaving.

A relay that falls silent is freed, and asked again after a while: the portal lists a relay as long as it hears of it,
which says nothing about the network between the relay and us. Until it answers it is on trial: nobody picks it.

A relay that the portal takes off the list, because it drains, goes on carrying what it carries. Once no connection's
path has led through it for a moment, its allocation is given back.
"""

import logging
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Final

from connectivity.clock import SECOND, Duration, Instant, earliest
from connectivity.endpoint import Endpoint, IPAddress
from connectivity.ice import Candidate, CandidateKind
from connectivity.run import Transmit
from connectivity.turn.allocation import SILENT, Allocation
from connectivity.turn.local_candidates import CandidateAdded, CandidateRemoved

log = logging.getLogger("connectivity.node")

_REMEMBERED_ADDRESSES: Final = 64  # late answers of relays just dropped must not pass for peer traffic
_FIRST_TRIAL_NS: Final = SECOND  # doubles with each trial that fails
_LONGEST_TRIAL_NS: Final = 60 * SECOND
_ASK_NS: Final = SECOND  # between two questions to relays, whoever has cause for them
_GIVE_UP_NS: Final = 3600 * SECOND  # the portal names a relay that comes back, unless it forgot to take this one back
_LOOK_NS: Final = SECOND  # how often to see whether a relay on its way out still carries something
_UNUSED_NS: Final = 2 * SECOND  # what the peer sent before it learnt of the new path has arrived by then
_LEAVE_WITHIN_NS: Final = 30 * SECOND  # far longer than a connection lives on without another path


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


@dataclass(slots=True)
class _Silent:
    """A relay that did not answer; ``trial_at`` is None while it is on trial."""

    server: RelayServer
    since: Instant
    delay: Duration
    trial_at: Instant | None


@dataclass(slots=True)
class _Leaving:
    """A relay off the list whose allocation is still in use, or is being given back (``look_at`` is None then)."""

    allocation: Allocation
    leave_by: Instant
    look_at: Instant | None
    unused_since: Instant | None = None


class RelaySet:
    """All allocations of a node, in the order in which the portal named them."""

    def __init__(self, *, software: str, rng: Callable[[int], bytes]) -> None:
        self._software = software
        self._rng = rng
        self._allocations: dict[str, Allocation] = {}
        self._servers: dict[str, RelayServer] = {}  # what the allocations were made from
        self._silent: dict[str, _Silent] = {}
        self._leaving: dict[str, _Leaving] = {}
        self._by_server: dict[Endpoint, Allocation] = {}
        self._remembered: dict[IPAddress, None] = {}
        self._changes: list[CandidateChange] = []
        self._unconfirmed: set[str] = set()  # asked with what the portal gave out for another key
        self._asked_at: Instant | None = None

    def __len__(self) -> int:
        return len(self._allocations)

    def __contains__(self, relay_id: str) -> bool:
        return relay_id in self._allocations

    def anew(self, *, software: str, now: Instant) -> "RelaySet":
        """The same relays without what is held on them: for other sockets, from which each is asked again.

        Those on their way out are not taken along, and whoever was silent may answer where we are now.
        """
        fresh = RelaySet(software=software, rng=self._rng)
        for allocation in self._all():
            self._forget_addresses(allocation)  # what they still send is no peer's
        fresh._remembered = self._remembered
        for server in (*self._servers.values(), *(silent.server for silent in self._silent.values())):
            if server.relay_id not in fresh:
                fresh._allocate(server, "Asking a known relay from other sockets", now)
                fresh._unconfirmed.add(server.relay_id)
        return fresh

    def addresses(self) -> list[Endpoint]:
        """Where those on the list are."""
        return [address for server in self._servers.values() for address in server.addresses]

    def get(self, relay_id: str | None) -> Allocation | None:
        """The allocation of this relay, if it is held, be it on its way out."""
        if relay_id is None:
            return None
        leaving = self._leaving.get(relay_id)
        return self._allocations.get(relay_id) if leaving is None else leaving.allocation

    def at(self, server: Endpoint) -> Allocation | None:
        """The allocation whose relay answers from this address."""
        return self._by_server.get(server)

    def is_relay_address(self, remote: Endpoint) -> bool:
        """Whether a datagram from here is relay traffic, also from a relay that was dropped a moment ago."""
        return remote in self._by_server or (remote.port == 3478 and remote.ip in self._remembered)

    def username(self, relay_id: str) -> str | None:
        """Our name at a relay that is on the list."""
        server = self._servers.get(relay_id)
        return None if server is None else server.username

    def update(self, remove: Iterable[str], add: Iterable[RelayServer], now: Instant) -> None:
        """Apply a relay list: removals, then new and changed relays, then a probe of every one not named."""
        for relay_id in remove:
            self._silent.pop(relay_id, None)
            if relay_id in self._allocations:
                log.info("Removing relay", extra={"fields": {"rid": relay_id}})
                del self._servers[relay_id]
                leaving = _Leaving(self._drop(relay_id), now + _LEAVE_WITHIN_NS, look_at=now + _LOOK_NS)
                self._leaving[relay_id] = leaving
        named = set()
        for server in add:
            named.add(server.relay_id)
            self._silent.pop(server.relay_id, None)
            held = self._allocations.get(server.relay_id)
            if held is not None:
                known, self._servers[server.relay_id] = self._servers[server.relay_id], server
                is_there = set(known.addresses) == set(server.addresses)
                if is_there and (known.username, known.password) == (server.username, server.password):
                    continue
                if is_there and server.relay_id in self._unconfirmed:  # credentials of our new key, nothing else is new
                    self._unconfirmed.discard(server.relay_id)
                    held.take_credentials(server.username, server.password, now)
                    continue
                self._forget_addresses(self._drop(server.relay_id))
            self._allocate(server, "Added new relay" if held is None else "Replaced relay", now)
        for relay_id, allocation in self._allocations.items():
            if relay_id not in named:
                allocation.probe(now)

    def ask(self, now: Instant) -> None:
        """Find out whether the relays still hold what they lent us, as a path has died: one that restarted may have
        the address and the credentials of before, so that nobody tells, and answers our keep-alive as if nothing was.
        """
        if self._asked_at is not None and now - self._asked_at < _ASK_NS:
            return
        self._asked_at = now
        for allocation in self._allocations.values():
            allocation.probe(now)

    def pick(self) -> str | None:
        """A relay uniformly at random; None when there is none that has not fallen silent."""
        ids = [relay_id for relay_id in self._allocations if relay_id not in self._silent]
        return ids[int.from_bytes(self._rng(8), "big") % len(ids)] if ids else None

    def owner_of(self, relayed: Endpoint) -> str | None:
        """The relay that lent us this relayed address."""
        for relay_id in (*self._allocations, *self._leaving):
            allocation = self.get(relay_id)
            if allocation is not None and allocation.relayed_address(relayed.ip.version) == relayed:
                return relay_id
        return None

    def candidates(self) -> list[tuple[str, Candidate]]:
        """Every candidate held now, with the relay that it was learnt from."""
        return [(relay_id, c) for relay_id, allocation in self._allocations.items() for c in allocation.candidates()]

    def handle_timeout(self, now: Instant) -> None:
        """Run the timers of every allocation, and put relays that fell silent on trial."""
        for allocation in self._all():
            allocation.handle_timeout(now)
        for silent in self._silent.values():
            if silent.trial_at is not None and now >= silent.trial_at:
                silent.trial_at = None
                self._allocate(silent.server, "Asking a silent relay again", now)

    def free_dead(self, now: Instant) -> bool:
        """Remove the allocations that gave up; whether there was one."""
        dead = [(relay_id, held.freed_reason) for relay_id, held in self._allocations.items() if held.freed_reason]
        for relay_id, reason in dead:
            log.info("Freeing relay", extra={"fields": {"rid": relay_id, "reason": reason}})
            self._forget_addresses(self._drop(relay_id))
            server, silent = self._servers.pop(relay_id), self._silent.pop(relay_id, None)
            if reason == SILENT and (silent is None or now - silent.since < _GIVE_UP_NS):
                delay = _FIRST_TRIAL_NS if silent is None else min(2 * silent.delay, _LONGEST_TRIAL_NS)
                since = now if silent is None else silent.since
                self._silent[relay_id] = _Silent(server, since, delay, now + delay)
        return bool(dead)

    def leave_all(self, now: Instant) -> None:
        """Give every allocation back. For the end: nobody waits for answers, nor asks again."""
        for allocation in self._all():
            allocation.delete(now)

    def leave_unused(self, used: Callable[[], Collection[str | None]], now: Instant) -> None:
        """Give back the allocations on relays off the list that carry nothing any more; ``used`` tells those in use."""
        for relay_id, leaving in list(self._leaving.items()):
            while leaving.allocation.poll_event() is not None:
                pass  # its candidates were withdrawn when it left the list
            if leaving.look_at is not None and now >= leaving.look_at:
                leaving.look_at = now + _LOOK_NS
                if relay_id in used():
                    leaving.unused_since = None
                elif leaving.unused_since is None:
                    leaving.unused_since = now
                unused_ns = 0 if leaving.unused_since is None else now - leaving.unused_since
                if unused_ns >= _UNUSED_NS or now >= leaving.leave_by:
                    leaving.look_at = None
                    leaving.allocation.delete(now)
            if leaving.allocation.freed_reason is not None:
                self._end_leaving(relay_id)

    def poll_timeout(self) -> Instant | None:
        """The first deadline of any allocation, trial or departure."""
        return earliest(
            *(allocation.poll_timeout() for allocation in self._all()),
            *(silent.trial_at for silent in self._silent.values()),
            *(leaving.look_at for leaving in self._leaving.values()),
        )

    def poll_transmit(self) -> Transmit | None:
        """The next TURN message to send."""
        for allocation in self._all():
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
                        if candidate.kind is CandidateKind.RELAY:
                            self._silent.pop(relay_id, None)
                        self._changes.append(CandidateChange(relay_id, candidate, added=True))
                    case CandidateRemoved(candidate):
                        self._removed(relay_id, candidate)
        changes, self._changes = self._changes, []
        yield from changes

    def _all(self) -> Iterator[Allocation]:
        yield from self._allocations.values()
        for leaving in self._leaving.values():
            yield leaving.allocation

    def _allocate(self, server: RelayServer, phrase: str, now: Instant) -> None:
        for relay_id, leaving in list(self._leaving.items()):
            if relay_id == server.relay_id or any(leaving.allocation.matches(address) for address in server.addresses):
                self._end_leaving(relay_id)  # there is one allocation for our address on a relay
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
        self._servers[server.relay_id] = server
        for address in server.addresses:
            self._by_server[address] = allocation
        log.info(phrase, extra={"fields": {"rid": server.relay_id, "addresses": list(map(str, server.addresses))}})

    def _drop(self, relay_id: str) -> Allocation:
        """Take a relay off the list and withdraw the candidates that it gave us."""
        allocation = self._allocations.pop(relay_id)
        for candidate in allocation.candidates():
            if candidate.kind is CandidateKind.RELAY:  # our own addresses do not vanish with the relay that told us
                self._changes.append(CandidateChange(relay_id, candidate, added=False))
        return allocation

    def _forget_addresses(self, allocation: Allocation) -> None:
        for address in [address for address, held in self._by_server.items() if held is allocation]:
            del self._by_server[address]
            self._remembered.pop(address.ip, None)
            self._remembered[address.ip] = None
        while len(self._remembered) > _REMEMBERED_ADDRESSES:
            del self._remembered[next(iter(self._remembered))]

    def _end_leaving(self, relay_id: str) -> None:
        leaving = self._leaving.pop(relay_id, None)
        if leaving is not None:
            self._forget_addresses(leaving.allocation)

    def _removed(self, relay_id: str, candidate: Candidate) -> None:
        still_held = any(
            candidate in allocation.candidates() for other, allocation in self._allocations.items() if other != relay_id
        )
        if not still_held:
            self._changes.append(CandidateChange(relay_id, candidate, added=False))
