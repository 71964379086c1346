"""No log tells a token: a plug-in of pytest that reads every line which a test, or what it starts, writes.

Read are the records of this process with fields and tracebacks, what a test prints, and what the processes that it
starts say, to a file or by a pipe. Known are the tokens and passwords that processes get by their environment, and
those of tests in one process, listed here. A test whose line shows one fails.
"""

import logging
import os
import re
import stat
import subprocess
import traceback
from collections.abc import Generator, Mapping
from subprocess import Popen  # the one that stands in ``subprocess`` when no test runs
from typing import Any, BinaryIO, Final

import pytest

# Shorter ones are words of any log: "token", "secret".
_LEAST_LENGTH: Final = 12
# A token that a read cuts in two is found by the next one.
_OVERLAP_BYTES: Final = 256
_VARIABLE: Final = re.compile(r"TOKEN|SECRET|PASSWORD")
#: What tests of one process use as tokens, passwords and secrets. A new test takes one of them, or one like the first.
KNOWN: Final = (
    r"[a-z]+-token-long-enough",
    "a good token",
    "tok3nInTheRequestLine",
    "the password of alice",
    "a secret for names with a time",
    "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff",
)


class Watch:
    """Reads what is told, and knows what must not be."""

    def __init__(self) -> None:
        self.leaks: list[str] = []
        self._learnt: set[str] = set()
        self._pattern = re.compile("|".join(KNOWN))
        self._files: dict[BinaryIO, int] = {}  # and how far they are read

    def learn(self, environment: Mapping[str, str]) -> None:
        """Know the secrets in an environment; a path of one is none."""
        found = {
            value
            for name, value in environment.items()
            if _VARIABLE.search(name) and len(value) >= _LEAST_LENGTH and not value.startswith("/")
        }
        if not found <= self._learnt:
            self._learnt |= found
            self._pattern = re.compile("|".join([*KNOWN, *map(re.escape, sorted(self._learnt))]))

    def look(self, text: str, where: str) -> bool:
        """Whether it tells; remembers the first line that does, without what it tells."""
        if not self._pattern.search(text):
            return False
        line = next((line for line in text.split("\n") if self._pattern.search(line)), text)
        self.leaks.append(f"{where}: {self._pattern.sub('<TOKEN>', line)[:500]}")
        return True

    def follow(self, output: Any) -> None:
        """Read what a process writes to a file from now on; anything else than a file is somebody else's to read."""
        number = output if isinstance(output, int) else output.fileno() if hasattr(output, "fileno") else -1
        if number >= 0 and stat.S_ISREG(os.fstat(number).st_mode):
            file = open(f"/proc/self/fd/{number}", "rb")  # noqa: SIM115  # a file of its own, which outlives its name
            self._files[file] = file.seek(0, os.SEEK_END)

    def take(self) -> list[str]:
        """All leaks since the last time."""
        for file, position in self._files.items():
            file.seek(position)
            told = file.read()
            is_leak = self.look(told.decode(errors="replace"), "what a process wrote")
            self._files[file] = position + max(0, len(told) - (0 if is_leak else _OVERLAP_BYTES))
        found, self.leaks = self.leaks, []
        return found

    def close(self) -> None:
        for file in self._files:
            file.close()


class Told:
    """The hooks."""

    def __init__(self) -> None:
        self.watch = Watch()
        self._handler = RecordReader(self.watch)

    def pytest_sessionstart(self) -> None:
        subprocess.Popen = watched(self.watch)  # type: ignore[assignment, misc]  # whatever starts a process, asyncio too

    def pytest_sessionfinish(self) -> None:
        subprocess.Popen = Popen  # type: ignore[misc]  # as it was
        self.watch.close()

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self) -> Generator[None, object, object]:
        root = logging.getLogger()
        root.addHandler(self._handler)
        try:
            return (yield)
        finally:
            root.removeHandler(self._handler)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(self) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        report = yield
        for title, text in report.sections:
            self.watch.look(text, title)
        leaks = self.watch.take()
        if leaks and report.passed:
            report.outcome = "failed"
            report.longrepr = "\n".join(["a token, or a password, was told:", *leaks])
        return report


class RecordReader(logging.Handler):
    """Reads a record whole: its message, its fields, its traceback."""

    def __init__(self, watch: Watch) -> None:
        super().__init__()
        self._watch = watch

    def emit(self, record: logging.LogRecord) -> None:
        parts = [record.getMessage(), *map(str, getattr(record, "fields", {}).values())]
        if record.exc_info and record.exc_info[1] is not None:
            parts += traceback.format_exception(record.exc_info[1])
        self._watch.look(" ".join(parts), f"a line of {record.name}")


def watched(watch: Watch) -> type[Popen[Any]]:
    """Popen, but what it starts is read."""

    class Watched(Popen[Any]):
        def __init__(self, *arguments: Any, **options: Any) -> None:
            watch.learn(options.get("env") or {})
            for output in (options.get("stdout"), options.get("stderr")):
                watch.follow(output)
            super().__init__(*arguments, **options)

        def communicate(self, *arguments: Any, **options: Any) -> tuple[Any, Any]:
            told: tuple[Any, Any] = super().communicate(*arguments, **options)
            for text in filter(None, told):
                watch.look(text if isinstance(text, str) else text.decode(errors="replace"), "what a process said")
            return told

    return Watched
