"""One variant under load: iperf3 both ways over TCP and UDP, with what it cost and where datagrams went missing.

Three stages. *full*: TCP as fast as it goes. *paced*: UDP below the path's capacity, at a share of what TCP just
reached. Up to here no socket of the stack may lose anything. *overload*: UDP as fast as iperf3 can, only to be told.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final, Literal, get_args

from bench.variants import Variant, running
from connectivity.io.buffers import RECEIVE_BUFFER_BYTES, SEND_BUFFER_BYTES
from connectivity.io.tunnel_sockets import PREFERRED_PORT
from lab import counters, measure
from lab.counters import SocketBuffers, udp_error_count
from lab.cpu import cpu_seconds
from lab.measure import Direction, Flow, Load
from lab.plan import STACK_ROLES, TUN_NAME
from lab.relay_metrics import judge_offload
from lab.stack import Maker, Stack
from lab.topology import Lab
from relay.core.configuration import STUN_PORT

IPERF3_ROLES: Final = ("user", "resource")
_UNIT_ROLES: Final = ("gateway", "resource")  # one link between them, and no stack that runs
DIRECTIONS: Final[tuple[Direction, ...]] = get_args(Direction)
# Enough for the bursts in which a tunnel delivers; beyond it iperf3 would refuse what the kernel does not grant.
_IPERF3_SOCKET_BYTES: Final = 8 << 20
# What ICE, DNS and the portal leave of the packets that the wire's family is told by.
_SAME_FAMILY: Final = 0.9

Stage = Literal["full", "paced", "overload"]


@dataclass(frozen=True, slots=True)
class Terms:
    """How to measure: seconds per stream, UDP's share of TCP in percent, buffers, whether to overload at the end."""

    seconds: int
    udp_share: int
    overload: bool
    receive_buffer: int = RECEIVE_BUFFER_BYTES
    send_buffer: int = SEND_BUFFER_BYTES
    limits: Mapping[str, int] = field(default_factory=dict)

    def within(self, limits: Mapping[str, int]) -> "Terms":
        """The same where the kernel has these limits of socket buffers."""
        return replace(self, limits=limits)

    @property
    def environment(self) -> dict[str, str]:
        return {
            "FIREZONE_UDP_RECV_BUFFER_SIZE": str(self.receive_buffer),
            "FIREZONE_UDP_SEND_BUFFER_SIZE": str(self.send_buffer),
        }

    @property
    def iperf3_socket_bytes(self) -> int | None:
        return iperf3_socket_bytes(self.limits)


@dataclass(frozen=True, slots=True)
class Measurement:
    """One stream. ``lost_in`` counts datagrams lost in the stack's sockets, at its TUN devices, in iperf3's sockets."""

    variant: str
    stage: Stage
    load: Load
    flow: Flow
    lost_in: dict[str, int]
    cpu_s_per_gb: dict[str, float]


@dataclass(slots=True)
class Outcome:
    """All of one variant in one round. ``problems`` are what must not be, ``notes`` what a reader should know."""

    measurements: list[Measurement] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def iperf3_socket_bytes(limits: Mapping[str, int]) -> int | None:
    """None where no limit is known: iperf3 refuses what the kernel does not grant."""
    return min(_IPERF3_SOCKET_BYTES, *limits.values()) if limits else None


def measure_unit(unit: Variant, terms: Terms) -> Outcome:
    """iperf3 over one veth pair, with nothing else in between: what this machine could do just now."""
    outcome = Outcome()
    with Lab(unit.network) as lab:
        Stack(lab).start_resource()
        flood = _loads("udp", terms, unit.ipv6) if terms.overload else []
        for load in (*_loads("tcp", terms, unit.ipv6), *flood):
            before = _in_sockets(lab, _UNIT_ROLES)
            flow = measure.flow(lab, load, lab.gateway)
            lost = {"iperf3": _in_sockets(lab, _UNIT_ROLES) - before}
            stage: Stage = "full" if load.protocol == "tcp" else "overload"
            outcome.measurements.append(Measurement(unit.name, stage, load, flow, lost, {}))
    return outcome


def measure_variant(variant: Variant, programs: Mapping[str, Path], terms: Terms) -> Outcome:
    """All streams of one variant, and whether its sockets kept everything that was not overload."""
    outcome = Outcome()
    with running(variant, programs, terms.environment) as stack:
        buffers = {role: counters.udp_sockets(stack.lab.namespace(role)) for role in STACK_ROLES}
        outcome.notes += [f"{variant.name}: {text}" for text in describe_buffers(buffers)]
        found = judge_buffers(buffers, terms)
        tcp = [_measured(stack, variant, "full", load) for load in _loads("tcp", terms, variant.ipv6)]
        rates = {m.load.direction: max(1.0, m.flow.mbps * terms.udp_share / 100) for m in tcp}
        paced = _loads("udp", terms, variant.ipv6, rates.get)
        udp = [_measured(stack, variant, "paced", load) for load in paced]
        found += judge_errors(stack.lab.udp_errors(STACK_ROLES))
        found += judge_way(stack, variant)
        outcome.measurements += [*tcp, *udp]
        if terms.overload:
            flood = _loads("udp", terms, variant.ipv6)
            outcome.measurements += [_measured(stack, variant, "overload", load) for load in flood]
    # What upstream's programs do is measured, not judged.
    target = outcome.problems if variant.all_ours else outcome.notes
    target += [f"{variant.name}: {text}" for text in found]
    return outcome


