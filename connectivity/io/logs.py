"""Log lines that people grep: one per event, UTC with milliseconds, level, target, message, fields.

``2026-01-31T12:00:00.123Z  INFO connectivity::node: Created new connection cid=… index=(12|0)``

The filter is RUST_LOG's: ``info``, ``debug,wire=trace``, ``off``. A target covers everything below it. Python has no
TRACE; the word means level 5 here.

As JSON a line is an object with ``time``, ``severity``, ``target``, ``message`` and the fields: what Google Cloud reads
too, so its format is the same one.

In front of a line for systemd's journal is its level (``connectivity.io.journal``), which the journal takes off.

What repeats is bounded here, for all: of lines at INFO and above the first of a minute are written, the rest are
counted and told as one (``connectivity.io.repetition``). DEBUG and below somebody has asked for.
"""

import asyncio
import contextlib
import json
import logging
import sys
import time
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Final, TextIO

from connectivity.endpoint import Endpoint
from connectivity.errors import chain
from connectivity.io.journal import is_journal, marked
from connectivity.io.log_file import LogFile
from connectivity.io.remedies import REMEDIES
from connectivity.io.repetition import Repetition
from connectivity.printable import printable
from connectivity.settings import one_of

TRACE: Final = 5
HUMAN: Final = "human"
# The words of LOG_FORMAT.
read_form: Final = one_of(HUMAN, "json", "google-cloud")
_LEVELS: Final = {
    "off": logging.CRITICAL + 1,
    "error": logging.ERROR,
    "warn": logging.WARNING,
    "info": logging.INFO,
    "debug": logging.DEBUG,
    "trace": TRACE,
}
_NAMES: Final = {logging.CRITICAL: "ERROR", logging.WARNING: "WARN", TRACE: "TRACE"}
_SEVERITIES: Final = {"WARN": "WARNING", "TRACE": "DEBUG"}  # those that Google Cloud spells otherwise
# Targets that the filter in use names.
_filtered: list[str] = []
_in_use: list[str] = []
_NOISY: Final = ("aiohttp", "asyncio", "pyroute2", "opentelemetry")


def configure(directives: str, form: str = HUMAN, file: LogFile | None = None) -> None:
    """Install the format and the filter on the root logger; each line goes to ``file``, too, always as JSON.

    Raises:
        ValueError: a directive that is neither a level nor ``target=level``.
    """
    handler = _Handler(sys.stderr, file=file)
    handler.setFormatter(_Formatter() if form == HUMAN else _JsonFormatter())
    logging.addLevelName(TRACE, "TRACE")
    # No line shows where it was written and by which thread; finding out would take a third of the time of writing.
    logging._srcfile = None  # as in the logging HOWTO, "Optimization"
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    logging.getLogger().handlers[:] = [handler]
    set_filter(directives)


def set_filter(directives: str) -> None:
    """Install this filter in place of the one before.

    Raises:
        ValueError: as above; then the one before stays.
    """
    default, targets = parse_filter(directives)
    _in_use[:] = [directives]
    for name in _filtered:
        logging.getLogger(name).setLevel(logging.NOTSET)
    _filtered[:] = targets
    logging.getLogger().setLevel(default)
    for name in _NOISY:
        logging.getLogger(name).setLevel(max(default, logging.WARNING))
    for name, level in targets.items():
        logging.getLogger(name).setLevel(level)


def filter_in_use() -> str:
    """The log filter as it was given last."""
    return "".join(_in_use)


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


