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


def path_name(kind: Kind, *, ipv6: bool) -> str:
    """A kind of path over one family."""
    return f"{kind} IPv{6 if ipv6 else 4}"


def matrix() -> list[Variant]:
    """All variants that are compared."""
    makers = (ours, upstreams)
    stacks = [whose(kind, ipv6=ipv6) for ipv6 in FAMILIES for kind in KINDS for whose in makers]
    return [*(ours("veth", ipv6=ipv6) for ipv6 in FAMILIES), *stacks]


def short_name(variant: Variant) -> str:
    """What one of the matrix is called where its path and whose it is say enough."""
    path = path_name(variant.kind, ipv6=variant.ipv6)
    if variant.kind == "veth":
        return f"plain {path}"
    whose = "ours" if variant.all_ours else "upstream's"
    return f"{path}, {whose}"


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


def shares(cells: Sequence[Cell], variant: Variant) -> tuple[float, float] | None:
    """TCP of a variant over plain veth of the same family."""
    return quotient(cells, variant, ours("veth", ipv6=variant.ipv6))


def ratios(cells: Sequence[Cell]) -> list[Ratio]:
    """All that can be said of this run: to plain veth, relayed to direct, ours to upstream's."""
    wanted = [
        (f"{path_name(kind, ipv6=ipv6)}: ours / plain veth", ours(kind, ipv6=ipv6), ours("veth", ipv6=ipv6))
        for ipv6 in FAMILIES
        for kind in KINDS
    ]
    return [*_ratios(cells, wanted), *comparisons(cells)]


def comparisons(cells: Sequence[Cell]) -> list[Ratio]:
    """Of these the ones between stacks: relayed to direct, ours to upstream's."""
    wanted = []
    for ipv6 in FAMILIES:
        text = f"IPv{6 if ipv6 else 4}: ours relayed / ours direct"
        wanted.append((text, ours("relayed", ipv6=ipv6), ours("direct", ipv6=ipv6)))
        for kind in KINDS:
            text = f"{path_name(kind, ipv6=ipv6)}: ours / upstream's"
            wanted.append((text, ours(kind, ipv6=ipv6), upstreams(kind, ipv6=ipv6)))
    return _ratios(cells, wanted)


def _ratios(cells: Sequence[Cell], wanted: Iterable[tuple[str, Variant, Variant]]) -> list[Ratio]:
    found = [(text, quotient(cells, above, below)) for text, above, below in wanted]
    return [Ratio(text, *values) for text, values in found if values is not None]


def _count(values: Iterable[int | None]) -> int | None:
    known = [value for value in values if value is not None]
    return statistics.median_low(known) if known else None
