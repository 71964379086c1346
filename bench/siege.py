"""``postern bench siege``: floods of every listener, and whether others are served meanwhile.

Each flood is bounded in count and time and stays inside a lab's namespaces, forged addresses too. Ends with exit code 1
and one line that names each figure whose bound was missed.
"""

import json
import os
import resource
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from bench import siege_http, siege_portal, siege_relay, siege_tunnel
from bench.figures import Figure, as_json, as_markdown, unmet
from bench.siege_stage import Terms
from connectivity.errors import FatalError, chain
from connectivity.settings import SettingsReader, integer, one_of
from lab.errors import LabError
from lab.machine import check_machine, leave_in_order
from lab.report import Progress
from lab.stack import postern_command

# name for --only -> what is done and measured
FLOODS: Final[dict[str, Callable[[Terms], list[Figure]]]] = {
    "silent": siege_http.silent,
    "malformed": siege_http.malformed,
    "flows": siege_portal.flows,
    "unread": siege_portal.unread,
    "tokens": siege_portal.tokens,
    "initiations": siege_tunnel.initiations,
    "bindings": siege_relay.bindings,
    "allocates": siege_relay.allocates,
    "crowd": siege_relay.crowd,
}
_DESCRIPTORS: Final = 4096  # a socket per silent connection


@dataclass(frozen=True, slots=True)
class SiegeSettings:
    """The benchmark's flags."""

    only: str | None
    json: Path | None
    terms: Terms


def run(arguments: list[str]) -> int:
    """Besiege, print, and judge.

    Raises:
        FatalError: a bound was missed, or something could not be measured.
    """
    settings = read_settings(arguments)
    check_machine("the benchmark")
    leave_in_order()
    _allow_descriptors()
    figures, problems = _besiege(settings)
    print(as_markdown(figures))
    if settings.json is not None:
        settings.json.write_text(json.dumps(as_json(figures, problems), indent=1) + "\n", encoding="utf-8")
    problems += unmet(figures)
    if problems:
        raise FatalError("; ".join(problems))
    return 0


def read_settings(arguments: list[str]) -> SiegeSettings:
    """The flags, all problems at once."""
    reader = SettingsReader("bench siege", arguments)
    settings = SiegeSettings(
        only=reader.optional(None, "--only", one_of(*FLOODS), None, "one of the floods"),
        json=reader.optional(None, "--json", Path, None, "file for the figures"),
        terms=Terms(
            postern=reader.optional(
                None, "--programs", _program, postern_command(), "the postern of another checkout, to be besieged"
            ),
            seconds=reader.optional(None, "--seconds", integer(1, 30), 5, "length of a flood that has a pace"),
        ),
    )
    reader.finish()
    return settings


def _program(text: str) -> Path:
    found = Path(text).resolve()
    if not os.access(found, os.X_OK) or found.is_dir():
        raise ValueError("expected the path of a program such as ../before/.venv/bin/postern")
    return found


def _besiege(settings: SiegeSettings) -> tuple[list[Figure], list[str]]:
    progress, figures, problems = Progress(), [], []
    for name, flood in FLOODS.items():
        if settings.only not in {None, name}:
            continue
        progress.say(name)
        try:
            figures += flood(settings.terms)
        except LabError as error:
            # The others are still worth measuring.
            problems.append(f"{name}: {chain(error)}")
            print(f"          {problems[-1]}", file=sys.stderr, flush=True)
    return figures, problems


def _allow_descriptors() -> None:
    """Raises FatalError where too few are allowed."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < _DESCRIPTORS:
        raise FatalError(f"{_DESCRIPTORS} file descriptors are needed, and only {hard} are allowed")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, _DESCRIPTORS), hard))
