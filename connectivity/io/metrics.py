"""What client and gateway count, as OpenTelemetry metrics of the meter ``connlib``; off without ``FIREZONE_METRICS``.

Nothing here happens per packet. The hot path counts in plain integers; once a second, on the event loop, ``read`` puts
them into one list, and the exporter's thread looks at nothing but the latest list. Attributes come from closed sets
(direction, family, reason), so the number of series is fixed from the start, and none holds an address or an id.

Directions are this process's: what it takes from the network or from the host is *received*. A packet of the TUN
device is counted as the device hands it over, so a super-packet is one.

Firezone's own programs export more. Left out for want of a meaning here: ``network.protocol.name`` of datagrams,
``network.type`` of TUN packets and ``error.code`` (runs are not counted by content), the ``udp-gro-batch`` queue and
``system.buffer.count`` (there are no threads to queue between, and buffers are few and fixed), and
``system.network.packets.batch_count`` (a histogram is filled per batch).

OpenTelemetry is imported only when metrics are on: a tenth of a second that every other start is spared.
"""

import asyncio
import logging
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from connectivity.errors import FatalError
from connectivity.ice.policy import CandidateRefusal
from connectivity.io.exporters import installed_version, read_collector, shut_down
from connectivity.io.refusals import Refusals
from connectivity.io.tun import Tun
from connectivity.io.udp import UdpSocket
from connectivity.node import Statistics
from connectivity.phoenix.login import PortalLogin
from connectivity.settings import SettingsReader
from connectivity.wireguard import DropReason, HandshakeReason

if TYPE_CHECKING:
    from opentelemetry.metrics import CallbackOptions, Observation
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.metrics.export import MetricExporter, MetricReader

log = logging.getLogger("connectivity.io")

METER: Final = "connlib"
STDOUT: Final = "stdout"
COLLECTOR: Final = "otel-collector"
SAMPLE_SECONDS: Final = 1.0
SHUTDOWN_SECONDS: Final = 0.5  # the whole orderly end may take a second

PACKETS: Final = "system.network.packets"
ERRORS: Final = "system.network.errors"
DROPPED: Final = "network.packet.dropped"
QUEUES: Final = "system.queue.length"
EVENTS: Final = "postern.events"  # Firezone's programs have no such counter

_RECEIVE: Final = {"network.io.direction": "receive"}
_TRANSMIT: Final = {"network.io.direction": "transmit"}
_UNSENT: Final = frozenset(
    {DropReason.QUEUE_FULL, DropReason.EXPIRED_TUNNEL, DropReason.NO_PATH, DropReason.NO_CHANNEL}
)


@dataclass(frozen=True, slots=True)
class MetricsSettings:
    """Where metrics go; ``endpoint`` None leaves the collector's address to the exporter."""

    exporter: str
    endpoint: str | None


@dataclass(frozen=True, slots=True)
class Sources:
    """Whose counters are exported: sockets by IP version, the device, the core, and what the role adds to it."""

    sockets: Mapping[int, UdpSocket]
    tun: Tun
    statistics: Callable[[], Statistics]
    refusals: Refusals = field(default_factory=Refusals)
    extension: Callable[[], Mapping[str, Mapping[str, int]]] = dict  # by part and name


class Point(NamedTuple):
    """The value of one series now."""

    instrument: str
    value: int
    attributes: dict[str, str]


def read_metrics_settings(reader: SettingsReader) -> MetricsSettings | None:
    """Declare and read the settings; None when metrics are off."""
    exporter = reader.optional("FIREZONE_METRICS", "--metrics", _exporter, None, f"{STDOUT} or {COLLECTOR}; may change")
    endpoint = reader.optional(
        "OTLP_GRPC_ENDPOINT", "--otlp-grpc-endpoint", read_collector, None, f"host:port of the {COLLECTOR}, without TLS"
    )
    return None if exporter is None else MetricsSettings(exporter, endpoint)


