"""HTTP for probes and Prometheus: ``/healthz``, ``/readyz``, ``/metrics``."""

from collections.abc import Callable
from typing import Any

from aiohttp import web

from connectivity.endpoint import Endpoint
from connectivity.errors import FatalError
from connectivity.io.http import HttpCounters, HttpServer
from connectivity.io.metric import Metric
from connectivity.io.metric_export import response
from connectivity.io.portal import PortalLink
from relay.driver.offload import OffloadStatus


class Health:
    """Alive as long as it answers; ready once traffic is served, by the offload too if there is to be one, and the
    portal, if any, let us in; until it drains.
    """

    def __init__(
        self, link: PortalLink | None, *, offload: Callable[[], OffloadStatus], metrics: Callable[[], list[Metric]]
    ) -> None:
        self.serving = False
        self.draining = False
        self._offload = offload
        self._collect = metrics
        self._link = link
        pages = {"/healthz": self._healthz, "/readyz": self._readyz, "/metrics": self._metrics}
        self._http = HttpServer("health checks", [web.get(path, handler) for path, handler in pages.items()])

    @property
    def counters(self) -> HttpCounters:
        """What became of connections."""
        return self._http.counters

    async def start(self, address: Endpoint) -> None:
        """Begin to answer.

        Raises:
            FatalError: the address cannot be used.
        """
        try:
            await self._http.listen(address)
        except OSError as error:
            raise FatalError(f"cannot serve health checks on TCP {address}") from error

    async def close(self) -> None:
        """Stop answering."""
        await self._http.close()

    async def _healthz(self, _request: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    def readiness(self) -> dict[str, Any]:
        """Whether traffic may come, and why not."""
        status = self._offload()
        is_joined = self._link is None or self._link.joined
        return {
            "ready": self.serving and is_joined and not (self.draining or status.is_loading),
            "draining": self.draining,
            "portal": "none" if self._link is None else "joined" if is_joined else "away",
            "offload": status.document(),
        }

    async def _readyz(self, _request: web.Request) -> web.Response:
        body = self.readiness()
        return web.json_response(body, status=200 if body["ready"] else 503)

    async def _metrics(self, _request: web.Request) -> web.Response:
        return response(self._collect())
