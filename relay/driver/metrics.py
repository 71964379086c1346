"""The relay's counters as series, for Prometheus and for OpenTelemetry alike.

Attributes are closed sets: no address, no user. Totals do not depend on which path carried a packet.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from connectivity.io.http import HttpCounters
from connectivity.io.metric import Metric, Row, one
from connectivity.io.metric_export import http_events
from connectivity.io.udp_counters import UdpCounters
from relay.core import Direction, Snapshot
from relay.core.statistics import CredentialRefusal, DropReason, IcmpFate, QuotaKind
from relay.driver.offload import Offload
from relay.driver.streams import StreamCounters

# Data between two clients of this relay leaves to a client, on either path.
_KERNEL_DIRECTIONS: Final = {
    "TO_PEER": Direction.TO_PEER,
    "TO_CLIENT": Direction.TO_CLIENT,
    "BETWEEN_CLIENTS": Direction.TO_CLIENT,
}


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
        _gauge("allocations", "{allocation}", "Live allocations", one(snapshot.allocations)),
        _gauge("channels", "{channel}", "Bound channels", one(snapshot.channels)),
        _counter("responses", "{response}", "STUN and TURN answers", _responses(snapshot)),
        _counter("credential_refusals", "{refusal}", "Credentials that do not count", _credential_refusals(snapshot)),
        _counter("quota_refusals", "{refusal}", "What ran into a quota", _quota_refusals(snapshot)),
        _counter("icmp_errors", "{error}", "ICMP errors about relayed datagrams", _icmp_errors(snapshot)),
        _gauge("streams", "{connection}", "Open connections over TCP and TLS", one(sources.open_streams)),
        _counter("stream_events", "{event}", "What became of connections", _streams(sources.streams)),
        http_events("postern.relay.http_events", sources.http),
        _counter("socket_errors", "{error}", "Errors of the relay's sockets", _sockets(sources.sockets)),
        _gauge("xdp_channels", "{channel}", "Channels that XDP forwards", one(fill.channels) if fill else ()),
        _gauge("xdp_channels_max", "{channel}", "Channels that fit", one(fill.capacity) if fill else ()),
        _counter(
            "xdp_refused",
            "{channel}",
            "Installations of channels for which XDP had no room",
            one(fill.refused) if fill else (),
        ),
        _gauge("offload", "1", "1 for the mode in use", (({"mode": status.mode}, 1),)),
        _gauge("xdp_egress", "1", "1 for what the last self-tests say of it", _egress(status.egress)),
    ]


def states(readiness: Mapping[str, Any]) -> list[Metric]:
    """What ``/readyz`` says; a stand-alone relay is in no portal, nor out of one."""
    joined = one(int(readiness["portal"] == "joined")) if readiness["portal"] != "none" else ()
    return [
        _gauge("ready", "1", "1 if it serves as /readyz says", one(int(readiness["ready"]))),
        _gauge("draining", "1", "1 if it takes no more clients", one(int(readiness["draining"]))),
        Metric("postern.link.joined", "gauge", "1", "1 if the portal has let this service in", joined),
    ]


def _counter(name: str, unit: str, text: str, rows: Iterable[Row]) -> Metric:
    return Metric(f"postern.relay.{name}", "counter", unit, text, tuple(rows))


def _gauge(name: str, unit: str, text: str, rows: Iterable[Row]) -> Metric:
    return Metric(f"postern.relay.{name}", "gauge", unit, text, tuple(rows))


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
    yield _counter("packets", "{packet}", "Relayed datagrams", _by_path(packets))
    yield _counter("bytes", "By", "Relayed payload bytes, channel headers not counted", _by_path(octets))
    yield _counter("drops", "{packet}", "Datagrams that went nowhere", drops)
    yield _counter("xdp_passed", "{packet}", "Packets that XDP handed up to the stack", passed)


def _by_path(values: Mapping[tuple[str, Direction], int]) -> tuple[Row, ...]:
    return tuple(({"path": path, "direction": direction.value}, count) for (path, direction), count in values.items())


def _responses(snapshot: Snapshot) -> Iterator[Row]:
    for (kind, method, code), count in snapshot.responses.items():
        yield {"response_class": kind, "message_type": method, "error_code": str(code or "")}, count


def _credential_refusals(snapshot: Snapshot) -> Iterator[Row]:
    for cause in CredentialRefusal:
        yield {"reason": cause.value}, snapshot.credential_refusals.get(cause, 0)


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


def _egress(states: Mapping[str, str]) -> Iterator[Row]:
    for interface, state in states.items():
        yield {"interface": interface, "state": state}, 1


def _sockets(counters: UdpCounters) -> Iterator[Row]:
    yield {"kind": "send"}, counters.send_errors
    yield {"kind": "receive"}, counters.receive_errors
    yield {"kind": "backlog"}, counters.backlog_dropped
    yield {"kind": "unusable"}, counters.received_unusable
