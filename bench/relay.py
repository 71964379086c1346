"""``postern bench relay``: coturn, our relay in user space, and our relay by XDP, in turn on one stage.

Speeds are told beside what is wanted of them and never judged by the exit code: machines differ, and whoever else uses
this one is in every number. What may be compared are numbers of one run.
"""

import json
import os
import resource
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from bench.limits import raised_limits
from bench.relay_measure import Instruments, Outcome, Terms, measure
from bench.relay_report import as_json, as_markdown, summarize
from bench.relay_stage import RelayStage, Variant, find_turnserver
from connectivity.errors import FatalError, chain
from connectivity.printable import printable
from connectivity.settings import SettingsReader, integer, one_of
from ebpf import program_time
from ebpf.settings import OffloadError
from lab.errors import LabError
from lab.machine import check_machine, leave_in_order
from lab.report import Progress

# name for --only -> the variants; without it all
CHOICES: Final = {
    "coturn": (Variant.COTURN,),
    "user-space": (Variant.USER_SPACE,),
    "xdp": (Variant.NATIVE, Variant.GENERIC),
}
_DEFAULT_RATES: Final = (50_000, 100_000, 200_000, 300_000, 400_000)
_DESCRIPTORS_BESIDES: Final = 500


@dataclass(frozen=True, slots=True)
class RelaySettings:
    """The benchmark's flags."""

    turnserver: Path | None
    rounds: int
    only: str | None
    json: Path | None
    priority: int
    terms: Terms


def run(arguments: list[str]) -> int:
    """Measure and print.

    Raises:
        FatalError: nothing could be measured, or one of ours failed.
    """
    settings = read_settings(arguments)
    check_machine("the benchmark")
    leave_in_order()
    os.nice(-settings.priority)
    _allow_descriptors(settings.terms.allocations)
    turnserver = find_turnserver(settings.turnserver)
    with raised_limits():
        outcomes, problems = _measure(_variants(settings.only, turnserver), turnserver, settings)
    found = summarize(outcomes)
    print(as_markdown(found))
    if settings.json is not None:
        settings.json.write_text(json.dumps(as_json(found), indent=1) + "\n", encoding="utf-8")
    if problems:
        raise FatalError("; ".join(dict.fromkeys(problems)))
    return 0


def read_settings(arguments: list[str]) -> RelaySettings:
    """The flags, all problems at once."""
    reader = SettingsReader("bench relay", arguments)
    settings = RelaySettings(
        turnserver=reader.optional(None, "--turnserver", Path, None, "coturn's program, if not the one in PATH"),
        rounds=reader.optional(None, "--rounds", integer(1, 100), 1, "how often each relay runs"),
        only=reader.optional(None, "--only", one_of(*CHOICES), None, "some of the relays"),
        json=reader.optional(None, "--json", Path, None, "file for the figures"),
        priority=reader.optional(None, "--priority", integer(0, 20), 0, "of generator and relays: a nice value of -N"),
        terms=Terms(
            seconds=reader.optional(None, "--milliseconds", integer(100, 60_000), 1500, "length of each load") / 1000,
            rates=reader.optional(
                None, "--rates", _rates, _DEFAULT_RATES, "packets/s to offer to what runs as a process"
            ),
            allocations=reader.optional(None, "--allocations", integer(1, 16_000), 10_000, "idle ones"),
        ),
    )
    reader.finish()
    return settings


def _rates(text: str) -> tuple[int, ...]:
    rate = integer(1000, 10_000_000)
    try:
        return tuple(rate(part) for part in text.split(","))
    except ValueError:
        raise ValueError("expected packets/s such as 50000,100000") from None


def _variants(only: str | None, turnserver: Path | None) -> list[Variant]:
    chosen = [variant for name, variants in CHOICES.items() if only in {None, name} for variant in variants]
    return [variant for variant in chosen if variant is not Variant.COTURN or turnserver is not None]


def _measure(
    variants: Sequence[Variant], turnserver: Path | None, settings: RelaySettings
) -> tuple[list[Outcome], list[str]]:
    progress, outcomes, problems = Progress(), [], []
    with RelayStage() as stage, program_time.counting():
        instruments = Instruments(stage)
        try:
            for _ in range(settings.rounds):
                for variant in variants:
                    progress.say(variant.value)
                    try:
                        outcomes.append(measure(instruments, variant, turnserver, settings.terms))
                    except (LabError, OffloadError, OSError) as error:
                        # The others are still worth measuring.
                        problems.append(f"{variant}: {chain(error)}")
                        print(f"          {printable(problems[-1])}", file=sys.stderr, flush=True)
        finally:
            instruments.close()
    return outcomes, problems


def _allow_descriptors(allocations: int) -> None:
    """A socket per client.

    Raises:
        FatalError: so many are not allowed.
    """
    wanted = allocations + _DESCRIPTORS_BESIDES
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < wanted:
        if wanted > hard:
            raise FatalError(f"{allocations} allocations need {wanted} file descriptors, and only {hard} are allowed")
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
