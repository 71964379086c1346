"""The relay's counters as series, for Prometheus' text format and for OpenTelemetry alike.

Labels are closed sets: no address, no user. Totals do not depend on which path carried a packet.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final, Literal, TypeAlias

from connectivity.io.http import HttpCounters
from connectivity.io.udp_counters import UdpCounters
from relay.core import Direction, Snapshot
from relay.core.statistics import DropReason, IcmpFate, QuotaKind
from relay.driver.offload import Offload
from relay.driver.streams import StreamCounters

Row: TypeAlias = tuple[Mapping[str, str], int]

# Data between two clients of this relay leaves to a client, on either path.
_KERNEL_DIRECTIONS: Final = {
    "TO_PEER": Direction.TO_PEER,
    "TO_CLIENT": Direction.TO_CLIENT,
    "BETWEEN_CLIENTS": Direction.TO_CLIENT,
}


@dataclass(frozen=True, slots=True)
class Metric:
    """One name with all its series now."""

    name: str
    kind: Literal["counter", "gauge"]
    text: str
    rows: tuple[Row, ...]


@dataclass(frozen=True, slots=True)
class Sources:
    """Whose counters are shown beside the core's."""

    offload: Offload
    sockets: UdpCounters
    streams: StreamCounters
    open_streams: int
    http: HttpCounters = field(default_factory=HttpCounters)  # of the health port


def collect(snapshot: Snapshot, sources: Sources) -> list[Metric]:
    """All metrics, always the same names."""
    status = sources.offload.status()
    fill = sources.offload.fill()
    return [
        *_data(snapshot, sources.offload),
        Metric("allocations", "gauge", "Live allocations", (({}, snapshot.allocations),)),
        Metric("channels", "gauge", "Bound channels", (({}, snapshot.channels),)),
        Metric("responses_total", "counter", "STUN and TURN answers", tuple(_responses(snapshot))),
        Metric("quota_refusals_total", "counter", "What ran into a quota", tuple(_quota_refusals(snapshot))),
        Metric("icmp_errors_total", "counter", "ICMP errors about relayed datagrams", tuple(_icmp_errors(snapshot))),
        Metric("streams", "gauge", "Open connections over TCP and TLS", (({}, sources.open_streams),)),
        Metric("stream_events_total", "counter", "What became of connections", tuple(_streams(sources.streams))),
        Metric("http_events_total", "counter", "What became of HTTP connections", tuple(_http(sources.http))),
        Metric("socket_errors_total", "counter", "Errors of the relay's sockets", tuple(_sockets(sources.sockets))),
        Metric("xdp_channels", "gauge", "Channels that XDP forwards", () if fill is None else (({}, fill.channels),)),
        Metric("xdp_channels_max", "gauge", "Channels that fit", () if fill is None else (({}, fill.capacity),)),
        Metric(
            "xdp_refused_total",
            "counter",
            "Installations of channels for which XDP had no room",
            () if fill is None else (({}, fill.refused),),
        ),
        Metric("offload", "gauge", "1 for the mode in use", (({"mode": status.mode}, 1),)),
        Metric("xdp_egress", "gauge", "1 for what the last self-tests say of it", tuple(_egress(status.egress))),
    ]


def render(metrics: Iterable[Metric]) -> str:
    """Prometheus' text format."""
    return "\n".join(line for metric in metrics for line in _lines(metric)) + "\n"


def _lines(metric: Metric) -> Iterator[str]:
    yield f"# HELP postern_relay_{metric.name} {metric.text}"
    yield f"# TYPE postern_relay_{metric.name} {metric.kind}"
    for labels, value in metric.rows:
        inner = ",".join(f'{label}="{content}"' for label, content in labels.items())
        yield f"postern_relay_{metric.name}{{{inner}}} {value}" if inner else f"postern_relay_{metric.name} {value}"


def _data(snapshot: Snapshot, offload: Offload) -> Iterator[Metric]:
    packets = {("python", direction): count for direction, count in snapshot.packets.items()}
    octets = {("python", direction): count for direction, count in snapshot.bytes.items()}
    for direction in Direction:
        packets["xdp", direction] = octets["xdp", direction] = 0
    drops: list[Row] = [
        ({"path": "python", "reason": reason.value}, snapshot.drops.get(reason, 0)) for reason in DropReason
    ]
    passed: list[Row] = []
    kernel = offload.counters()
    if kernel is not None:
        for kernel_direction, counter in kernel.forwarded.items():
            key = ("xdp", _KERNEL_DIRECTIONS[kernel_direction.name])
            packets[key] += counter.packets
            octets[key] += counter.bytes
        drops += [
            ({"path": "xdp", "reason": outcome.reason}, count.packets) for outcome, count in kernel.dropped.items()
        ]
        passed += [({"reason": outcome.reason}, count.packets) for outcome, count in kernel.passed.items()]
    yield Metric("packets_total", "counter", "Relayed datagrams", _by_path(packets))
    yield Metric("bytes_total", "counter", "Relayed payload bytes, channel headers not counted", _by_path(octets))
    yield Metric("drops_total", "counter", "Datagrams that went nowhere", tuple(drops))
    yield Metric("xdp_passed_total", "counter", "Packets that XDP handed up to the stack", tuple(passed))


def _by_path(values: Mapping[tuple[str, Direction], int]) -> tuple[Row, ...]:
    return tuple(({"path": path, "direction": direction.value}, count) for (path, direction), count in values.items())


def _responses(snapshot: Snapshot) -> Iterator[Row]:
    for (kind, method, code), count in snapshot.responses.items():
        yield {"response_class": kind, "message_type": method, "error_code": str(code or "")}, count


def _quota_refusals(snapshot: Snapshot) -> Iterator[Row]:
    for kind in QuotaKind:
        yield {"quota": kind.value}, snapshot.quota_refusals.get(kind, 0)


def _icmp_errors(snapshot: Snapshot) -> Iterator[Row]:
    for fate in IcmpFate:
        yield {"fate": fate.value}, snapshot.icmp_errors.get(fate, 0)


def _streams(counters: StreamCounters) -> Iterator[Row]:
    yield {"event": "accepted"}, counters.accepted
    yield {"event": "refused"}, counters.refused
    yield {"event": "failed_handshake"}, counters.failed_handshakes
    yield {"event": "bad_proxy_header"}, counters.bad_proxy_headers
    yield {"event": "timed_out"}, counters.timed_out
    yield {"event": "write_dropped"}, counters.dropped


def _http(counters: HttpCounters) -> Iterator[Row]:
    yield {"event": "accepted"}, counters.accepted
    yield {"event": "crowded_out"}, counters.crowded_out
    yield {"event": "timed_out"}, counters.timed_out
    yield {"event": "malformed"}, counters.malformed
    yield {"event": "failed"}, counters.failed
    yield {"event": "paused"}, counters.paused


def _egress(states: Mapping[str, str]) -> Iterator[Row]:
    for interface, state in states.items():
        yield {"interface": interface, "state": state}, 1


def _sockets(counters: UdpCounters) -> Iterator[Row]:
    yield {"kind": "send"}, counters.send_errors
    yield {"kind": "receive"}, counters.receive_errors
    yield {"kind": "backlog"}, counters.backlog_dropped
    yield {"kind": "unusable"}, counters.received_unusable