@contextmanager
def exporting(settings: MetricsSettings | None, sources: Sources, service: str, login: PortalLogin) -> Iterator[None]:
    """Export once a minute while the context lasts, and once more at its end, which takes half a second at most.

    Raises:
        FatalError: the exporter cannot be made.
    """
    if settings is None:
        yield
        return
    metrics = Metrics(sources)
    try:
        from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader

        reader = PeriodicExportingMetricReader(_make_exporter(settings))
        provider = metrics.provide(reader, resource_attributes(service, login))
    except Exception as error:
        raise FatalError(f"cannot export metrics to {settings.exporter}") from error
    metrics.start()
    try:
        yield
    finally:
        metrics.stop()
        shut_down(lambda: provider.shutdown(timeout_millis=SHUTDOWN_SECONDS * 1000), SHUTDOWN_SECONDS)


class Metrics:
    """The latest sample of all counters, and the instruments that hand it out."""

    def __init__(self, sources: Sources) -> None:
        self._sources = sources
        self._latest = read(sources)
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Sample once a second on the running event loop."""
        self.sample()
        self._timer = asyncio.get_running_loop().call_later(SAMPLE_SECONDS, self.start)

    def stop(self) -> None:
        """Sample for the last time."""
        if self._timer is not None:
            self._timer.cancel()
        self.sample()

    def sample(self) -> None:
        """Read all counters; only the thread that changes them may call this."""
        self._latest = read(self._sources)

    def provide(self, reader: "MetricReader", resource: Mapping[str, str]) -> "MeterProvider":
        """Make the instruments; ``reader`` may collect from any thread."""
        from opentelemetry.sdk.metrics import MeterProvider
        from opentelemetry.sdk.resources import Resource

        provider = MeterProvider([reader], Resource.create(dict(resource)), shutdown_on_exit=False)
        meter = provider.get_meter(METER)
        meter.create_observable_counter(PACKETS, [self._observe(PACKETS)], "{packet}", "Packets sent and received")
        meter.create_observable_counter(ERRORS, [self._observe(ERRORS)], "{error}", "What the system refused")
        meter.create_observable_counter(DROPPED, [self._observe(DROPPED)], "{packet}", "Packets that went no further")
        meter.create_observable_counter(EVENTS, [self._observe(EVENTS)], "{event}", "What became of names and queries")
        meter.create_observable_gauge(QUEUES, [self._observe(QUEUES)], "{item}", "What waits")
        return provider

    def _observe(self, instrument: str) -> "Callable[[CallbackOptions], Iterable[Observation]]":
        from opentelemetry.metrics import Observation

        def observe(_: "CallbackOptions") -> "Iterable[Observation]":
            latest = self._latest
            return [Observation(point.value, point.attributes) for point in latest if point.instrument == instrument]

        return observe


def read(sources: Sources) -> list[Point]:
    """Every series with its value, always the same ones in the same order."""
    statistics = sources.statistics()
    points = [Point(QUEUES, statistics.waiting_packets, {"queue.item": "ip-packet"} | _TRANSMIT)]
    for family, socket in sources.sockets.items():
        points += _socket_points(socket, {"network.type": f"ipv{family}"})
    points += _tun_points(sources.tun)
    for reason in DropReason:
        points.append(Point(DROPPED, statistics.drops.get(reason, 0), _drop_attributes(reason)))
    for name, count in statistics.flow_drops.items():
        points.append(Point(DROPPED, count, {"error.type": _error_type(name), "system.buffer.pool.name": "flow-table"}))
    for part, counted in sources.extension().items():
        for event, count in counted.items():
            points.append(Point(EVENTS, count, {"postern.part": part, "postern.event": event}))
    return points


def counters(sources: Sources) -> dict[str, Any]:
    """The same counters, and those that have no place in the metrics, as JSON for people."""
    statistics = sources.statistics()
    udp = {f"udp{family}": asdict(socket.counters) for family, socket in sources.sockets.items()}
    drops = {reason.value: statistics.drops.get(reason, 0) for reason in DropReason}
    refused = {reason.value: statistics.candidates_refused.get(reason, 0) for reason in CandidateRefusal}
    handshakes = {reason.name.lower(): statistics.handshakes_refused.get(reason, 0) for reason in HandshakeReason}
    return {
        **udp,
        "tun": asdict(sources.tun.counters),
        "waiting_packets": statistics.waiting_packets,
        "drops": drops,
        "flow_drops": {reason.value: count for reason, count in statistics.flow_drops.items()},
        "errors": dict(sources.refusals.counts),
        "candidates_refused": refused,
        "handshakes_refused": handshakes,
        **sources.extension(),
    }


def resource_attributes(service: str, login: PortalLogin) -> dict[str, str]:
    """Who exports; the instance is named as the portal knows it, where a UUID shows only as its hash."""
    return {
        "service.name": f"postern-{service}",
        "service.version": installed_version(),
        "service.instance.id": dict(login.parameters)["external_id"],
        "os.type": "linux",
    }


def _socket_points(socket: UdpSocket, family: dict[str, str]) -> list[Point]:
    counted = socket.counters
    received, sent = (family | {"network.transport": "udp"} | direction for direction in (_RECEIVE, _TRANSMIT))
    full = {"error.type": "BufferFull", "system.buffer.pool.name": "gso-queue"}
    return [
        Point(PACKETS, counted.datagrams_received, received),
        Point(PACKETS, counted.datagrams_sent, sent),
        Point(ERRORS, counted.receive_errors, received),
        Point(ERRORS, counted.send_errors, sent),
        Point(DROPPED, counted.received_unusable, received | {"error.type": "Malformed"}),
        Point(DROPPED, counted.backlog_dropped, sent | full),
        Point(QUEUES, socket.waiting, family | {"queue.item": "udp-gso-batch"}),
    ]


def _tun_points(tun: Tun) -> list[Point]:
    counted = tun.counters
    unusable = {"error.type": "Malformed", "system.buffer.pool.name": "ip-packet"}
    full = {"error.type": "BufferFull", "system.buffer.pool.name": "tun-queue"}
    return [
        Point(PACKETS, counted.packets_read + counted.super_packets_read, _RECEIVE),
        Point(PACKETS, counted.packets_written, _TRANSMIT),
        Point(ERRORS, counted.write_errors, _TRANSMIT),
        Point(DROPPED, counted.unusable, _RECEIVE | unusable),
        Point(DROPPED, counted.write_dropped, _TRANSMIT | full),
    ]


def _drop_attributes(reason: DropReason) -> dict[str, str]:
    """WireGuard's reasons in the spelling of the other error types."""
    direction = _TRANSMIT if reason in _UNSENT else _RECEIVE
    name = "BufferFull" if reason is DropReason.QUEUE_FULL else _error_type(reason.value)
    return direction | {"error.type": name, "system.buffer.pool.name": "wireguard"}


def _error_type(reason: str) -> str:
    return reason.title().replace("_", "")


def _exporter(text: str) -> str:
    if text not in {STDOUT, COLLECTOR}:
        raise ValueError(f"expected {STDOUT} or {COLLECTOR}")
    return text


def _make_exporter(settings: MetricsSettings) -> "MetricExporter":
    if settings.exporter == STDOUT:
        from opentelemetry.sdk.metrics.export import ConsoleMetricExporter

        return ConsoleMetricExporter(sys.stdout, lambda data: data.to_json(indent=None) + "\n")
    from opentelemetry.exporter.otlp.proto.grpc.metric_exporter import OTLPMetricExporter

    endpoint = None if settings.endpoint is None else f"http://{settings.endpoint}"
    return OTLPMetricExporter(endpoint=endpoint, insecure=True)
