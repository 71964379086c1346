"""The level of each line for systemd's journal, by the prefixes of sd-daemon(3): ``journalctl --priority warning``."""

import logging
import os
from typing import Final, TextIO

# syslog(3)
_PRIORITIES: Final = ((logging.ERROR, 3), (logging.WARNING, 4), (logging.INFO, 6))
_DEBUG: Final = 7


def is_journal(stream: TextIO) -> bool:
    """Whether a stream is the one that systemd has connected to its journal (systemd.exec(5), ``JOURNAL_STREAM``)."""
    named = os.environ.get("JOURNAL_STREAM", "")
    if not named:
        return False
    try:
        found = os.fstat(stream.fileno())
    except (OSError, ValueError):  # closed, or no file
        return False
    return named == f"{found.st_dev}:{found.st_ino}"


def marked(text: str, level: int) -> str:
    """A text with its level in front of each line."""
    priority = next((number for least, number in _PRIORITIES if level >= least), _DEBUG)
    return f"<{priority}>" + text.replace("\n", f"\n<{priority}>")
