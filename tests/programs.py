"""What no package brings: upstream's programs and recordings of them, Helm, Kubernetes. Where it is, who had to skip.

They are no part of the project, so a test without them skips with its reason, on a developer's machine and under
``CI=true``; what was not tested for want of them is told in one line at the end.
"""

import os
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest

from bench.peers import PROGRAMS as PEER_PROGRAMS

#: Names a file to which each run of pytest adds its lines, for a command that runs it several times.
LINES_VARIABLE: Final = "POSTERN_TEST_LINES"
_CHECKOUT: Final = Path(__file__).resolve().parent.parent
_REASON: Final = "no programs: "


@dataclass(frozen=True, slots=True)
class Folder:
    """A folder of programs, plain or as ``.xz``: the environment variable that names it, and where it is without."""

    variable: str
    default: Path | None = None

    def path(self) -> Path | None:
        """None where nobody named one; ``none`` says so knowingly."""
        named = os.environ.get(self.variable, "")
        if named == "none":
            return None
        return Path(named) if named else self.default

    def require(self, *names: str) -> Path:
        """The folder, if all of these are there; else the test is skipped."""
        source = self.path()
        if source is None:
            pytest.skip(f"{_REASON}{self.variable} names no folder with {', '.join(names)}")
        absent = [name for name in names if not any((source / form).is_file() for form in (name, f"{name}.xz"))]
        if absent:
            pytest.skip(f"{_REASON}{source} ({self.variable}) lacks {', '.join(absent)}")
        return source


#: Upstream's programs by the year of their protocol.
PEERS: Final = {2025: Folder("POSTERN_TEST_PEERS"), 2026: Folder("POSTERN_TEST_PEERS_2026")}
KUBE: Final = Folder("POSTERN_TEST_KUBE", _CHECKOUT.parent / "shared" / "kube")
RECORDINGS: Final = Folder("POSTERN_TEST_RECORDINGS", _CHECKOUT.parent / "shared" / "recordings")
#: Two generations of upstream's programs, each once with a direct path and once relayed.
RECORDING_NAMES: Final = ("2025-direct", "2025-relayed", "2026-direct", "2026-relayed")


def require_peers(year: int = 2025) -> Path:
    return PEERS[year].require(*PEER_PROGRAMS)


def require_recordings() -> Path:
    return RECORDINGS.require(*(f"{name}/wire.pcap" for name in RECORDING_NAMES))


class Absences:
    """A plug-in of pytest: gathers what was skipped for want of programs, and tells it in one line at the end."""

    def __init__(self) -> None:
        self._counts: Counter[tuple[str, str]] = Counter()

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.skipped and isinstance(report.longrepr, tuple):
            _, is_ours, reason = report.longrepr[2].partition(_REASON)
            if is_ours:
                self._counts[report.nodeid.partition("::")[0], reason] += 1

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        told = [f"{count} of {module} ({reason})" for (module, reason), count in sorted(self._counts.items())]
        if not told:
            return
        terminalreporter.write_line(f"Not run for want of programs: {'; '.join(told)}")
        if named := os.environ.get(LINES_VARIABLE):
            with Path(named).open("a", encoding="utf-8") as lines:
                lines.writelines(f"{one}\n" for one in told)
