"""What a process has used of the processors, from ``/proc/PID/stat`` (proc_pid_stat(5)).

All threads of the process count, its children only where that is said. Soft interrupts (veth, XDP) are charged by the
kernel to whoever they interrupt: what a relay forwards in XDP hardly shows in the relay's own time.
"""

import os
from pathlib import Path
from typing import Final

from lab.errors import LabError

# Counted behind the name in parentheses, where the state comes first.
_USER_TICKS: Final = 11
_SYSTEM_TICKS: Final = 12


def parse_stat(text: str, ticks_per_second: int) -> float:
    """Seconds in user and kernel mode. The name may hold spaces and parentheses: the last one ends it.

    Raises:
        ValueError: this is no such line.
    """
    fields = text.rpartition(")")[2].split()
    if len(fields) <= _SYSTEM_TICKS:
        raise ValueError(f"expected a line of /proc/PID/stat, not {text!r}")
    return (int(fields[_USER_TICKS]) + int(fields[_SYSTEM_TICKS])) / ticks_per_second


def thread_seconds(schedstat: Path) -> float:
    """What one thread has used, from its ``schedstat``: finer than ticks, and interrupts included.

    Raises:
        OSError: it has ended.
    """
    return int(schedstat.read_text(encoding="ascii").split()[0]) / 1e9


def exact_cpu_seconds(pid: int) -> float:
    """As ``cpu_seconds``, to the nanosecond; threads that have ended do not count."""
    found = 0.0
    for path in Path(f"/proc/{pid}/task").glob("*/schedstat"):
        try:
            found += thread_seconds(path)
        except OSError:
            continue  # ended meanwhile
    return found


def family_seconds(pid: int) -> float:
    """What a running process and the running children of it and of theirs have used so far."""
    return cpu_seconds(pid) + sum(family_seconds(child) for child in _children(pid))


def _children(pid: int) -> list[int]:
    found: list[int] = []
    for path in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            found += map(int, path.read_text(encoding="ascii").split())
        except OSError:
            continue  # the thread has ended
    return found


def cpu_seconds(pid: int) -> float:
    """What a running process has used so far."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise LabError(f"process {pid} has ended") from error
    return parse_stat(text, os.sysconf("SC_CLK_TCK"))
