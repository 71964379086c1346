"""The history of runs: a file of JSON lines, one object a run, appended in one write and never rewritten."""

import json
import os
import platform
import subprocess
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from bench.quiet import QUIET_AT_MOST
from bench.results import Cell, ratios
from connectivity.errors import FatalError

FORMAT: Final = 1
_CHECKOUT: Final = Path(__file__).resolve().parent.parent


@dataclass(frozen=True, slots=True)
class Run:
    """One run; ``time`` is ISO 8601 in UTC, ``commit`` empty where there is no checkout."""

    time: str
    commit: str
    cells: list[Cell]
    problems: list[str] = field(default_factory=list)
    machine: dict[str, Any] = field(default_factory=dict)
    terms: dict[str, Any] = field(default_factory=dict)


def describe_run(cells: Sequence[Cell], problems: Sequence[str], terms: dict[str, Any], busy_before: float) -> Run:
    """This run, here and now; before it others used that share of the processors."""
    return Run(
        time=datetime.now(UTC).isoformat(timespec="seconds"),
        commit=_commit(),
        cells=list(cells),
        problems=list(problems),
        machine={
            "processors": len(os.sched_getaffinity(0)),
            "kernel": platform.release(),
            "python": platform.python_version(),
            "busy_before": busy_before,
        },
        terms=terms,
    )


def heading(run: Run) -> str:
    """When, of what, where and how often it was measured, as far as the run says."""
    words = [f"{run.time[:16].replace('T', ' ')} UTC", run.commit]
    if "processors" in run.machine:
        words.append(f"{run.machine['processors']} processors")
    if "rounds" in run.terms:
        words.append(f"median of {run.terms['rounds']}")
    busy = run.machine.get("busy_before")
    if isinstance(busy, int | float):  # earlier runs do not say
        words.append("quiet machine" if busy <= QUIET_AT_MOST else f"busy machine (others used {busy:.0%} before)")
    return " · ".join(filter(None, words))


def append(path: Path, run: Run) -> None:
    """Add a run to the file, which is made if need be."""
    content = {"format": FORMAT, **asdict(run), "ratios": [asdict(ratio) for ratio in ratios(run.cells)]}
    path.parent.mkdir(parents=True, exist_ok=True)
    line = json.dumps(content, ensure_ascii=False) + "\n"
    with path.open("ab") as file:
        file.write(line.encode())


def read(path: Path) -> list[Run]:
    """All runs, the oldest first; no file is no history. Lines of a later format are passed over.

    Raises:
        FatalError: a line is not one of ours; it says which.
    """
    if not path.exists():
        return []
    runs = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if not line.strip():
            continue
        try:
            content = json.loads(line)
            if content["format"] == FORMAT:
                runs.append(_run(content))
        except (ValueError, KeyError, TypeError) as error:
            raise FatalError(f"{path}: line {number} is no run of the benchmark") from error
    return runs


def _run(content: dict[str, Any]) -> Run:
    cells = [Cell(**cell) for cell in content["cells"]]
    if not all(isinstance(cell.mbps, int | float) for cell in cells):
        raise TypeError("a throughput is no number")
    time = str(datetime.fromisoformat(content["time"]).isoformat())
    problems = [str(problem) for problem in content["problems"]]
    return Run(time, str(content["commit"]), cells, problems, content["machine"], content["terms"])


def _commit() -> str:
    command = ["git", "-C", str(_CHECKOUT), "rev-parse", "--short", "HEAD"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=5).stdout.strip()
    except (OSError, subprocess.SubprocessError):  # an installed package, or no git: the time has to do
        return ""
