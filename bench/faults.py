"""``postern bench faults``: how long nothing comes back when a part of the stack dies, or its client moves.

A ping 20 times a second goes through the relayed path, both ends behind symmetric NATs; where one of two gateways dies,
a program fetches a page by one connection after another instead. Each fault finds the stack whole; the figure is the
longest silence between two answers, the interval of 50 ms included, the worst of the rounds.
With ``--peers`` upstream's client, gateway and relay go through the same. A missed bound of ours is exit code 1.
"""

import json
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from bench.faults_stage import FAULTS, measure
from bench.figures import Figure, as_json, as_markdown, unmet
from bench.peers import read_directory, unpack
from connectivity.errors import FatalError, chain
from connectivity.settings import SettingsReader, integer, one_of
from lab.errors import LabError
from lab.machine import check_machine, leave_in_order
from lab.report import Progress
from lab.stack import Maker, Parts


@dataclass(frozen=True, slots=True)
class FaultSettings:
    """The benchmark's flags."""

    only: str | None
    rounds: int
    json: Path | None
    peers: Path | None


def run(arguments: list[str]) -> int:
    """Break things, print, and judge.

    Raises:
        FatalError: a bound was missed, or something could not be measured.
    """
    settings = read_settings(arguments)
    check_machine("the benchmark")
    leave_in_order()
    figures, problems = _break_all(settings, Parts())
    print(as_markdown(figures))
    document = as_json(figures, problems)
    if settings.peers is not None:
        with tempfile.TemporaryDirectory() as scratch:
            found, missing = _break_all(settings, _upstream(unpack(settings.peers, Path(scratch))))
        theirs = [replace(one, at_most=None) for one in found]
        print("\nupstream's client, gateway and relay\n", as_markdown(theirs), sep="\n")
        document["upstream"] = as_json(theirs, missing)
    if settings.json is not None:
        settings.json.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    problems += unmet(figures)
    if problems:
        raise FatalError("; ".join(problems))
    return 0


def read_settings(arguments: list[str]) -> FaultSettings:
    """The flags, all problems at once."""
    reader = SettingsReader("bench faults", arguments)
    settings = FaultSettings(
        only=reader.optional(None, "--only", one_of(*FAULTS), None, "one of the faults"),
        rounds=reader.optional(None, "--rounds", integer(1, 20), 3, "how often each is done"),
        json=reader.optional(None, "--json", Path, None, "file for the figures"),
        peers=read_directory(reader),
    )
    reader.finish()
    return settings


def _upstream(programs: Mapping[str, Path]) -> Parts:
    return Parts(Maker.UPSTREAM, Maker.UPSTREAM, Maker.UPSTREAM, programs)


def _break_all(settings: FaultSettings, parts: Parts) -> tuple[list[Figure], list[str]]:
    progress, figures, problems = Progress(), [], []
    for name, fault in FAULTS.items():
        if settings.only not in {None, name}:
            continue
        progress.say(name)
        try:
            silences = measure(fault, parts, settings.rounds)
        except LabError as error:  # the others are still worth measuring
            problems.append(f"{name}: {chain(error)}")
            print(f"          {problems[-1]}", file=sys.stderr, flush=True)
            continue
        print(f"          {', '.join(f'{silence:.0f} ms' for silence in silences)}", file=sys.stderr, flush=True)
        figures.append(Figure(fault.text, max(silences), "ms", at_most=fault.at_most))
    return figures, problems
