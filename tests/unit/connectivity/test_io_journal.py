"""Lines for systemd's journal carry their level; lines for anybody else do not."""

import logging
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

import pytest

from connectivity.errors import FatalError
from connectivity.io.journal import is_journal, marked
from connectivity.io.logs import _Formatter, _Handler
from postern import cli


@pytest.fixture
def stream(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[TextIO]:
    """What systemd says is connected to its journal."""
    with (tmp_path / "journal").open("w+", encoding="utf-8") as opened:
        found = os.fstat(opened.fileno())
        monkeypatch.setenv("JOURNAL_STREAM", f"{found.st_dev}:{found.st_ino}")
        yield opened


def record(level: int, text: str, error: Exception | None = None) -> logging.LogRecord:
    told = (type(error), error, None) if error is not None else None
    return logging.LogRecord("relay", level, "", 0, text, None, told)


def read(stream: TextIO) -> list[str]:
    stream.flush()
    stream.seek(0)
    return stream.read().splitlines()


def test_each_line_says_how_grave_it_is(stream: TextIO) -> None:
    handler = _Handler(stream)
    handler.setFormatter(_Formatter())
    for level in (logging.CRITICAL, logging.ERROR, logging.WARNING, logging.INFO, logging.DEBUG):
        handler.emit(record(level, f"of {level}"))
    assert [line[:3] for line in read(stream)] == ["<3>", "<3>", "<4>", "<6>", "<7>"]


def test_so_does_each_line_of_a_traceback(stream: TextIO) -> None:
    handler = _Handler(stream)
    handler.setFormatter(_Formatter())
    handler.emit(record(logging.ERROR, "broken", ValueError("why")))
    lines = read(stream)
    assert len(lines) > 1
    assert {line[:3] for line in lines} == {"<3>"}


def test_the_line_that_a_service_ends_with_is_an_error(stream: TextIO, monkeypatch: pytest.MonkeyPatch) -> None:
    class Failing:
        @staticmethod
        def run(arguments: list[str]) -> int:
            raise FatalError(" ".join(["no device", *arguments]))

    monkeypatch.setitem(sys.modules, "relay.command", Failing)
    monkeypatch.setattr(sys, "stderr", stream)
    assert cli.main(["relay"]) == 1
    assert read(stream) == ["<3>postern relay: no device"]


def test_what_is_not_the_journal_gets_plain_lines(stream: TextIO, tmp_path: Path) -> None:
    with (tmp_path / "file").open("w+", encoding="utf-8") as other:  # standard error was led elsewhere
        assert is_journal(stream)
        assert not is_journal(other)
        handler = _Handler(other)
        handler.setFormatter(_Formatter())
        handler.emit(record(logging.INFO, "plain"))
        assert read(other)[0].endswith("INFO relay: plain")
        assert not read(other)[0].startswith("<")
    assert not is_journal(other)  # closed


def test_no_service_manager_means_no_journal(stream: TextIO, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("JOURNAL_STREAM")
    assert not is_journal(stream)
    assert marked("one", logging.INFO) == "<6>one"
