"""Who owns which namespaces: one locked file per lab, so that what a dead process left behind can be told and removed.

The lock lives as long as the process that built the lab. A record without a lock is an orphan, unless it says that it
was kept on purpose. Labs begin, end and sweep side by side: what a lock was taken of may be no record any more.
"""

import fcntl
import os
import secrets
import select
import shutil
import signal
import time
from pathlib import Path
from typing import Final

from pyroute2 import netns

from lab.network import remove

DIRECTORY: Final = Path("/run/postern-lab")
_KEPT: Final = "kept"
_KILL_AFTER_SECONDS: Final = 3.0


class Record:
    """The claim on one lab's names."""

    def __init__(self, directory: Path = DIRECTORY) -> None:
        directory.mkdir(mode=0o755, parents=True, exist_ok=True)
        while True:
            self.run_id = secrets.token_hex(3)
            self._path = directory / self.run_id
            self._lock = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
            fcntl.flock(self._lock, fcntl.LOCK_EX)
            if _is_record(self._lock):
                return
            os.close(self._lock)  # a sweep came between the two, and took it for an orphan

    @property
    def prefix(self) -> str:
        return f"postern-{self.run_id}-"

    def note(self, logs: Path) -> None:
        """The logs that go with the lab when it is swept."""
        self._write("", logs)

    def keep(self, logs: Path) -> None:
        """The lab stays although this process goes; ``sweep(kept=True)`` removes it and its logs."""
        self._write(_KEPT, logs)
        os.close(self._lock)

    def drop(self) -> None:
        self._path.unlink(missing_ok=True)
        os.close(self._lock)

    def _write(self, word: str, logs: Path) -> None:
        os.ftruncate(self._lock, 0)
        os.pwrite(self._lock, f"{word} {logs}".encode(), 0)


def sweep(*, kept: bool = False, directory: Path = DIRECTORY) -> int:
    """Remove the labs whose process is gone, with ``kept`` also those that were left up on purpose; say how many."""
    count = 0
    for path in sorted(directory.glob("*")):
        try:
            lock = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            continue  # its lab has ended, or another sweep was here
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            continue  # its process lives
        else:
            if not _is_record(lock):
                continue  # the same, a moment later
            word, _, logs = os.read(lock, 4096).decode().partition(" ")
            if word == _KEPT and not kept:
                continue
            clear(f"postern-{path.name}-")
            if logs:
                shutil.rmtree(logs, ignore_errors=True)
            path.unlink(missing_ok=True)
            count += 1
        finally:
            os.close(lock)
    return count


def _is_record(lock: int) -> bool:
    """Whether the file still has its name."""
    return os.fstat(lock).st_nlink > 0


def clear(prefix: str) -> None:
    """End every process in the namespaces of one lab, then remove them."""
    names = [name for name in netns.listnetns() if name.startswith(prefix)]
    _end([pid for pid, name in _processes().items() if name in names])
    remove(names)


def _processes() -> dict[int, str]:
    return {pid: name for name, pids in netns.ns_pids().items() for pid in pids}


def _end(pids: list[int]) -> None:
    """SIGTERM, and SIGKILL for what is still there; by the kernel's handles, so that no reused number is hit."""
    handles = []
    for pid in pids:
        try:
            handles.append(os.pidfd_open(pid))
        except ProcessLookupError:
            continue  # ended by itself
    try:
        for number in (signal.SIGTERM, signal.SIGKILL):
            _signal(handles, number)
            if _wait(handles):
                return
    finally:
        for handle in handles:
            os.close(handle)


def _signal(handles: list[int], number: signal.Signals) -> None:
    for handle in handles:
        try:
            signal.pidfd_send_signal(handle, number)
        except ProcessLookupError:
            continue  # ended by itself


def _wait(handles: list[int]) -> bool:
    """Wait until all have ended; a handle becomes readable when its process ends."""
    poller = select.poll()
    for handle in handles:
        poller.register(handle, select.POLLIN)
    deadline = time.monotonic() + _KILL_AFTER_SECONDS
    waiting = set(handles)
    while waiting and (left := deadline - time.monotonic()) > 0:
        for handle, _ in poller.poll(left * 1000):
            poller.unregister(handle)
            waiting.discard(handle)
    return not waiting
