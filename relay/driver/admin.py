"""The admin socket: HTTP over a Unix socket that only its owner may open. People use ``postern relay admin``.

``GET /allocations``, ``GET /allocations/{port}``, ``DELETE /allocations/{port}``; ``GET /offload``; ``PUT /log-level``
with a filter.
"""

import logging
import os
import socket
import time
from pathlib import Path
from typing import Any

from aiohttp import web

from connectivity.clock import SECOND, Instant
from connectivity.errors import FatalError, chain
from connectivity.io import logs
from connectivity.io.http import OPERATOR, HttpServer
from relay.core import AllocationView
from relay.driver.service import RelayService
from relay.settings import AdminSocket

_log = logging.getLogger("relay")


class Admin:
    """Serves what the service and its core can tell."""

    def __init__(self, service: RelayService) -> None:
        self._service = service
        self._path: Path | None = None
        self._inode = 0
        routes = [
            web.get("/allocations", self._list),
            web.get("/allocations/{port}", self._show),
            web.delete("/allocations/{port}", self._end),
            web.get("/offload", self._offload),
            web.put("/log-level", self._set_log_level),
        ]
        self._http = HttpServer("the operator", routes, OPERATOR)

    async def start(self, wanted: AdminSocket) -> None:
        """Begin to serve.

        Raises:
            FatalError: the socket was demanded and cannot be had.
        """
        path = wanted.path
        if path is None:
            return
        try:
            bound = _bind(path, may_make_folder=not wanted.is_demanded)
        except OSError as error:
            if wanted.is_demanded:
                raise FatalError(f"cannot serve the admin socket {path}") from error
            _log.info("No admin socket", extra={"fields": {"path": path, "reason": chain(error)}})
            return
        self._path, self._inode = path, path.stat().st_ino
        await self._http.serve(bound)

    async def close(self) -> None:
        """Stop serving; the socket's file goes, unless another process has replaced it."""
        if self._path is None:
            return
        try:
            if self._path.stat().st_ino == self._inode:
                self._path.unlink()
        except OSError as error:
            _log.debug("The admin socket's file stays", extra={"fields": {"reason": chain(error)}})
        await self._http.close()

    async def _list(self, _: web.Request) -> web.Response:
        now = time.monotonic_ns()
        return web.json_response([self._summary(view, now) for view in self._service.server.allocations()])

    async def _show(self, request: web.Request) -> web.Response:
        port = _port(request)
        if port is None:
            return _no_port()
        view = self._service.server.allocation(port)
        if view is None:
            return _unknown(port)
        now = time.monotonic_ns()
        permissions = {str(ip): _seconds(until, now) for ip, until in view.permissions}
        channels = [
            {
                "number": f"0x{channel.number:04x}",
                "peer": str(channel.peer),
                "seconds_left": _seconds(channel.expires_at, now),
            }
            for channel in view.channels
        ]
        return web.json_response({**self._summary(view, now), "permissions": permissions, "channels": channels})

    async def _end(self, request: web.Request) -> web.Response:
        port = _port(request)
        if port is None:
            return _no_port()
        now = time.monotonic_ns()
        if not self._service.server.end_allocation(port, now):
            return _unknown(port)
        self._service.settle(now)
        return web.Response(status=204)

    async def _offload(self, _: web.Request) -> web.Response:
        return web.json_response(self._service.offload.status().document())

    async def _set_log_level(self, request: web.Request) -> web.Response:
        try:
            logs.set_filter((await request.text()).strip())
        except ValueError as error:
            return web.Response(status=400, text=f"{error}\n")
        return web.Response(status=204)

    def _summary(self, view: AllocationView, now: Instant) -> dict[str, Any]:
        """An allocation with its counts, whichever path carried them."""
        offloaded = self._service.offloaded(view)
        return {
            "port": view.port,
            "families": [f"ipv{family.version}" for family in view.families],
            "client": str(view.five_tuple.client),
            "server": str(view.five_tuple.server),
            "transport": view.five_tuple.transport.value,
            "username": view.username,
            "user": view.user,
            "seconds_left": _seconds(view.expires_at, now),
            "to_peer_packets": view.to_peer_packets + offloaded.to_peer_packets,
            "to_peer_bytes": view.to_peer_bytes + offloaded.to_peer_bytes,
            "to_client_packets": view.to_client_packets + offloaded.to_client_packets,
            "to_client_bytes": view.to_client_bytes + offloaded.to_client_bytes,
        }


def _bind(path: Path, *, may_make_folder: bool) -> socket.socket:
    """A socket that only we may open; one that a relay left behind is replaced, one that is served is not."""
    if may_make_folder:
        path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    bound = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    before = os.umask(0o177)
    try:
        if path.is_socket() and not _is_served(path):
            path.unlink()
        bound.bind(str(path))
        bound.listen()
        return bound
    except BaseException:
        bound.close()
        raise
    finally:
        os.umask(before)


def _is_served(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            return False
        return True


def _port(request: web.Request) -> int | None:
    """The port in the path; None for what is none, of whatever length."""
    text = request.match_info["port"]
    is_number = text.isascii() and text.isdecimal() and len(text) <= 5
    return int(text) if is_number and 1 <= int(text) <= 0xFFFF else None


def _no_port() -> web.Response:
    return web.Response(status=400, text="a port is a number from 1 to 65535\n")


def _unknown(port: int) -> web.Response:
    return web.Response(status=404, text=f"no allocation has port {port}\n")


def _seconds(until: Instant, now: Instant) -> int:
    return max(0, until - now) // SECOND
