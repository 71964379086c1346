"""The first moments of a service: its signals, and a link to the portal that dials while the rest is still imported.

Whoever waits for a gateway that is started anew waits for the portal to let it in. What the portal says meanwhile waits
until the service hears it.
"""

import asyncio
import logging
import signal

from connectivity.io.portal import PortalLink
from connectivity.io.udp_options import SOCKET_MARK
from connectivity.key_pair import KeyPair
from connectivity.phoenix.login import PortalLogin

_CLOSE_SECONDS = 1.5

log = logging.getLogger("connectivity.io")


class Opening:
    """A link that has begun to dial, with the keys of its login."""

    def __init__(self, keys: KeyPair, login: PortalLogin, topic: str, max_partition_seconds: float | None) -> None:
        self.stop = heed_signals()
        self.keys = keys
        self.login = login
        self.link = PortalLink(
            login, topic, mark=SOCKET_MARK, max_partition_seconds=max_partition_seconds, is_heard=False
        )
        self.running = asyncio.ensure_future(self.link.run())

    async def close(self) -> None:
        """Leave the portal, if nobody has done so yet."""
        await settle(self.link, self.running)


def heed_signals() -> asyncio.Event:
    """What SIGINT and SIGTERM set, so that the service ends in order from its first moment on."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)  # until there is a wire log to switch
    return stop


async def settle(link: PortalLink, running: "asyncio.Future[None]") -> None:
    """Close the link in good form, if there is time for that."""
    if not running.done():
        try:
            async with asyncio.timeout(_CLOSE_SECONDS):
                await link.close()
        except TimeoutError:
            log.debug("The portal did not close in time")
        running.cancel()
    await asyncio.wait({running})
    if not running.cancelled():
        running.exception()  # reported already, or of no interest any more
