"""Records of labs that begin, end and are swept side by side."""

import fcntl
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from lab import records
from lab.records import Record, sweep


@pytest.fixture
def cleared(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Whose namespaces would have been removed."""
    found: list[str] = []
    monkeypatch.setattr(records, "clear", found.append)
    return found


def before_the_lock(monkeypatch: pytest.MonkeyPatch, happens: Callable[[], None]) -> None:
    """Something happens after the next record was opened, and before it is locked."""
    waiting, flock = [happens], fcntl.flock

    def late(lock: int, operation: int) -> None:
        if waiting:
            waiting.pop()()
        flock(lock, operation)

    monkeypatch.setattr(fcntl, "flock", late)


def test_an_orphan_is_swept_with_its_logs_and_who_lives_is_not(tmp_path: Path, cleared: list[str]) -> None:
    directory, logs = tmp_path / "records", tmp_path / "logs"
    living, orphan = Record(directory), Record(directory)
    logs.mkdir()
    orphan.note(logs)
    os.close(orphan._lock)
    assert sweep(directory=directory) == 1
    assert cleared == [orphan.prefix]
    assert not logs.exists()
    assert os.listdir(directory) == [living.run_id]
    living.drop()


def test_a_record_that_goes_before_it_is_opened_is_nobodys_failure(tmp_path: Path, cleared: list[str]) -> None:
    (tmp_path / "gone").symlink_to("nowhere")  # is listed, and cannot be opened
    assert sweep(directory=tmp_path) == 0
    assert cleared == []


def test_what_goes_before_it_is_locked_is_no_orphan(
    tmp_path: Path, cleared: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its logs stay: after a failure they are what is left to read."""
    directory, logs = tmp_path / "records", tmp_path / "logs"
    ending = Record(directory)
    logs.mkdir()
    ending.note(logs)
    before_the_lock(monkeypatch, ending.drop)
    assert sweep(directory=directory) == 0
    assert cleared == []
    assert logs.exists()


def test_a_record_that_is_swept_before_it_is_locked_is_made_anew(
    tmp_path: Path, cleared: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    swept: list[int] = []
    before_the_lock(monkeypatch, lambda: swept.append(sweep(directory=tmp_path)))
    record = Record(tmp_path)
    assert swept == [1]
    assert cleared != [record.prefix]
    assert os.listdir(tmp_path) == [record.run_id]
    assert sweep(directory=tmp_path) == 0
    record.drop()
