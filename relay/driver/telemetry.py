"""Exports the relay's metrics and traces by OpenTelemetry, which is imported only where somebody asked for it.

The metrics are those of ``/metrics``, named ``postern.relay.packets`` where that says ``postern_relay_packets_total``.
Intervals, resource attributes and the rest are OpenTelemetry's own variables.
"""

import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

from connectivity.errors import FatalError
from connectivity.io.exporters import installed_version, shut_down
from relay.driver.metrics import Metric
from relay.driver.tracing import Tracing
from relay.settings import TelemetrySettings

if TYPE_CHECKING:
    from opentelemetry.metrics import CallbackOptions, Observation
    from opentelemetry.sdk.metrics.export import MetricExporter, MetricReader
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace.export import SpanExporter

SCOPE: Final = "postern.relay"
SHUTDOWN_SECONDS: Final = 0.5  # for each of the two; the whole orderly end may take two
_NONE: Final = "none"


class Telemetry:
    """The latest sample of all metrics, for exporters in threads of their own; ``tracing`` if spans are wanted."""

    def __init__(self, collect: Callable[[], list[Metric]]) -> None:
        self.tracing: Tracing | None = None
        self._collect = collect
        self._latest: dict[str, Metric] = {}
        self._is_wanted = False

    def sample(self) -> None:
        """Read all counters, if anybody wants them; only the event loop's thread may call this."""
        if self._is_wanted:
            self._latest = {metric.name: metric for metric in self._collect()}

    @contextmanager
    def exporting(self, settings: TelemetrySettings) -> Iterator[None]:
        """Export while the context lasts, and once more at its end, which takes a second at most.

        Raises:
            FatalError: an exporter cannot be made.
        """
        ends: list[Callable[[], object]] = []
        try:
            if settings.metrics != _NONE:
                ends.append(self._export_metrics(settings))
            if settings.traces != _NONE:
                ends.append(self._export_traces(settings))
        except Exception as error:
            raise FatalError("cannot export telemetry") from error
        try:
            yield
        finally:
            if self.tracing is not None:
                self.tracing.close()
            self.sample()
            for end in ends:
                shut_down(end, SHUTDOWN_SECONDS)

    def provide(self, reader: "MetricReader", resource: "Resource") -> Callable[[], object]:
        """Make an instrument for each metric; ``reader`` may collect from any thread."""
        from opentelemetry.sdk.metrics import MeterProvider

        self._is_wanted = True
        self.sample()
        provider = MeterProvider([reader], resource, shutdown_on_exit=False)
        meter = provider.get_meter(SCOPE)
        for metric in self._latest.values():
            name = f"{SCOPE}.{metric.name.removesuffix('_total')}"
            callbacks = [self._observe(metric.name)]
            if metric.kind == "counter":
                meter.create_observable_counter(name, callbacks, description=metric.text)
            else:
                meter.create_observable_gauge(name, callbacks, description=metric.text)
        return lambda: provider.shutdown(timeout_millis=SHUTDOWN_SECONDS * 1000)

    def _observe(self, name: str) -> "Callable[[CallbackOptions], Iterable[Observation]]":
        from opentelemetry.metrics import Observation

        def observe(_: "CallbackOptions") -> "Iterable[Observation]":
            return [Observation(value, dict(labels)) for labels, value in self._latest[name].rows]

        return observe

    def _export_metrics(self, settings: TelemetrySettings) -> Callable[[], object]:
        from opentelemetry.sdk.metrics.export import ConsoleMetricExporter, PeriodicExportingMetricReader

        exporter: MetricExporter
        if settings.metrics == "otlp":
            from opentelemetry.exporter.otlp.proto.grpc.metric_exporter import OTLPMetricExporter

            exporter = OTLPMetricExporter(**_collector(settings))
        else:
            exporter = ConsoleMetricExporter(sys.stdout, lambda data: data.to_json(indent=None) + "\n")
        return self.provide(PeriodicExportingMetricReader(exporter), _resource())

    def _export_traces(self, settings: TelemetrySettings) -> Callable[[], object]:
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor, ConsoleSpanExporter

        exporter: SpanExporter
        if settings.traces == "otlp":
            from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter

            exporter = OTLPSpanExporter(**_collector(settings))
        else:
            exporter = ConsoleSpanExporter(out=sys.stdout, formatter=lambda span: span.to_json(indent=None) + "\n")
        provider = TracerProvider(resource=_resource(), shutdown_on_exit=False)
        provider.add_span_processor(BatchSpanProcessor(exporter))
        self.tracing = Tracing(provider.get_tracer(SCOPE))
        return provider.shutdown


def _collector(settings: TelemetrySettings) -> dict[str, Any]:
    """Where an exporter sends to; without our address it finds its own (``OTEL_EXPORTER_OTLP_ENDPOINT``)."""
    return {} if settings.endpoint is None else {"endpoint": f"http://{settings.endpoint}", "insecure": True}


def _resource() -> "Resource":
    from opentelemetry.sdk.resources import OTELResourceDetector, Resource

    ours = {"service.name": "postern-relay", "service.version": installed_version(), "os.type": "linux"}
    # OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES know better; ``create`` would let ours win.
    return Resource.create(ours).merge(OTELResourceDetector().detect())
