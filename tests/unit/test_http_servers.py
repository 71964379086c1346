"""The four HTTP servers, each as its service makes it: what strangers send costs a line at most and tells no token."""

import asyncio
import base64
import logging
import resource
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from connectivity.endpoint import Endpoint
from connectivity.errors import FatalError, chain
from connectivity.io import accepting, status
from connectivity.settings import LocalSocket
from portal import config_file
from portal.server import LIMITS, PortalServer
from relay.driver.admin import Admin
from relay.driver.health import Health
from relay.driver.offload import OffloadStatus
from relay.driver.service import RelayService
from tests.unit.connectivity.http_peer import PATIENCE, TOKEN, Peer, assert_discreet
from tests.unit.connectivity.test_io_accepting import WithoutIPv6

RELAY_TOKEN = "relay-token-long-enough"
KINDS = ("portal", "relay health", "health and status", "relay admin")
Connect = Callable[[], Awaitable[Peer]]
TOO_LONG = b"a" * 9000
LINE = b"GET /client/websocket?token=%b HTTP/1.1\r\n" % TOKEN.encode()
UPGRADE = LINE + b"Host: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
PUT = b"PUT /log-level?token=%b HTTP/1.1\r\nHost: x\r\n" % TOKEN.encode()
CLIENT_HELLO = bytes.fromhex("16030100a5010000a10303") + bytes(32) + TOKEN.encode() + b"\r\n\r\n"
FORMS = {
    "nothing wrong but the token": LINE + b"Host: x\r\n\r\n",
    "TLS": CLIENT_HELLO,
    "bytes": bytes(range(256)) + TOKEN.encode() + b"\r\n\r\n",
    "no version": b"GET /?token=%b\r\n\r\n" % TOKEN.encode(),
    "odd version": b"GET /?token=%b HTTP/9.9\r\n\r\n" % TOKEN.encode(),
    "no HTTP": b"GET /?token=%b SIP/2.0\r\n\r\n" % TOKEN.encode(),
    "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + TOKEN.encode(),
    "four words": b"GET /?token=%b HTTP/1.1 x\r\n\r\n" % TOKEN.encode(),
    "method": b"%b / HTTP/1.1\r\n\r\n" % TOKEN.encode(),
    "method with a bracket": b"G<T /?token=%b HTTP/1.1\r\n\r\n" % TOKEN.encode(),
    "broken host": b"GET http://[::%b/ HTTP/1.1\r\nHost: x\r\n\r\n" % TOKEN.encode(),
    "broken port": b"GET http://x:%b/ HTTP/1.1\r\nHost: x\r\n\r\n" % TOKEN.encode(),
    "broken escapes": b"GET /%%zz?token=%b%%\xff\x80 HTTP/1.1\r\nHost: x\r\n\r\n" % TOKEN.encode(),
    "two slashes": b"GET //[%b HTTP/1.1\r\nHost: x\r\n\r\n" % TOKEN.encode(),
    "CONNECT": b"CONNECT %b:x HTTP/1.1\r\nHost: x\r\n\r\n" % TOKEN.encode(),
    "long line": LINE.replace(b" HTTP", TOO_LONG + b" HTTP") + b"\r\n",
    "header without colon": LINE + b"Host: x\r\n%b\r\n\r\n" % TOKEN.encode(),
    "header with a space": LINE + b"Ho st: %b\r\n\r\n" % TOKEN.encode(),
    "header with a NUL": LINE + b"Host: \0%b\r\n\r\n" % TOKEN.encode(),
    "header continued": LINE + b"Host: x\r\nA: b\r\n %b\r\n\r\n" % TOKEN.encode(),
    "long header": LINE + b"Host: x\r\nA: " + TOO_LONG + b"\r\n\r\n",
    "long header name": LINE + b"Host: x\r\n" + TOO_LONG + b": a\r\n\r\n",
    "many headers": LINE + b"Host: x\r\n" + b"A: b\r\n" * 200 + b"\r\n",
    "endless headers": LINE + b"Host: x\r\n" + b"A: b\r\n" * 4000,
    "length": PUT + b"Content-Length: %b\r\n\r\n" % TOKEN.encode(),
    "length of 5,000 digits": PUT + b"Content-Length: " + b"9" * 5000 + b"\r\n\r\n",
    "two lengths": PUT + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\n12",
    "length and chunks": PUT + b"Content-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "coding": PUT + b"Transfer-Encoding: %b\r\n\r\n" % TOKEN.encode(),
    "chunk": PUT + b"Transfer-Encoding: chunked\r\n\r\n%b\r\n" % TOKEN.encode(),
    "chunk's end": PUT + b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc%b" % TOKEN.encode(),
    "compressed": PUT + b"Content-Encoding: gzip\r\nContent-Length: 4\r\n\r\nabcd",
    "character set": PUT + b"Content-Type: text/plain; charset=%b\r\nContent-Length: 1\r\n\r\na" % TOKEN.encode(),
    "no text": PUT + b"Content-Length: 4\r\n\r\n\xff\xfe\xff\xfe",
    "no filter": PUT + b"Content-Length: 4\r\n\r\nx\r\ny",
    "expectation": LINE + b"Host: x\r\nExpect: %b\r\n\r\n" % TOKEN.encode(),
    "cookie": LINE + b"Host: x\r\nCookie: \x01%b=;;=\r\n\r\n" % TOKEN.encode(),
    "upgrade without key": UPGRADE + b"\r\n",
    "upgrade's key": UPGRADE + b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: %b\r\n\r\n" % TOKEN.encode(),
    "upgrade's version": UPGRADE + b"Sec-WebSocket-Version: %b\r\n\r\n" % TOKEN.encode(),
    "upgrade to what": LINE + b"Host: x\r\nConnection: Upgrade\r\nUpgrade: %b\r\n\r\nabc" % TOKEN.encode(),
    "port of 5,000 digits": b"GET /allocations/%b?token=%b HTTP/1.1\r\n\r\n" % (b"9" * 5000, TOKEN.encode()),
}


