"""Which address families this host has, which addresses are ours by the configuration, and when the host changes."""

import asyncio
import dataclasses
import logging
import socket
from typing import Final

from connectivity.endpoint import IPAddress
from connectivity.errors import FatalError
from connectivity.io import families
from relay.configuration import Configuration

# rtnetlink.h: RTMGRP_IPV4_IFADDR, RTMGRP_IPV4_ROUTE, RTMGRP_IPV4_RULE, RTMGRP_IPV6_IFADDR, RTMGRP_IPV6_ROUTE
_CHANGES: Final = 0x10 | 0x40 | 0x80 | 0x100 | 0x400
_DATAGRAM_BYTES: Final = 64 << 10

_log = logging.getLogger("relay")


def without_absent_families(configuration: Configuration) -> Configuration:
    """What this host can serve of it. A family that it does not have is said and left out, everywhere.

    Raises:
        FatalError: nothing is left.
    """
    named = {*configuration.public, *(endpoint.ip.version for endpoint in configuration.listen)}
    absent = {version: reason for version in sorted(named) if (reason := families.absence(version)) is not None}
    if not absent:
        return configuration
    for version, reason in absent.items():
        _log.warning("Not serving an address family", extra={"fields": {"version": version, "reason": reason}})
    left = dataclasses.replace(
        configuration,
        public={version: ip for version, ip in configuration.public.items() if version not in absent},
        listen=tuple(endpoint for endpoint in configuration.listen if endpoint.ip.version not in absent),
        tls_listen=tuple(endpoint for endpoint in configuration.tls_listen if endpoint.ip.version not in absent),
        alternate={version: to for version, to in configuration.alternate.items() if version not in absent},
        internal=tuple(ip for ip in configuration.internal if ip.version not in absent),
    )
    if not left.public or not left.listen:
        raise FatalError(f"no address family to serve: {'; '.join(absent.values())}")
    return left


def always_own_addresses(configuration: Configuration) -> frozenset[IPAddress]:
    """What is ours by the configuration, whether this host has it or a NAT in front of it."""
    return frozenset({*configuration.public.values(), *configuration.internal})


class HostChanges:
    """Tells that addresses, routes or rules of this network namespace have changed."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._changed = asyncio.Event()
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_NONBLOCK, socket.NETLINK_ROUTE)
        self._socket.bind((0, _CHANGES))
        loop.add_reader(self._socket.fileno(), self._read)

    async def wait(self, seconds: float) -> None:
        """Return when something has changed, or the time is up."""
        try:
            async with asyncio.timeout(seconds):
                await self._changed.wait()
        except TimeoutError:
            return
        self._changed.clear()

    def close(self) -> None:
        """Listen no longer."""
        self._loop.remove_reader(self._socket.fileno())
        self._socket.close()

    def _read(self) -> None:
        self._changed.set()
        try:
            while self._socket.recv(_DATAGRAM_BYTES):
                pass
        except OSError:  # nothing more, or more than it could hold (ENOBUFS): either way all is looked at again
            return