def judge_errors(errors: Mapping[str, Mapping[str, int]]) -> list[str]:
    """UDP errors by role and counter: none may be there."""
    return [
        f"{role}: {', '.join(f'{name} {count}' for name, count in sorted(found.items()))}"
        for role, found in errors.items()
        if found
    ]


def describe_buffers(buffers: Mapping[str, list[SocketBuffers]]) -> list[str]:
    """What the sockets of each role were really given, each pair of sizes once."""
    lines = []
    for role, sockets in buffers.items():
        sizes: dict[tuple[int, int], int] = {}
        for opened in sockets:
            sizes[opened.receive, opened.send] = sizes.get((opened.receive, opened.send), 0) + 1
        if sizes:
            shown = ", ".join(f"{n} with {receive} receive and {send} send" for (receive, send), n in sizes.items())
            lines.append(f"{role}: UDP socket buffers in bytes: {shown}")
    return lines


def judge_buffers(buffers: Mapping[str, list[SocketBuffers]], terms: Terms) -> list[str]:
    """The sockets that carry the tunnel must have been given what was asked for."""
    asked = {
        "client": (PREFERRED_PORT, terms.receive_buffer, terms.send_buffer),
        "gateway": (PREFERRED_PORT, terms.receive_buffer, terms.send_buffer),
        "relay": (STUN_PORT, RECEIVE_BUFFER_BYTES, SEND_BUFFER_BYTES),
    }
    problems = []
    for role, (port, receive, send) in asked.items():
        sockets = [opened for opened in buffers.get(role, ()) if opened.port == port]
        if not sockets:
            problems.append(f"{role}: no socket on port {port}")
        problems += [
            f"{role}: socket {opened.local}:{port} was given {opened.receive} receive and {opened.send} send bytes,"
            f" not {receive} and {send}"
            for opened in sockets
            if opened.receive < receive or opened.send < send
        ]
    return problems


def _loads(
    protocol: measure.Protocol, terms: Terms, ipv6: bool, rate: Callable[[Direction], float | None] = lambda _: None
) -> list[Load]:
    room = terms.iperf3_socket_bytes if protocol == "udp" else None
    return [Load(protocol, way, terms.seconds, rate(way), ipv6, room) for way in DIRECTIONS]


def _measured(stack: Stack, variant: Variant, stage: Stage, load: Load) -> Measurement:
    lost_before, cpu_before = _losses(stack.lab), _cpu(stack.lab)
    flow = measure.flow(stack.lab, load)
    lost, cpu = _losses(stack.lab), _cpu(stack.lab)
    gigabytes = max(flow.received_bytes, 1) / 1e9
    return Measurement(
        variant=variant.name,
        stage=stage,
        load=load,
        flow=flow,
        lost_in={where: lost[where] - lost_before[where] for where in lost},
        cpu_s_per_gb={role: (cpu[role] - cpu_before[role]) / gigabytes for role in cpu},
    )


def _losses(lab: Lab) -> dict[str, int]:
    queues = sum(counters.interface_drops(namespace, TUN_NAME) for namespace in (lab.client, lab.gateway))
    return {"stack": _in_sockets(lab, STACK_ROLES), "tun": queues, "iperf3": _in_sockets(lab, IPERF3_ROLES)}


def _in_sockets(lab: Lab, roles: tuple[str, ...]) -> int:
    return sum(udp_error_count(errors) for errors in lab.udp_errors(roles).values())


def _cpu(lab: Lab) -> dict[str, float]:
    return {process.name: cpu_seconds(process.pid) for process in lab.processes if process.name in STACK_ROLES}


def judge_way(stack: Stack, variant: Variant) -> list[str]:
    """The numbers are those of the path, the offload and the family that they are filed under."""
    problems = []
    if variant.ends is Maker.OURS:
        path = stack.path()
        if (path == "PeerToPeer") != (variant.kind == "direct"):
            problems.append(f"the path is {path}")
    if variant.relay is Maker.OURS:
        mode, counts = stack.xdp_mode(), stack.relay_counts()
        problems += judge_offload(mode, counts, wanted=variant.ebpf, relayed=variant.kind == "relayed")
    found = counters.nstat(stack.lab.client, ("UdpInDatagrams", "Udp6InDatagrams"))
    share = found["Udp6InDatagrams" if variant.ipv6 else "UdpInDatagrams"] / max(1, sum(found.values()))
    if share < _SAME_FAMILY:
        problems.append(f"only {share:.0%} of the client's datagrams came over IPv{6 if variant.ipv6 else 4}")
    return problems
