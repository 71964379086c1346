"""``postern bench tunnel``: our tunnel beside plain veth, wireguard-go and upstream's programs, by turns.

All subjects stand at once; each load of each round goes through one after the other. What counts are the ratios of
medians, told beside what is wanted of them and never judged by the exit code: machines differ. Figures are written into
documents only where the machine was left alone.
"""

import json
import shutil
import sys
import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from bench import history
from bench.documents import Place
from bench.figures import as_json as figures_as_json
from bench.figures import as_markdown
from bench.limits import raised_limits
from bench.measurement import DIRECTIONS, iperf3_socket_bytes
from bench.peers import present, read_directory, unpack
from bench.tunnel_measure import MBPS, TCP_STREAMS, UDP_BYTES, Load, Terms, measure_load
from bench.tunnel_report import CROWD, Findings, as_json, as_tables, draw, judge
from bench.tunnel_stage import SUBJECTS, Programs, Standing, Subject, standing
from connectivity.errors import FatalError, chain
from connectivity.printable import printable
from connectivity.settings import SettingsReader, integer
from lab.errors import LabError
from lab.machine import check_machine, leave_in_order
from lab.report import Progress

# name for --loads -> what is measured
LOADS: Final[dict[str, tuple[Load, ...]]] = {
    **{f"tcp{n}": tuple(Load("tcp", way, n) for way in DIRECTIONS) for n in TCP_STREAMS},
    **{f"udp{n}": tuple(Load("udp", way, n) for way in DIRECTIONS) for n in UDP_BYTES},
    # Half of what one stream takes must be known first.
    "rtt": (Load("tcp", "up"), Load("idle"), Load("loaded", "up")),
    "crowd": (CROWD,),
}
_DEFAULT_LOADS: Final = ("tcp1", "tcp4", "udp1200", "rtt", "crowd")
_PLACE: Final = Place("tunnel", "tunnel.svg")


@dataclass(frozen=True, slots=True)
class TunnelSettings:
    """The benchmark's flags."""

    peers: Path | None
    peers_2026: Path | None
    wireguard_go: str | None
    only: tuple[str, ...]
    loads: tuple[str, ...]
    rounds: int
    seconds: int
    json: Path | None
    svg: Path | None
    docs: Path | None


def run(arguments: list[str]) -> int:
    """Measure, print, write.

    Raises:
        FatalError: nothing could be measured, one of ours failed, or figures were to be kept of a busy machine.
    """
    settings = read_settings(arguments)
    check_machine("the benchmark")
    leave_in_order()
    busy = _PLACE.look_around(settings.docs)
    found, problems = _measure(settings)
    if not found.samples:
        raise FatalError("; ".join(problems) or "nothing was measured")
    terms = {"rounds": settings.rounds, "seconds": settings.seconds}
    _tell(settings, found, history.describe_run([], problems, terms, busy))
    others = tuple(subject.name for subject in SUBJECTS if subject.peers or subject.variant is None)
    ours = [problem for problem in problems if not problem.startswith(others)]
    if ours:
        raise FatalError("; ".join(ours))
    return 0


def read_settings(arguments: list[str]) -> TunnelSettings:
    """The flags, all problems at once."""
    reader = SettingsReader("bench tunnel", arguments)
    keys = tuple(subject.key for subject in SUBJECTS)
    default = tuple(subject.key for subject in SUBJECTS if subject.is_default)
    everything = reader.switch(None, "--all", "all subjects under all loads; else those that something is wanted of")
    settings = TunnelSettings(
        peers=read_directory(reader),
        peers_2026=reader.optional(None, "--peers-2026", Path, None, "directory with upstream's programs of 2026"),
        wireguard_go=reader.optional(
            None, "--wireguard-go", _program, shutil.which("wireguard-go"), "its program, if not the one in PATH"
        ),
        only=reader.optional(
            None, "--only", several(*keys), keys if everything else default, f"some of: {', '.join(keys)}"
        ),
        loads=reader.optional(
            None,
            "--loads",
            several(*LOADS),
            tuple(LOADS) if everything else _DEFAULT_LOADS,
            f"some of: {', '.join(LOADS)}",
        ),
        rounds=reader.optional(None, "--rounds", integer(1, 100), 5, "of which the medians are told"),
        seconds=reader.optional(None, "--seconds", integer(1, 600), 2, "length of each stream of TCP"),
        json=reader.optional(None, "--json", Path, None, "file for all figures"),
        svg=reader.optional(None, "--svg", Path, None, "file for a picture"),
        docs=_PLACE.read_directory(reader),
    )
    reader.finish()
    return settings


