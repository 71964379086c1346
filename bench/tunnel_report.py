"""What ``bench tunnel`` has found: medians of the rounds, what is wanted of them, tables, a picture, JSON."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from bench import svg
from bench.bars import Bar, draw_bars
from bench.figures import Figure
from bench.history import Run
from bench.measurement import DIRECTIONS
from bench.report import table
from bench.tunnel_measure import CPU, CPU_US, MBPS, P50, P99, PPS, TCP_STREAMS, UDP_BYTES, Load
from bench.tunnel_measure import Figures as Found
from bench.tunnel_stage import ENDS, SUBJECTS
from lab.measure import Direction

_NONE: Final = "-"
_NAMES: Final = {subject.key: subject.name for subject in SUBJECTS}
_COLOURS: Final = {subject.key: subject.colour for subject in SUBJECTS}
_WIDTH, _LEFT, _TOP = 880, 186, 84
_RIGHT: Final = _WIDTH - 250
IDLE: Final = Load("idle")
CROWD: Final = Load("crowd", "up", 12000)  # bursts


@dataclass(frozen=True, slots=True)
class Findings:
    """Every figure of every round, by subject, load and name."""

    samples: dict[tuple[str, Load, str], list[float]] = field(default_factory=dict)

    def add(self, subject: str, load: Load, found: Found) -> None:
        for what, value in found.items():
            self.samples.setdefault((subject, load, what), []).append(value)

    def median(self, subject: str, load: Load, what: str) -> float | None:
        found = self.samples.get((subject, load, what))
        return statistics.median(found) if found else None

    def last(self, subject: str, load: Load, what: str) -> float | None:
        return self.samples.get((subject, load, what), [None])[-1]

    @property
    def subjects(self) -> list[str]:
        """In the order in which they are always told."""
        there = {subject for subject, _, _ in self.samples}
        return [key for key in _NAMES if key in there]


def judge(found: Findings) -> list[Figure]:
    """What is wanted of our tunnel, as far as that was measured; what others are not at hand for is left out."""
    figures = []
    for streams in (1, 4):
        for way in DIRECTIONS:
            load, words = Load("tcp", way, streams), f"{streams} stream{'s' * (streams > 1)} {way}"
            figures += _ratio(found, f"{words}: ours / upstream's of 2026", load, MBPS, "direct", "2026", 0.9)
            figures += _ratio(found, f"{words}: ours / wireguard-go", load, MBPS, "direct", "wireguard-go", 1.0)
            figures += _ratio(found, f"{words}: relayed by XDP / direct", load, MBPS, "relayed", "direct", 0.95)
            figures += _ratio(found, f"{words}: relayed, ours / 2026's", load, MBPS, "relayed", "2026-relayed", 4.0)
    for way in DIRECTIONS:
        load = Load("tcp", way)
        figures += _ratio(found, f"CPU/GB {way}: ours / upstream's of 2026", load, CPU, "direct", "2026", at_most=1.1)
        figures += _ratio(found, f"CPU/GB {way}: ours / wireguard-go", load, CPU, "direct", "wireguard-go")
    for way in DIRECTIONS:
        load = Load("udp", way, UDP_BYTES[0])
        figures += _ratio(found, f"UDP 1200 B {way}: ours / 2026's", load, MBPS, "direct", "2026", 1.5)
        figures += _ratio(found, f"UDP 1200 B {way}: ours / wireguard-go", load, MBPS, "direct", "wireguard-go")
    figures += _ratio(found, "2 workers / 1: packets/s", CROWD, PPS, "crowd-2", "crowd-1", 1.5)
    figures += _ratio(found, "2 workers / 1: CPU per packet", CROWD, CPU_US, "crowd-2", "crowd-1", at_most=1.1)
    ours, bare = found.median("direct", IDLE, P50), found.median("veth", IDLE, P50)
    if ours is not None and bare is not None:
        figures.append(Figure("RTT idle, p50: added to plain veth", ours - bare, "ms", at_most=0.5))
    words = "RTT at half load, p99: ours / wireguard-go"
    return figures + _ratio(found, words, Load("loaded"), P99, "direct", "wireguard-go", at_most=1.5)


def as_tables(found: Findings) -> str:
    """All tables that have rows, each with its title."""
    throughput = [Load("tcp", "up", streams) for streams in TCP_STREAMS] + [Load("udp", "up", n) for n in UDP_BYTES]
    parts = (
        ("Mbit/s received, up · down (UDP: at most 0.1 % lost)", _pairs(found, throughput, MBPS)),
        ("Packets/s received, in thousands, up · down", _pairs(found, throughput, PPS, 1e3)),
        ("CPU seconds per GB (10⁹ bytes received), one stream of TCP, up · down", _costs(found)),
        ("Round trips in ms, p50 · p99", _round_trips(found)),
        ("A gateway flooded by many clients, sealed before", _crowds(found)),
    )
    return "\n".join(f"{title}:\n\n{text}\n" for title, text in parts if text)


def as_json(found: Findings, run: Run) -> dict[str, Any]:
    """Every figure, the rounds beside the median."""
    subjects: dict[str, Any] = {key: {"name": _NAMES[key], "loads": {}} for key in found.subjects}
    for (subject, load, what), values in found.samples.items():
        loads = subjects[subject]["loads"]
        name = load.name if load.kind in {"idle", "crowd"} else f"{load.name} {load.way}"
        loads.setdefault(name, {})[what] = {"median": statistics.median(values), "rounds": values}
    head = {"time": run.time, "commit": run.commit, "machine": run.machine, "terms": run.terms}
    return head | {"subjects": subjects, "problems": run.problems}


def draw(found: Findings, subtitle: str) -> str:
    """One SVG: a group of bars per load and direction, a bar per subject; the bare link is told in words."""
    bars = [
        Bar(_group(load), way, f"{mbps:,.0f} {_NAMES[key]}", mbps, _COLOURS[key])
        for load in (Load("tcp", "up", 1), Load("tcp", "up", 4), Load("tcp", "up", 8), Load("udp", "up", UDP_BYTES[0]))
        for way in DIRECTIONS
        for key in found.subjects
        if key != "veth" and (mbps := found.median(key, _towards(load, way), MBPS)) is not None
    ]
    body = [svg.text(24, 32, "The tunnel beside others, medians of one run", kind="large")]
    body.append(svg.text(24, 54, subtitle, "soft"))
    drawn, bottom = draw_bars(bars, "Mbit/s received", _LEFT, _RIGHT, _TOP)
    description = "Mbit/s received for each load and direction, through our tunnel and through others."
    return svg.document(_WIDTH, int(bottom + 24), "Throughput of the tunnel", description, [*body, *drawn])


def _ratio(
    found: Findings,
    text: str,
    load: Load,
    what: str,
    above: str,
    below: str,
    at_least: float | None = None,
    at_most: float | None = None,
) -> list[Figure]:
    numerator, denominator = found.median(above, load, what), found.median(below, load, what)
    if numerator is None or not denominator:
        return []
    return [Figure(text, numerator / denominator, at_least=at_least, at_most=at_most)]


def _pairs(found: Findings, loads: Sequence[Load], what: str, unit: float = 1.0) -> str:
    """A row per subject, a column per load, in each both directions."""
    shown = [load for load in loads if any(key[1:] == (load, what) for key in found.samples)]
    rows = [
        [
            _NAMES[key],
            *(_both([found.median(key, _towards(load, way), what) for way in DIRECTIONS], unit) for load in shown),
        ]
        for key in _those_of(found, shown)
    ]
    return table(["", *(load.name for load in shown)], rows) if shown else ""


def _costs(found: Findings) -> str:
    names = {**{f"{CPU} {role}": role for role in ENDS}, CPU: "both ends"}
    rows = []
    for key in found.subjects:
        pairs = [[found.median(key, Load("tcp", way), what) for way in DIRECTIONS] for what in names]
        if any(value is not None for pair in pairs for value in pair):
            rows.append([_NAMES[key], *(_both(pair, 1.0, 1) for pair in pairs)])
    return table(["", *names.values()], rows)


def _round_trips(found: Findings) -> str:
    loads = {IDLE: "idle", Load("loaded", "up"): "half load up", Load("loaded", "down"): "half load down"}
    shown = [load for load in loads if any(key[1] == load for key in found.samples)]
    rows = [
        [_NAMES[key], *(_both([found.median(key, load, what) for what in (P50, P99)], 1.0, 2) for load in shown)]
        for key in _those_of(found, shown)
    ]
    return table(["", *(loads[load] for load in shown)], rows) if shown else ""


def _crowds(found: Findings) -> str:
    names = {MBPS: "Mbit/s received", PPS: "packets/s", CPU_US: "gateway's CPU, µs per packet"}
    rows = []
    for key in found.subjects:
        values = [found.median(key, CROWD, what) for what in names]
        shown = [f"{value:,.{places}f}" for value, places in zip(values, (0, 0, 2), strict=True) if value is not None]
        if shown:
            rows.append([_NAMES[key], *shown])
    return table(["", *names.values()], rows)


def _both(values: Sequence[float | None], unit: float, places: int | None = None) -> str:
    """Two numbers in one cell; small ones with a decimal."""

    def one(value: float | None) -> str:
        if value is None:
            return _NONE
        shown = value / unit
        digits = (0 if shown >= 100 or unit == 1.0 else 1) if places is None else places
        return f"{shown:,.{digits}f}"

    return " · ".join(map(one, values))


def _those_of(found: Findings, loads: Sequence[Load]) -> list[str]:
    """The subjects of which one of these was measured, in either direction."""
    wanted = {(load.kind, load.size) for load in loads}
    there = {subject for subject, load, _ in found.samples if (load.kind, load.size) in wanted}
    return [key for key in found.subjects if key in there]


def _towards(load: Load, way: Direction) -> Load:
    return Load(load.kind, way, load.size)


def _group(load: Load) -> str:
    if load.kind == "udp":
        return f"UDP, {load.size} B"
    return f"TCP, {load.size} stream{'s' * (load.size > 1)}"
