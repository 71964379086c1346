"""What the portal shows of itself beside serving: its status socket, ``/metrics`` for Prometheus, metrics by OTLP.

None of it is at the address that components dial: that one may be open to the Internet.
"""

import asyncio
import base64
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

from aiohttp import web

from connectivity.endpoint import Endpoint
from connectivity.errors import FatalError
from connectivity.io.export_settings import TelemetrySettings, read_metrics_address, read_telemetry
from connectivity.io.exporters import SHUTDOWN_SECONDS, metric_exporter, service_resource, shut_down
from connectivity.io.local_socket import LocalServer
from connectivity.io.metric_export import Sampled, serve_metrics
from connectivity.io.status_socket import SOCKET_NAME, read_status_socket
from connectivity.io.tracing import Spans, exporting_traces, journey_id
from connectivity.settings import LocalSocket, SettingsReader
from portal.pending import Pending
from portal.server import PortalServer

SCOPE: Final = "postern.portal"
_SAMPLE_SECONDS: Final = 5.0


@dataclass(frozen=True, slots=True)
class ObservingSettings:
    """Where the portal shows itself."""

    status_socket: LocalSocket
    metrics_address: Endpoint | None
    telemetry: TelemetrySettings


def read_settings(reader: SettingsReader) -> ObservingSettings:
    """Declare and read them."""
    return ObservingSettings(read_status_socket(reader, "portal"), read_metrics_address(reader), read_telemetry(reader))


@asynccontextmanager
async def observing(settings: ObservingSettings, server: PortalServer) -> AsyncIterator[None]:
    """All of it while the context lasts.

    Raises:
        FatalError: something that was asked for cannot be had.
    """

    async def show(_: web.Request) -> web.Response:
        return web.json_response(server.status())

    async with AsyncExitStack() as stack:
        local = LocalServer(SOCKET_NAME, [web.get("/status", show)])
        stack.push_async_callback(local.close)
        await local.start(settings.status_socket)
        if settings.metrics_address is not None:
            metrics = await serve_metrics(settings.metrics_address, server.metrics)
            stack.push_async_callback(metrics.close)
        if settings.telemetry.metrics != "none":
            await stack.enter_async_context(_exporting(settings.telemetry, server))
        spans = stack.enter_context(exporting_traces(settings.telemetry, "portal"))
        if spans is not None:
            server.listen(partial(_tell_created, spans))
        yield


def _tell_created(spans: Spans, flow: Pending) -> None:
    """The portal's part of a trace: from the client's question until the gateway has agreed."""
    keys = (base64.b64decode(flow.client_key), base64.b64decode(flow.gateway.public_key))
    attributes = {"postern.gateway.id": flow.gateway.id, "postern.resource.id": flow.resource_id}
    now = time.time_ns()
    began = now - (time.monotonic_ns() - flow.created_at)
    spans.child(journey_id(*keys, flow.resource_id), "create a flow", (began, now), attributes)


@asynccontextmanager
async def _exporting(settings: TelemetrySettings, server: PortalServer) -> AsyncIterator[None]:
    sampled = Sampled(SCOPE, server.metrics)
    try:
        from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader

        reader = PeriodicExportingMetricReader(metric_exporter(settings))
        provider = sampled.provide(reader, service_resource("portal"))
    except Exception as error:
        raise FatalError("cannot export metrics") from error
    sampling: asyncio.Future[Any] = asyncio.ensure_future(_sample(sampled))
    try:
        yield
    finally:
        sampling.cancel()
        sampled.sample()
        end = partial(provider.shutdown, timeout_millis=SHUTDOWN_SECONDS * 1000)
        await asyncio.to_thread(shut_down, end)


async def _sample(sampled: Sampled) -> None:
    while True:
        await asyncio.sleep(_SAMPLE_SECONDS)
        sampled.sample()
