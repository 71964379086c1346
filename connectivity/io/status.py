"""Small HTTP answers for people and probes: ``/healthz``, ``/readyz``, and ``/status`` with the connections as JSON."""

import os
from collections.abc import Callable
from typing import Any

from aiohttp import web

from connectivity.endpoint import Endpoint
from connectivity.errors import FatalError, chain


async def serve(listen: Endpoint, status: Callable[[], dict[str, Any]], *, ready: Callable[[], bool]) -> web.AppRunner:
    """Start to answer; clean up with ``runner.cleanup()``.

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

    application = web.Application()
    routes = {"/healthz": healthz, "/readyz": readyz, "/status": show, "/": show}
    application.add_routes([web.get(path, handler) for path, handler in routes.items()])
    runner = web.AppRunner(application, access_log=None)
    await runner.setup()
    try:
        await web.TCPSite(runner, str(listen.ip), listen.port).start()
    except OSError as error:
        await runner.cleanup()
        # asyncio's own text repeats the address.
        reason = os.strerror(error.errno) if error.errno else chain(error)
        raise FatalError(f"cannot listen on {listen} for health and status: {reason}") from None
    return runner
