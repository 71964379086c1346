"""The site's DNS server: what clients ask for SRV and TXT records of DNS resources, at port 53535 of the gateway.

It listens at the gateway's two addresses in the tunnel, over UDP and TCP, and asks the site's name servers over the
transport that it was asked by. Addresses are not its business: clients get those from the core, with its policy, so
every other type is refused, and every name that is of no resource granted to the client. Of a family that has no
socket it serves nothing, and goes on with the other one.

Who asks is a client of the tunnel: so many queries and connections each, at a time and a second, and in total.
"""

import asyncio
import functools
import logging
import socket
import time
from collections import Counter
from collections.abc import Callable, Coroutine, Mapping
from ipaddress import ip_address
from typing import Any, Final, TypeAlias

import dns.exception
import dns.flags
import dns.message
import dns.opcode
import dns.rcode
import dns.rdataclass
import dns.rdatatype

from connectivity.budget import Budget, Rate
from connectivity.clock import Instant
from connectivity.endpoint import Endpoint, IPAddress
from connectivity.errors import chain
from connectivity.io import descriptors
from connectivity.io.accepting import Acceptor, open_listener
from connectivity.io.dns_exchange import ANY_MESSAGE, NoAnswerError, read_message
from connectivity.io.families import is_absent
from connectivity.tunnel import PEERS_IPV4, PEERS_IPV6
from gateway.nameservers import Nameservers
from gateway.peers import SITE_DNS_PORT

LONGEST_UDP_ANSWER: Final = 1200  # fits into a packet of the tunnel
MOST_QUERIES: Final = 1000  # at a time, each with a socket
MOST_QUERIES_OF_ONE: Final = 64
RATE_OF_ONE: Final = Rate(256, 64)  # a program that starts asks for some dozen names
MOST_BUDGETS: Final = 4096  # clients that asked lately; addresses in the tunnel cannot be forged
MOST_CONNECTIONS: Final = 256
MOST_CONNECTIONS_OF_ONE: Final = 10
IDLE_SECONDS: Final = 10.0  # for a whole query, and again for its answer
QUERIES_PER_TURN: Final = 32
BIND_AGAIN_SECONDS: Final = (0.1, 0.5, 2.0)
SERVED: Final = frozenset({dns.rdatatype.SRV, dns.rdatatype.TXT})
_PARTS: Final = (
    "queries_udp", "queries_tcp", "answered", "truncated", "failed", "refused", "malformed", "foreign", "too_many",
    "unsent", "connections", "connections_refused", "connections_ended",
)  # fmt: skip

log = logging.getLogger("gateway")

MayAsk: TypeAlias = Callable[[IPAddress, str], bool]


