"""What a gateway has beside its tunnel: look-ups for its core, its site's DNS server, the host's forwarding.

The first two are there once the portal has let the gateway in, or with the first name, and are imported beside what
else goes on: a gateway that takes another one's place is to be in the portal as soon as it can.
"""

import asyncio
import importlib
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Final, Protocol

from connectivity.clock import Instant
from connectivity.endpoint import IPAddress
from connectivity.io.extension import ExtensionHost, Tasks
from connectivity.tunnel import ConfigureTun
from gateway.actions import ResolveDomain
from gateway.masquerade import Masquerade

if TYPE_CHECKING:
    from gateway.naming import Naming
    from gateway.system_names import SystemNames

_LATE: Final = "gateway.naming"


class NamingCore(Protocol):
    """The part of a gateway's core that has to do with names."""

    def handle_resolution(self, domain: str, addresses: tuple[IPAddress, ...] | None, now: Instant) -> None:
        """The addresses of a name; None if it has none, or nobody knows."""

    def may_ask(self, address: IPAddress, name: str) -> bool:
        """Whether the client of this address may ask the site's DNS for a name."""


class GatewayExtension:
    """One for each run of a gateway."""

    def __init__(
        self,
        host: ExtensionHost,
        core: NamingCore,
        masquerade: Masquerade,
        ready: asyncio.Event,
        system: "SystemNames | None" = None,
    ) -> None:
        """``ready`` is set once the device is configured and the host forwards for it."""
        self._masquerade = masquerade
        self._ready = ready
        self._call: Callable[..., None] = host.call
        self._core = core
        self._mark = host.mark
        self._system = system
        self._tasks = Tasks(host.fail)
        self._naming: Naming | None = None
        self._addresses: tuple[IPAddress, ...] = ()

    async def start(self) -> None:
        """Nothing is needed before the first name."""

    def act(self, action: object) -> bool:
        """Look a name up."""
        if not isinstance(action, ResolveDomain):
            return False
        if self._naming is None:
            self._tasks.start(self._resolve(action.domain))
        else:
            self._naming.resolver.resolve(action.domain)
        return True

    async def configured(self, configuration: ConfigureTun) -> None:
        """Have the host forward for the device, and serve DNS at its addresses."""
        if not self._ready.is_set():
            # In a thread: ``nft`` may take its time, while clients are signalled.
            await asyncio.to_thread(self._masquerade.apply)
            self._ready.set()
        self._addresses = configuration.interface.ipv4, configuration.interface.ipv6
        self._tasks.start(self._serve())

    async def reset(self) -> None:
        """Sockets are new with each query; only what names meant is forgotten."""
        if self._naming is not None:
            self._naming.resolver.forget()

    async def close(self) -> None:
        """Listen no longer, end what runs, and take back what the host did for us."""
        if self._naming is not None:
            self._naming.site.close()
        await self._tasks.cancel()
        await asyncio.to_thread(self._masquerade.remove)

    def counters(self) -> Mapping[str, Mapping[str, int]]:
        """Look-ups and queries."""
        naming = self._made()
        return {"resolver": naming.resolver.counters(), "site_dns": naming.site.counters()}

    async def _resolve(self, domain: str) -> None:
        await asyncio.to_thread(importlib.import_module, _LATE)
        self._made().resolver.resolve(domain)

    async def _serve(self) -> None:
        await asyncio.to_thread(importlib.import_module, _LATE)
        self._made().site.serve(*self._addresses)

    def _made(self) -> "Naming":
        if self._naming is None:
            from gateway.naming import Naming

            self._naming = Naming.make(
                self._tasks, self._mark, answer=self._answer, may_ask=self._core.may_ask, system=self._system
            )
        return self._naming

    def _answer(self, domain: str, addresses: tuple[IPAddress, ...] | None) -> None:
        self._call(self._core.handle_resolution, domain, addresses, time.monotonic_ns())
