"""One relay under load: what it delivers, what that costs in the process and in the kernel, and what allocations cost.

The process's time is that of its threads; the kernel's that of the threads of the relay's interfaces, per frame that
came in. The program's time is the kernel's own count (run_time_ns / run_cnt), here of the whole load.
"""

import itertools
import socket
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import quantiles
from typing import Final, Literal, NamedTuple

from bench.relay_program import ProgramTimes, Turns
from bench.relay_stage import CLIENT, PEER, SERVER, RelayStage, Variant
from bench.relay_traffic import HEAD_BYTES, Counter, Generator, Traffic, TrafficFlow
from bench.relay_turn import CHANNEL, TurnClient, allocate, bind, connect
from connectivity.endpoint import Endpoint
from connectivity.turn import channel_data
from ebpf.oracle import ChecksumKind
from lab.cpu import exact_cpu_seconds
from lab.network import entered
from lab.processes import Process

Way = Literal["to peer", "to client"]
WAYS: Final[tuple[Way, ...]] = ("to peer", "to client")
PAYLOADS: Final = (160, 1280)
MOST_FLOWS: Final = 100
# How many flows, and how many datagrams each sends at a time: senders of bulk data send many, a voice sends one.
CROWDS: Final = ((1, 32), (MOST_FLOWS, 1), (MOST_FLOWS, 16))
_FIRST_PEER_PORT: Final = 40_000
_WARM_SECONDS: Final = 0.3
_SETTLE_SECONDS: Final = 5.0
_PROBES: Final = 300
_PROBE_BYTES: Final = 160
# Delivered of what was offered at the highest pace: beyond it a faster generator could have shown more.
_BOUND_SHARE: Final = 0.95
# What one more socket costs the kernel, by slab.
_SOCKET_SLABS: Final = frozenset({"UDP", "UDPv6", "sock_inode_cache", "filp", "dentry", "eventpoll_epi", "ep_head"})


class Load(NamedTuple):
    """One kind of traffic; of ``flows``, each sends ``burst`` datagrams, then the next."""

    way: Way
    payload: int
    flows: int
    burst: int = 1


LOADS: Final = tuple(Load(way, payload, *crowd) for way, payload, crowd in itertools.product(WAYS, PAYLOADS, CROWDS))
BULK: Final = tuple(load for load in LOADS if load.payload == max(PAYLOADS) and load.flows == 1)
ProgramLoad = tuple[Load, ChecksumKind]
PROGRAM_LOADS: Final[tuple[ProgramLoad, ...]] = (
    *((load, ChecksumKind.FULL) for load in LOADS),
    *((load, ChecksumKind.PARTIAL) for load in LOADS if load.flows == 1),
)


@dataclass(frozen=True, slots=True)
class Terms:
    """How long each pace is offered, which paces (packets/s), and how many idle allocations there are."""

    seconds: float
    rates: tuple[int, ...]
    allocations: int

    def paces(self, variant: Variant) -> tuple[int | None, ...]:
        """None is as fast as the generator can: what no process has to read cannot be offered too much."""
        return (None,) if variant.is_xdp else self.rates


@dataclass(frozen=True, slots=True)
class Figure:
    """A load at the pace at which most was delivered. Shares are of 1, times in microseconds of a processor.

    ``busy`` is how many processors relay and kernel had: far below 1, others had them, and nobody was at a limit.
    """

    offered_pps: float
    delivered_pps: float
    loss: float
    process_us: float
    kernel_us: float
    program_ns: float
    busy: float
    is_generator_bound: bool

    @property
    def per_processor(self) -> float:
        """Packets that one second of a processor is enough for."""
        return 1e6 / max(1e-3, self.process_us + self.kernel_us)


@dataclass(frozen=True, slots=True)
class Latency:
    """Through the relay, less what the same hosts need without it; one datagram at a time, in microseconds."""

    p50_us: float
    p99_us: float


@dataclass(frozen=True, slots=True)
class Allocations:
    """What many allocations cost; ``crowded`` is delivered packets/s with all of them over those with few."""

    count: int
    per_second: float
    process_us: float
    rss_bytes: float
    kernel_bytes: float
    crowded: float


@dataclass(frozen=True, slots=True)
class Outcome:
    """All of one variant in one round."""

    variant: Variant
    figures: dict[Load, Figure]
    latencies: dict[Way, Latency]
    allocations: Allocations
    programs: dict[ProgramLoad, ProgramTimes]


