"""apt of the host, for one test process at a time: of its own locks, it does not wait for that on package lists."""

import fcntl
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def alone() -> Iterator[None]:
    """No other test process uses apt meanwhile."""
    with Path(tempfile.gettempdir(), "postern-tests-apt.lock").open("w", encoding="ascii") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
