"""Exports the relay's metrics and traces by OpenTelemetry, which is imported only where somebody asked for it.

The metrics are those of ``/metrics``, named ``postern.relay.packets`` where that says ``postern_relay_packets_total``.
Intervals, resource attributes and the rest are OpenTelemetry's own variables.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

from connectivity.errors import FatalError
from connectivity.io.export_settings import TelemetrySettings
from connectivity.io.exporters import SHUTDOWN_SECONDS, metric_exporter, service_resource, shut_down
from connectivity.io.metric import Metric
from connectivity.io.metric_export import Sampled
from connectivity.io.tracing import make_provider
from relay.driver.tracing import Tracing

SCOPE: Final = "postern.relay"
_NONE: Final = "none"


class Telemetry:
    """The latest sample of all metrics, for exporters in threads of their own; ``tracing`` if spans are wanted."""

    def __init__(self, collect: Callable[[], list[Metric]], *, is_under_portal: bool = False) -> None:
        self._is_under_portal = is_under_portal
        self.tracing: Tracing | None = None
        self._sampled = Sampled(SCOPE, collect)

    def sample(self) -> None:
        """Read all counters, if anybody wants them; only the event loop's thread may call this."""
        self._sampled.sample()

    @contextmanager
    def exporting(self, settings: TelemetrySettings) -> Iterator[None]:
        """Export while the context lasts, and once more at its end, which takes a second at most.

        Raises:
            FatalError: an exporter cannot be made.
        """
        ends: dict[str, Callable[[], object]] = {}
        try:
            if settings.metrics != _NONE:
                ends["metrics"] = self._export_metrics(settings)
            if settings.traces != _NONE:
                ends["traces"] = self._export_traces(settings)
        except Exception as error:
            raise FatalError("cannot export telemetry") from error
        try:
            yield
        finally:
            if self.tracing is not None:
                self.tracing.close()
            self.sample()
            for what, end in ends.items():
                shut_down(end, what=what)

    def _export_metrics(self, settings: TelemetrySettings) -> Callable[[], object]:
        from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader

        reader = PeriodicExportingMetricReader(metric_exporter(settings))
        provider = self._sampled.provide(reader, service_resource("relay"))
        return lambda: provider.shutdown(timeout_millis=SHUTDOWN_SECONDS * 1000)

    def _export_traces(self, settings: TelemetrySettings) -> Callable[[], object]:
        provider, take_ids = make_provider(settings, "relay")
        self.tracing = Tracing(provider.get_tracer(SCOPE), take_ids if self._is_under_portal else None)
        return provider.shutdown