class SiteDns:
    """The DNS server for clients, over UDP and TCP; a gateway has one.

    Args:
        nameservers: whom to ask.
        start: runs what answers a query.
        may_ask: whether the client of an address may ask for a name.
        clock: monotonic.
    """

    def __init__(
        self,
        nameservers: Nameservers,
        start: Callable[[Coroutine[Any, Any, None]], None],
        may_ask: MayAsk,
        *,
        clock: Callable[[], Instant] = time.monotonic_ns,
    ) -> None:
        self._nameservers = nameservers
        self._start = start
        self._may_ask_for = may_ask
        self._clock = clock
        self._budgets: dict[IPAddress, Budget] = {}  # oldest first
        self._families: dict[int, _Family] = {}
        self._queries: Counter[IPAddress] = Counter()
        self._connections: Counter[IPAddress] = Counter()
        self._counted: Counter[str] = Counter()

    def serve(self, *addresses: IPAddress) -> None:
        """Listen at these addresses, one of each family, and no longer at others; what works already is left alone."""
        for address in addresses:
            family = self._families.get(address.version)
            if family is None or family.endpoint.ip != address:
                if family is not None:
                    family.close()
                family = self._families[address.version] = _Family(self, Endpoint(address, SITE_DNS_PORT))
            if not family.is_open and not family.is_opening:
                family.is_opening = True
                self._start(family.open())

    def close(self) -> None:
        """Listen no longer. What runs is the starter's to end."""
        for family in self._families.values():
            family.close()
        self._families.clear()

    def counters(self) -> Mapping[str, int]:
        """Always the same names."""
        return {name: self._counted[name] for name in _PARTS}

    def count(self, what: str) -> None:
        """One more of a kind."""
        self._counted[what] += 1

    def handle_datagram(self, sender: socket.socket, query: bytes, source: tuple[Any, ...]) -> None:
        """A query by UDP."""
        self.count("queries_udp")
        client = self._client(source)
        if client is None:
            return
        if not self._has_room(client):
            self.count("too_many")
            return
        self._queries[client] += 1
        self._start(self._answer_datagram(sender, query, source, client))

    def handle_connection(self, stream: socket.socket, source: tuple[Any, ...]) -> None:
        """A client that wants to ask over TCP."""
        client = self._client(source)
        if client is None:
            stream.close()
        elif self._connections.total() >= MOST_CONNECTIONS or self._connections[client] >= MOST_CONNECTIONS_OF_ONE:
            self.count("connections_refused")
            stream.close()
        else:
            self.count("connections")
            self._connections[client] += 1
            self._start(self._serve_stream(stream, client))

    def _client(self, source: tuple[Any, ...]) -> IPAddress | None:
        """Who asks; None if that is nobody of the tunnel, whatever way it came."""
        address = ip_address(source[0])
        if address in (PEERS_IPV4 if address.version == 4 else PEERS_IPV6):
            return address
        self.count("foreign")
        return None

    def _has_room(self, client: IPAddress) -> bool:
        """Whether one more query of this client is taken."""
        now = self._clock()
        budget = self._budgets.get(client)
        if budget is None:
            if len(self._budgets) >= MOST_BUDGETS:
                del self._budgets[next(iter(self._budgets))]
            budget = self._budgets[client] = Budget(RATE_OF_ONE, now)
        return (
            budget.take(1, now) and self._queries.total() < MOST_QUERIES and self._queries[client] < MOST_QUERIES_OF_ONE
        )

    async def _answer_datagram(
        self, sender: socket.socket, query: bytes, source: tuple[Any, ...], client: IPAddress
    ) -> None:
        try:
            answer = await self._answer(query, client, over_tcp=False)
        finally:
            _less(self._queries, client)
        if answer is None:
            return
        try:
            sender.sendto(answer, source)
        except OSError as error:  # closed meanwhile, or full: the client asks again
            self.count("unsent")
            log.debug("Cannot send an answer", extra={"fields": {"error": chain(error)}})

    async def _serve_stream(self, stream: socket.socket, client: IPAddress) -> None:
        loop = asyncio.get_running_loop()
        try:
            with stream:
                while True:
                    async with asyncio.timeout(IDLE_SECONDS):
                        query = await read_message(stream)
                    self.count("queries_tcp")
                    answer = await self._answer_one_of_many(query, client)
                    if answer is None:
                        return
                    async with asyncio.timeout(IDLE_SECONDS):
                        await loop.sock_sendall(stream, len(answer).to_bytes(2, "big") + answer)
        except (NoAnswerError, TimeoutError):  # closed by the client, or for it
            self.count("connections_ended")
        except OSError as error:
            self.count("connections_ended")
            log.debug("A connection to the site's DNS broke", extra={"fields": {"error": chain(error)}})
        finally:
            _less(self._connections, client)

    async def _answer_one_of_many(self, query: bytes, client: IPAddress) -> bytes | None:
        if not self._has_room(client):
            self.count("too_many")
            return None
        self._queries[client] += 1
        try:
            return await self._answer(query, client, over_tcp=True)
        finally:
            _less(self._queries, client)

    async def _answer(self, query: bytes, client: IPAddress, *, over_tcp: bool) -> bytes | None:
        """What to say; None for what is no query."""
        try:
            asked = dns.message.from_wire(query, ignore_trailing=True)
            refusal = self._refusal(asked, client)
        except (dns.exception.DNSException, ValueError):
            self.count("malformed")
            return None
        if refusal is not None:
            self.count("refused")
            return _said(asked, refusal)
        answer = await self._nameservers.ask(query, over_tcp=over_tcp)
        if answer is None:
            self.count("failed")
            return _said(asked, dns.rcode.SERVFAIL)
        self.count("answered")
        if over_tcp or len(answer) <= LONGEST_UDP_ANSWER:
            return answer
        self.count("truncated")
        head = dns.message.from_wire(answer, question_only=True)
        return _said(asked, head.rcode(), head.flags | dns.flags.TC)

    def _refusal(self, asked: dns.message.Message, client: IPAddress) -> dns.rcode.Rcode | None:
        """What we say to a query by ourselves; None for one to pass on.

        Raises:
            ValueError: it is no query, and is not answered.
        """
        if asked.flags & dns.flags.QR:
            raise ValueError("an answer is no query")
        if asked.opcode() != dns.opcode.QUERY:
            return dns.rcode.NOTIMP
        if len(asked.question) != 1:
            return dns.rcode.FORMERR
        (question,) = asked.question
        name = question.name.to_text(omit_final_dot=True)
        is_served = question.rdtype in SERVED and question.rdclass == dns.rdataclass.IN
        return None if is_served and self._may_ask_for(client, name) else dns.rcode.REFUSED


