"""The HTTP server of all services: aiohttp's parser and routes behind limits that one stranger cannot use up.

From its acceptance, or its last answer, on a connection has ``Limits.seconds`` to send a request whole, and as long
again to take the answer; there may be so many connections in total, and so many of one address. Whoever comes when
it is full takes the place of the connection that has waited longest without a whole request, so those who say nothing
keep nobody out. A handler that knows whom it talks to may ``admit`` a connection (the portal's WebSockets, by their
token): neither time nor place is limited for it then, only the number of such connections.

A proxy that is trusted has as many connections as there are; from the request on, each counts as that of whom the proxy
names (``forwarded``).

Nothing that a peer sent is ever logged, since tokens travel in the request line: of what cannot be parsed, and of
exceptions in handlers, the log has the kind and the place, and the peer gets one plain line.
"""

import asyncio
import functools
import logging
import socket
import traceback
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Final

from aiohttp import web
from aiohttp.abc import AbstractAccessLogger
from aiohttp.http_exceptions import HttpProcessingError

from connectivity.endpoint import Endpoint, IPAddress, source_of
from connectivity.io import descriptors, forwarded
from connectivity.io.accepting import Acceptor, open_listener
from connectivity.io.http_limits import PROBES, Limits
from connectivity.networks import is_within
from connectivity.ranges import Network

MOST_REQUEST_BYTES: Final = 16 << 10  # with its headers and body; aiohttp alone would take a megabyte of headers
_CLOSE_SECONDS: Final = 1.0
_LINGERING_SECONDS: Final = 1.0  # to read what is left of a request that was answered early
_PLACES: Final = 3  # of an exception that are logged

_log = logging.getLogger("connectivity.io.http")


@dataclass(slots=True)
class HttpCounters:
    """What became of connections."""

    accepted: int = 0
    crowded_out: int = 0  # others came when it was full
    timed_out: int = 0
    malformed: int = 0
    failed: int = 0  # exceptions in handlers
    paused: int = 0  # accepting, without descriptors or memory


