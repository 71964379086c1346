"""The site's DNS server: what it passes on, what it says by itself, and how much one client may ask."""

import asyncio
import socket
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Any, Self, cast

import dns.flags
import dns.message
import dns.opcode
import dns.rcode
import dns.rrset
import pytest

from connectivity.clock import SECOND
from connectivity.endpoint import IPAddress
from connectivity.io.extension import Tasks
from gateway import site_dns
from gateway.nameservers import Nameservers
from gateway.site_dns import (
    LONGEST_UDP_ANSWER,
    MOST_CONNECTIONS,
    MOST_CONNECTIONS_OF_ONE,
    MOST_QUERIES,
    MOST_QUERIES_OF_ONE,
    RATE_OF_ONE,
    SiteDns,
)

CLIENT, OTHER = ("100.64.0.9", 40000), ("fd00:2021:1111::9", 40000, 0, 0)
QUERY = dns.message.make_query("_sip._tcp.app.example.", "SRV", id=0x4242)


class Servers:
    """Name servers of the site: an answer for everybody, when it may come."""

    def __init__(self) -> None:
        self.may_answer = asyncio.Event()
        self.may_answer.set()
        self.asked: list[tuple[bytes, bool]] = []
        self.answer: bytes | None = dns.message.make_response(QUERY, recursion_available=True).to_wire()

    async def ask(self, query: bytes, *, over_tcp: bool) -> bytes | None:
        self.asked.append((query, over_tcp))
        await self.may_answer.wait()
        return self.answer


class Outgoing:
    """The socket that a query came by."""

    def __init__(self, error: OSError | None = None) -> None:
        self.sent: list[tuple[bytes, Any]] = []
        self.error = error

    def sendto(self, answer: bytes, source: object) -> None:
        if self.error is not None:
            raise self.error
        self.sent.append((answer, source))


class Stage:
    """A server without listeners; what it is handed, it gets directly."""

    def __init__(self) -> None:
        self.now = 0
        self.failures: list[Exception] = []
        self.servers = Servers()
        self.tasks = Tasks(self.failures.append)
        self.asked_for: list[tuple[str, str]] = []
        self.site = SiteDns(cast(Nameservers, self.servers), self.tasks.start, self.may_ask, clock=lambda: self.now)
        self.outgoing = Outgoing()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.site.close()
        await self.tasks.cancel()
        assert self.failures == []

    def may_ask(self, client: IPAddress, name: str) -> bool:
        self.asked_for.append((str(client), name))
        return name.endswith(".app.example") or name == "app.example"

    def datagram(self, query: bytes, source: tuple[Any, ...] = CLIENT) -> None:
        self.site.handle_datagram(cast(socket.socket, self.outgoing), query, source)

    async def settle(self) -> None:
        for _ in range(10):
            await asyncio.sleep(0)

    async def ask(self, query: bytes) -> dns.message.Message:
        """The one answer to a datagram."""
        self.outgoing.sent.clear()
        self.datagram(query)
        await self.settle()
        ((answer, source),) = self.outgoing.sent
        assert source == CLIENT
        return dns.message.from_wire(answer)

    def connect(self, source: tuple[Any, ...] = CLIENT) -> socket.socket:
        near, far = socket.socketpair()
        near.setblocking(False)
        far.setblocking(False)
        self.site.handle_connection(far, source)
        return near


Script = Callable[[Stage], Awaitable[None]]


def run(script: Script) -> None:
    async def steps() -> None:
        async with asyncio.timeout(20), Stage() as stage:
            await script(stage)

    asyncio.run(steps())


async def read(stream: socket.socket) -> bytes:
    """One message; empty at the end of the stream."""
    loop = asyncio.get_running_loop()
    head = await loop.sock_recv(stream, 2)
    length = int.from_bytes(head, "big")
    content = b""
    while len(content) < length:
        content += await loop.sock_recv(stream, length - len(content))
    return content


def framed(message: bytes) -> bytes:
    return len(message).to_bytes(2, "big") + message


