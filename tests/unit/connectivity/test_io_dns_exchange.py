"""One DNS query: what counts as its answer, over real sockets on loopback.

The servers are scripted; what a test waits for arrives or the query fails, so no test depends on time.
"""

import asyncio
import socket
import struct
from collections.abc import Awaitable, Callable
from ipaddress import ip_address
from typing import cast

import dns.exception
import dns.flags
import dns.message
import dns.rcode
import pytest

from connectivity.endpoint import Endpoint
from connectivity.io import dns_exchange
from connectivity.io.dns_exchange import NoAnswerError, exchange, with_id
from connectivity.io.udp_options import SOCKET_MARK

QUERY = dns.message.make_query("app.example.", "SRV", id=0x1234)
WIRE = QUERY.to_wire()


def answer(query: dns.message.Message = QUERY) -> bytes:
    return dns.message.make_response(query).to_wire()


def other_question() -> bytes:
    other = dns.message.make_query("other.example.", "SRV", id=QUERY.id)
    return answer(other)


STRAYS = {
    "another id": with_id(answer(), 0x1235),
    "another question": other_question(),
    "the query itself": WIRE,
    "nothing": b"",
    "half a header": answer()[:7],
    "half a question": answer()[:-3],
    "a name that points at itself": answer()[:12] + b"\xc0\x0c" + answer()[-4:],
    "noise": bytes(range(256)),
}


class Datagrams(asyncio.DatagramProtocol):
    """Answers each query with a list of datagrams."""

    def __init__(self, answers: list[bytes]) -> None:
        self.answers = answers
        self.heard: list[bytes] = []
        self.transport: asyncio.DatagramTransport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.DatagramTransport, transport)

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        self.heard.append(data)
        for each in self.answers:
            self.transport.sendto(each, addr)


async def ask_udp(answers: list[bytes], host: str = "127.0.0.1") -> bytes:
    loop = asyncio.get_running_loop()
    transport, server = await loop.create_datagram_endpoint(lambda: Datagrams(answers), local_addr=(host, 0))
    try:
        port = transport.get_extra_info("sockname")[1]
        async with asyncio.timeout(20):
            got = await exchange(WIRE, Endpoint(ip_address(host), port), over_tcp=False, mark=None)
        assert server.heard == [WIRE]
        return got
    finally:
        transport.close()


async def ask_tcp(serve: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]) -> bytes:
    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        length = int.from_bytes(await reader.readexactly(2), "big")
        assert await reader.readexactly(length) == WIRE
        await serve(reader, writer)
        writer.close()

    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        async with asyncio.timeout(20):
            return await exchange(WIRE, Endpoint(ip_address("127.0.0.1"), port), over_tcp=True, mark=None)


def test_the_answer_comes_as_it_is() -> None:
    assert asyncio.run(ask_udp([answer()])) == answer()


@pytest.mark.parametrize("stray", STRAYS.values(), ids=STRAYS.keys())
def test_what_is_no_answer_is_passed_over(stray: bytes) -> None:
    assert asyncio.run(ask_udp([stray, stray, answer()])) == answer()


@pytest.mark.parametrize("stray", STRAYS.values(), ids=STRAYS.keys())
def test_what_is_no_answer_ends_a_stream(stray: bytes) -> None:
    async def serve(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(len(stray).to_bytes(2, "big") + stray)

    with pytest.raises(NoAnswerError):
        asyncio.run(ask_tcp(serve))


def test_who_guesses_has_so_many_attempts() -> None:
    with pytest.raises(NoAnswerError, match="too many"):
        asyncio.run(ask_udp([STRAYS["another id"]] * dns_exchange.MOST_STRAYS))


def test_a_refusal_without_the_question_is_an_answer() -> None:
    refusal = dns.message.Message(id=QUERY.id)
    refusal.flags = dns.flags.QR
    refusal.set_rcode(dns.rcode.REFUSED)
    assert asyncio.run(ask_udp([refusal.to_wire()])) == refusal.to_wire()


def test_another_host_cannot_answer() -> None:
    """The kernel hands a connected socket nothing from elsewhere."""

    async def steps() -> bytes:
        loop = asyncio.get_running_loop()
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stranger:

            class Spoofed(Datagrams):
                def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
                    late = dns.message.make_response(QUERY)
                    late.flags |= dns.flags.AA
                    stranger.sendto(late.to_wire(), addr)
                    super().datagram_received(data, addr)

            transport, _ = await loop.create_datagram_endpoint(lambda: Spoofed([answer()]), local_addr=("127.0.0.1", 0))
            try:
                port = transport.get_extra_info("sockname")[1]
                async with asyncio.timeout(20):
                    return await exchange(WIRE, Endpoint(ip_address("127.0.0.1"), port), over_tcp=False, mark=None)
            finally:
                transport.close()

    assert asyncio.run(steps()) == answer()


def test_an_answer_over_tcp_may_come_in_pieces_and_be_large() -> None:
    large = answer() + bytes(60_000)  # what follows the question is the asker's to read

    async def serve(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write((len(large)).to_bytes(2, "big")[:1])
        await writer.drain()
        writer.write((len(large)).to_bytes(2, "big")[1:] + large[:100])
        await writer.drain()
        writer.write(large[100:])
        await writer.drain()

    assert asyncio.run(ask_tcp(serve)) == large


def test_a_connection_that_ends_early_is_no_answer() -> None:
    async def serve(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(len(answer()).to_bytes(2, "big") + answer()[:-1])

    with pytest.raises(NoAnswerError, match="closed"):
        asyncio.run(ask_tcp(serve))


@pytest.mark.parametrize("over_tcp", [False, True])
def test_a_host_where_nobody_listens_refuses(over_tcp: bool) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM if over_tcp else socket.SOCK_DGRAM) as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.raises(ConnectionRefusedError):
        asyncio.run(exchange(WIRE, Endpoint(ip_address("127.0.0.1"), port), over_tcp=over_tcp, mark=None))


def test_no_query_is_sent_that_is_none() -> None:
    with pytest.raises(dns.exception.DNSException):
        asyncio.run(exchange(b"no query", Endpoint(ip_address("127.0.0.1"), 9), over_tcp=False, mark=None))


@pytest.mark.parametrize(("text", "scope"), [("fe80::1%lo", 1), ("fe80::1%7", 7), ("::1", None)])
def test_a_link_local_server_has_its_scope(text: str, scope: int | None) -> None:
    address = dns_exchange._address(Endpoint(ip_address(text), 53))
    assert address == ((text, 53) if scope is None else ("fe80::1", 53, 0, scope))


@pytest.mark.root
@pytest.mark.parametrize("over_tcp", [False, True])
def test_the_mark_of_the_tunnels_sockets_does_not_fit_a_c_int(over_tcp: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    marks: list[int] = []

    class Recorded(socket.socket):
        def close(self) -> None:
            if self.fileno() >= 0:
                marks.append(struct.unpack("=I", self.getsockopt(socket.SOL_SOCKET, socket.SO_MARK, 4))[0])
            super().close()

    monkeypatch.setattr(socket, "socket", Recorded)
    with pytest.raises(OSError):  # nobody is there
        asyncio.run(exchange(WIRE, Endpoint(ip_address("127.0.0.1"), 9), over_tcp=over_tcp, mark=SOCKET_MARK))
    assert SOCKET_MARK in marks
