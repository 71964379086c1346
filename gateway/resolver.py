"""Looks up the addresses of names for the gateway's core: IPv4 and IPv6, beside everything else.

The hosts file comes first; what it has of a name is all there is. Then the name servers of the system are asked for A
and AAAA at once, from sockets that leave outside the tunnel. One family is enough, and what the other one lacks is not
known longer than necessary. Look-ups of one name are one; what was found is kept as long as it says, within bounds,
until the system's configuration changes. What failed is not kept: the next one who asks may have more luck.
"""

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass
from enum import StrEnum
from ipaddress import IPv4Address, IPv6Address
from typing import Any, Final, TypeAlias

import dns.asyncbackend
import dns.asyncresolver
import dns.exception
import dns.message
import dns.name
import dns.nameserver
import dns.resolver

from connectivity.clock import SECOND, Duration, Instant
from connectivity.endpoint import Endpoint, IPAddress
from connectivity.io.dns_exchange import exchange
from gateway.system_names import SystemNames

LOOK_UP_SECONDS: Final = 10.0  # below what a client gives a handshake
MOST_LOOK_UPS: Final = 1000  # at a time; each has two sockets
MOST_REMEMBERED: Final = 512
# A client repeats itself every two seconds, so anything shorter is no memory; no client waits longer for a new address.
SHORTEST_MEMORY: Final[Duration] = 2 * SECOND
LONGEST_MEMORY: Final[Duration] = 30 * SECOND
# Of each family. A client has four addresses for a name, so more than a few are never used.
MOST_ADDRESSES: Final = 16

log = logging.getLogger("gateway")

OnResolved: TypeAlias = Callable[[str, tuple[IPAddress, ...] | None], None]


class Failure(StrEnum):
    """Why a look-up came to nothing."""

    NO_SUCH_NAME = "no_such_name"
    NO_ADDRESSES = "no_addresses"
    NOT_A_NAME = "not_a_name"
    NO_NAMESERVER = "no_nameserver"
    SERVERS_FAILED = "servers_failed"
    TIMED_OUT = "timed_out"
    TOO_MANY = "too_many"


# What a client may ask for as often as it likes, and what is nobody's fault.
_QUIET: Final = frozenset({Failure.NO_SUCH_NAME, Failure.NO_ADDRESSES, Failure.NOT_A_NAME})


@dataclass(slots=True)
class ResolverCounters:
    """What became of look-ups that the core asked for."""

    resolved: int = 0
    remembered: int = 0  # answered without asking anybody
    merged: int = 0  # with one that was under way


@dataclass(frozen=True, slots=True)
class _Found:
    """What one family, or both, came to. ``lifetime`` says how long it is good for."""

    addresses: tuple[IPAddress, ...]
    lifetime: Duration
    failure: Failure | None = None


@dataclass(frozen=True, slots=True)
class _Remembered:
    addresses: tuple[IPAddress, ...]
    until: Instant