def large_answer(size: int) -> bytes:
    answer = dns.message.make_response(QUERY, recursion_available=True)
    answer.flags |= dns.flags.AA
    texts = ['"' + "x" * 200 + f'{number}"' for number in range(size // 200)]
    answer.answer.append(dns.rrset.from_text("_sip._tcp.app.example.", 60, "IN", "TXT", *texts))
    return answer.to_wire()


@pytest.mark.parametrize("kind", ["SRV", "TXT"])
def test_a_query_and_its_answer_pass_as_they_are(kind: str) -> None:
    async def script(stage: Stage) -> None:
        query = dns.message.make_query("app.example.", kind, use_edns=0, payload=4096).to_wire()
        stage.datagram(query)
        await stage.settle()
        assert stage.servers.asked == [(query, False)]
        assert stage.outgoing.sent == [(stage.servers.answer, CLIENT)]
        assert stage.asked_for == [("100.64.0.9", "app.example")]

    run(script)


@pytest.mark.parametrize(
    ("query", "code"),
    [
        (dns.message.make_query("app.example.", "A"), dns.rcode.REFUSED),
        (dns.message.make_query("app.example.", "ANY"), dns.rcode.REFUSED),
        (dns.message.make_query("example.", "AXFR"), dns.rcode.REFUSED),
        (dns.message.make_query("wiki.example.", "TXT"), dns.rcode.REFUSED),
        (dns.message.make_query("app.example.", "TXT", "CH"), dns.rcode.REFUSED),
        (dns.message.Message(), dns.rcode.FORMERR),
    ],
    ids=["A", "ANY", "AXFR", "not granted", "another class", "no question"],
)
def test_what_it_does_not_serve_is_refused(query: dns.message.Message, code: dns.rcode.Rcode) -> None:
    async def script(stage: Stage) -> None:
        answer = await stage.ask(query.to_wire())
        assert (answer.rcode(), answer.id, answer.question) == (code, query.id, query.question)
        assert stage.servers.asked == []
        assert stage.site.counters()["refused"] == 1

    run(script)


def test_another_operation_is_not_implemented() -> None:
    async def script(stage: Stage) -> None:
        query = dns.message.make_query("example.", "SOA")
        query.set_opcode(dns.opcode.NOTIFY)
        assert (await stage.ask(query.to_wire())).rcode() == dns.rcode.NOTIMP

    run(script)


@pytest.mark.parametrize(
    "query",
    [b"", b"\0" * 11, bytes(range(64)), QUERY.to_wire()[:-1], dns.message.make_response(QUERY).to_wire()],
    ids=["nothing", "no header", "noise", "half", "an answer"],
)
def test_what_is_no_query_is_not_answered(query: bytes) -> None:
    async def script(stage: Stage) -> None:
        stage.datagram(query)
        near = stage.connect()
        near.send(framed(query))
        assert await read(near) == b""
        near.close()
        await stage.settle()
        assert stage.outgoing.sent == []
        assert stage.site.counters()["malformed"] == 2

    run(script)


def test_no_answer_of_the_site_is_a_server_failure() -> None:
    async def script(stage: Stage) -> None:
        stage.servers.answer = None
        answer = await stage.ask(QUERY.to_wire())
        assert (answer.rcode(), answer.id, answer.question) == (dns.rcode.SERVFAIL, QUERY.id, QUERY.question)
        assert stage.site.counters()["failed"] == 1

    run(script)


def test_an_answer_too_long_for_a_datagram_says_so_and_comes_whole_over_tcp() -> None:
    async def script(stage: Stage) -> None:
        stage.servers.answer = large_answer(2000)
        answer = await stage.ask(QUERY.to_wire())
        assert answer.flags & (dns.flags.TC | dns.flags.AA | dns.flags.RA) == dns.flags.TC | dns.flags.AA | dns.flags.RA
        assert (answer.question, answer.answer) == (QUERY.question, [])
        near = stage.connect()
        near.send(framed(QUERY.to_wire()))
        assert await read(near) == stage.servers.answer
        assert [over_tcp for _, over_tcp in stage.servers.asked] == [False, True]
        near.close()
        stage.servers.answer = stage.servers.answer[:LONGEST_UDP_ANSWER]
        stage.datagram(QUERY.to_wire())
        await stage.settle()
        assert stage.outgoing.sent[-1][0] == stage.servers.answer

    run(script)


def test_a_stream_takes_one_query_after_the_other() -> None:
    async def script(stage: Stage) -> None:
        near = stage.connect()
        near.send(framed(QUERY.to_wire()) * 3)
        assert [await read(near) for _ in range(3)] == [stage.servers.answer] * 3
        near.close()
        await stage.settle()
        assert len(stage.tasks) == 0
        counted = stage.site.counters()
        assert (counted["queries_tcp"], counted["connections"], counted["connections_ended"]) == (3, 1, 1)

    run(script)


def test_an_idle_stream_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(site_dns, "IDLE_SECONDS", 0)

    async def script(stage: Stage) -> None:
        near = stage.connect()
        assert await read(near) == b""
        near.close()
        await stage.settle()
        assert stage.site.counters()["connections_ended"] == 1

    run(script)


def test_one_client_has_so_many_queries_at_a_time_and_others_theirs() -> None:
    async def script(stage: Stage) -> None:
        stage.servers.may_answer.clear()
        for _ in range(MOST_QUERIES_OF_ONE + 5):
            stage.datagram(QUERY.to_wire())
        near = stage.connect()
        near.send(framed(QUERY.to_wire()))
        assert await read(near) == b""  # its streams count, too
        near.close()
        stage.datagram(QUERY.to_wire(), OTHER)
        await stage.settle()
        assert len(stage.servers.asked) == MOST_QUERIES_OF_ONE + 1
        assert stage.site.counters()["too_many"] == 6
        stage.servers.may_answer.set()
        await stage.settle()
        assert len(stage.outgoing.sent) == MOST_QUERIES_OF_ONE + 1
        await stage.ask(QUERY.to_wire())

    run(script)


def test_one_client_has_so_many_queries_a_second() -> None:
    async def script(stage: Stage) -> None:
        for _ in range(RATE_OF_ONE.burst // 64):
            for _ in range(64):
                stage.datagram(b"what is no query costs, too")
            await stage.settle()
        stage.datagram(QUERY.to_wire())
        await stage.settle()
        assert stage.site.counters()["too_many"] == 1
        stage.datagram(QUERY.to_wire(), OTHER)
        await stage.settle()
        assert len(stage.outgoing.sent) == 1
        stage.now += SECOND
        await stage.ask(QUERY.to_wire())

    run(script)


def test_all_clients_have_so_many_queries_at_a_time() -> None:
    async def script(stage: Stage) -> None:
        stage.servers.may_answer.clear()
        for number in range(MOST_QUERIES + 5):
            stage.datagram(QUERY.to_wire(), (f"100.64.{number // 256}.{number % 256}", 1))
        await stage.settle()
        assert len(stage.servers.asked) == MOST_QUERIES
        assert stage.site.counters()["too_many"] == 5

    run(script)


def test_one_client_has_so_many_connections_and_all_have() -> None:
    async def script(stage: Stage) -> None:
        own = [stage.connect() for _ in range(MOST_CONNECTIONS_OF_ONE + 1)]
        assert await read(own[-1]) == b""
        others = [
            stage.connect((f"100.64.{number // 256}.{number % 256}", 1))
            for number in range(256, 256 + MOST_CONNECTIONS - MOST_CONNECTIONS_OF_ONE + 1)
        ]
        assert await read(others[-1]) == b""
        assert stage.site.counters()["connections_refused"] == 2
        own[0].close()
        await stage.settle()
        again = stage.connect()
        again.send(framed(QUERY.to_wire()))
        assert await read(again) == stage.servers.answer
        for stream in (*own, *others, again):
            stream.close()

    run(script)


@pytest.mark.parametrize("source", [("192.0.2.1", 5), ("127.0.0.1", 5), ("2001:db8::1", 5, 0, 0)])
def test_who_is_not_of_the_tunnel_gets_nothing(source: tuple[Any, ...]) -> None:
    async def script(stage: Stage) -> None:
        stage.datagram(QUERY.to_wire(), source)
        near = stage.connect(source)
        assert await read(near) == b""
        near.close()
        await stage.settle()
        assert stage.servers.asked == []
        assert stage.site.counters()["foreign"] == 2

    run(script)


def test_an_answer_that_cannot_be_sent_ends_nothing() -> None:
    async def script(stage: Stage) -> None:
        stage.outgoing = Outgoing(BlockingIOError(11, "full"))
        stage.datagram(QUERY.to_wire())
        await stage.settle()
        assert stage.site.counters()["unsent"] == 1

    run(script)
