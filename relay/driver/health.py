"""HTTP for probes and Prometheus: ``/healthz``, ``/readyz``, ``/metrics``."""

from typing import TYPE_CHECKING

from aiohttp import web

from connectivity.endpoint import Endpoint
from connectivity.errors import FatalError
from connectivity.io.portal import PortalLink
from relay.driver.metrics import render

if TYPE_CHECKING:
    from relay.driver.service import RelayService


class Health:
    """Alive as long as it answers; ready once traffic is served and the portal has let us in."""

    def __init__(self, service: "RelayService", link: PortalLink) -> None:
        self.serving = False
        self._service = service
        self._link = link
        application = web.Application()
        application.add_routes(
            [
                web.get("/healthz", self._healthz),
                web.get("/readyz", self._readyz),
                web.get("/metrics", self._metrics),
            ]
        )
        self._runner = web.AppRunner(application, access_log=None)

    async def start(self, address: Endpoint) -> None:
        """Begin to answer.

        Raises:
            FatalError: the address cannot be used.
        """
        await self._runner.setup()
        try:
            await web.TCPSite(self._runner, str(address.ip), address.port).start()
        except OSError as error:
            raise FatalError(f"cannot serve health checks on TCP {address}") from error

    async def close(self) -> None:
        """Stop answering."""
        await self._runner.cleanup()

    async def _healthz(self, _request: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    async def _readyz(self, _request: web.Request) -> web.Response:
        status = self._service.offload.status()
        is_ready = self.serving and self._link.joined
        body = {
            "ready": is_ready,
            "portal": "joined" if self._link.joined else "away",
            "offload": {"mode": status.mode, "reason": status.reason, "egress": status.egress},
        }
        return web.json_response(body, status=200 if is_ready else 503)

    async def _metrics(self, _request: web.Request) -> web.Response:
        service = self._service
        text = render(service.server.statistics(), service.offload, service.sockets.counters)
        return web.Response(text=text, headers={"Content-Type": "text/plain; version=0.0.4; charset=utf-8"})
