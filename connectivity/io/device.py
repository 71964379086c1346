"""The tunnel device as the core wants it: its addresses, and what the host sends into it."""

import asyncio
import logging
from collections.abc import Awaitable, Callable

from connectivity.endpoint import IPAddress
from connectivity.errors import FatalError, chain
from connectivity.tunnel import ConfigureTun

log = logging.getLogger("connectivity.io")


class ConfiguredDevice:
    """Gives the device its newest configuration, in a thread: netlink takes its time, and so does its first import.

    ``configuration`` is what the device has; None before the first.
    """

    def __init__(
        self,
        name: str,
        *,
        configured: Callable[[ConfigureTun], Awaitable[None]],
        fail: Callable[[BaseException], None],
    ) -> None:
        """``configured`` is awaited once the device is as wanted, before the next; ``fail`` is told why it is not."""
        self._name = name
        self._configured = configured
        self._fail = fail
        self._wanted: ConfigureTun | None = None
        self._working: asyncio.Task[None] | None = None
        self._host_changed = False
        self.configuration: ConfigureTun | None = None

    def configure(self, action: ConfigureTun) -> None:
        """Have the device get these addresses and routes; of those that come meanwhile only the newest counts."""
        self._wanted = action
        if self._working is None:
            self._working = asyncio.get_running_loop().create_task(self._work())

    async def settle(self) -> None:
        """Begin nothing more, and wait for what was begun."""
        self._wanted = None
        if self._working is not None:
            await asyncio.wait({self._working})

    def addresses(self) -> tuple[IPAddress, ...]:
        """Ours inside the tunnel."""
        configuration = self.configuration
        return () if configuration is None else (configuration.interface.ipv4, configuration.interface.ipv6)

    def leave_host(self) -> None:
        """Take back what the device does not take along when it goes. Never hides what ended the service."""
        if not self._host_changed:
            return
        from connectivity.io import host

        try:
            host.remove_policy_routing()
        except OSError as error:
            log.warning("Cannot remove the policy rules", extra={"fields": {"error": chain(error)}})

    async def _work(self) -> None:
        try:
            while (wanted := self._wanted) is not None:
                self._wanted = None
                held = self.configuration
                self._host_changed = True
                await asyncio.to_thread(_give, self._name, wanted, held)
                self.configuration = wanted
                log.info(
                    "Tunnel ready" if held is None else "Tunnel updated",
                    extra={"fields": {"ipv4": wanted.interface.ipv4, "ipv6": wanted.interface.ipv6}},
                )
                await self._configured(wanted)
        except Exception as error:  # noqa: BLE001  # whatever it is ends the service, in order
            self._fail(error)
        finally:
            self._working = None


def _give(name: str, wanted: ConfigureTun, held: ConfigureTun | None) -> None:
    """Raises FatalError: the host refused."""
    from connectivity.io import host  # pyroute2: a tenth of a second that the portal need not wait for

    try:
        host.configure(name, wanted.interface.ipv4, wanted.interface.ipv6)
        host.set_routes(name, wanted.routes, () if held is None else held.routes, wanted.excluded)
    except OSError as error:
        raise FatalError(f"cannot configure {name}") from error
