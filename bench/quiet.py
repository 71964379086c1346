"""Whether the machine is left alone: how busy its processors are before a benchmark begins."""

import time
from pathlib import Path
from typing import Final

QUIET_AT_MOST: Final = 0.1  # of all processors' time, stolen time included
_SECONDS: Final = 3.0
_STAT: Final = Path("/proc/stat")
_IDLE, _WAITING = 3, 4  # columns behind the name (proc_stat(5)); the first eight add up to all time
_COLUMNS: Final = 8


def busy_share() -> float:
    """What others use of the processors now, from 0 to 1: looks on for three seconds."""
    before = _STAT.read_text(encoding="ascii")
    time.sleep(_SECONDS)
    return share_between(before, _STAT.read_text(encoding="ascii"))


def share_between(before: str, after: str) -> float:
    """The busy share of the time between two readings of ``/proc/stat``."""
    spent = [later - sooner for sooner, later in zip(_ticks(before), _ticks(after), strict=True)]
    return 1 - (spent[_IDLE] + spent[_WAITING]) / max(1, sum(spent))


def _ticks(stat: str) -> list[int]:
    name, *columns = stat.splitlines()[0].split()
    if name != "cpu":
        raise ValueError(f"expected the sum of all processors, not {name!r}")
    return [int(column) for column in columns[:_COLUMNS]]
