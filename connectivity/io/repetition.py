"""How often a log line is written: the first ones of a minute are, the rest are counted and told as one.

Lines are alike that have logger, level and constant phrase in common, whatever their fields say. No clock and no
stream: ``connectivity.io.logs`` asks before it writes, and calls again when ``due``.
"""

import logging
from dataclasses import dataclass
from typing import Final, TypeAlias

WINDOW_SECONDS: Final = 60.0
# What passes in a window. Warnings repeat where something is wrong, and then say the same; lines of INFO tell a life,
# and many connections may begin at once.
MOST_WARNINGS: Final = 30
MOST_NOTES: Final = 120
# Our own phrases are fewer; whoever puts changing text into a phrase shares one entry beyond these.
MAX_PHRASES: Final = 512
_OTHERS: Final = "Lines of many kinds"

_Key: TypeAlias = tuple[str, int, str]


@dataclass(slots=True)
class _Window:
    end: float
    text: str
    passed: int = 0
    withheld: int = 0


class Repetition:
    """Counts lines by key; windows are kept in the order in which they end."""

    def __init__(self) -> None:
        self._windows: dict[_Key, _Window] = {}

    def admits(self, record: logging.LogRecord, now: float) -> bool:
        """Whether this line is written; if not, it has been counted. To be asked after ``take_ended``."""
        key = _key(record)
        window = self._windows.get(key)
        if window is None:
            if len(self._windows) >= MAX_PHRASES:
                key = (*key[:2], _OTHERS)
                window = self._windows.get(key)
            if window is None:
                window = self._windows[key] = _Window(now + WINDOW_SECONDS, key[2])
        if window.passed < (MOST_NOTES if record.levelno < logging.WARNING else MOST_WARNINGS):
            window.passed += 1
            return True
        if not window.withheld and key[2] != _OTHERS:
            window.text = record.getMessage()
        window.withheld += 1
        return False

    def due(self) -> float | None:
        """When a line that tells a count is to be written; None if nothing was withheld."""
        return next((window.end for window in self._windows.values() if window.withheld), None)

    def take_ended(self, now: float) -> list[logging.LogRecord]:
        """One line for each kind that was withheld in a window that is over."""
        ended: list[tuple[_Key, _Window]] = []
        for item in self._windows.items():
            if item[1].end > now:
                break
            ended.append(item)
        for key, _ in ended:
            del self._windows[key]
        return [_told(key, window) for key, window in ended if window.withheld]

    def take_all(self) -> list[logging.LogRecord]:
        """Close all windows: nothing more will be written."""
        windows, self._windows = self._windows, {}
        return [_told(key, window) for key, window in windows.items() if window.withheld]


def _key(record: logging.LogRecord) -> _Key:
    phrase = record.msg if isinstance(record.msg, str) else type(record.msg).__name__
    return record.name, record.levelno, phrase


def _told(key: _Key, window: _Window) -> logging.LogRecord:
    name, level, _ = key
    text = f"{window.text} ({window.withheld:,} more like it in the last minute)"
    return logging.LogRecord(name, level, "", 0, text, None, None)