@asynccontextmanager
async def serving(kind: str, folder: Path) -> AsyncIterator[Connect]:
    """One of the four, and how to connect to it."""
    async with AsyncExitStack() as stack:
        where = await _start(kind, folder, "127.0.0.1", stack)

        async def connect() -> Peer:
            if isinstance(where, Path):
                peer = Peer(await asyncio.open_unix_connection(where))
            else:
                peer = Peer(await asyncio.open_connection(*where))
            stack.callback(peer.close)
            return peer

        yield connect


async def _start(kind: str, folder: Path, host: str, stack: AsyncExitStack) -> Path | tuple[str, int]:
    address = Endpoint.parse(f"{host}:{_free_port()}")
    match kind:
        case "portal":
            await _start_portal(address, folder, stack)
        case "relay health":
            health = Health(None, offload=lambda: OffloadStatus("off", "", {}), metrics=list)
            await health.start(address)
            stack.push_async_callback(health.close)
        case "health and status":
            server = await status.serve(address, dict, ready=lambda: True)
            stack.push_async_callback(server.close)
        case _:
            known = SimpleNamespace(allocation=lambda _: None, end_allocation=lambda *_: False, allocations=list)
            admin = Admin(cast(RelayService, SimpleNamespace(server=known)), lambda _: {})
            await admin.start(LocalSocket(folder / "admin", is_demanded=True))
            stack.push_async_callback(admin.close)
            return folder / "admin"
    return str(address.ip), address.port