class Instruments:
    """Generator and counter on a stage."""

    def __init__(self, stage: RelayStage) -> None:
        self.stage = stage
        self.generator = Generator()
        self.counter = Counter()
        for namespace, end in ((stage.client, "c"), (stage.peer, "p")):
            self.counter.watch(namespace, stage.wire(end).index)

    def close(self) -> None:
        self.generator.close()
        self.counter.close()


def measure(instruments: Instruments, variant: Variant, turnserver: Path | None, terms: Terms) -> Outcome:
    """Start the relay, measure all, stop it."""
    stage = instruments.stage
    with stage.serving(variant, turnserver) as process:
        members = connect(stage.client, CLIENT.address, SERVER, MOST_FLOWS)
        crowd = connect(stage.client, CLIENT.address, SERVER, terms.allocations)
        try:
            allocate(members)
            bind(members, [Endpoint.parse(f"{PEER.address}:{_FIRST_PEER_PORT + n}") for n in range(len(members))])
            clients = [(client.port, client.relayed_port) for client in members]
            figures = {load: _figure(instruments, variant, process, load, clients, terms) for load in LOADS}
            programs = _programs(instruments, variant, process, clients, terms)
            latencies = {way: _latency(stage, members[0], way) for way in WAYS}
            few = [_figure(instruments, variant, process, load, clients, terms) for load in BULK]
            costs = _allocate_many(process, crowd)
            many = [_figure(instruments, variant, process, load, clients, terms) for load in BULK]
        finally:
            for client in (*members, *crowd):
                client.socket.close()
    crowded = sum(one.delivered_pps for one in many) / max(1.0, sum(one.delivered_pps for one in few))
    return Outcome(variant, figures, latencies, Allocations(len(crowd), *costs, crowded), programs)


def _figure(
    instruments: Instruments,
    variant: Variant,
    process: Process,
    load: Load,
    clients: Sequence[tuple[int, int]],
    terms: Terms,
) -> Figure:
    """The best of the paces."""
    instruments.generator.aim(_traffic(instruments.stage, load, clients[: load.flows]))
    found = [_once(instruments, process, load, pace, terms.seconds) for pace in terms.paces(variant)]
    return max(found, key=lambda figure: figure.delivered_pps)


@dataclass(frozen=True, slots=True)
class _Reading:
    at: float
    arrived: int
    process: float
    kernel: float


def _once(instruments: Instruments, process: Process, load: Load, pace: int | None, seconds: float) -> Figure:
    stage, generator, counter = instruments.stage, instruments.generator, instruments.counter
    sender = _sender(stage, load)

    arrived = counter.read()
    warm = generator.send(sender, pace, min(seconds, _WARM_SECONDS))
    # What takes long to read is read outside of the time that counts.
    received, program = stage.relay_received(), stage.program_time()
    before = _read(instruments, process)
    sent = generator.send(sender, pace, seconds)
    after = _read(instruments, process)
    received, program_after = stage.relay_received() - received, stage.program_time()
    _settle(counter)
    elapsed, delivered = after.at - before.at, after.arrived - before.arrived
    return Figure(
        offered_pps=sent / elapsed,
        delivered_pps=delivered / elapsed,
        loss=max(0.0, 1 - (counter.read() - arrived) / (warm + sent)),
        process_us=(after.process - before.process) / max(1, delivered) * 1e6,
        kernel_us=(after.kernel - before.kernel) / max(1, received) * 1e6,
        program_ns=program_after.mean_since(program) if program_after and program else 0.0,
        busy=(after.process - before.process + after.kernel - before.kernel) / elapsed,
        is_generator_bound=delivered > _BOUND_SHARE * sent,
    )


def _sender(stage: RelayStage, load: Load) -> str:
    return stage.client if load.way == "to peer" else stage.peer


def _programs(
    instruments: Instruments,
    variant: Variant,
    process: Process,
    clients: Sequence[tuple[int, int]],
    terms: Terms,
) -> dict[ProgramLoad, ProgramTimes]:
    """Of the native program, which has the whole frame before it."""
    if variant is not Variant.NATIVE:
        return {}
    found = {}
    with Turns(instruments.stage, process) as turns:
        for load, checksum in PROGRAM_LOADS:
            traffic = _traffic(instruments.stage, load, clients[: load.flows])._replace(checksum=checksum)
            instruments.generator.aim(traffic)
            send = partial(instruments.generator.send, _sender(instruments.stage, load), None)
            ingress = instruments.stage.wire("f" if load.way == "to peer" else "b").index
            found[load, checksum] = turns.during(ingress, send, terms.seconds)
    return found


