"""What the relays' benchmark has found: medians over the rounds, ratios beside what is wanted of them, tables."""

import dataclasses
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any, Final, Literal, TypeVar

from bench.relay_measure import LOADS, PROGRAM_LOADS, WAYS, Allocations, Figure, Latency, Load, Outcome, ProgramLoad
from bench.relay_program import ProgramTimes
from bench.relay_stage import Variant
from bench.report import table
from connectivity.io.table import counted
from ebpf.oracle import ChecksumKind

T = TypeVar("T", Figure, Latency, Allocations, ProgramTimes)
COTURN, USER_SPACE, NATIVE = Variant.COTURN, Variant.USER_SPACE, Variant.NATIVE
_NONE: Final = "-"
_LARGEST_RSS_BYTES: Final = 8 << 10
_AT_WORK: Final = 0.7  # of a processor: less, and the relay waited for one, or for packets
# Less than that is no difference on a machine that does other things too.
_AS_FAST: Final = 0.9


@dataclass(frozen=True, slots=True)
class Wish:
    """One number that is wanted to be at least, or at most, another."""

    text: str
    measured: float
    bound: Literal["≥", "≤"]
    wanted: float
    note: str = ""

    @property
    def is_met(self) -> bool:
        return self.measured >= self.wanted if self.bound == "≥" else self.measured <= self.wanted


def summarize(outcomes: Iterable[Outcome]) -> list[Outcome]:
    """One outcome per variant: the median of each number."""
    groups: dict[Variant, list[Outcome]] = {}
    for outcome in outcomes:
        groups.setdefault(outcome.variant, []).append(outcome)
    return [
        Outcome(
            variant,
            {load: _median([one.figures[load] for one in group]) for load in group[0].figures},
            {way: _median([one.latencies[way] for one in group]) for way in group[0].latencies},
            _median([one.allocations for one in group]),
            {load: _median([one.programs[load] for one in group]) for load in group[0].programs},
        )
        for variant, group in groups.items()
    ]


def wishes(outcomes: Sequence[Outcome]) -> list[Wish]:
    """All that can be said of what was measured."""
    found = {outcome.variant: outcome for outcome in outcomes}
    return [
        *(wish for load in LOADS for wish in _forwarding_wishes(load, found)),
        *(
            Wish(f"XDP native, program: ours / bare, {_program_words(load)}", times.ratio, "≤", 2)
            for load, times in (found[NATIVE].programs.items() if NATIVE in found else ())
        ),
        *_allocation_wishes(found),
    ]