class HttpServer:
    """One server with its routes.

    Args:
        name: what it serves, for the log.
        routes: aiohttp's.
        limits: see there.

    Attributes:
        trusted_proxies: those who say for whom they ask; may be replaced.
    """

    def __init__(self, name: str, routes: Iterable[web.AbstractRouteDef], limits: Limits = PROBES) -> None:
        application = web.Application(middlewares=[self._answer])
        application.add_routes(routes)
        self.name = name
        self.counters = HttpCounters()
        self.limits = limits
        self.trusted_proxies: tuple[Network, ...] = ()
        self._most = max(1, min(limits.connections, descriptors.limit() // 4))
        self._most_admitted = min(limits.admitted, descriptors.limit() - self._most - descriptors.KEPT_FREE)
        self._runner = web.AppRunner(application, shutdown_timeout=_CLOSE_SECONDS)
        self._strangers: dict[_Connection, None] = {}  # by their deadlines, the next one first
        self._by_source: dict[object, dict[_Connection, None]] = {}
        self._admitted: set[_Connection] = set()
        self._starting: set[asyncio.Task[None]] = set()
        self._acceptor: Acceptor | None = None
        self._timer: asyncio.TimerHandle | None = None
        for each in ("aiohttp.websocket", "aiohttp.internal", "aiohttp.server", "aiohttp.web"):
            logging.getLogger(each).addFilter(_keep_phrase_only)

    async def listen(self, address: Endpoint) -> Endpoint:
        """Serve at a TCP address; ``[::]`` takes IPv4 too. Returns the address with the port in use.

        Raises:
            OSError: there is no socket at this address; the text does not name it.
        """
        listener = open_listener(address)
        bound = Endpoint(address.ip, int(listener.getsockname()[1]))
        await self.serve(listener)
        return bound

    async def serve(self, listener: socket.socket) -> None:
        """Serve whoever connects to a listening socket, which is ours from now on."""
        loop = asyncio.get_running_loop()
        if self._acceptor is None:
            await self._runner.setup()
            self._acceptor = Acceptor(loop, _log, on_pause=self._count_pause)
            if self._most_admitted < self.limits.admitted:
                fields = {"server": self.name, "connections": max(0, self._most_admitted)}
                _log.warning("File descriptors limit the connections", extra={"fields": fields})
        self._acceptor.start(listener, self._accepted)

    def admit(self, request: web.BaseRequest) -> bool:
        """Lift the limits for the connection of a request; False if that many were admitted, or it has gone."""
        connection = _connection_of(request)
        if connection.is_over or len(self._admitted) >= self._most_admitted:
            return False
        self._forget(connection)
        self._admitted.add(connection)
        connection.is_known = True
        return True

    def dismiss(self, request: web.BaseRequest) -> None:
        """Limit an admitted connection again: what it was sent it must take soon."""
        connection = _connection_of(request)
        if connection in self._admitted:
            self._renew(connection)

    @staticmethod
    def client_of(request: web.BaseRequest) -> IPAddress | None:
        """Who asks, maybe by a proxy; nobody with an address at a Unix socket."""
        return _connection_of(request).client

    async def close(self) -> None:
        """Stop serving. Requests that are being answered have a second."""
        if self._acceptor is None:
            return
        self._acceptor.close()
        for task in list(self._starting):
            task.cancel()
        await self._runner.cleanup()
        if self._timer is not None:
            self._timer.cancel()
        for connection in [*self._strangers, *self._admitted]:
            connection.drop()

    @web.middleware
    async def _answer(
        self, request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        """Around every handler: a whole request is there; after it the answer must be taken."""
        connection = _connection_of(request)
        connection.has_asked = True
        self._ask_for(connection, request)
        self._renew(connection)
        try:
            return await handler(request)
        except web.HTTPException as error:
            allowed = {name: value for name, value in error.headers.items() if name == "Allow"}
            return web.Response(status=error.status, text=f"{error.reason.lower()}\n", headers=allowed)
        finally:
            self._renew(connection)

    def _accepted(self, accepted: socket.socket, address: Any) -> None:
        peer = forwarded.peer_of(address)
        if not self._is_proxy(peer) and self._is_crowded(peer):
            self._make_room(self._by_source[place_of(peer)], peer)
        elif len(self._strangers) >= self._most:
            self._make_room(self._strangers, peer)
        server = self._runner.server
        assert server is not None, "set up before there is a listener"
        connection = _Connection(self, peer, server, asyncio.get_running_loop())
        self.counters.accepted += 1
        self._renew(connection)
        task = asyncio.get_running_loop().create_task(self._begin(accepted, connection))
        self._starting.add(task)
        task.add_done_callback(functools.partial(self._begun, accepted))

    async def _begin(self, accepted: socket.socket, connection: "_Connection") -> None:
        try:
            await asyncio.get_running_loop().connect_accepted_socket(lambda: connection, accepted)
        except OSError as error:
            _log.debug("A connection did not begin", extra={"fields": {"server": self.name, "error": error}})
            accepted.close()
            self.ended(connection)

    def _begun(self, accepted: socket.socket, task: "asyncio.Task[None]") -> None:
        self._starting.discard(task)
        if task.cancelled():  # at our end
            accepted.close()

    def _is_proxy(self, peer: IPAddress | None) -> bool:
        return peer is not None and is_within(peer, self.trusted_proxies)

    def _is_crowded(self, client: IPAddress | None) -> bool:
        return len(self._by_source.get(place_of(client), ())) >= min(self.limits.per_address, self._most)

    def _ask_for(self, connection: "_Connection", request: web.BaseRequest) -> None:
        """Of a trusted proxy's connection the places of whom it asks for are used from now on."""
        peer = connection.peer
        if peer is None or not self._is_proxy(peer):
            return
        self._forget(connection)
        values = request.headers.getall(forwarded.HEADER, ())
        connection.client = forwarded.client_of(peer, values, self.trusted_proxies)
        if self._is_crowded(connection.client):
            self._make_room(self._by_source[connection.source], connection.client)

    def _make_room(self, among: "dict[_Connection, None]", client: IPAddress | None) -> None:
        """Drop the one that has waited longest without a whole request; if all have asked, the oldest of them."""
        self.counters.crowded_out += 1
        fields = {"server": self.name, "from": str(client or "the Unix socket"), "limit": len(among)}
        _log.warning("Too many connections, the longest silent one goes", extra={"fields": fields})
        oldest = next((each for each in among if not each.has_asked), None) or next(iter(among))
        self._drop(oldest)

    def _renew(self, connection: "_Connection") -> None:
        """A stranger, or one again: so long from now on, behind all the others."""
        if connection.is_over:
            return
        self._forget(connection)
        connection.deadline = asyncio.get_running_loop().time() + self.limits.seconds
        self._strangers[connection] = None
        self._by_source.setdefault(connection.source, {})[connection] = None
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_at(connection.deadline, self._expire)

    def _forget(self, connection: "_Connection") -> None:
        self._admitted.discard(connection)
        self._strangers.pop(connection, None)
        mine = self._by_source.get(connection.source, {})
        mine.pop(connection, None)
        if not mine:
            self._by_source.pop(connection.source, None)

    def _expire(self) -> None:
        """One timer for all: their deadlines come in the order of the table."""
        loop = asyncio.get_running_loop()
        self._timer = None
        while self._strangers:
            oldest = next(iter(self._strangers))
            if oldest.deadline > loop.time():
                self._timer = loop.call_at(oldest.deadline, self._expire)
                return
            self.counters.timed_out += 1
            self._drop(oldest)

    def _drop(self, connection: "_Connection") -> None:
        self.ended(connection)
        connection.drop()

    def answered(self, connection: "_Connection") -> None:
        """A connection waits for its next request, as a new one does."""
        self._forget(connection)
        connection.has_asked, connection.client = False, connection.peer
        self._renew(connection)

    def ended(self, connection: "_Connection") -> None:
        """A connection has gone."""
        connection.is_over = True
        self._forget(connection)

    def refuse(self, error: BaseException | None) -> None:
        """Count and tell a request that cannot be parsed, by the kind of mistake only."""
        self.counters.malformed += 1
        kind = "TooLong" if error is None else type(error).__name__
        _log.info("Refused a malformed request", extra={"fields": {"server": self.name, "error": kind}})

    def fail(self, error: BaseException | None) -> None:
        """Count and tell what a handler raised: its kind and its place, for its text may hold what the peer said."""
        self.counters.failed += 1
        while isinstance(error, BaseExceptionGroup):
            error = error.exceptions[0]
        fields = {"server": self.name, "error": type(error).__name__, "at": _places(error)}
        _log.error("A request failed", extra={"fields": fields})

    def _count_pause(self) -> None:
        self.counters.paused += 1


def place_of(client: IPAddress | None) -> object:
    """Whose places a connection uses: an IPv4 address, an IPv6 /64, or the one Unix socket."""
    return None if client is None else source_of(client)


class _NoAccessLog(AbstractAccessLogger):
    """URLs hold tokens: there is no access log, whatever the filter of the log says."""

    enabled = False

    def log(self, request: web.BaseRequest, response: web.StreamResponse, time: float) -> None:
        """Nothing."""


class _Connection(web.RequestHandler):
    """aiohttp's protocol of one connection, bounded, its complaints in our words."""

    def __init__(
        self, owner: HttpServer, peer: IPAddress | None, server: web.Server, loop: asyncio.AbstractEventLoop
    ) -> None:
        super().__init__(
            server,
            loop=loop,
            access_log_class=_NoAccessLog,
            lingering_time=_LINGERING_SECONDS,
        )
        self.peer = peer
        self.client = peer  # who asks; where a trusted proxy asks for somebody, that one
        self.deadline = 0.0
        self.has_asked = False  # a whole request, that is not answered yet
        self.is_known = False  # a handler has admitted it
        self.is_over = False
        self._owner = owner
        self._wire: asyncio.BaseTransport | None = None
        self._received_bytes = 0

    @property
    def source(self) -> object:
        """Whose places it uses."""
        return place_of(self.client)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._wire = transport
        super().connection_made(transport)
        if self.is_over:  # dropped on the way
            self.drop()

    def connection_lost(self, exc: BaseException | None) -> None:
        self._wire = None
        self._owner.ended(self)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        self._received_bytes += len(data)
        if self._received_bytes > MOST_REQUEST_BYTES and not self.is_known:
            self._owner.refuse(None)
            self.drop()
            return
        try:
            super().data_received(data)
        except Exception as error:  # noqa: BLE001 - whatever the parser did not foresee ends this connection only
            self._owner.fail(error)
            self.drop()

    async def finish_response(
        self, request: web.BaseRequest, resp: web.StreamResponse, start_time: float | None
    ) -> tuple[web.StreamResponse, bool]:
        """Send the answer, and know when that is done."""
        try:
            return await super().finish_response(request, resp, start_time)
        finally:
            self._received_bytes = 0
            self._owner.answered(self)

    def drop(self) -> None:
        """End it now, whatever was not sent yet."""
        if isinstance(self._wire, asyncio.WriteTransport):
            self._wire.abort()

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,  # noqa: ARG002 - it repeats what the peer sent
    ) -> web.StreamResponse:
        """Answer what could not be parsed or handled, in a line."""
        if isinstance(exc, HttpProcessingError):
            self._owner.refuse(exc)
        else:
            self._owner.fail(exc)
        if request.writer.output_size:
            raise ConnectionError("an answer has begun already")
        response = web.Response(status=status, text=f"{HTTPStatus(status).phrase.lower()}\n")
        response.force_close()
        return response

    def log_exception(self, *args: Any, **kw: Any) -> None:  # noqa: ARG002 - they hold what the peer sent
        """An exception outside of a handler."""
        self._owner.fail(kw.get("exc_info"))

    def log_debug(self, *args: Any, **kw: Any) -> None:
        """Nothing: they hold what the peer sent."""


def _connection_of(request: web.BaseRequest) -> _Connection:
    connection = request.protocol
    assert isinstance(connection, _Connection), "requests come by our own connections"
    return connection


def _places(error: BaseException | None) -> str:
    """The innermost places of an exception, without what it says."""
    frames = traceback.extract_tb(None if error is None else error.__traceback__)
    return " < ".join(f"{frame.filename.rpartition('/')[2]}:{frame.lineno}" for frame in reversed(frames[-_PLACES:]))


def _keep_phrase_only(record: logging.LogRecord) -> bool:
    """Of aiohttp's own lines the constant phrase, without what peers said and without tracebacks."""
    if record.args or record.exc_info:
        record.msg = str(record.msg).replace("%s", "…").replace("%r", "…")
        record.args, record.exc_info = (), None
    return True
