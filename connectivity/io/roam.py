"""Begins a tunnel anew while it runs: another network, a long sleep, or SIGHUP.

Other keys and other sockets, the portal asked at once under the new key, relays from the new sockets; device, addresses
and routes stay as they are, so that what is open inside the tunnel lives on.
"""

import asyncio
import logging
import os
import signal
import time
from collections.abc import Callable
from typing import Final

from connectivity.endpoint import IPAddress
from connectivity.io.extension import Extension, Tasks
from connectivity.io.network_watch import NetworkWatch
from connectivity.io.portal import PortalLink
from connectivity.io.tunnel import TunnelDriver
from connectivity.io.udp import UdpSocket
from connectivity.io.udp_options import SOCKET_MARK
from connectivity.phoenix.login import PortalLogin
from connectivity.tunnel import TunnelCore
from connectivity.wireguard import KeyPair

log = logging.getLogger("connectivity.io")

BY_HAND: Final = "SIGHUP"


class Roaming:
    """Watches, and does it. One for a run."""

    def __init__(
        self,
        *,
        core: TunnelCore,
        driver: TunnelDriver,
        link: PortalLink,
        extension: Extension,
        make_login: Callable[[KeyPair], PortalLogin],
        bind: Callable[[], dict[int, UdpSocket]],
    ) -> None:
        """``bind`` makes sockets beside those that are there."""
        self._core = core
        self._driver = driver
        self._link = link
        self._extension = extension
        self._make_login = make_login
        self._bind = bind
        self._by_hand = False
        self._tasks = Tasks(driver.fail)
        self._watch = NetworkWatch(
            self._destinations, self.reset, mark=SOCKET_MARK, fail=driver.fail, needed=link.addresses
        )

    def start(self, *, by_hand: bool = True) -> None:
        """Watch the network, and heed SIGHUP, unless the process with its signals is somebody else's."""
        self._by_hand = by_hand
        if by_hand:
            asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, self.reset, BY_HAND)
        self._watch.start()

    async def close(self) -> None:
        """Stay where we are. A SIGHUP that comes now changes nothing."""
        self._watch.close()
        if self._by_hand:
            asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, lambda: None)
        await self._tasks.cancel()

    def reset(self, reason: str) -> None:
        """Begin anew; a defect in it ends the service in order."""
        self._driver.call(self._reset, reason)

    def _reset(self, reason: str) -> None:
        log.info("Beginning anew: the network is another one", extra={"fields": {"reason": reason}})
        keys = KeyPair.generate(os.urandom)
        sockets = self._bind()
        self._core.reset(keys, time.monotonic_ns())
        self._link.reconnect(self._make_login(keys))  # before the core's first words, which wait for the login
        self._driver.rebind(sockets)
        self._tasks.start(self._extension.reset())
        self._watch.settle()

    def _destinations(self) -> list[IPAddress]:
        return [*self._link.addresses(), *self._core.relay_addresses()]
