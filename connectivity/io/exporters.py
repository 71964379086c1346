"""What all that export by OpenTelemetry have in common; it is imported only where somebody exports."""

import logging
import sys
from collections.abc import Callable
from threading import Thread
from typing import TYPE_CHECKING, Any, Final

from connectivity.errors import chain
from connectivity.io.export_settings import TelemetrySettings

if TYPE_CHECKING:
    from opentelemetry.sdk.metrics.export import MetricExporter
    from opentelemetry.sdk.resources import Resource

SHUTDOWN_SECONDS: Final = 0.5  # for metrics, and for traces; the whole orderly end may take a second

log = logging.getLogger("connectivity.io")


def installed_version() -> str:
    """Ours, as the package tells it."""
    from importlib import metadata  # dear to import

    try:
        return metadata.version("postern")
    except metadata.PackageNotFoundError:
        return "unknown"  # run from a checkout that was not installed


def shut_down(export: Callable[[], object], seconds: float = SHUTDOWN_SECONDS, what: str = "metrics") -> None:
    """Export for the last time. A thread of its own, for some exporters retry longer than they are told to."""

    def run() -> None:
        try:
            export()
        except Exception as error:  # noqa: BLE001  # outermost frame of a thread; the service has ended already
            log.debug("The last %s were not exported", what, extra={"fields": {"error": chain(error)}})

    thread = Thread(target=run, name=f"{what}-shutdown", daemon=True)
    thread.start()
    thread.join(seconds)
    if thread.is_alive():
        log.info("The last %s were not exported in time", what)


def metric_exporter(settings: TelemetrySettings) -> "MetricExporter":
    """The exporter that the settings name."""
    if settings.metrics == "otlp":
        from opentelemetry.exporter.otlp.proto.grpc.metric_exporter import OTLPMetricExporter

        return OTLPMetricExporter(**collector(settings))
    from opentelemetry.sdk.metrics.export import ConsoleMetricExporter

    return ConsoleMetricExporter(sys.stdout, lambda data: data.to_json(indent=None) + "\n")


def collector(settings: TelemetrySettings) -> dict[str, Any]:
    """Where an exporter sends to; without our address it finds its own (``OTEL_EXPORTER_OTLP_ENDPOINT``)."""
    return {} if settings.endpoint is None else {"endpoint": f"http://{settings.endpoint}", "insecure": True}


def service_resource(service: str) -> "Resource":
    """Who exports."""
    from opentelemetry.sdk.resources import OTELResourceDetector, Resource

    ours = {"service.name": f"postern-{service}", "service.version": installed_version(), "os.type": "linux"}
    # OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES know better; ``create`` would let ours win.
    return Resource.create(ours).merge(OTELResourceDetector().detect())
