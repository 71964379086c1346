"""Where metrics and traces go, as settings say it. Apart from those who export: reading settings is to be quick."""

from dataclasses import dataclass
from typing import Final

from connectivity.endpoint import Endpoint
from connectivity.settings import SettingsReader, one_of, text_value

STDOUT: Final = "stdout"
COLLECTOR: Final = "otel-collector"


@dataclass(frozen=True, slots=True)
class MetricsSettings:
    """Where metrics go; ``endpoint`` None leaves the collector's address to the exporter."""

    exporter: str
    endpoint: str | None


@dataclass(frozen=True, slots=True)
class TelemetrySettings:
    """Exporters by OpenTelemetry's words (``otlp``, ``console``, ``none``); ``endpoint`` None leaves it to them."""

    metrics: str
    traces: str
    endpoint: str | None

    @property
    def is_wanted(self) -> bool:
        """Whether anything is exported."""
        return (self.metrics, self.traces) != ("none", "none")


NO_TELEMETRY: Final = TelemetrySettings("none", "none", None)


def read_exports(reader: SettingsReader) -> tuple[MetricsSettings | None, TelemetrySettings]:
    """Declare and read where metrics go, None when they are off, and where traces do."""
    exporter = reader.optional("FIREZONE_METRICS", "--metrics", _exporter, None, f"{STDOUT} or {COLLECTOR}; may change")
    endpoint = reader.optional(
        "OTLP_GRPC_ENDPOINT", "--otlp-grpc-endpoint", read_collector, None, f"host:port of the {COLLECTOR}, without TLS"
    )
    reader.optional("OTEL_EXPORTER_OTLP_ENDPOINT", None, text_value, None, "URL of a collector")
    traces = reader.optional("OTEL_TRACES_EXPORTER", None, one_of("otlp", "console", "none"), "none", "traces, too")
    metrics = None if exporter is None else MetricsSettings(exporter, endpoint)
    return metrics, TelemetrySettings("none", traces, endpoint)


def read_telemetry(reader: SettingsReader) -> TelemetrySettings:
    """A collector's address alone turns both on, as in Firezone's relay, whoever names the variable."""
    endpoint = reader.optional(
        "OTLP_GRPC_ENDPOINT", "--otlp-grpc-endpoint", read_collector, None, "host:port of a collector, without TLS"
    )
    text = "URL of a collector, in OpenTelemetry's words"
    url = reader.optional("OTEL_EXPORTER_OTLP_ENDPOINT", None, text_value, None, text)
    # The exporters have no other; said here, because they would not say it.
    reader.optional("OTEL_EXPORTER_OTLP_PROTOCOL", None, one_of("grpc"), "grpc", "the only protocol there is")
    default = "none" if endpoint is None and url is None else "otlp"
    words = one_of("otlp", "console", "none")
    text = "otlp, console or none; otlp with a collector's address, else none"
    metrics = reader.optional("OTEL_METRICS_EXPORTER", None, words, default, text)
    traces = reader.optional("OTEL_TRACES_EXPORTER", None, words, default, text)
    return TelemetrySettings(metrics, traces, endpoint)


def read_collector(text: str) -> str:
    """The address of a collector."""
    host, _, port = text.rpartition(":")
    if not host or "/" in host or not (port.isascii() and port.isdecimal()):
        raise ValueError("expected host:port")
    return text


def read_metrics_address(reader: SettingsReader) -> Endpoint | None:
    """Declare and read where Prometheus may ask; None for nowhere."""
    text = "address:port for Prometheus: /metrics"
    return reader.optional("POSTERN_METRICS_ADDR", "--metrics-addr", Endpoint.parse, None, text)


def _exporter(text: str) -> str:
    if text not in {STDOUT, COLLECTOR}:
        raise ValueError(f"expected {STDOUT} or {COLLECTOR}")
    return text
