"""How one subject is measured under one load: figures by name, without judgement.

UDP is sent at ever other rates until the highest is known at which at most one datagram in a thousand is lost. Round
trips are told at rest, and while TCP takes half of what one stream of that subject reached in that direction.
"""

import statistics
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Literal

from bench.presealed import presealed
from bench.scale_stage import BULK
from bench.tunnel_stage import Standing, Subject
from lab import measure
from lab.errors import LabError
from lab.measure import Direction, Flow
from lab.measure import Load as Streams
from lab.plan import APP_NAME, RESOURCE

Kind = Literal["tcp", "udp", "idle", "loaded", "crowd"]
MBPS, PPS, CPU, P50, P99 = "Mbit/s", "packets/s", "CPU s/GB", "RTT p50 ms", "RTT p99 ms"
CPU_US: Final = "CPU µs/packet"
LOST_AT_MOST: Final = 0.001
_STEPS: Final = 4
_PING_INTERVAL_MS: Final = 2


@dataclass(frozen=True, slots=True)
class Terms:
    """How long a stream of TCP runs, and the buffers of iperf3's sockets for UDP."""

    seconds: int
    socket_bytes: int | None


@dataclass(frozen=True, slots=True)
class Load:
    """``size`` is the number of TCP's streams, or the bytes of a datagram."""

    kind: Kind
    way: Direction = "up"
    size: int = 1

    @property
    def name(self) -> str:
        match self.kind:
            case "tcp":
                return f"TCP {self.size}"
            case "udp":
                return f"UDP {self.size} B"
            case "crowd":
                return "flood"
            case _:
                return f"RTT {self.kind}"

    def suits(self, subject: Subject) -> bool:
        """A crowd does one thing, the others all else."""
        return subject.is_crowd is (self.kind == "crowd")


TCP_STREAMS: Final = (1, 4, 8)
UDP_BYTES: Final = (1200, 200)
Figures = dict[str, float]


def measure_load(standing: Standing, load: Load, terms: Terms, one_stream_mbps: float | None) -> Figures:
    """The figures of one load; ``one_stream_mbps`` is what TCP last reached in that direction.

    Raises:
        LabError: it could not be measured.
    """
    match load.kind:
        case "tcp":
            return _tcp(standing, load, terms)
        case "udp":
            return _udp(standing, load, terms)
        case "crowd":
            return _flood(standing, load.size)
        case "idle":
            return _round_trips(standing, terms)
        case "loaded":
            rate = None if one_stream_mbps is None else one_stream_mbps / 2
            streams = Streams("tcp", load.way, terms.seconds, rate, by_name=standing.subject.by_name)
            with measure.flowing(standing.lab, streams, standing.source):
                return _round_trips(standing, terms)


def loss_free(offer: Callable[[float | None], Flow]) -> Flow:
    """Of several rates the best that lost next to nothing; ``offer`` None: as fast as it goes.

    What arrived of that is a first guess; from there on it is halved and halved again, between what was lost and what
    was not. A flow of zero if nothing went through whole.
    """
    flow = offer(None)
    if is_whole(flow):
        return flow
    best, low, high = Flow(0.0, 0, sent=0, lost=0), 0.0, max(flow.mbps * 2, 1.0)
    for _ in range(_STEPS):
        rate = (low + high) / 2
        flow = offer(rate)
        if is_whole(flow):
            low = rate
            best = max(best, flow, key=lambda one: one.mbps)
        else:
            high = rate
    return best


def is_whole(flow: Flow) -> bool:
    return bool(flow.sent) and (flow.lost or 0) <= LOST_AT_MOST * (flow.sent or 0)


def percentile(values: list[float], percent: int) -> float:
    """The smallest value that so many percent of all do not exceed."""
    ordered = sorted(values)
    return ordered[max(0, -(-len(ordered) * percent // 100) - 1)]


def _tcp(standing: Standing, load: Load, terms: Terms) -> Figures:
    streams = Streams("tcp", load.way, terms.seconds, streams=load.size, by_name=standing.subject.by_name)
    before = standing.cpu_seconds()
    flow = measure.flow(standing.lab, streams, standing.source)
    gigabytes = max(flow.received_bytes, 1) / 1e9
    used = {role: (seconds - before[role]) / gigabytes for role, seconds in standing.cpu_seconds().items()}
    figures = {MBPS: flow.mbps, PPS: flow.mbps * 1e6 / 8 / standing.subject.segment_bytes}
    if used:
        figures |= {CPU: sum(used.values()), **{f"{CPU} {role}": cost for role, cost in used.items()}}
    return figures


def _udp(standing: Standing, load: Load, terms: Terms) -> Figures:
    def offer(rate_mbps: float | None) -> Flow:
        streams = Streams(
            "udp",
            load.way,
            1,  # iperf3 knows whole seconds only
            rate_mbps,
            socket_bytes=terms.socket_bytes,
            datagram_bytes=load.size,
            by_name=standing.subject.by_name,
        )
        return measure.flow(standing.lab, streams, standing.source)

    best = loss_free(offer)
    return {MBPS: best.mbps, PPS: best.mbps * 1e6 / 8 / load.size}


def _flood(standing: Standing, bursts: int) -> Figures:
    """What the gateway carries of datagrams that were sealed before, and what its processes pay for one."""
    if standing.stack is None:
        raise LabError("there is no gateway to be flooded")
    with presealed(standing.stack) as load:
        arrived = load.flood(bursts, lambda: standing.cpu_seconds()["gateway"])
    if not arrived.packets:
        raise LabError("nothing of the flood arrived")
    mbps = arrived.per_second * BULK * 8 / 1e6
    return {MBPS: mbps, PPS: arrived.per_second, CPU_US: arrived.cpu_seconds / arrived.packets * 1e6}


def _round_trips(standing: Standing, terms: Terms) -> Figures:
    target = APP_NAME if standing.subject.by_name else RESOURCE.address
    count = terms.seconds * 1000 // _PING_INTERVAL_MS // 2
    found = measure.round_trips_ms(standing.lab, target, count, _PING_INTERVAL_MS, standing.source)
    if not found:
        raise LabError("no ping was answered")
    return {P50: statistics.median(found), P99: percentile(found, 99)}
