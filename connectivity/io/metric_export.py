"""Hands metrics out: ``/metrics`` for Prometheus at an address of its own, and instruments for OpenTelemetry.

Prometheus is answered on the event loop, with what is counted at that moment. OpenTelemetry's exporters have threads;
they look at nothing but the latest sample. OpenTelemetry is imported only where somebody exports by it.
"""

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Final

from aiohttp import web

from connectivity.endpoint import Endpoint, IPAddress
from connectivity.errors import FatalError
from connectivity.io.http import HttpCounters, HttpServer
from connectivity.io.metric import CONTENT_TYPE, Metric, render

if TYPE_CHECKING:
    from opentelemetry.metrics import CallbackOptions, Observation
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.metrics.export import MetricReader
    from opentelemetry.sdk.resources import Resource

_HTTP_EVENTS: Final = ("accepted", "crowded_out", "timed_out", "malformed", "failed", "paused")


async def serve_metrics(
    listen: Endpoint, collect: Callable[[], list[Metric]], refused: Callable[[], Iterable[IPAddress]] = tuple
) -> HttpServer:
    """Answer Prometheus; ``close`` what is returned.

    Args:
        listen: where.
        collect: all metrics as they are now.
        refused: addresses of ours at which nobody is answered: those inside the tunnel.

    Raises:
        FatalError: the address cannot be used.
    """

    async def show(request: web.Request) -> web.Response:
        local = request.transport.get_extra_info("sockname") if request.transport is not None else None
        if local is None or str(local[0]).removeprefix("::ffff:") in set(map(str, refused())):
            return web.Response(status=403, text="not through the tunnel\n")
        return response(collect())

    server = HttpServer("metrics", [web.get("/metrics", show)])
    try:
        await server.listen(listen)
    except OSError as error:
        raise FatalError(f"cannot listen on {listen} for metrics") from error
    return server


def response(metrics: list[Metric]) -> web.Response:
    """The answer to Prometheus."""
    return web.Response(text=render(metrics), headers={"Content-Type": CONTENT_TYPE})


def http_events(name: str, counters: HttpCounters) -> Metric:
    """What became of the connections to an HTTP server."""
    rows = [({"event": event}, getattr(counters, event)) for event in _HTTP_EVENTS]
    return Metric(name, "counter", "{event}", "What became of HTTP connections", rows)


class Sampled:
    """The latest sample of all metrics, and the instruments that hand it out to any thread."""

    def __init__(self, scope: str, collect: Callable[[], list[Metric]]) -> None:
        self._scope = scope
        self._collect = collect
        self._latest: dict[str, Metric] = {}
        self._is_wanted = False

    def sample(self) -> None:
        """Read all counters, if anybody wants them; only the event loop's thread may call this."""
        if self._is_wanted:
            self._latest = {metric.name: metric for metric in self._collect()}

    def provide(self, reader: "MetricReader", resource: "Resource") -> "MeterProvider":
        """Make an instrument for each metric; ``reader`` may collect from any thread."""
        from opentelemetry.sdk.metrics import MeterProvider

        self._is_wanted = True
        self.sample()
        provider = MeterProvider([reader], resource, shutdown_on_exit=False)
        meter = provider.get_meter(self._scope)
        for metric in self._latest.values():
            callbacks = [self._observe(metric.name)]
            if metric.kind == "counter":
                meter.create_observable_counter(metric.name, callbacks, metric.unit, metric.text)
            else:
                meter.create_observable_gauge(metric.name, callbacks, metric.unit, metric.text)
        return provider

    def _observe(self, name: str) -> "Callable[[CallbackOptions], Iterable[Observation]]":
        from opentelemetry.metrics import Observation

        def observe(_: "CallbackOptions") -> "Iterable[Observation]":
            return [Observation(value, dict(attributes)) for attributes, value in self._latest[name].rows]

        return observe
