"""``postern bench compare``: TCP through whole stacks, ours and upstream's, in turn on one machine.

Every round builds a fresh lab per variant and runs iperf3 both ways; rounds interleave the variants, so that a machine
that slows down slows all of them. What counts are the ratios of medians at the end, not the single numbers.
"""

import statistics
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from bench.peers import read_directory, unpack
from bench.variants import Variant, in_turn, possible, running
from connectivity.settings import SettingsReader, integer
from lab import measure
from lab.machine import check_machine, leave_in_order
from lab.stack import Maker

OURS, UPSTREAM = Maker.OURS, Maker.UPSTREAM
VARIANTS: Final = (
    Variant("direct", UPSTREAM),
    Variant("direct"),
    Variant("relayed", UPSTREAM, UPSTREAM),
    Variant("relayed", OURS, UPSTREAM),
    Variant("relayed", ebpf=False),
    Variant("relayed"),
)
# (what, numerator, denominator, what it should reach)
RATIOS: Final = (
    ("direct: ours / upstream's", 1, 0, 1.0),
    ("our ends: XDP relay / upstream's relay", 5, 3, 4.0),
    ("our ends: XDP relay / direct", 5, 1, 0.7),
    ("our ends: Python relay / upstream's relay", 4, 3, None),
)


@dataclass(frozen=True, slots=True)
class CompareSettings:
    """The comparison's flags."""

    peers: Path | None
    rounds: int
    seconds: int


def run(arguments: list[str]) -> int:
    """Measure and print; always 0 once it could measure, for a comparison is no test."""
    reader = SettingsReader("bench compare", arguments)
    settings = CompareSettings(
        peers=read_directory(reader),
        rounds=reader.optional(None, "--rounds", integer(1, 100), 3, "how often each variant runs"),
        seconds=reader.optional(None, "--seconds", integer(1, 600), 5, "length of each transfer"),
    )
    reader.finish()
    check_machine("a benchmark")
    leave_in_order()
    with tempfile.TemporaryDirectory() as scratch:
        programs = {} if settings.peers is None else unpack(settings.peers, Path(scratch))
        variants = possible(VARIANTS, programs)
        samples = in_turn(variants, settings.rounds, lambda variant: _once(variant, programs, settings.seconds))
    _report(samples)
    return 0


def _once(variant: Variant, programs: Mapping[str, Path], seconds: int) -> tuple[float, float]:
    with running(variant, programs) as stack:
        up = measure.tcp_mbps(stack.lab, "up", seconds)
        down = measure.tcp_mbps(stack.lab, "down", seconds)
    print(f"{variant.name}: {up:,.0f} up, {down:,.0f} down Mbit/s", file=sys.stderr)
    return up, down


def _report(samples: Mapping[Variant, list[tuple[float, float]]]) -> None:
    print(f"{'TCP, one stream, Mbit/s (median)':44} {'up':>7} {'down':>7}")
    medians: dict[Variant, tuple[float, float]] = {}
    for variant, pairs in samples.items():
        up, down = (statistics.median(pair[way] for pair in pairs) for way in (0, 1))
        medians[variant] = up, down
        print(f"{variant.name:44} {up:7,.0f} {down:7,.0f}")
    print(f"\n{'ratio of medians':44} {'up':>7} {'down':>7} {'wanted':>7}")
    for text, above, below, wanted in RATIOS:
        numerator, denominator = medians.get(VARIANTS[above]), medians.get(VARIANTS[below])
        if numerator is not None and denominator is not None:
            up, down = (numerator[way] / denominator[way] for way in (0, 1))
            print(f"{text:44} {up:7.2f} {down:7.2f} {'' if wanted is None else f'{wanted:.1f}':>7}")