def _read(instruments: Instruments, process: Process) -> _Reading:
    at, arrived = time.monotonic(), instruments.counter.read()
    return _Reading(at, arrived, exact_cpu_seconds(process.pid), instruments.stage.kernel_seconds())


def _settle(counter: Counter) -> None:
    """Wait until nothing more arrives of what a relay still has in its buffers."""
    deadline = time.monotonic() + _SETTLE_SECONDS
    before = -1
    while (now := counter.read()) != before and time.monotonic() < deadline:
        before = now
        time.sleep(0.1)


def _traffic(stage: RelayStage, load: Load, clients: Sequence[tuple[int, int]]) -> Traffic:
    """``clients`` are their ports with their relayed ports; each has the peer of its number."""
    if load.way == "to peer":
        near, far, source, size = stage.wire("c"), stage.wire("f"), CLIENT, load.payload + HEAD_BYTES
        head = channel_data.encode_header(CHANNEL, load.payload)
        flows = [TrafficFlow(port, SERVER.port, head) for port, _ in clients]
    else:
        near, far, source, size = stage.wire("p"), stage.wire("b"), PEER, load.payload
        flows = [TrafficFlow(_FIRST_PEER_PORT + n, port, bytes(HEAD_BYTES)) for n, (_, port) in enumerate(clients)]
    return Traffic(near.index, near.mac, far.mac, source.ipv4.ip, SERVER.ip, size, flows, load.burst)


def _latency(stage: RelayStage, client: TurnClient, way: Way) -> Latency:
    """Relayed and direct datagrams by turns, from hand to hand."""
    with entered(stage.peer):
        peer = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with entered(stage.client):
        plain = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    relayed_us, direct_us = [], []
    message = channel_data.encode_header(CHANNEL, _PROBE_BYTES) + bytes(_PROBE_BYTES)
    with peer, plain:
        peer.bind((PEER.address, _FIRST_PEER_PORT))
        plain.bind((CLIENT.address, 0))
        for opened in (peer, plain, client.socket):
            opened.settimeout(_SETTLE_SECONDS)
        for _ in range(_PROBES):
            if way == "to peer":
                relayed_us.append(_flight(client.socket, message, None, peer))
                direct_us.append(_flight(plain, message, peer.getsockname(), peer))
            else:
                relayed_us.append(_flight(peer, message[4:], (str(SERVER.ip), client.relayed_port), client.socket))
                direct_us.append(_flight(peer, message, plain.getsockname(), plain))
        client.socket.settimeout(None)
    relayed, direct = quantiles(relayed_us, n=100), quantiles(direct_us, n=100)
    return Latency(relayed[49] - direct[49], relayed[98] - direct[98])


def _flight(sender: socket.socket, message: bytes, to: tuple[str, int] | None, receiver: socket.socket) -> float:
    started = time.perf_counter_ns()
    if to is None:
        sender.send(message)
    else:
        sender.sendto(message, to)
    receiver.recv(2048)
    return (time.perf_counter_ns() - started) / 1000


def _allocate_many(process: Process, crowd: Sequence[TurnClient]) -> tuple[float, float, float, float]:
    """Allocations per second, and of each: the process's microseconds, its resident bytes, the kernel's bytes."""
    used, resident, slabs = exact_cpu_seconds(process.pid), _resident_bytes(process.pid), _socket_slab_bytes()
    seconds = allocate(crowd)
    used = exact_cpu_seconds(process.pid) - used
    resident, slabs = _resident_bytes(process.pid) - resident, _socket_slab_bytes() - slabs
    count = len(crowd)
    return count / seconds, used / count * 1e6, resident / count, slabs / count


def _resident_bytes(pid: int) -> int:
    lines = Path(f"/proc/{pid}/status").read_text(encoding="utf-8", errors="replace").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmRSS:"))


def _socket_slab_bytes() -> int:
    """Of the whole machine: the other programs' sockets are in it, as few as they are."""
    rows = (line.split() for line in Path("/proc/slabinfo").read_text(encoding="ascii").splitlines()[2:])
    return sum(int(row[1]) * int(row[3]) for row in rows if row[0] in _SOCKET_SLABS)
