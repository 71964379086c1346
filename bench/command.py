"""``postern bench``: TCP through whole stacks, ours and upstream's, in turn on one machine.

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

from bench.peers import unpack
from connectivity.settings import SettingsReader, integer
from lab import measure
from lab.plan import LabSettings, Nat, Underlay
from lab.stack import Maker, Parts, Stack
from lab.topology import Lab

OURS, UPSTREAM = Maker.OURS, Maker.UPSTREAM
DIRECT: Final = LabSettings(underlay=Underlay.IPV4)
RELAYED: Final = LabSettings(Nat.SYMMETRIC, Nat.SYMMETRIC, Underlay.IPV4)


@dataclass(frozen=True, slots=True)
class Variant:
    """One stack in one network."""

    name: str
    network: LabSettings
    ends: Maker
    relay: Maker
    ebpf: bool = True


VARIANTS: Final = (
    Variant("direct, upstream's ends", DIRECT, UPSTREAM, OURS),
    Variant("direct, our ends", DIRECT, OURS, OURS),
    Variant("relayed, upstream's ends and relay", RELAYED, UPSTREAM, UPSTREAM),
    Variant("relayed, our ends, upstream's relay", RELAYED, OURS, UPSTREAM),
    Variant("relayed, our ends, our relay in Python", RELAYED, OURS, OURS, ebpf=False),
    Variant("relayed, our ends, our relay by XDP", RELAYED, OURS, OURS),
)
# (what, numerator, denominator, what it should reach)
RATIOS: Final = (
    ("direct: ours / upstream's", 1, 0, 1.0),
    ("our ends: XDP relay / upstream's relay", 5, 3, 4.0),
    ("our ends: XDP relay / direct", 5, 1, 0.7),
    ("our ends: Python relay / upstream's relay", 4, 3, None),
)


@dataclass(frozen=True, slots=True)
class BenchSettings:
    """The benchmark's flags."""

    peers: Path | None
    rounds: int
    seconds: int


def run(arguments: list[str]) -> int:
    """Measure and print; always 0 once it could measure, for a benchmark is no test."""
    reader = SettingsReader("bench", arguments)
    settings = BenchSettings(
        peers=reader.optional("POSTERN_TEST_PEERS", "--peers", Path, None, "directory with upstream's programs"),
        rounds=reader.optional(None, "--rounds", integer(1, 100), 3, "how often each variant runs"),
        seconds=reader.optional(None, "--seconds", integer(1, 600), 5, "length of each transfer"),
    )
    reader.finish()
    with tempfile.TemporaryDirectory() as scratch:
        programs = {} if settings.peers is None else unpack(settings.peers, Path(scratch))
        samples = _measure(settings, programs)
    _report(samples)
    return 0


def _measure(settings: BenchSettings, programs: Mapping[str, Path]) -> dict[str, list[tuple[float, float]]]:
    variants = [variant for variant in VARIANTS if programs or UPSTREAM not in {variant.ends, variant.relay}]
    samples: dict[str, list[tuple[float, float]]] = {variant.name: [] for variant in variants}
    for round_number in range(settings.rounds):
        for variant in variants:
            with Lab(variant.network) as lab:
                stack = Stack(lab, Parts(variant.ends, variant.ends, variant.relay, programs), ebpf=variant.ebpf)
                stack.start()
                measure.first_answer_ms(lab)
                up = measure.tcp_mbps(lab, "up", settings.seconds)
                down = measure.tcp_mbps(lab, "down", settings.seconds)
            samples[variant.name].append((up, down))
            print(f"round {round_number + 1}: {variant.name}: {up:,.0f} up, {down:,.0f} down Mbit/s", file=sys.stderr)
    return samples


def _report(samples: Mapping[str, list[tuple[float, float]]]) -> None:
    print(f"{'TCP, one stream, Mbit/s (median)':44} {'up':>7} {'down':>7}")
    medians: dict[str, tuple[float, float]] = {}
    for name, pairs in samples.items():
        up, down = (statistics.median(pair[way] for pair in pairs) for way in (0, 1))
        medians[name] = up, down
        print(f"{name:44} {up:7,.0f} {down:7,.0f}")
    print(f"\n{'ratio of medians':44} {'up':>7} {'down':>7} {'wanted':>7}")
    for text, above, below, wanted in RATIOS:
        numerator, denominator = medians.get(VARIANTS[above].name), medians.get(VARIANTS[below].name)
        if numerator is not None and denominator is not None:
            up, down = (numerator[way] / denominator[way] for way in (0, 1))
            print(f"{text:44} {up:7.2f} {down:7.2f} {'' if wanted is None else f'{wanted:.1f}':>7}")
