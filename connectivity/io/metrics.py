"""What client and gateway count, as OpenTelemetry metrics of the meter ``connlib`` and for Prometheus.

Nothing here happens per packet. The hot path counts in plain integers; ``read`` makes one list of them on the event
loop, when Prometheus asks, and once a second where OpenTelemetry exports. Attributes come from closed sets (direction,
family, reason), so the number of series is fixed from the start, and none holds an address or an id.

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
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Final

from connectivity.errors import FatalError
from connectivity.ice.policy import CandidateRefusal
from connectivity.io.export_settings import STDOUT, MetricsSettings
from connectivity.io.exporters import SHUTDOWN_SECONDS, installed_version, shut_down
from connectivity.io.metric import Metric, Row
from connectivity.io.metric_export import Sampled
from connectivity.io.refusals import Refusals
from connectivity.io.tun import Tun
from connectivity.io.udp import UdpSocket
from connectivity.node import Statistics
from connectivity.phoenix.login import PortalLogin
from connectivity.wireguard import DropReason, HandshakeReason

if TYPE_CHECKING:
    from opentelemetry.sdk.metrics.export import MetricExporter

log = logging.getLogger("connectivity.io")

METER: Final = "connlib"
SAMPLE_SECONDS: Final = 1.0

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
class Sources:
    """Whose counters are exported: sockets by IP version, the device, the core, and what the role adds to it."""

    sockets: Mapping[int, UdpSocket]
    tun: Tun
    statistics: Callable[[], Statistics]
    refusals: Refusals = field(default_factory=Refusals)
    extension: Callable[[], Mapping[str, Mapping[str, int]]] = dict  # by part and name
    others: Callable[[], list[Metric]] = list  # what people ask about, and the process


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
        from opentelemetry.sdk.resources import Resource

        reader = PeriodicExportingMetricReader(_make_exporter(settings))
        provider = metrics.provide(reader, Resource.create(resource_attributes(service, login)))
    except Exception as error:
        raise FatalError(f"cannot export metrics to {settings.exporter}") from error
    metrics.start()
    try:
        yield
    finally:
        metrics.stop()
        shut_down(lambda: provider.shutdown(timeout_millis=SHUTDOWN_SECONDS * 1000), SHUTDOWN_SECONDS)


class Metrics(Sampled):
    """Samples all counters once a second for an exporter."""

    def __init__(self, sources: Sources) -> None:
        super().__init__(METER, lambda: read(sources))
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


def read(sources: Sources) -> list[Metric]:
    """Every metric with its series, always the same ones in the same order."""
    statistics = sources.statistics()
    packets: list[Row] = []
    errors: list[Row] = []
    dropped: list[Row] = []
    waiting: list[Row] = [({"queue.item": "ip-packet"} | _TRANSMIT, statistics.waiting_packets)]
    for version, socket in sources.sockets.items():
        family = {"network.type": f"ipv{version}"}
        _read_socket(socket, family, packets, errors, dropped)
        waiting.append((family | {"queue.item": "udp-gso-batch"}, socket.waiting))
    _read_tun(sources.tun, packets, errors, dropped)
    dropped += [(_drop_attributes(reason), statistics.drops.get(reason, 0)) for reason in DropReason]
    for name, count in statistics.flow_drops.items():
        dropped.append(({"error.type": _error_type(name), "system.buffer.pool.name": "flow-table"}, count))
    events: list[Row] = [
        ({"postern.part": part, "postern.event": event}, count)
        for part, counted in sources.extension().items()
        for event, count in counted.items()
    ]
    refused: Counter[str] = Counter({name.value: n for name, n in statistics.candidates_refused.items()})
    handshakes: Counter[str] = Counter({name.name.lower(): n for name, n in statistics.handshakes_refused.items()})
    moved = [(_TRANSMIT, statistics.sent_bytes), (_RECEIVE, statistics.received_bytes)]
    return [
        Metric(PACKETS, "counter", "{packet}", "Packets sent and received", packets),
        Metric(ERRORS, "counter", "{error}", "What the system refused", errors),
        Metric(DROPPED, "counter", "{packet}", "Packets that went no further", dropped),
        Metric(EVENTS, "counter", "{event}", "What became of names and queries", events),
        Metric(QUEUES, "gauge", "{item}", "What waits", waiting),
        Metric("postern.tunnel.bytes", "counter", "By", "Bytes of packets inside the tunnel", moved),
        Metric(
            "postern.tunnel.candidates_refused",
            "counter",
            "{candidate}",
            "Candidates of peers that are not checked",
            [({"reason": reason.value}, refused[reason.value]) for reason in CandidateRefusal],
        ),
        Metric(
            "postern.tunnel.handshakes_refused",
            "counter",
            "{handshake}",
            "Handshakes that were not let in",
            [({"reason": reason.name.lower()}, handshakes[reason.name.lower()]) for reason in HandshakeReason],
        ),
        *sources.others(),
    ]


def counters(sources: Sources) -> dict[str, Any]:
    """All counters of ``read``, and those that have no place in the metrics, as JSON for people."""
    statistics = sources.statistics()
    udp = {f"udp{family}": asdict(socket.counters) for family, socket in sources.sockets.items()}
    drops = {reason.value: statistics.drops.get(reason, 0) for reason in DropReason}
    refused = {reason.value: statistics.candidates_refused.get(reason, 0) for reason in CandidateRefusal}
    handshakes = {reason.name.lower(): statistics.handshakes_refused.get(reason, 0) for reason in HandshakeReason}
    return {
        **udp,
        "tun": asdict(sources.tun.counted()),
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


def _read_socket(
    socket: UdpSocket, family: dict[str, str], packets: list[Row], errors: list[Row], dropped: list[Row]
) -> None:
    counted = socket.counters
    received, sent = (family | {"network.transport": "udp"} | direction for direction in (_RECEIVE, _TRANSMIT))
    full = {"error.type": "BufferFull", "system.buffer.pool.name": "gso-queue"}
    packets += [(received, counted.datagrams_received), (sent, counted.datagrams_sent)]
    errors += [(received, counted.receive_errors), (sent, counted.send_errors)]
    dropped += [
        (received | {"error.type": "Malformed"}, counted.received_unusable),
        (sent | full, counted.backlog_dropped),
    ]


def _read_tun(tun: Tun, packets: list[Row], errors: list[Row], dropped: list[Row]) -> None:
    counted = tun.counted()
    unusable = {"error.type": "Malformed", "system.buffer.pool.name": "ip-packet"}
    full = {"error.type": "BufferFull", "system.buffer.pool.name": "tun-queue"}
    packets += [
        (_RECEIVE, counted.packets_read + counted.super_packets_read),
        (_TRANSMIT, counted.packets_written),
    ]
    errors.append((_TRANSMIT, counted.write_errors))
    dropped += [
        (_RECEIVE | unusable, counted.unusable),
        (_RECEIVE | full, counted.host_dropped),
        (_TRANSMIT | full, counted.write_dropped),
    ]


def _drop_attributes(reason: DropReason) -> dict[str, str]:
    """WireGuard's reasons in the spelling of the other error types."""
    direction = _TRANSMIT if reason in _UNSENT else _RECEIVE
    name = "BufferFull" if reason is DropReason.QUEUE_FULL else _error_type(reason.value)
    return direction | {"error.type": name, "system.buffer.pool.name": "wireguard"}


def _error_type(reason: str) -> str:
    return reason.title().replace("_", "")


def _make_exporter(settings: MetricsSettings) -> "MetricExporter":
    if settings.exporter == STDOUT:
        from opentelemetry.sdk.metrics.export import ConsoleMetricExporter

        return ConsoleMetricExporter(sys.stdout, lambda data: data.to_json(indent=None) + "\n")
    from opentelemetry.exporter.otlp.proto.grpc.metric_exporter import OTLPMetricExporter

    endpoint = None if settings.endpoint is None else f"http://{settings.endpoint}"
    return OTLPMetricExporter(endpoint=endpoint, insecure=True)
