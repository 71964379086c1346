"""Cells and runs for the tests of what the benchmark makes of them."""

from bench.history import Run
from bench.results import Cell
from bench.variants import Variant
from lab.measure import Direction
from lab.stack import Maker

VETH = Variant("veth")
DIRECT = Variant("direct")
RELAYED = Variant("relayed")
UPSTREAM_DIRECT = Variant("direct", Maker.UPSTREAM)


def tcp(variant: Variant, direction: Direction, mbps: float) -> Cell:
    return Cell(variant.name, "full", "tcp", direction, mbps, retransmits=0, cpu_s_per_gb={"client": 5.0})


def both(variant: Variant, up: float, down: float) -> list[Cell]:
    return [tcp(variant, "up", up), tcp(variant, "down", down)]


def sample_run(day: int = 1, problems: list[str] | None = None, scale: float = 1.0) -> Run:
    cells = [*both(VETH, 10_000, 8000), *both(DIRECT, 1000 * scale, 400), *both(RELAYED, 500, 300 * scale)]
    return Run(f"2026-03-{day:02}T04:05:06+00:00", "abc1234", cells, problems or [], {"processors": 2}, {"rounds": 1})