class _Family:
    """The sockets at one address."""

    def __init__(self, site: SiteDns, endpoint: Endpoint) -> None:
        self.endpoint = endpoint
        self.is_open = False
        self.is_opening = False
        self._site = site
        self._loop = asyncio.get_running_loop()
        self._datagrams: socket.socket | None = None
        self._acceptor: Acceptor | None = None
        self._is_closed = False

    async def open(self) -> None:
        """Listen; addresses may take a moment until they can be bound."""
        try:
            for pause in (*BIND_AGAIN_SECONDS, None):
                try:
                    self._bind()
                except OSError as error:
                    if pause is None or is_absent(error, self.endpoint.ip.version):
                        self._tell(error)
                        return
                    await asyncio.sleep(pause)
                else:
                    return
        finally:
            self.is_opening = False

    def close(self) -> None:
        self._is_closed = True
        self.is_open = False
        if self._datagrams is not None:
            self._loop.remove_reader(self._datagrams.fileno())
            self._datagrams.close()
        if self._acceptor is not None:
            self._acceptor.close()

    def _bind(self) -> None:
        if self._is_closed:
            return
        family = socket.AF_INET if self.endpoint.ip.version == 4 else socket.AF_INET6
        listener = open_listener(self.endpoint)
        try:
            datagrams = socket.socket(family, socket.SOCK_DGRAM)
            try:
                datagrams.setblocking(False)
                datagrams.bind((str(self.endpoint.ip), self.endpoint.port))
            except BaseException:
                datagrams.close()
                raise
        except BaseException:
            listener.close()
            raise
        self._datagrams = datagrams
        self._loop.add_reader(datagrams.fileno(), self._readable, datagrams)
        pause = functools.partial(self._site.count, "connections_refused")
        self._acceptor = Acceptor(self._loop, log, on_pause=pause, kept_free=descriptors.KEPT_FREE)
        self._acceptor.start(listener, self._site.handle_connection)
        self.is_open = True
        log.debug("The site's DNS listens", extra={"fields": {"address": self.endpoint}})

    def _readable(self, datagrams: socket.socket) -> None:
        for _ in range(QUERIES_PER_TURN):
            try:
                query, source = datagrams.recvfrom(ANY_MESSAGE)
            except (BlockingIOError, InterruptedError):
                return
            except OSError as error:  # what ICMP said of an earlier answer
                log.debug("Cannot read a query", extra={"fields": {"error": chain(error)}})
                continue
            self._site.handle_datagram(datagrams, query, source)

    def _tell(self, error: OSError) -> None:
        version = self.endpoint.ip.version
        level = logging.INFO if is_absent(error, version) else logging.WARNING
        log.log(level, "No DNS for the site in this family", extra={"fields": {"ipv": version, "error": chain(error)}})


def _said(asked: dns.message.Message, code: dns.rcode.Rcode, flags: int = 0) -> bytes:
    """An answer without records."""
    said = dns.message.make_response(asked, recursion_available=True)
    said.flags |= flags
    said.set_rcode(code)
    return said.to_wire()


def _less(counted: Counter[IPAddress], key: IPAddress) -> None:
    counted[key] -= 1
    if not counted[key]:
        del counted[key]