def as_json(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """The same as the tables, for programs."""
    return {
        "figures": [
            {"variant": outcome.variant.value, **load._asdict(), **dataclasses.asdict(figure)}
            for outcome in outcomes
            for load, figure in outcome.figures.items()
        ],
        "latencies": [
            {"variant": outcome.variant.value, "way": way, **dataclasses.asdict(latency)}
            for outcome in outcomes
            for way, latency in outcome.latencies.items()
        ],
        "allocations": [
            {"variant": outcome.variant.value, **dataclasses.asdict(outcome.allocations)} for outcome in outcomes
        ],
        "programs": [
            {"variant": outcome.variant.value, **load._asdict(), "checksum": kind.value, **dataclasses.asdict(times)}
            for outcome in outcomes
            for (load, kind), times in outcome.programs.items()
        ],
        "wishes": [{**dataclasses.asdict(wish), "met": wish.is_met} for wish in wishes(outcomes)],
    }


def as_markdown(outcomes: Sequence[Outcome]) -> str:
    """All tables."""
    parts = [
        ("Forwarding, each relay at the pace at which it delivers most", _figure_table(outcomes)),
        ("Program times by turns with a bare program, ns", _program_table(outcomes)),
        ("Added latency of single datagrams, µs, p50 · p99", _latency_table(outcomes)),
        ("Allocations", _allocation_table(outcomes)),
        ("Measured and wanted", _wish_table(wishes(outcomes))),
    ]
    return "\n".join(f"{title}:\n\n{text}\n" for title, text in parts if text)


def _median(group: Sequence[T]) -> T:
    names = [entry.name for entry in dataclasses.fields(group[0])]
    values = {name: median(getattr(one, name) for one in group) for name in names}
    if isinstance(group[0], Figure):
        values["is_generator_bound"] = values["is_generator_bound"] >= 0.5
    return type(group[0])(**values)


def _forwarding_wishes(load: Load, found: dict[Variant, Outcome]) -> list[Wish]:
    figures = {variant: outcome.figures[load] for variant, outcome in found.items()}
    coturn, ours, native = (figures.get(variant) for variant in (COTURN, USER_SPACE, NATIVE))
    wanted = []
    if coturn and ours and coturn.delivered_pps and (load.payload == 1280 or load.flows > 1):
        wanted += _faster("user space", ours, coturn, 2 if load.flows == 1 else 1, load)
    if coturn and native and coturn.delivered_pps and coturn.process_us:
        wanted += _faster("XDP native", native, coturn, 4, load)
        ratio = native.process_us / coturn.process_us
        wanted.append(Wish(f"XDP native, process: ours / coturn, {_words(load)}", ratio, "≤", 0.1))
        ratio = (native.process_us + native.kernel_us) / (coturn.process_us + coturn.kernel_us)
        wanted.append(Wish(f"XDP native, process and kernel: ours / coturn, {_words(load)}", ratio, "≤", 1 / 3))
    return wanted


def _faster(name: str, ours: Figure, coturn: Figure, wanted: float, load: Load) -> list[Wish]:
    """By the clock, and by the processors' time, which does not depend on who else uses them."""
    by_clock, by_processor = ours.delivered_pps / coturn.delivered_pps, ours.per_processor / coturn.per_processor
    return [
        Wish(f"{name}, packets/s: ours / coturn, {_words(load)}", by_clock, "≥", wanted, _limit(ours)),
        Wish(f"{name}, packets per processor's second: ours / coturn, {_words(load)}", by_processor, "≥", wanted),
    ]


def _allocation_wishes(found: dict[Variant, Outcome]) -> list[Wish]:
    wanted = []
    ours = found[USER_SPACE].allocations if USER_SPACE in found else None
    theirs = found[COTURN].allocations if COTURN in found else None
    if ours and theirs:
        wanted.append(Wish("allocations/s: ours / coturn", ours.per_second / theirs.per_second, "≥", 0.5))
    if ours:
        wanted.append(Wish("KB of RSS per idle allocation", ours.rss_bytes / 1024, "≤", _LARGEST_RSS_BYTES / 1024))
    for variant in (USER_SPACE, NATIVE):
        costs = found[variant].allocations if variant in found else None
        if costs:
            text = f"{variant}, packets/s: {costs.count:,.0f} allocations / few"
            wanted.append(Wish(text, costs.crowded, "≥", _AS_FAST))
    return wanted


def _figure_table(outcomes: Sequence[Outcome]) -> str:
    head = [
        "",
        "offered kpps",
        "delivered kpps",
        "lost",
        "process µs",
        "kernel µs",
        "program ns",
        "processors",
        "limited by",
    ]
    rows = [
        [
            f"{_words(load)}: {outcome.variant}",
            f"{figure.offered_pps / 1000:,.0f}",
            f"{figure.delivered_pps / 1000:,.1f}",
            f"{figure.loss:.1%}",
            f"{figure.process_us:.2f}",
            f"{figure.kernel_us:.2f}",
            f"{figure.program_ns:.0f}" if figure.program_ns else _NONE,
            f"{figure.busy:.2f}",
            _limiter(figure),
        ]
        for load in LOADS
        for outcome in outcomes
        if (figure := outcome.figures.get(load))
    ]
    return table(head, rows)


def _program_table(outcomes: Sequence[Outcome]) -> str:
    rows = [
        [_program_words(load), f"{times.ours_ns:.0f}", f"{times.bare_ns:.0f}", f"{times.ratio:.2f}"]
        for outcome in outcomes
        for load in PROGRAM_LOADS
        if (times := outcome.programs.get(load))
    ]
    return table(["", "ours", "bare", "ours / bare"], rows)


def _latency_table(outcomes: Sequence[Outcome]) -> str:
    rows = [
        [outcome.variant.value, *(f"{one.p50_us:.0f} · {one.p99_us:.0f}" for one in outcome.latencies.values())]
        for outcome in outcomes
    ]
    return table(["", *WAYS], rows)


def _allocation_table(outcomes: Sequence[Outcome]) -> str:
    head = [
        "",
        "number",
        "per second",
        "process µs each",
        "RSS, bytes each",
        "kernel, bytes each",
        "packets/s: many / few",
    ]
    rows = [
        [
            outcome.variant.value,
            f"{costs.count:,.0f}",
            f"{costs.per_second:,.0f}",
            f"{costs.process_us:,.0f}",
            f"{costs.rss_bytes:,.0f}",
            f"{costs.kernel_bytes:,.0f}",
            f"{costs.crowded:.2f}",
        ]
        for outcome in outcomes
        for costs in [outcome.allocations]
    ]
    return table(head, rows)


def _wish_table(found: Sequence[Wish]) -> str:
    rows = [
        [
            wish.text,
            f"{wish.measured:.2f}",
            f"{wish.bound} {wish.wanted:.2f}",
            "yes" if wish.is_met else "no",
            wish.note,
        ]
        for wish in found
    ]
    return table(["", "measured", "wanted", "met", ""], rows)


def _words(load: Load) -> str:
    flows = counted(load.flows, "flow")
    return f"{load.way}, {load.payload} B, {flows} by {load.burst}"


def _program_words(load: ProgramLoad) -> str:
    kind = load[1]
    return _words(load[0]) + ("" if kind is ChecksumKind.FULL else f", {kind.value} checksums")


def _limit(figure: Figure) -> str:
    by = _limiter(figure)
    return "" if by == "relay" else f"limited by the {by}"


def _limiter(figure: Figure) -> str:
    """Who could not do more: the generator, the relay, or neither, because others had the processors."""
    if figure.is_generator_bound:
        return "generator"
    return "relay" if figure.busy >= _AT_WORK else "machine"
