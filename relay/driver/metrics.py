"""The relay's counters in Prometheus' text format. Labels are closed sets: no address, no user."""

from collections.abc import Iterable, Mapping
from typing import Final, TypeAlias

from connectivity.io.udp import UdpCounters
from relay.core import Direction, Snapshot
from relay.driver.offload import Offload

Row: TypeAlias = tuple[Mapping[str, object], int]

# Data between two clients of this relay leaves to a client, on either path.
_KERNEL_DIRECTIONS: Final = {
    "TO_PEER": Direction.TO_PEER,
    "TO_CLIENT": Direction.TO_CLIENT,
    "BETWEEN_CLIENTS": Direction.TO_CLIENT,
}


def render(snapshot: Snapshot, offload: Offload, sockets: UdpCounters) -> str:
    """All metrics."""
    packets = {("python", direction): count for direction, count in snapshot.packets.items()}
    octets = {("python", direction): count for direction, count in snapshot.bytes.items()}
    for direction in Direction:
        packets["xdp", direction] = octets["xdp", direction] = 0
    drops: list[Row] = [({"path": "python", "reason": reason.value}, count) for reason, count in snapshot.drops.items()]
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
    responses: list[Row] = [
        ({"response_class": kind, "message_type": method, "error_code": code or ""}, count)
        for (kind, method, code), count in snapshot.responses.items()
    ]
    status = offload.status()
    socket_errors: list[Row] = [
        ({"kind": "send"}, sockets.send_errors),
        ({"kind": "receive"}, sockets.receive_errors),
        ({"kind": "backlog"}, sockets.backlog_dropped),
        ({"kind": "unusable"}, sockets.received_unusable),
    ]
    lines = [
        *_metric("packets_total", "counter", "Relayed datagrams", _by_path(packets)),
        *_metric("bytes_total", "counter", "Relayed payload bytes, channel headers not counted", _by_path(octets)),
        *_metric("allocations", "gauge", "Live allocations", [({}, snapshot.allocations)]),
        *_metric("channels", "gauge", "Bound channels", [({}, snapshot.channels)]),
        *_metric("responses_total", "counter", "STUN and TURN answers", responses),
        *_metric("drops_total", "counter", "Datagrams that went nowhere", drops),
        *_metric("xdp_passed_total", "counter", "Packets that XDP handed up to the stack", passed),
        *_metric("socket_errors_total", "counter", "Errors of the relay's sockets", socket_errors),
        *_metric("offload", "gauge", "1 for the mode in use", [({"mode": status.mode}, 1)]),
    ]
    return "\n".join(lines) + "\n"


def _by_path(values: Mapping[tuple[str, Direction], int]) -> list[Row]:
    return [({"path": path, "direction": direction.value}, count) for (path, direction), count in values.items()]


def _metric(name: str, kind: str, text: str, rows: Iterable[Row]) -> Iterable[str]:
    yield f"# HELP postern_relay_{name} {text}"
    yield f"# TYPE postern_relay_{name} {kind}"
    for labels, value in rows:
        inner = ",".join(f'{label}="{content}"' for label, content in labels.items())
        yield f"postern_relay_{name}{{{inner}}} {value}" if inner else f"postern_relay_{name} {value}"
