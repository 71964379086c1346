"""``postern bench stack``: TCP and UDP, both ways, direct and relayed, IPv4 and IPv6, through the whole stack.

Ends with exit code 1 and one line if a UDP socket of our stack lost anything by a full buffer, was not given the buffer
that it asked for, or if a path was not the one to be measured. Speeds are told and never judged: machines differ, so
plain veth in the same run is the unit, and upstream's programs are measured beside ours where they are at hand.
"""

import functools
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from bench import history
from bench.documents import Place
from bench.limits import raised_limits
from bench.measurement import Measurement, Outcome, Terms, measure_unit, measure_variant
from bench.peers import read_directory, unpack
from bench.picture import draw
from bench.report import as_document, as_markdown
from bench.results import FAMILIES, KINDS, ours, summarize, upstreams
from bench.variants import Variant, in_turn, possible
from connectivity.errors import FatalError, chain
from connectivity.io.buffers import RECEIVE_BUFFER_BYTES, SEND_BUFFER_BYTES
from connectivity.printable import printable
from connectivity.settings import SettingsReader, integer, one_of
from lab.errors import LabError
from lab.machine import check_machine, leave_in_order
from lab.report import Progress

# name for --only -> the variants that it stands for
CHOICES: Final = {
    f"{kind}-ipv{6 if ipv6 else 4}": (ours(kind, ipv6=ipv6), upstreams(kind, ipv6=ipv6))
    for ipv6 in FAMILIES
    for kind in KINDS
}
_PLACE: Final = Place("stack", "performance.svg")
_LARGEST_BUFFER: Final = (1 << 30) - 1


@dataclass(frozen=True, slots=True)
class StackSettings:
    """The benchmark's flags."""

    peers: Path | None
    rounds: int
    only: str | None
    history: Path | None
    svg: Path | None
    docs: Path | None
    terms: Terms


def run(arguments: list[str]) -> int:
    """Measure, print, keep and draw. 0: nothing was lost where nothing may be lost.

    Raises:
        FatalError: something was, or figures were to be kept of a busy machine; in one line.
    """
    settings = read_settings(arguments)
    check_machine("the benchmark")
    leave_in_order()
    busy = _PLACE.look_around(settings.docs)
    earlier = [] if settings.history is None else history.read(settings.history)
    with tempfile.TemporaryDirectory() as scratch, raised_limits() as limits:
        programs = {} if settings.peers is None else unpack(settings.peers, Path(scratch))
        measurements, problems = _measure(settings, programs, limits)
    terms = {"rounds": settings.rounds, "seconds": settings.terms.seconds, "udp_share": settings.terms.udp_share}
    _tell(settings, [*earlier, history.describe_run(summarize(measurements), problems, terms, busy)])
    if problems:
        raise FatalError("; ".join(problems))
    return 0


def read_settings(arguments: list[str]) -> StackSettings:
    """The flags, all problems at once."""
    reader = SettingsReader("bench stack", arguments)
    size = integer(1, _LARGEST_BUFFER)
    settings = StackSettings(
        peers=read_directory(reader),
        rounds=reader.optional(None, "--rounds", integer(1, 100), 1, "how often each variant runs"),
        only=reader.optional(None, "--only", one_of(*CHOICES), None, "one kind of path and its unit"),
        history=reader.optional(None, "--history", Path, None, "file of JSON lines to which this run is added"),
        svg=reader.optional(None, "--svg", Path, None, "file for a picture of this run and the history"),
        docs=_PLACE.read_directory(reader),
        terms=Terms(
            seconds=reader.optional(None, "--seconds", integer(1, 600), 5, "length of each stream"),
            udp_share=reader.optional(None, "--udp-share", integer(1, 100), 40, "paced UDP, in percent of TCP's rate"),
            overload=not reader.switch(None, "--no-overload", "leave out the overload at the end"),
            receive_buffer=reader.optional(
                None, "--receive-buffer", size, RECEIVE_BUFFER_BYTES, "of client's and gateway's UDP sockets, bytes"
            ),
            send_buffer=reader.optional(None, "--send-buffer", size, SEND_BUFFER_BYTES, "likewise"),
        ),
    )
    reader.finish()
    return settings


def _measure(
    settings: StackSettings, programs: Mapping[str, Path], limits: Mapping[str, int]
) -> tuple[list[Measurement], list[str]]:
    chosen = [pair for name, pair in CHOICES.items() if settings.only in {None, name}]
    units = [ours("veth", ipv6=ipv6) for ipv6 in FAMILIES if any(pair[0].ipv6 is ipv6 for pair in chosen)]
    variants = [*units, *possible([variant for pair in chosen for variant in pair], programs)]
    once = functools.partial(_once, programs=programs, terms=settings.terms.within(limits), progress=Progress())
    outcomes = [outcome for found in in_turn(variants, settings.rounds, once).values() for outcome in found]
    problems = [problem for outcome in outcomes for problem in outcome.problems]
    return [one for outcome in outcomes for one in outcome.measurements], list(dict.fromkeys(problems))


def _tell(settings: StackSettings, runs: Sequence[history.Run]) -> None:
    """Print the last run, keep and draw it with those before; documents get it alone, and none that failed."""
    this = runs[-1]
    heading = history.heading(this)
    print(heading, "", as_markdown(this.cells), sep="\n")
    if settings.history is not None:
        history.append(settings.history, this)
    if settings.svg is not None:
        settings.svg.write_text(draw(runs), encoding="utf-8")
    if settings.docs is not None and not this.problems:
        _PLACE.write(settings.docs, "\n\n".join([heading, as_document(this.cells)]), draw([this]))


def _once(variant: Variant, *, programs: Mapping[str, Path], terms: Terms, progress: Progress) -> Outcome:
    progress.say(variant.name)
    try:
        outcome = measure_unit(variant, terms) if variant.kind == "veth" else measure_variant(variant, programs, terms)
    except LabError as error:
        # The others are still worth measuring; what upstream's programs cannot do is no failure of ours.
        outcome = Outcome()
        (outcome.problems if variant.all_ours else outcome.notes).append(f"{variant.name}: {chain(error)}")
    for text in (*outcome.notes, *outcome.problems):
        print(f"          {printable(text)}", file=sys.stderr, flush=True)
    return outcome
