"""The driver of ``ControlServer``: three WebSocket paths and ``/healthz`` on aiohttp, the clock and the signals.

Traps that the shape avoids: components read any WebSocket ping as a broken message, so none is sent; no extension is
negotiated; ending a session drops TCP without a close frame. Limits and the log are ``connectivity.io.http``'s: whoever
has a valid token is admitted, all others are strangers.
"""

import asyncio
import logging
import os
import time
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager, nullcontext
from typing import Any, Final

from aiohttp import WSMsgType, web

from connectivity.clock import SECOND
from connectivity.endpoint import Endpoint
from connectivity.errors import FatalError
from connectivity.io import process_metrics
from connectivity.io.http import HttpServer
from connectivity.io.http_limits import Limits
from connectivity.io.metric import Metric
from portal import status
from portal.configuration import Configuration, TokenType
from portal.connection import Backlog, Connection
from portal.core import MAXIMUM_SESSIONS, ControlServer
from portal.login import Refusal
from portal.metrics import collect
from portal.pending import Pending
from portal.session import CloseTransport, SendText, Session

MAXIMUM_MESSAGE_BYTES: Final = 1 << 20
# Those without a valid token; a whole office, or a proxy that is not trusted, is one address.
LIMITS: Final = Limits(connections=512, per_address=128, admitted=MAXIMUM_SESSIONS)

_logger = logging.getLogger("portal")


class PortalServer:
    """The listening server around one core."""

    def __init__(self, configuration: Configuration) -> None:
        self._configuration = configuration
        self._core = ControlServer(configuration, rng=os.urandom, now=time.monotonic_ns(), wall_now=time.time_ns())
        routes = [web.get(f"/{kind.value}/websocket", self._handler(kind)) for kind in TokenType]
        self._http = HttpServer("portal", [web.get("/healthz", _healthz), *routes], LIMITS)
        self._http.trusted_proxies = configuration.trusted_proxies
        self._started_at = time.monotonic_ns()
        self._connections: dict[int, Connection] = {}
        self._backlog = Backlog()
        self._wake = asyncio.Event()

    async def run(
        self,
        stop: asyncio.Event,
        ready: Callable[[Endpoint], None] | None = None,
        beside: AbstractAsyncContextManager[None] | None = None,
    ) -> None:
        """Serve until ``stop`` is set; ``ready`` gets the address in use, ``beside`` lasts as long as it is served.

        Raises:
            FatalError: the address cannot be listened on.
        """
        listen = self._configuration.listen
        try:
            bound = await self._http.listen(listen)
        except OSError as error:
            raise FatalError(f"cannot listen on {listen}") from error
        try:
            _logger.info("Portal is listening", extra={"fields": {"address": bound}})
            async with beside or nullcontext():
                if ready is not None:
                    ready(bound)
                await self._keep_time(stop)
        finally:
            for connection in list(self._connections.values()):
                connection.transport.close()
            await self._http.close()

    def apply(self, configuration: Configuration) -> None:
        """Take over a configuration that was read again."""
        if configuration.listen != self._configuration.listen:
            _logger.warning("A new listen address needs a restart")
        self._configuration = configuration
        self._http.trusted_proxies = configuration.trusted_proxies
        self._core.apply(configuration, time.monotonic_ns(), time.time_ns())
        self._drain()

    def listen(self, listener: Callable[[Pending], None]) -> None:
        """Have somebody told of each flow that is created from now on."""
        self._core.listen(listener)

    def status(self) -> dict[str, Any]:
        """Who is on line, for people."""
        return status.build(
            self._configuration.listen, self._core.online(), self.metrics(), self._started_at, time.monotonic_ns()
        )

    def metrics(self) -> list[Metric]:
        """All counters."""
        core = self._core
        metrics = collect(core.statistics, core.sizes(), core.online(), self._http.counters)
        return [*metrics, *process_metrics.collect("portal")]

    def _handler(self, kind: TokenType) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
        async def handle(request: web.Request) -> web.StreamResponse:
            source = str(self._http.client_of(request) or "")
            login = self._core.authenticate(
                kind, request.query, request.headers, source, time.monotonic_ns(), time.time_ns()
            )
            if isinstance(login, Refusal):
                _logger.debug("Connection refused", extra={"fields": {"kind": kind.value, "status": login.status}})
                headers = {"Retry-After": str(login.retry_after)} if login.retry_after is not None else {}
                return web.Response(status=login.status, text=login.text, headers=headers)
            if not self._http.admit(request):
                return web.Response(status=503, text="Too many connections")
            websocket = web.WebSocketResponse(compress=False, heartbeat=None, max_msg_size=MAXIMUM_MESSAGE_BYTES)
            await websocket.prepare(request)
            transport = request.transport
            session = None if transport is None else self._core.handle_connected(login, time.monotonic_ns())
            if session is None or transport is None:
                return websocket
            await self._serve(Connection(session, websocket, request, transport, self._backlog))
            return websocket

        return handle

    async def _serve(self, connection: Connection) -> None:
        session = connection.session
        self._connections[session.number] = connection
        try:
            async with asyncio.TaskGroup() as group:
                sender = group.create_task(connection.send_all())
                await self._receive(session, connection)
                sender.cancel()
        finally:
            del self._connections[session.number]
            connection.forget()
            self._core.handle_closed(session, time.monotonic_ns())
            self._drain()

    async def _receive(self, session: Session, connection: Connection) -> None:
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
                    connection.put(output.text, is_droppable=output.is_droppable)
                case CloseTransport():
                    connection.put(None)
                    self._http.dismiss(connection.request)  # soon, whether it reads or not
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


async def _healthz(_request: web.Request) -> web.Response:
    return web.Response(text="ok")
