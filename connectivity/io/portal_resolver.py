"""Name resolution for the portal link: asks the system anew for each attempt, falls back on what it said before.

The system's resolver may be our own stub behind the tunnel that is down, so a slow or failing answer must not keep the
link from dialling an address that worked.
"""

import asyncio
import logging
import socket
import threading
from collections.abc import Sequence
from ipaddress import ip_address
from typing import Any, Final, TypeAlias

from aiohttp.abc import AbstractResolver, ResolveResult

from connectivity.endpoint import IPAddress
from connectivity.errors import chain

RESOLVE_SECONDS: Final = 3.0  # before the addresses known from before are used

_logger = logging.getLogger("connectivity.phoenix")
# What getaddrinfo returns: family, type, protocol, canonical name, socket address.
_Found: TypeAlias = tuple[socket.AddressFamily, socket.SocketKind, int, str, tuple[Any, ...]]


class PortalResolver(AbstractResolver):
    """Remembers the addresses of each host; ``resolve`` answers from memory, ``refresh`` asks the system."""

    def __init__(self) -> None:
        self._known: dict[str, list[ResolveResult]] = {}

    async def refresh(self, host: str, port: int) -> bool:
        """Look ``host`` up; False if it has no known address now."""
        try:
            async with asyncio.timeout(RESOLVE_SECONDS if host in self._known else None):
                found = await _ask_system(host, port)
        except (OSError, TimeoutError, UnicodeError) as error:
            _logger.debug("Failed to resolve portal host", extra={"fields": {"error": chain(error)}})
        else:
            self._known[host] = [
                ResolveResult(
                    hostname=host,
                    host=str(address[0]),
                    port=port,
                    family=family,
                    proto=protocol,
                    flags=socket.AI_NUMERICHOST,
                )
                for family, _kind, protocol, _name, address in found
            ]
        return bool(self._known.get(host))

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        """The connector's question. ``port`` and ``family`` are those of ``refresh``."""
        del port, family
        known = self._known.get(host)
        if not known:
            raise OSError(f"no address known for {host}")
        return known

    def known(self, host: str) -> list[IPAddress]:
        """What ``refresh`` found last."""
        return [ip_address(result["host"].partition("%")[0]) for result in self._known.get(host, ())]

    async def close(self) -> None:
        """Nothing is open. The memory outlives the connectors."""


async def _ask_system(host: str, port: int) -> Sequence[_Found]:
    """``getaddrinfo`` in a thread that nobody waits for at the end.

    The event loop's own threads are joined when the process ends, and a resolver that does not answer takes its time:
    a service that looks a name up would not stop when it is told to.
    """
    loop = asyncio.get_running_loop()
    answer: asyncio.Future[Sequence[_Found]] = loop.create_future()

    def settle(found: Sequence[_Found], error: OSError | UnicodeError | None) -> None:
        if answer.done():  # given up on
            return
        if error is None:
            answer.set_result(found)
        else:
            answer.set_exception(error)

    def ask() -> None:
        found: Sequence[_Found] = ()
        failure: OSError | UnicodeError | None = None
        try:
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError) as error:
            failure = error
        try:
            loop.call_soon_threadsafe(settle, found, failure)
        except RuntimeError:
            _logger.debug("An answer came after the end")  # the loop is closed: nobody waits any more

    threading.Thread(target=ask, name="portal-resolver", daemon=True).start()
    return await answer
