"""The admin socket (``connectivity.io.local_socket``): what a relay can tell and end. For ``postern relay admin``.

``GET /status``; ``GET /allocations``, ``GET /allocations/{port}``, ``DELETE /allocations/{port}``; ``GET /offload``;
``PUT /log-level`` with a filter.
"""

import time
from collections.abc import Callable
from typing import Any

from aiohttp import web

from connectivity.clock import SECOND, Instant
from connectivity.io.local_socket import LocalServer
from connectivity.settings import LocalSocket
from relay.core import AllocationView
from relay.driver.service import RelayService


class Admin:
    """Serves what the service and its core can tell."""

    def __init__(self, service: RelayService, status: Callable[[list[dict[str, Any]]], dict[str, Any]]) -> None:
        """``status`` makes the document of ``GET /status`` with what is listed of allocations."""
        self._service = service
        self._make_status = status
        routes = [
            web.get("/status", self._status),
            web.get("/allocations", self._list),
            web.get("/allocations/{port}", self._show),
            web.delete("/allocations/{port}", self._end),
            web.get("/offload", self._offload),
        ]
        self._server = LocalServer("admin socket", routes)

    async def start(self, wanted: LocalSocket) -> None:
        """Begin to serve.

        Raises:
            FatalError: the socket was demanded and cannot be had.
        """
        await self._server.start(wanted)

    async def close(self) -> None:
        """Stop serving."""
        await self._server.close()

    async def _status(self, _: web.Request) -> web.Response:
        return web.json_response(self._make_status(self._listed()))

    async def _list(self, _: web.Request) -> web.Response:
        return web.json_response(self._listed())

    def _listed(self) -> list[dict[str, Any]]:
        now = time.monotonic_ns()
        return [self._summary(view, now) for view in self._service.server.allocations()]

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
