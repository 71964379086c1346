"""What shows a relay to people and programs: health, metrics, the admin socket, what is exported by OpenTelemetry.

Apart from what relays, and imported once that does: aiohttp's server is of no use to a client that waits.
"""

import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, Self

from connectivity.io import process_metrics
from connectivity.io.metric import Metric
from connectivity.io.metric_export import serve_metrics
from connectivity.io.portal import PortalLink
from relay.driver import status
from relay.driver.admin import Admin
from relay.driver.health import Health
from relay.driver.metrics import Sources, collect, states
from relay.driver.service import RelayService
from relay.driver.telemetry import Telemetry
from relay.settings import RelaySettings


class Showing:
    """All of it for one service."""

    def __init__(self, settings: RelaySettings, service: RelayService, link: PortalLink | None) -> None:
        self._settings = settings
        self._service = service
        self._identity = _identity(settings)
        self.health = Health(link, offload=lambda: service.offload.status(), metrics=self._collect)
        self.telemetry = Telemetry(self._collect, is_under_portal=settings.portal is not None)

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[Self]:
        """Show it while the context lasts.

        Raises:
            FatalError: something that was asked for cannot be had.
        """
        async with AsyncExitStack() as stack:
            await self.health.start(self._settings.health_address)
            stack.push_async_callback(self.health.close)
            if self._settings.metrics_address is not None:
                metrics = await serve_metrics(self._settings.metrics_address, self._collect)
                stack.push_async_callback(metrics.close)
            admin = Admin(self._service, self._status)
            stack.push_async_callback(admin.close)
            await admin.start(self._settings.admin_socket)
            stack.enter_context(self.telemetry.exporting(self._settings.telemetry))
            self._service.tracing = self.telemetry.tracing
            yield self

    def _collect(self) -> list[Metric]:
        service, streams = self._service, self._service.streams
        counters = service.sockets.counters
        sources = Sources(service.offload, counters, streams.counters, len(streams), self.health.counters)
        return [
            *collect(service.server.statistics(), sources),
            *states(self.health.readiness()),
            *process_metrics.collect("relay"),
        ]

    def _status(self, allocations: list[dict[str, Any]]) -> dict[str, Any]:
        readiness = self.health.readiness()
        return status.build(self._identity, readiness, allocations, self._collect(), time.monotonic_ns())


def _identity(settings: RelaySettings) -> status.Identity:
    return status.Identity(
        name=None if settings.portal is None else settings.portal.name,
        public=tuple(map(str, settings.public.values())),
        listen=tuple(map(str, settings.configuration.listen)),
        started_at=time.monotonic_ns(),
    )
