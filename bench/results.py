"""What a run has found: medians over its rounds, and the ratios that may be compared with other runs."""

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final

from bench.measurement import DIRECTIONS, Measurement, Stage
from bench.variants import Kind, Variant
from lab.measure import Direction, Protocol
from lab.stack import Maker

OURS, UPSTREAM = Maker.OURS, Maker.UPSTREAM
FAMILIES: Final = (False, True)  # IPv6?
KINDS: Final[tuple[Kind, ...]] = ("direct", "relayed")


@dataclass(frozen=True, slots=True)
class Cell:
    """One kind of stream through one variant, as medians over the rounds."""

    variant: str
    stage: Stage
    protocol: Protocol
    direction: Direction
    mbps: float
    retransmits: int | None = None
    sent: int | None = None
    lost: int | None = None
    lost_in: dict[str, int] = field(default_factory=dict)
    cpu_s_per_gb: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Ratio:
    """One number per direction that is the quotient of two medians of the same run."""

    text: str
    up: float
    down: float


def ours(kind: Kind, *, ipv6: bool) -> Variant:
    return Variant(kind, ipv6=ipv6)


def upstreams(kind: Kind, *, ipv6: bool) -> Variant:
    """Upstream's ends; on the direct path, where the relay only introduces them, it is ours."""
    return Variant(kind, UPSTREAM, OURS if kind == "direct" else UPSTREAM, ipv6=ipv6)


def summarize(measurements: Iterable[Measurement]) -> list[Cell]:
    """One cell per variant, stage, protocol and direction, in the order in which they first came."""
    groups: dict[tuple[str, Stage, Protocol, Direction], list[Measurement]] = {}
    for one in measurements:
        key = (one.variant, one.stage, one.load.protocol, one.load.direction)
        groups.setdefault(key, []).append(one)
    return [
        Cell(
            *key,
            mbps=round(statistics.median(m.flow.mbps for m in group), 1),
            retransmits=_count(m.flow.retransmits for m in group),
            sent=_count(m.flow.sent for m in group),
            lost=_count(m.flow.lost for m in group),
            lost_in={where: statistics.median_low([m.lost_in[where] for m in group]) for where in group[0].lost_in},
            cpu_s_per_gb={
                role: round(statistics.median(m.cpu_s_per_gb[role] for m in group), 2) for role in group[0].cpu_s_per_gb
            },
        )
        for key, group in groups.items()
    ]


def find(
    cells: Iterable[Cell], variant: str, direction: Direction, protocol: Protocol = "tcp", stage: Stage = "full"
) -> Cell | None:
    """The cell of a variant by its name, if it was measured."""
    wanted = (variant, direction, protocol, stage)
    return next((c for c in cells if (c.variant, c.direction, c.protocol, c.stage) == wanted), None)


def quotient(cells: Sequence[Cell], above: Variant, below: Variant) -> tuple[float, float] | None:
    """TCP of one variant over that of another, up and down; None where either is missing or nothing came through."""
    values = []
    for way in DIRECTIONS:
        numerator, denominator = find(cells, above.name, way), find(cells, below.name, way)
        if numerator is None or denominator is None or denominator.mbps <= 0:
            return None
        values.append(numerator.mbps / denominator.mbps)
    return values[0], values[1]


def ratios(cells: Sequence[Cell]) -> list[Ratio]:
    """All that can be said of this run: to plain veth, relayed to direct, ours to upstream's."""
    pairs = []
    for ipv6 in FAMILIES:
        family = "IPv6" if ipv6 else "IPv4"
        for kind in KINDS:
            text = f"{kind} {family}: ours / plain veth"
            pairs.append((text, ours(kind, ipv6=ipv6), ours("veth", ipv6=ipv6)))
        pairs.append((f"{family}: ours relayed / ours direct", ours("relayed", ipv6=ipv6), ours("direct", ipv6=ipv6)))
        for kind in KINDS:
            text = f"{kind} {family}: ours / upstream's"
            pairs.append((text, ours(kind, ipv6=ipv6), upstreams(kind, ipv6=ipv6)))
    found = [(text, quotient(cells, above, below)) for text, above, below in pairs]
    return [Ratio(text, *values) for text, values in found if values is not None]


def _count(values: Iterable[int | None]) -> int | None:
    known = [value for value in values if value is not None]
    return statistics.median_low(known) if known else None
