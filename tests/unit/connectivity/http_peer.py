"""What talks to an HTTP server byte by byte, on the loopback, and what its log must not say."""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable
from contextlib import asynccontextmanager
from typing import Any, TypeAlias

import pytest
from aiohttp import web

from connectivity.endpoint import Endpoint
from connectivity.io.http import HttpServer
from connectivity.io.http_limits import Limits

PATIENCE = 60.0  # for what must happen anyway
TOKEN = "tok3nInTheRequestLine"

Streams: TypeAlias = tuple[asyncio.StreamReader, asyncio.StreamWriter]
Handler: TypeAlias = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Clock(asyncio.SelectorEventLoop):
    """An event loop whose time can be put forward."""

    ahead = 0.0

    def time(self) -> float:
        return super().time() + self.ahead


def run(scenario: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """A scenario under such a clock."""
    with asyncio.Runner(loop_factory=Clock) as runner:
        runner.run(scenario())


def pass_time(seconds: float) -> None:
    loop = asyncio.get_running_loop()
    assert isinstance(loop, Clock)
    loop.ahead += seconds


class Peer:
    """One TCP or Unix connection."""

    def __init__(self, streams: Streams) -> None:
        self.reader, self.writer = streams

    def send(self, data: bytes) -> None:
        self.writer.write(data)

    async def ask(self, path: str = "/healthz", headers: str = "") -> bytes:
        """One request, the last, and all that comes back until the server closes."""
        self.send(f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{headers}\r\n".encode())
        return await self.rest()

    async def rest(self) -> bytes:
        """What comes until the end, however it comes."""
        async with asyncio.timeout(PATIENCE):
            try:
                return await self.reader.read()
            except ConnectionError:
                return b""

    def is_cut_off(self) -> bool:
        return self.reader.at_eof() or self.reader.exception() is not None

    def close(self) -> None:
        self.writer.transport.abort()


class Place:
    """A server on the loopback; peers come from any address of 127.0.0.0/8."""

    def __init__(self, server: HttpServer, address: Endpoint) -> None:
        self.server, self.address = server, address
        self.peers: list[Peer] = []

    async def peer(self, source: str = "127.0.0.1") -> Peer:
        opened = Peer(await asyncio.open_connection("127.0.0.1", self.address.port, local_addr=(source, 0)))
        self.peers.append(opened)
        return opened

    async def settle(self) -> None:
        """All who connected before are accepted."""
        await (await self.peer()).ask()


@asynccontextmanager
async def serving(limits: Limits, address: str = "127.0.0.1:0", **handlers: Handler) -> AsyncIterator[Place]:
    """A server that answers ``/healthz`` and, by their names, these."""
    routes = [web.get(f"/{name}", handler) for name, handler in {"healthz": healthz, **handlers}.items()]
    server = HttpServer("test", routes, limits)
    place = Place(server, await server.listen(Endpoint.parse(address)))
    try:
        yield place
    finally:
        for peer in place.peers:
            peer.close()
        await server.close()


async def healthz(_: web.Request) -> web.Response:
    return web.Response(text="ok\n")


def said(records: Iterable[logging.LogRecord]) -> str:
    """Everything that these records could ever show."""
    formatter = logging.Formatter()
    return "\n".join(f"{record.__dict__} {formatter.format(record)}" for record in records)


def assert_discreet(caplog: pytest.LogCaptureFixture, *secrets: str) -> None:
    """No traceback, none of the secrets."""
    assert [record.getMessage() for record in caplog.records if record.exc_info or record.exc_text] == []
    text = said(caplog.records)
    assert [secret for secret in (TOKEN, *secrets) if secret in text] == []
