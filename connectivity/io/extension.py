"""What a role adds to the driver of its tunnel: sockets of its own, and how its core's own actions are carried out.

The service makes one extension a run. ``start`` comes before anything is read and before the portal is asked,
``close`` after the goodbye, while the tunnel's sockets and device are still there. In between everything happens in
the event loop's thread.
"""

import asyncio
import logging
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass
from typing import Any, Final, Protocol

from connectivity.errors import chain
from connectivity.tunnel import ConfigureTun, TunnelCore

CLOSE_SECONDS: Final = 3.0  # below what a service manager waits before it kills

log = logging.getLogger("connectivity.io")


@dataclass(frozen=True, slots=True)
class ExtensionHost:
    """What an extension is given.

    Attributes:
        core: the role's core.
        call: calls a method of the core and sends what comes of it; does nothing once the service has stopped.
        fail: ends the service in order, for this reason.
        mark: what its sockets carry, so that they leave outside the tunnel.
        device: the name of the TUN device.
    """

    core: TunnelCore
    call: Callable[..., None]
    fail: Callable[[Exception], None]
    mark: int
    device: str


class Extension(Protocol):
    """See the module's text."""

    async def start(self) -> None:
        """Get ready.

        Raises:
            FatalError: the service cannot work like this.
        """

    def act(self, action: object) -> bool:
        """Carry out what the core asks for; whether it was an action of this role."""

    async def configured(self, configuration: ConfigureTun) -> None:
        """The TUN device has these addresses and routes now; after this the host gets packets from it."""

    async def reset(self) -> None:
        """The network is another one: sockets are to be made anew."""

    async def close(self) -> None:
        """Take back everything."""

    def counters(self) -> Mapping[str, Mapping[str, int]]:
        """What was counted, by part and name; the same names at all times."""


class NoExtension:
    """A role that needs nothing more."""

    async def start(self) -> None:
        """Nothing to do."""

    def act(self, action: object) -> bool:
        """No action is ours."""
        del action
        return False

    async def configured(self, configuration: ConfigureTun) -> None:
        """Nothing depends on it."""

    async def reset(self) -> None:
        """No sockets."""

    async def close(self) -> None:
        """Nothing to take back."""

    def counters(self) -> Mapping[str, Mapping[str, int]]:
        """Nothing is counted."""
        return {}


class Tasks:
    """The running tasks of an extension; a defect in one of them ends the service.

    Args:
        fail: what is told of a defect.
    """

    def __init__(self, fail: Callable[[Exception], None]) -> None:
        self._fail = fail
        self._running: set[asyncio.Task[None]] = set()

    def __len__(self) -> int:
        return len(self._running)

    def start(self, work: Coroutine[Any, Any, None]) -> None:
        """Run it beside everything else."""
        task = asyncio.get_running_loop().create_task(work)
        self._running.add(task)
        task.add_done_callback(self._ended)

    async def cancel(self) -> None:
        """End all of them."""
        running = tuple(self._running)
        for task in running:
            task.cancel()
        if running:
            await asyncio.wait(running)

    def _ended(self, task: "asyncio.Task[None]") -> None:
        self._running.discard(task)
        if task.cancelled():
            return
        error = task.exception()
        if isinstance(error, Exception):
            self._fail(error)


async def close(extension: Extension) -> None:
    """Close an extension within a bounded time. Never hides what ended the service."""
    try:
        async with asyncio.timeout(CLOSE_SECONDS):
            await extension.close()
    except Exception as error:  # noqa: BLE001  # the service ends for another reason, which is to be told
        log.warning("Cannot take everything back", extra={"fields": {"error": chain(error)}})