class Resolver:
    """Looks names up for the gateway's core, and remembers answers; a gateway has one.

    Args:
        answer: is told the addresses of a name, or None if it has none; never from within ``resolve``.
        start: runs a look-up.
        mark: what the sockets carry.
        system: the host's configuration.
        clock: monotonic.
    """

    def __init__(
        self,
        answer: OnResolved,
        start: Callable[[Coroutine[Any, Any, None]], None],
        *,
        mark: int | None,
        system: SystemNames,
        clock: Callable[[], Instant] = time.monotonic_ns,
    ) -> None:
        self._answer = answer
        self._start = start
        self._mark = mark
        self._system = system
        self._clock = clock
        self._generation = -1
        self._asked = dns.asyncresolver.Resolver(configure=False)
        self._running: set[str] = set()
        self._memory: dict[str, _Remembered] = {}  # oldest first
        self.counted = ResolverCounters()
        self.failures: Counter[Failure] = Counter()

    def resolve(self, domain: str) -> None:
        """Find the addresses of a name; ``answer`` is called once for all who ask meanwhile."""
        self._refresh()
        known = self._memory.get(domain)
        if known is not None and self._clock() < known.until:
            self.counted.remembered += 1
            asyncio.get_running_loop().call_soon(self._answer, domain, known.addresses)
        elif domain in self._running:
            self.counted.merged += 1
        elif len(self._running) >= MOST_LOOK_UPS:
            self._note(domain, Failure.TOO_MANY)
            asyncio.get_running_loop().call_soon(self._answer, domain, None)
        else:
            self._running.add(domain)
            self._start(self._look_up(domain))

    def forget(self) -> None:
        """The network is another one: what names mean there is not known."""
        self._memory.clear()

    def counters(self) -> Mapping[str, int]:
        """Always the same names."""
        counted = self.counted
        successes = {"resolved": counted.resolved, "remembered": counted.remembered, "merged": counted.merged}
        return successes | {failure.value: self.failures[failure] for failure in Failure}

    def _refresh(self) -> None:
        generation = self._system.refresh()
        if generation == self._generation:
            return
        self._generation = generation
        self._memory.clear()
        asked = self._asked = dns.asyncresolver.Resolver(configure=False)
        asked.nameservers = [_Nameserver(server, self._mark) for server in self._system.nameservers]
        asked.timeout, asked.rotate = self._system.attempt_seconds, self._system.rotate

    async def _look_up(self, domain: str) -> None:
        generation = self._generation
        try:
            found = await self._find(domain)
        finally:
            self._running.discard(domain)
        if found.failure is not None:
            self._note(domain, found.failure)
            self._answer(domain, None)
            return
        self.counted.resolved += 1
        if generation == self._generation:
            self._remember(domain, found)
        self._answer(domain, found.addresses)

    async def _find(self, domain: str) -> _Found:
        try:
            name = dns.name.from_text(domain)
        except (dns.exception.DNSException, UnicodeError):
            return _failed(Failure.NOT_A_NAME)
        hosts = self._system.host(name.to_text(omit_final_dot=True).lower())
        if hosts:
            return _joined(_Found(hosts[:MOST_ADDRESSES], LONGEST_MEMORY), _failed(Failure.NO_ADDRESSES))
        if not self._asked.nameservers:
            return _failed(Failure.NO_NAMESERVER)
        return _joined(*await asyncio.gather(self._ask(name, "A"), self._ask(name, "AAAA")))

    async def _ask(self, name: dns.name.Name, kind: str) -> _Found:
        try:
            async with asyncio.timeout(LOOK_UP_SECONDS):
                answer = await self._asked.resolve(
                    name, kind, lifetime=LOOK_UP_SECONDS, search=False, backend=dns.asyncbackend.get_backend("asyncio")
                )
        except dns.resolver.NXDOMAIN:
            return _failed(Failure.NO_SUCH_NAME)
        except dns.resolver.NoAnswer:
            return _failed(Failure.NO_ADDRESSES)
        except (dns.exception.Timeout, TimeoutError):
            return _failed(Failure.TIMED_OUT)
        except dns.exception.DNSException:  # nobody gave an answer that makes sense
            return _failed(Failure.SERVERS_FAILED)
        parse = IPv4Address if kind == "A" else IPv6Address
        addresses = sorted({parse(record.address) for record in answer})
        lifetime = min(max(answer.chaining_result.minimum_ttl * SECOND, SHORTEST_MEMORY), LONGEST_MEMORY)
        return _Found(tuple(addresses[:MOST_ADDRESSES]), lifetime)

    def _remember(self, domain: str, found: _Found) -> None:
        self._memory.pop(domain, None)
        if len(self._memory) >= MOST_REMEMBERED:
            del self._memory[next(iter(self._memory))]
        self._memory[domain] = _Remembered(found.addresses, self._clock() + found.lifetime)

    def _note(self, domain: str, failure: Failure) -> None:
        self.failures[failure] += 1
        log.debug("Cannot look up a name", extra={"fields": {"domain": domain, "reason": failure}})
        if failure not in _QUIET:
            log.warning("Cannot look up names", extra={"fields": {"reason": failure}})


class _Nameserver(dns.nameserver.Nameserver):
    """A name server that is asked from a marked socket."""

    def __init__(self, server: Endpoint, mark: int | None) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # the library's
        self._server = server
        self._mark = mark

    def __str__(self) -> str:
        return str(self._server)

    def kind(self) -> str:
        return "Do53"

    def is_always_max_size(self) -> bool:
        return False

    def answer_nameserver(self) -> str:
        return str(self._server.ip)

    def answer_port(self) -> int:
        return self._server.port

    async def async_query(
        self,
        request: dns.message.QueryMessage,
        timeout: float,  # noqa: ASYNC109  # the library's interface
        source: str | None,
        source_port: int,
        max_size: bool,
        backend: object,
        one_rr_per_rrset: bool = False,
        ignore_trailing: bool = False,
    ) -> dns.message.Message:
        """dnspython's question; ``max_size`` is its word for TCP."""
        del source, source_port, backend
        try:
            async with asyncio.timeout(timeout):
                answer = await exchange(request.to_wire(), self._server, over_tcp=max_size, mark=self._mark)
        except TimeoutError:
            # As an OSError it would mean that this server is not worth another attempt.
            raise dns.exception.Timeout(timeout=timeout) from None  # type: ignore[no-untyped-call]  # the library's
        return dns.message.from_wire(
            answer,
            one_rr_per_rrset=one_rr_per_rrset,
            ignore_trailing=ignore_trailing,
            raise_on_truncation=not max_size,
        )


def _failed(failure: Failure) -> _Found:
    return _Found((), SHORTEST_MEMORY, failure)


def _joined(one: _Found, other: _Found) -> _Found:
    """Both families; a family that could not be asked is asked again soon."""
    if one.failure is not None and other.failure is not None:
        told = one.failure if one.failure not in _QUIET else other.failure
        return _failed(told)
    lasting = [each.lifetime for each in (one, other) if each.failure not in _QUIET]
    return _Found(one.addresses + other.addresses, min(lasting))