async def _start_portal(address: Endpoint, folder: Path, stack: AsyncExitStack) -> None:
    text = f"listen: '{address}'\ntokens: [{{type: relay, token: {RELAY_TOKEN}}}]\n"
    portal, stop, ready = PortalServer(config_file.parse(text, base=folder)), asyncio.Event(), asyncio.Event()
    running = asyncio.ensure_future(portal.run(stop, lambda _: ready.set()))
    started = asyncio.ensure_future(ready.wait())
    await asyncio.wait({running, started}, return_when=asyncio.FIRST_COMPLETED)
    started.cancel()
    if running.done():
        await running

    async def end() -> None:
        stop.set()
        await running

    stack.push_async_callback(end)


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("form", FORMS)
def test_what_cannot_be_parsed_is_a_line_at_most(
    kind: str, form: str, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    caplog.set_level(1)

    async def scenario() -> None:
        async with serving(kind, tmp_path) as connect:
            peer = await connect()
            caplog.clear()
            peer.send(FORMS[form])
            if peer.writer.can_write_eof():
                peer.writer.write_eof()
            answer = await peer.rest()
            assert answer.count(b"\r\n\r\n") <= 1, "one answer"
            assert TOKEN.encode() not in answer
            assert len([record for record in caplog.records if record.levelno >= logging.INFO]) <= 1
            assert_discreet(caplog)
            caplog.clear()
            assert b" 200 OK\r\n" in await (await connect()).ask("/allocations" if kind == KINDS[3] else "/healthz")

    asyncio.run(scenario())


@pytest.mark.parametrize("kind", KINDS)
def test_a_crowd_that_says_nothing_is_bounded_and_keeps_no_probe_out(kind: str, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with serving(kind, tmp_path) as connect:
            first = await connect()
            for _ in range(150):
                await connect()
            assert await first.rest() == b""
            assert b" 200 OK\r\n" in await (await connect()).ask("/allocations" if kind == KINDS[3] else "/healthz")

    asyncio.run(scenario())


@pytest.mark.parametrize("kind", KINDS)
def test_without_descriptors_they_wait(
    kind: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(accepting, "PAUSE_SECONDS", 0.01)
    paused = asyncio.Event()

    def watch(record: logging.LogRecord) -> bool:
        if record.getMessage().startswith("Cannot accept"):
            paused.set()
        return True

    caplog.handler.addFilter(watch)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)

    async def scenario() -> None:
        async with serving(kind, tmp_path) as connect:
            warm = await connect()
            where = warm.writer.get_extra_info("peername")
            await warm.ask()
            waiting = socket.socket(socket.AF_UNIX if isinstance(where, str) else socket.AF_INET)
            waiting.connect(where)
            resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
            try:
                async with asyncio.timeout(PATIENCE):
                    await paused.wait()
            finally:
                resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
            peer = Peer(await asyncio.open_connection(sock=waiting))
            assert b" 200 OK\r\n" in await peer.ask("/allocations" if kind == KINDS[3] else "/healthz")
            peer.close()

    try:
        asyncio.run(scenario())
    finally:
        caplog.handler.removeFilter(watch)
    assert_discreet(caplog)


@pytest.mark.parametrize("kind", KINDS[:3])
def test_without_ipv6_it_is_said_in_a_line(kind: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with AsyncExitStack() as stack:
            await _start(kind, tmp_path, "[::]", stack)

    monkeypatch.setattr(socket, "socket", WithoutIPv6)
    with pytest.raises(FatalError) as raised:
        asyncio.run(scenario())
    line = chain(raised.value)
    assert line.startswith("cannot ")
    assert line.endswith(": this host has no IPv6")
    assert line.count("[::]") == 1


@pytest.mark.parametrize("port", ["9" * 5000, "0", "65536", "-1", "%D9%A3", "x"])
def test_what_is_no_port_is_refused(port: str, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with serving("relay admin", tmp_path) as connect:
            for method in ("GET", "DELETE"):
                peer = await connect()
                line = f"{method} /allocations/{port} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
                peer.send(line.encode())
                answer = await peer.rest()
                assert answer.startswith(b"HTTP/1.1 400 ")
                assert answer.endswith(b"\r\n\r\na port is a number from 1 to 65535\n")

    asyncio.run(scenario())


FRAMES = {
    "reserved bits": b"\xf1\x80\0\0\0\0",
    "opcode": b"\x83\x80\0\0\0\0",
    "too long": b"\x81\xff" + struct.pack("!Q", 1 << 40) + bytes(4),
    "continuation of nothing": b"\x80\x80\0\0\0\0",
    "long ping": b"\x89\xfe\x01\0" + bytes(4) + bytes(256),
    "close code": b"\x88\x82\0\0\0\0\0\x01",
    "close of one byte": b"\x88\x81\0\0\0\0\0",
    "no UTF-8": b"\x81\x84\0\0\0\0\xff\xfe\xff\xfe",
    "no JSON": b"\x81\x94\0\0\0\0" + TOKEN.encode()[:20],
    "HTTP": LINE + b"\r\n",
    "number of 5,000 digits": b"\x81\xfe" + struct.pack("!H", 5000) + bytes(4) + b"9" * 5000,
}


@pytest.mark.parametrize("form", FRAMES)
def test_what_is_no_frame_ends_a_websocket_in_silence(
    form: str, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    caplog.set_level(1)

    async def scenario() -> None:
        async with serving("portal", tmp_path) as connect:
            peer = await connect()
            peer.send(upgrade() + FRAMES[form])
            assert (await peer.reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 101 ")
            if peer.writer.can_write_eof():
                peer.writer.write_eof()
            await peer.rest()

    asyncio.run(scenario())
    assert_discreet(caplog, RELAY_TOKEN)


def upgrade(headers: bytes = b"") -> bytes:
    query = f"token={RELAY_TOKEN}&ipv4=192.0.2.1&port=3478"
    key = base64.b64encode(bytes(16))
    line = f"GET /relay/websocket?{query} HTTP/1.1\r\nHost: x\r\nUser-Agent: relay/0.1.0\r\n".encode()
    words = b"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: " + key
    return line + words + b"\r\n" + headers + b"\r\n"


def test_a_protocol_nobody_speaks_is_not_repeated(caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    caplog.set_level(1)

    async def scenario() -> None:
        async with serving("portal", tmp_path) as connect:
            peer = await connect()
            peer.send(upgrade(b"Sec-WebSocket-Protocol: %b\r\n" % TOKEN.encode()))
            assert (await peer.reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 101 ")

    asyncio.run(scenario())
    assert_discreet(caplog, RELAY_TOKEN)


def test_who_does_not_read_replies_is_dropped(caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with serving("portal", tmp_path) as connect:
            peer = await connect()
            peer.send(upgrade())
            await peer.reader.readuntil(b"\r\n\r\n")
            cast(asyncio.Transport, peer.writer.transport).pause_reading()
            text = b'{"topic":"phoenix","event":"heartbeat","payload":{},"ref":1}'
            frame = b"\x81" + bytes([0x80 | len(text)]) + bytes(4) + text
            try:
                async with asyncio.timeout(PATIENCE):
                    while True:
                        peer.send(frame * 1000)
                        await peer.writer.drain()
                        await asyncio.sleep(0)
            except ConnectionError:
                return

    asyncio.run(scenario())
    assert [record.message for record in caplog.records].count("Dropping a connection that does not read") == 1


def test_a_crowd_with_tokens_behind_one_address_is_served(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with serving("portal", tmp_path) as connect:

            async def join() -> bool:
                peer = await connect()
                peer.send(upgrade())
                return (await peer.reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 101 ")

            assert all(await asyncio.gather(*[join() for _ in range(2 * LIMITS.per_address)]))

    asyncio.run(scenario())
