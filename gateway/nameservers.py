"""The site's name servers, the fastest first: asks one for somebody else, and the next one if it fails.

Which is fastest is measured over UDP and TCP when somebody asks and a minute has passed since the last time. A server
that answers at all is better than one that does not; among those without a measurement the order of the system's
configuration holds, which is all there is in a network where nothing else can be looked up. Old measurements are gone.
"""

import asyncio
import logging
import secrets
import time
from collections.abc import Callable, Coroutine
from typing import Any, Final

import dns.exception
import dns.message
import dns.rcode

from connectivity.clock import SECOND, Duration, Instant
from connectivity.endpoint import Endpoint
from connectivity.io.dns_exchange import exchange, with_id
from gateway.system_names import MOST_NAMESERVERS, SystemNames

QUERY_SECONDS: Final = 5.0  # for one query, whoever answers it in the end
ATTEMPT_SECONDS: Final = 2.0  # for one server, so that there is time for another
MEASURE_EVERY: Final[Duration] = 60 * SECOND
MEASUREMENT_SECONDS: Final = 2.0
FORGET_AFTER: Final[Duration] = 2 * MEASURE_EVERY
PROBE: Final = ".", "SOA"  # every resolver knows it or denies it, and nobody learns anything by it
assert 2 * MOST_NAMESERVERS <= 20, "so many measurements are under way at a time"
_ANSWERED: Final = frozenset({dns.rcode.NOERROR, dns.rcode.NXDOMAIN})

log = logging.getLogger("gateway")


class Nameservers:
    """The name servers of the site, measured; a gateway has one of these.

    Args:
        start: runs a measurement.
        mark: what the sockets carry.
        system: the host's configuration.
        clock: monotonic.
    """

    def __init__(
        self,
        start: Callable[[Coroutine[Any, Any, None]], None],
        *,
        mark: int | None,
        system: SystemNames,
        clock: Callable[[], Instant] = time.monotonic_ns,
    ) -> None:
        self._start = start
        self._mark = mark
        self._system = system
        self._clock = clock
        self._measured: dict[tuple[Endpoint, bool], Duration] = {}  # by server, and whether over TCP
        self._measured_at: Instant | None = None
        self._measuring = False
        self._generation = -1

    async def ask(self, query: bytes, *, over_tcp: bool) -> bytes | None:
        """The answer of the first server that has one, under the query's own id; None if there is none in time."""
        query_id = int.from_bytes(query[:2], "big")
        try:
            async with asyncio.timeout(QUERY_SECONDS):
                for server in self.order(over_tcp=over_tcp):
                    own = with_id(query, secrets.randbits(16))
                    try:
                        async with asyncio.timeout(ATTEMPT_SECONDS):
                            answer = await exchange(own, server, over_tcp=over_tcp, mark=self._mark)
                    except (OSError, TimeoutError, dns.exception.DNSException) as error:
                        fields = {"server": server, "error": type(error).__name__}
                        log.debug("A name server of the site did not answer", extra={"fields": fields})
                        continue
                    return with_id(answer, query_id)
        except TimeoutError:
            log.debug("No name server of the site answered in time")
        return None

    def order(self, *, over_tcp: bool) -> list[Endpoint]:
        """The servers, best first. Starts a measurement if one is due."""
        now = self._clock()
        generation = self._system.refresh()
        if generation != self._generation:
            self._generation = generation
            self._forget()
        if self._measured_at is not None and now - self._measured_at >= FORGET_AFTER:
            self._forget()
        servers = self._system.nameservers
        is_due = self._measured_at is None or now - self._measured_at >= MEASURE_EVERY
        if is_due and not self._measuring and len(servers) > 1:
            self._measuring = True
            self._start(self._measure(servers, generation))
        unknown = 1 << 63
        return sorted(servers, key=lambda server: self._measured.get((server, over_tcp), unknown))

    def _forget(self) -> None:
        self._measured.clear()
        self._measured_at = None

    async def _measure(self, servers: tuple[Endpoint, ...], generation: int) -> None:
        try:
            keys = [(server, over_tcp) for server in servers for over_tcp in (False, True)]
            took = await asyncio.gather(*(self._probe(server, over_tcp) for server, over_tcp in keys))
        finally:
            self._measuring = False
        if generation != self._generation:
            return
        self._measured = {key: each for key, each in zip(keys, took, strict=True) if each is not None}
        self._measured_at = self._clock()

    async def _probe(self, server: Endpoint, over_tcp: bool) -> Duration | None:
        """How long it takes to answer; None if it does not, or has no use for questions."""
        query = dns.message.make_query(*PROBE).to_wire()
        began = self._clock()
        try:
            async with asyncio.timeout(MEASUREMENT_SECONDS):
                answer = await exchange(query, server, over_tcp=over_tcp, mark=self._mark)
            code = dns.message.from_wire(answer, question_only=True).rcode()
        except (OSError, TimeoutError, dns.exception.DNSException):
            return None
        return self._clock() - began if code in _ANSWERED else None
