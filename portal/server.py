"""The driver of ``ControlServer``: three WebSocket paths and ``/healthz`` on aiohttp, the clock and the signals.

Traps that the shape avoids: components read any WebSocket ping as a broken message, so none is sent; no extension is
negotiated; ending a session drops TCP without a close frame; no access log, because tokens are in the URLs. One task
per connection sends what the core queued for it; a component that does not read is dropped when its queue is full.
"""

import asyncio
import logging
import os
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Final

from aiohttp import WSMsgType, web

from connectivity.clock import SECOND
from connectivity.endpoint import Endpoint
from connectivity.errors import FatalError
from portal.configuration import Configuration, TokenType
from portal.core import ControlServer
from portal.login import Refusal
from portal.session import CloseTransport, SendText, Session

MAXIMUM_MESSAGE_BYTES: Final = 1 << 20
SEND_QUEUE_LIMIT: Final = 1024

_logger = logging.getLogger("portal")


@dataclass(slots=True, eq=False)
class _Connection:
    """One WebSocket's way out. None in the queue ends it."""

    websocket: web.WebSocketResponse
    transport: asyncio.Transport
    queue: "asyncio.Queue[str | None]" = field(default_factory=lambda: asyncio.Queue(SEND_QUEUE_LIMIT))

    def put(self, text: str | None) -> None:
        try:
            self.queue.put_nowait(text)
        except asyncio.QueueFull:
            _logger.warning("Dropping a connection that does not read")
            self.transport.abort()


class PortalServer:
    """The listening server around one core."""

    def __init__(self, configuration: Configuration) -> None:
        self._configuration = configuration
        self._core = ControlServer(configuration, rng=os.urandom, now=time.monotonic_ns(), wall_now=time.time_ns())
        self._connections: dict[int, _Connection] = {}
        self._wake = asyncio.Event()

    async def run(self, stop: asyncio.Event, ready: Callable[[Endpoint], None] | None = None) -> None:
        """Serve until ``stop`` is set; ``ready`` gets the address in use.

        Raises:
            FatalError: the address cannot be listened on.
        """
        application = web.Application()
        application.router.add_get("/healthz", _healthz)
        for kind in TokenType:
            application.router.add_get(f"/{kind.value}/websocket", self._handler(kind))
        runner = web.AppRunner(application, access_log=None, shutdown_timeout=1.0)
        await runner.setup()
        try:
            listen = self._configuration.listen
            site = web.TCPSite(runner, str(listen.ip), listen.port, reuse_address=True)
            try:
                await site.start()
            except OSError as error:
                reason = os.strerror(error.errno) if error.errno else str(error)
                raise FatalError(f"cannot listen on {listen}: {reason}") from None
            address = runner.addresses[0]
            bound = Endpoint(listen.ip, int(address[1]))
            _logger.info("Portal is listening", extra={"fields": {"address": bound}})
            if ready is not None:
                ready(bound)
            await self._keep_time(stop)
        finally:
            for connection in list(self._connections.values()):
                connection.transport.close()
            await runner.cleanup()

    def apply(self, configuration: Configuration) -> None:
        """Take over a configuration that was read again."""
        if configuration.listen != self._configuration.listen:
            _logger.warning("A new listen address needs a restart")
        self._configuration = configuration
        self._core.apply(configuration, time.monotonic_ns(), time.time_ns())
        self._drain()

    def _handler(self, kind: TokenType) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
        async def handle(request: web.Request) -> web.StreamResponse:
            login = self._core.authenticate(kind, request.query, request.headers, time.time_ns())
            if isinstance(login, Refusal):
                _logger.debug("Connection refused", extra={"fields": {"kind": kind.value, "status": login.status}})
                return web.Response(status=login.status, text=login.text)
            websocket = web.WebSocketResponse(compress=False, heartbeat=None, max_msg_size=MAXIMUM_MESSAGE_BYTES)
            await websocket.prepare(request)
            session = self._core.handle_connected(login, time.monotonic_ns())
            transport = request.transport
            if session is None or transport is None:
                return websocket
            await self._serve(session, _Connection(websocket, transport))
            return websocket

        return handle

    async def _serve(self, session: Session, connection: _Connection) -> None:
        self._connections[session.number] = connection
        try:
            async with asyncio.TaskGroup() as group:
                sender = group.create_task(_send(connection))
                await self._receive(session, connection)
                sender.cancel()
        finally:
            del self._connections[session.number]
            self._core.handle_closed(session, time.monotonic_ns())
            self._drain()

    async def _receive(self, session: Session, connection: _Connection) -> None:
        async for frame in connection.websocket:  # pings are answered below us; a close frame ends the loop
            if frame.type is WSMsgType.TEXT:
                text = str(frame.data)
            elif frame.type is WSMsgType.BINARY:
                text = bytes(frame.data).decode("utf-8", "replace")
            else:
                continue
            self._core.handle_text(session, text, time.monotonic_ns(), time.time_ns())
            self._drain()

    def _drain(self) -> None:
        while (output := self._core.poll_output()) is not None:
            connection = self._connections.get(output.session.number)
            if connection is None:
                continue
            match output:
                case SendText():
                    connection.put(output.text)
                case CloseTransport():
                    connection.put(None)
        self._wake.set()

    async def _keep_time(self, stop: asyncio.Event) -> None:
        """One timer for the whole core, re-armed whenever something happened."""

        async def watch() -> None:
            await stop.wait()
            self._wake.set()

        async with asyncio.TaskGroup() as group:
            group.create_task(watch())
            while not stop.is_set():
                self._wake.clear()
                delay = max(0, self._core.poll_timeout() - time.monotonic_ns())
                try:
                    async with asyncio.timeout(delay / SECOND):
                        await self._wake.wait()
                except TimeoutError:
                    self._core.handle_timeout(time.monotonic_ns(), time.time_ns())
                    self._drain()


async def _send(connection: _Connection) -> None:
    try:
        while (text := await connection.queue.get()) is not None:
            await connection.websocket.send_str(text)
    except (ConnectionError, RuntimeError) as error:
        _logger.debug("Sending failed", extra={"fields": {"error": str(error)}})
    connection.transport.close()


async def _healthz(_request: web.Request) -> web.Response:
    return web.Response(text="ok")