def several(*choices: str) -> Callable[[str], tuple[str, ...]]:
    """A parser for some of a few words, with commas between them."""

    def parse(text: str) -> tuple[str, ...]:
        words = tuple(text.split(","))
        if not set(words) <= set(choices):
            raise ValueError(f"expected some of {', '.join(choices)}, with commas between them")
        return words

    return parse


def _program(text: str) -> str | None:
    found = shutil.which(text)
    if found is None:
        raise ValueError("expected the path of a program")
    return str(Path(found).resolve())


def _measure(settings: TunnelSettings) -> tuple[Findings, list[str]]:
    found, problems = Findings(), list[str]()
    with ExitStack() as stack:
        limits = stack.enter_context(raised_limits())
        terms = Terms(settings.seconds, iperf3_socket_bytes(limits))
        programs = _programs(settings, Path(stack.enter_context(tempfile.TemporaryDirectory())))
        chosen = [one for one in SUBJECTS if one.key in settings.only and programs.allow(one)]
        progress = Progress()
        there = _stand(chosen, programs, stack, progress, problems)
        loads = list(dict.fromkeys(load for name in settings.loads for load in LOADS[name]))
        for number in range(settings.rounds):
            progress.say(f"round {number + 1} of {settings.rounds}")
            for load in loads:
                first = number % max(1, len(there))
                for one in (*there[first:], *there[:first]):
                    if load.suits(one.subject) and not _measured(one, load, terms, found, problems):
                        there.remove(one)
        problems += [problem for one in there for problem in one.problems()]
    return found, problems


def _programs(settings: TunnelSettings, scratch: Path) -> Programs:
    upstream = {"": dict[str, Path]()}
    if settings.peers is not None:
        upstream["2025"] = unpack(settings.peers, scratch)
    if settings.peers_2026 is not None:
        upstream["2026"] = present(settings.peers_2026, scratch)
    return Programs(upstream, settings.wireguard_go)


def _stand(
    chosen: Sequence[Subject], programs: Programs, stack: ExitStack, progress: Progress, problems: list[str]
) -> list[Standing]:
    there = []
    for subject in chosen:
        progress.say(f"start {subject.name}")
        try:
            there.append(stack.enter_context(standing(subject, programs)))
        except LabError as error:  # the others are still worth measuring
            _note(problems, subject, error)
    return there


def _measured(one: Standing, load: Load, terms: Terms, found: Findings, problems: list[str]) -> bool:
    key = one.subject.key
    try:
        found.add(key, load, measure_load(one, load, terms, found.last(key, Load("tcp", load.way), MBPS)))
    except LabError as error:
        _note(problems, one.subject, error)
        return False
    return True


def _note(problems: list[str], subject: Subject, error: LabError) -> None:
    problems.append(f"{subject.name}: {chain(error)}")
    print(f"          {printable(problems[-1])}", file=sys.stderr, flush=True)


def _tell(settings: TunnelSettings, found: Findings, this: history.Run) -> None:
    figures = judge(found)
    heading = history.heading(this)
    text = "\n".join([heading, "", as_tables(found), as_markdown(figures), ""])
    print(text)
    picture = draw(found, heading)
    if settings.json is not None:
        document = as_json(found, this) | {"wanted": figures_as_json(figures, this.problems)}
        settings.json.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    if settings.svg is not None:
        settings.svg.write_text(picture, encoding="utf-8")
    if settings.docs is not None:
        _PLACE.write(settings.docs, text, picture)
