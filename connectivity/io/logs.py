"""Log lines that people grep: one per event, UTC with milliseconds, level, target, message, fields.

``2026-01-31T12:00:00.123Z  INFO connectivity::node: Created new connection cid=… index=(12|0)``

The filter is RUST_LOG's: ``info``, ``debug,wire=trace``, ``off``. A target covers everything below it. Python has no
TRACE; the word means level 5 here.
"""

import logging
import sys
import time
from collections.abc import Mapping
from typing import Final

TRACE: Final = 5
_LEVELS: Final = {
    "off": logging.CRITICAL + 1,
    "error": logging.ERROR,
    "warn": logging.WARNING,
    "info": logging.INFO,
    "debug": logging.DEBUG,
    "trace": TRACE,
}
_NAMES: Final = {logging.CRITICAL: "ERROR", logging.WARNING: "WARN", TRACE: "TRACE"}
# What peers say is logged, too: no control character of theirs may break a line or move a terminal's cursor.
_HARMLESS: Final = {code: f"\\x{code:02x}" for code in (*range(32), *range(127, 160))} | {ord("\n"): " "}
_NOISY: Final = ("aiohttp", "asyncio", "pyroute2", "opentelemetry")


def configure(directives: str) -> None:
    """Install the format and the filter on the root logger.

    Raises:
        ValueError: a directive that is neither a level nor ``target=level``.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Formatter())
    default, targets = parse_filter(directives)
    logging.addLevelName(TRACE, "TRACE")
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(default)
    for name in _NOISY:
        logging.getLogger(name).setLevel(max(default, logging.WARNING))
    for name, level in targets.items():
        logging.getLogger(name).setLevel(level)


def parse_filter(directives: str) -> tuple[int, dict[str, int]]:
    """The default level and those of single targets (as logger names)."""
    default = logging.INFO
    targets: dict[str, int] = {}
    for directive in filter(None, (part.strip() for part in directives.split(","))):
        target, separator, level = directive.rpartition("=")
        if level.lower() not in _LEVELS:
            raise ValueError(f"expected {', '.join(_LEVELS)}, also as target=level, got {directive!r}")
        if separator:
            targets[target.replace("::", ".")] = _LEVELS[level.lower()]
        else:
            default = _LEVELS[level.lower()]
    return default, targets


class _Formatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        moment = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        level = _NAMES.get(record.levelno, record.levelname)
        target = record.name.replace(".", "::")
        fields = getattr(record, "fields", None)
        tail = _render(fields) if isinstance(fields, Mapping) else ""
        line = f"{moment}.{int(record.msecs):03}Z {level:>5} {target}: {record.getMessage()}{tail}".translate(_HARMLESS)
        if record.exc_info:
            line += "\n" + self.formatException(record.exc_info)
        return line


def _render(fields: Mapping[str, object]) -> str:
    return "".join(f" {name}={value}" for name, value in fields.items())
