"""How a relay is asked to end: SIGTERM begins to drain it, SIGINT or a second SIGTERM ends it at once."""

import asyncio
import signal
from collections.abc import Coroutine
from typing import Any


class Stopping:
    """The signals of one process, as two events. ``at_once`` is never set without ``asked``."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.asked = asyncio.Event()
        self.at_once = asyncio.Event()
        loop.add_signal_handler(signal.SIGTERM, self.handle_terminate)
        loop.add_signal_handler(signal.SIGINT, self.handle_interrupt)

    def handle_terminate(self) -> None:
        """SIGTERM: from an orchestrator that lets us finish, or from one that has waited long enough."""
        if self.asked.is_set():
            self.at_once.set()
        self.asked.set()

    def handle_interrupt(self) -> None:
        """SIGINT: from a person at a terminal, who does not want to wait."""
        self.asked.set()
        self.at_once.set()

    async def asked_or_failed(self, needed: set[asyncio.Future[Any]]) -> None:
        """Wait for a signal; raises what one of ``needed`` ends with before it."""
        await _first(self.asked.wait(), needed, None)

    async def finished_or_at_once(
        self, work: Coroutine[Any, Any, None], needed: set[asyncio.Future[Any]], seconds: float
    ) -> None:
        """Wait until ``work`` is done, but no longer than ``seconds`` or until ``at_once``; raises as above."""
        working = asyncio.ensure_future(work)
        try:
            await _first(self.at_once.wait(), {*needed, working}, seconds)
        finally:
            working.cancel()


async def _first(awaited: Coroutine[Any, Any, Any], others: set[asyncio.Future[Any]], seconds: float | None) -> None:
    task = asyncio.ensure_future(awaited)
    try:
        done, _ = await asyncio.wait({task, *others}, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        for future in done:
            future.result()
    finally:
        task.cancel()
