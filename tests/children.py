"""Processes that a test starts end with it, however it ends."""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from typing import AnyStr

_GOODBYE_SECONDS = 30


@contextmanager
def ending(process: subprocess.Popen[AnyStr]) -> Iterator[subprocess.Popen[AnyStr]]:
    """Afterwards it is gone: asked first, so that it can take with it what it built, and killed if it does not go."""
    try:
        yield process
    finally:
        process.terminate()  # nothing happens where it has ended
        try:
            process.communicate(timeout=_GOODBYE_SECONDS)  # which closes the pipes, too
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
