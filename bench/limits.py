"""The kernel's limits of socket buffers, raised while a benchmark runs.

Our own programs go past them by SO_RCVBUFFORCE; upstream's and iperf3 cannot, and inside a network namespace nobody can
raise them. They are the whole machine's: of several benchmarks at a time the last one sets them back, from a record
that the first one made.
"""

import fcntl
import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, TextIO

from connectivity.errors import chain
from connectivity.io.buffers import RECEIVE_BUFFER_BYTES, SEND_BUFFER_BYTES

_DIRECTORY: Final = Path("/proc/sys/net/core")
_RECORD: Final = Path("/run/postern-bench-limits")
_WANTED: Final = {"rmem_max": RECEIVE_BUFFER_BYTES, "wmem_max": SEND_BUFFER_BYTES}


@contextmanager
def raised_limits(directory: Path = _DIRECTORY, record: Path = _RECORD) -> Iterator[dict[str, int]]:
    """Raise the limits where that is permitted; what they are now, by name. Afterwards they are what they were."""
    with record.open("a+", encoding="ascii") as file:
        with _alone(directory):
            fcntl.flock(file, fcntl.LOCK_SH)  # as long as this benchmark runs
            before = _recorded(file)
            if not before:
                before = {name: _read(directory / name) for name in _WANTED}
                json.dump(before, file)
                file.flush()
            for name, wanted in _WANTED.items():
                if _read(directory / name) < wanted:
                    _write(directory / name, wanted)
        try:
            effective = {name: _read(directory / name) for name in _WANTED}
            for name, size in effective.items():
                print(f"net.core.{name}: {size} bytes (before: {before[name]})", file=sys.stderr)
            yield effective
        finally:
            with _alone(directory):
                if _is_last(file):
                    _set_back(directory, before)
                    file.truncate(0)


def _set_back(directory: Path, before: dict[str, int]) -> None:
    for name, wanted in _WANTED.items():
        if before[name] < wanted == _read(directory / name):  # else somebody else has set it meanwhile
            _write(directory / name, before[name])


@contextmanager
def _alone(directory: Path) -> Iterator[None]:
    """One benchmark at a time looks at the record and changes the limits."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _recorded(file: TextIO) -> dict[str, int]:
    """What the limits were before any benchmark raised them; also one that was killed leaves its record."""
    file.seek(0)
    text = file.read()
    return {name: int(size) for name, size in json.loads(text).items()} if text else {}


def _is_last(file: TextIO) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _read(path: Path) -> int:
    return int(path.read_text(encoding="ascii"))


def _write(path: Path, value: int) -> None:
    try:
        path.write_text(str(value), encoding="ascii")
    except OSError as error:  # read-only in containers: then the host has to raise it
        print(f"{path.name} stays: {chain(error)}", file=sys.stderr)
