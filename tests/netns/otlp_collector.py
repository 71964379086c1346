"""An OpenTelemetry collector for tests: a gRPC server that keeps what exporters send it."""

import importlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
    ExportMetricsServiceResponse,
)
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.common.v1.common_pb2 import KeyValue
from opentelemetry.proto.metrics.v1.metrics_pb2 import Metric
from opentelemetry.proto.resource.v1.resource_pb2 import Resource
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from tests.netns.plain_pair import entered

PORT = 4317
_PACKAGE = "opentelemetry.proto.collector"


@dataclass
class Collector:
    """What has come, in order."""

    metrics: list[ExportMetricsServiceRequest] = field(default_factory=list)
    traces: list[ExportTraceServiceRequest] = field(default_factory=list)

    def latest(self) -> dict[str, Metric]:
        """The metrics of the last export by name."""
        return {
            metric.name: metric
            for resource in self.metrics[-1].resource_metrics
            for scope in resource.scope_metrics
            for metric in scope.metrics
        }

    def spans(self) -> list[Span]:
        """All spans."""
        return [
            span
            for request in self.traces
            for resource in request.resource_spans
            for scope in resource.scope_spans
            for span in scope.spans
        ]

    def resources(self) -> list[Resource]:
        """Who sent the metrics and the traces."""
        metrics = [sent.resource for request in self.metrics for sent in request.resource_metrics]
        return metrics + [sent.resource for request in self.traces for sent in request.resource_spans]


def attributes(pairs: Any) -> dict[str, str | int]:
    """OpenTelemetry's list of pairs as a dictionary."""
    return {pair.key: _value(pair) for pair in pairs}


def points(metric: Metric) -> dict[tuple[tuple[str, str | int], ...], int]:
    """The values of a metric by their attributes."""
    content = metric.sum if metric.HasField("sum") else metric.gauge
    return {tuple(sorted(attributes(point.attributes).items())): point.as_int for point in content.data_points}


@contextmanager
def collecting(namespace: str, address: str) -> Iterator[Collector]:
    """A collector that listens at an address of a namespace."""
    grpc: Any = importlib.import_module("grpc")  # says nothing of its types
    collector = Collector()

    def unary(keep: Callable[[Any], None], request: Any, answer: Any) -> Any:
        def handle(message: Any, _: Any) -> Any:
            keep(message)
            return answer()

        return grpc.unary_unary_rpc_method_handler(handle, request.FromString, answer.SerializeToString)

    metrics = unary(collector.metrics.append, ExportMetricsServiceRequest, ExportMetricsServiceResponse)
    traces = unary(collector.traces.append, ExportTraceServiceRequest, ExportTraceServiceResponse)
    with ThreadPoolExecutor(2) as threads:
        server = grpc.server(threads)
        server.add_generic_rpc_handlers(
            (
                grpc.method_handlers_generic_handler(f"{_PACKAGE}.metrics.v1.MetricsService", {"Export": metrics}),
                grpc.method_handlers_generic_handler(f"{_PACKAGE}.trace.v1.TraceService", {"Export": traces}),
            )
        )
        with entered(namespace):
            assert server.add_insecure_port(f"{address}:{PORT}") == PORT
        server.start()
        try:
            yield collector
        finally:
            server.stop(None).wait()


def _value(pair: KeyValue) -> str | int:
    return pair.value.int_value if pair.value.HasField("int_value") else pair.value.string_value
