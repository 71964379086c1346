"""The kernel's limits of socket buffers, raised while a benchmark runs.

Our own programs go past them by SO_RCVBUFFORCE; upstream's and iperf3 cannot, and inside a network namespace nobody can
raise them.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from connectivity.errors import chain
from connectivity.io.buffers import RECEIVE_BUFFER_BYTES, SEND_BUFFER_BYTES

_DIRECTORY: Final = Path("/proc/sys/net/core")
_WANTED: Final = {"rmem_max": RECEIVE_BUFFER_BYTES, "wmem_max": SEND_BUFFER_BYTES}


@contextmanager
def raised_limits(directory: Path = _DIRECTORY) -> Iterator[dict[str, int]]:
    """Raise the limits where that is permitted; what they are now, by name. Afterwards they are what they were."""
    before = {name: _read(directory / name) for name in _WANTED}
    raised = {name: wanted for name, wanted in _WANTED.items() if before[name] < wanted}
    try:
        for name, wanted in raised.items():
            _write(directory / name, wanted)
        effective = {name: _read(directory / name) for name in _WANTED}
        for name, size in effective.items():
            print(f"net.core.{name}: {size} bytes (before: {before[name]})", file=sys.stderr)
        yield effective
    finally:
        for name, wanted in raised.items():
            if _read(directory / name) == wanted:  # else somebody else has set it meanwhile
                _write(directory / name, before[name])


def _read(path: Path) -> int:
    return int(path.read_text(encoding="ascii"))


def _write(path: Path, value: int) -> None:
    try:
        path.write_text(str(value), encoding="ascii")
    except OSError as error:  # read-only in containers: then the host has to raise it
        print(f"{path.name} stays: {chain(error)}", file=sys.stderr)
