"""Small HTTP answers for people and probes: ``/healthz``, ``/readyz``, and ``/status`` with the connections as JSON."""

from collections.abc import Callable
from typing import Any

from aiohttp import web

from connectivity.endpoint import Endpoint
from connectivity.errors import FatalError
from connectivity.io.http import HttpServer


async def serve(listen: Endpoint, status: Callable[[], dict[str, Any]], *, ready: Callable[[], bool]) -> HttpServer:
    """Start to answer; ``close`` what is returned.

    Raises:
        FatalError: the address cannot be used.
    """

    async def healthz(_: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    async def readyz(_: web.Request) -> web.Response:
        is_ready = ready()
        return web.json_response({"ready": is_ready}, status=200 if is_ready else 503)

    async def show(_: web.Request) -> web.Response:
        return web.json_response(status())

    routes = {"/healthz": healthz, "/readyz": readyz, "/status": show, "/": show}
    server = HttpServer("health and status", [web.get(path, handler) for path, handler in routes.items()])
    try:
        await server.listen(listen)
    except OSError as error:
        raise FatalError(f"cannot listen on {listen} for health and status") from error
    return server
