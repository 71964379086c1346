"""What every driver of a core needs of the event loop: one frame around all that the loop calls, and one timer."""

import asyncio
import time
from collections.abc import Callable
from types import TracebackType
from typing import Final

from connectivity.clock import MILLISECOND, SECOND, Instant

# Late rather than early: an early wake-up finds nothing due and would spin.
_LATE: Final = MILLISECOND // 2


class Guard:
    """The outermost frame of what the event loop calls: a defect of ours ends the service, in words, and spins nowhere.

    ``with guard:`` around it. ``failed`` ends with the first defect, of which ``on_failure`` is told before.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, on_failure: Callable[[], None] = lambda: None) -> None:
        self.failed: asyncio.Future[None] = loop.create_future()
        self._on_failure = on_failure

    def __enter__(self) -> None:
        return

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> bool:
        if not isinstance(error, Exception):  # nothing happened, or it is not ours to end
            return False
        self.fail(error)
        return True

    def fail(self, error: Exception) -> None:
        """End the service for this reason."""
        self._on_failure()
        if not self.failed.done():
            self.failed.set_exception(error)


class Timer:
    """The one timer of a driver; it rings inside of the guard."""

    def __init__(self, loop: asyncio.AbstractEventLoop, guard: Guard, ring: Callable[[], None]) -> None:
        self._loop = loop
        self._guard = guard
        self._ring = ring
        self._handle: asyncio.TimerHandle | None = None
        self._due: Instant = 0

    @property
    def is_set(self) -> bool:
        """Whether it is going to ring."""
        return self._handle is not None

    def set(self, due: Instant | None) -> None:
        """Ring at this instant and at no other; None: not at all."""
        if self._handle is not None:
            if due == self._due:
                return
            self._handle.cancel()
            self._handle = None
        if due is not None:
            self._due = due
            delay = max(due - time.monotonic_ns() + _LATE, 0)
            self._handle = self._loop.call_later(delay / SECOND, self._rang)

    def cancel(self) -> None:
        """Do not ring."""
        self.set(None)

    def _rang(self) -> None:
        self._handle = None
        with self._guard:
            self._ring()