class _Handler(logging.StreamHandler[TextIO]):
    """Writes each line in one piece, and repeated ones once; standard error flushes by itself at its end."""

    def __init__(
        self, stream: TextIO, clock: Callable[[], float] = time.monotonic, file: LogFile | None = None
    ) -> None:
        super().__init__(stream)
        self._is_journal = is_journal(stream)
        self._file = file
        self._filed = _JsonFormatter()
        self._clock = clock
        self._repetition = Repetition()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._timer: asyncio.TimerHandle | None = None

    def emit(self, record: logging.LogRecord) -> None:
        if record.levelno >= logging.INFO:
            now = self._clock()
            for told in self._repetition.take_ended(now):
                self._write(told)
            if not self._repetition.admits(record, now):
                self._arm(now)
                return
        self._write(record)

    def handleError(self, record: logging.LogRecord) -> None:
        """Say which line it was, and no more: a traceback quotes what has come from outside, such as a token."""
        error = type(sys.exc_info()[1]).__name__
        with contextlib.suppress(OSError, ValueError):  # standard error may be what is closed
            sys.stderr.write(f"a line of {record.name} cannot be written: {error}\n")

    def close(self) -> None:
        """Called at exit, too."""
        self.acquire()
        try:
            for told in self._repetition.take_all():
                self._write(told)
        finally:
            self.release()
        if self._file is not None:
            self._file.close()
        super().close()

    def _arm(self, now: float) -> None:
        """Have counts told even if no line follows. Outside of an event loop the next line or the end does it."""
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            return
        due = self._repetition.due()
        if due is None or (self._timer is not None and self._loop is loop):
            return
        self._loop, self._timer = loop, loop.call_later(max(due - now, 0), self._tell)

    def _tell(self) -> None:
        self.acquire()
        try:
            self._timer = None
            now = self._clock()
            for told in self._repetition.take_ended(now):
                self._write(told)
            self._arm(now)
        finally:
            self.release()

    def _write(self, record: logging.LogRecord) -> None:
        try:
            self._write_to_stream(record)
        except Exception:  # noqa: BLE001 - as in the base class: logging never ends what it tells of
            self.handleError(record)
        if self._file is not None:
            error = self._file.write(self._filed.format(record))
            if error is not None:
                self._tell_of_file(self._file, error)

    def _tell_of_file(self, file: LogFile, error: OSError) -> None:
        """Where the lines still go: here."""
        told = logging.LogRecord(__name__, logging.WARNING, "", 0, "Going on without the log file", None, None)
        told.fields = {"path": file.path, "error": chain(error)}
        self._write_to_stream(told)

    def _write_to_stream(self, record: logging.LogRecord) -> None:
        text = self.format(record)
        self.stream.write((marked(text, record.levelno) if self._is_journal else text) + "\n")


class _JsonFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        level = _NAMES.get(record.levelno, record.levelname)
        line: dict[str, object] = {
            "time": _moment(record),
            "severity": _SEVERITIES.get(level, level),
            "target": _target(record),
            "message": record.getMessage(),
        }
        fields = _fields(record)
        if fields:
            line |= {name: _plain(value) for name, value in fields.items() if name not in line}
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


class _Formatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        level = _NAMES.get(record.levelno, record.levelname)
        said = f"{record.getMessage()}{_render(_fields(record))}"
        line = f"{_moment(record)} {level:>5} {_target(record)}: {said}"
        if not line.isprintable():  # what peers say is logged, too
            line = printable(line.replace("\n", " "))
        if record.exc_info:
            line += "\n" + "\n".join(map(printable, self.formatException(record.exc_info).split("\n")))
        return line


def _fields(record: logging.LogRecord) -> Mapping[str, object]:
    """The facts of a line; behind those of a warning, what to do about it."""
    found = getattr(record, "fields", None)
    fields: Mapping[str, object] = found if isinstance(found, Mapping) else {}
    if record.levelno == logging.WARNING and "remedy" not in fields and record.msg in REMEDIES:
        return {**fields, "remedy": REMEDIES[record.msg]}
    return fields


def _render(fields: Mapping[str, object]) -> str:
    return "".join(f" {name}={value}" for name, value in fields.items())


def _plain(value: object) -> object:
    """A field's value as JSON writes it; what is a tuple to JSON and an address to people is a text."""
    return str(value) if isinstance(value, Endpoint) else value


def _moment(record: logging.LogRecord) -> str:
    return f"{_second(int(record.created))}.{int(record.msecs):03}Z"


@lru_cache(maxsize=1)
def _second(since_epoch: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(since_epoch))


def _target(record: logging.LogRecord) -> str:
    return record.name.replace(".", "::")
