"""What a gateway has beside its tunnel: the look-up of names for its core, and the DNS server of its site."""

import time
from collections.abc import Callable, Mapping
from typing import Protocol

from connectivity.clock import Instant
from connectivity.endpoint import IPAddress
from connectivity.io.extension import ExtensionHost, Tasks
from connectivity.tunnel import ConfigureTun
from gateway.actions import ResolveDomain
from gateway.nameservers import Nameservers
from gateway.resolver import Resolver
from gateway.site_dns import SiteDns
from gateway.system_names import SystemNames


class NamingCore(Protocol):
    """The part of a gateway's core that has to do with names."""

    def handle_resolution(self, domain: str, addresses: tuple[IPAddress, ...] | None, now: Instant) -> None:
        """The addresses of a name; None if it has none, or nobody knows."""

    def may_ask(self, address: IPAddress, name: str) -> bool:
        """Whether the client of this address may ask the site's DNS for a name."""


class GatewayExtension:
    """One for each run of a gateway."""

    def __init__(self, host: ExtensionHost, core: NamingCore, system: SystemNames | None = None) -> None:
        self._call: Callable[..., None] = host.call
        self._core = core
        self._tasks = Tasks(host.fail)
        names = system or SystemNames()
        self._resolver = Resolver(self._answer, self._tasks.start, mark=host.mark, system=names)
        nameservers = Nameservers(self._tasks.start, mark=host.mark, system=names)
        self._site = SiteDns(nameservers, self._tasks.start, core.may_ask)

    async def start(self) -> None:
        """Nothing is needed before the first name."""

    def act(self, action: object) -> bool:
        """Look a name up."""
        if not isinstance(action, ResolveDomain):
            return False
        self._resolver.resolve(action.domain)
        return True

    def configured(self, configuration: ConfigureTun) -> None:
        """Serve DNS at the addresses of the device."""
        self._site.serve(configuration.interface.ipv4, configuration.interface.ipv6)

    async def reset(self) -> None:
        """Sockets are new with each query; only what names meant is forgotten."""
        self._resolver.forget()

    async def close(self) -> None:
        """Listen no longer, and end what runs."""
        self._site.close()
        await self._tasks.cancel()

    def counters(self) -> Mapping[str, Mapping[str, int]]:
        """Look-ups and queries."""
        return {"resolver": self._resolver.counters(), "site_dns": self._site.counters()}

    def _answer(self, domain: str, addresses: tuple[IPAddress, ...] | None) -> None:
        self._call(self._core.handle_resolution, domain, addresses, time.monotonic_ns())
