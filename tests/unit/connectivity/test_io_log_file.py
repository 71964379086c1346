"""Log files: whole lines as JSON, bounded, and a disk without room costs nothing but lines."""

import errno
import json
import logging
import os
from io import StringIO
from pathlib import Path

import pytest

from connectivity.io.log_file import KEPT_FILES, RETRY_SECONDS, LogFile
from connectivity.io.logs import _Formatter, _Handler


class Disk:
    """Room for so many bytes, and a clock."""

    def __init__(self, room: int) -> None:
        self.room = room
        self.now = 100.0
        self.asked = 0

    def write(self, descriptor: int, data: bytes) -> int:
        self.asked += 1
        if not self.room:
            raise OSError(errno.ENOSPC, "No space left on device")
        written = os.write(descriptor, data[: self.room])
        self.room -= written
        return written

    def clock(self) -> float:
        return self.now


def record(text: str, level: int = logging.INFO) -> logging.LogRecord:
    return logging.LogRecord("connectivity.io", level, "f", 1, text, None, None)


def test_lines_stand_beside_standard_error_as_json(tmp_path: Path) -> None:
    stream, file = StringIO(), LogFile(tmp_path / "log", "client")
    handler = _Handler(stream, file=file)
    handler.setFormatter(_Formatter())
    handler.handle(record("Tunnel ready"))
    handler.close()
    assert stream.getvalue().endswith(" INFO connectivity::io: Tunnel ready\n")
    (line,) = map(json.loads, (tmp_path / "log/client.jsonl").read_text().splitlines())
    assert (line["severity"], line["target"], line["message"]) == ("INFO", "connectivity::io", "Tunnel ready")


def test_only_the_service_and_its_group_may_read_them(tmp_path: Path) -> None:
    file = LogFile(tmp_path / "log", "client")
    before = os.umask(0)
    try:
        assert file.write("{}") is None
    finally:
        os.umask(before)
    assert file.path.stat().st_mode & 0o777 == 0o640
    assert file.path.parent.stat().st_mode & 0o777 == 0o750


def test_a_later_run_goes_on_where_the_last_one_ended(tmp_path: Path) -> None:
    for line in ("first", "second"):
        file = LogFile(tmp_path, "client")
        file.write(line)
        file.close()
    assert (tmp_path / "client.jsonl").read_text() == "first\nsecond\n"


def test_they_are_bounded_in_size_and_number(tmp_path: Path) -> None:
    file = LogFile(tmp_path, "client", most_bytes=100)
    for number in range(100):
        file.write(f"{number:029}")
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"client.jsonl", *(f"client.{number}.jsonl" for number in range(1, KEPT_FILES))}
    assert max(path.stat().st_size for path in tmp_path.iterdir()) <= 100
    kept = [int(line) for path in tmp_path.iterdir() for line in path.read_text().splitlines()]
    assert sorted(kept) == list(range(100 - len(kept), 100))


def test_a_full_disk_is_said_once_and_tried_again_after_a_while(tmp_path: Path) -> None:
    disk, stream = Disk(room=7), StringIO()
    file = LogFile(tmp_path, "client", write=disk.write, clock=disk.clock)
    handler = _Handler(stream, file=file)
    handler.setFormatter(_Formatter())
    for _ in range(50):
        handler.handle(record("spoke"))
    lines = stream.getvalue().splitlines()
    assert [line for line in lines if "spoke" not in line] == [lines[1]]
    assert f"Going on without the log file path={file.path} error=no room for a whole line remedy=" in lines[1]
    assert (len(lines), disk.asked) == (51, 1)
    disk.now += RETRY_SECONDS  # still full: no further word
    handler.handle(record("spoke"))
    assert (len(stream.getvalue().splitlines()), disk.asked) == (52, 2)
    disk.room, disk.now = 10_000, disk.now + RETRY_SECONDS
    handler.handle(record("room again"))
    torn, whole = file.path.read_text().splitlines()
    assert len(torn) == 7
    assert json.loads(whole)["message"] == "room again"


def test_a_folder_that_cannot_be_is_a_line(tmp_path: Path) -> None:
    (tmp_path / "log").write_text("a file")
    failed = LogFile(tmp_path / "log", "client").write("{}")
    assert isinstance(failed, OSError)


@pytest.mark.parametrize("name", ["client.jsonl", "client.3.jsonl"])
def test_a_gap_among_the_old_ones_ends_nothing(tmp_path: Path, name: str) -> None:
    file = LogFile(tmp_path, "client", most_bytes=100)
    for number in range(30):
        file.write(f"{number:029}")
    (tmp_path / name).unlink()
    for number in range(30):
        assert file.write(f"{number:029}") is None


def test_a_link_that_somebody_put_there_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "client.jsonl").symlink_to(tmp_path / "precious")
    assert isinstance(LogFile(tmp_path, "client").write("{}"), OSError)
    assert not (tmp_path / "precious").exists()
