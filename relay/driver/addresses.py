"""What the kernel delivers to this host, so that clients cannot reach its own services through the relay.

Asked of the addresses of all interfaces, and of the routing table: it holds broadcast and anycast addresses too (of an
IPv6 router those of each subnet), and whole prefixes that were made local (AnyIP). And which address families it has.
"""

import asyncio
import dataclasses
import logging
import os
import socket
from collections.abc import Iterator
from ipaddress import ip_network
from typing import Any, Final

from pyroute2 import IPRoute, NetlinkError

from connectivity.endpoint import IPAddress
from connectivity.errors import FatalError
from connectivity.io import families
from relay.configuration import Configuration
from relay.core.own import Network, OwnAddresses

_FAMILIES: Final[dict[int, str]] = {socket.AF_INET: "0.0.0.0", socket.AF_INET6: "::"}
_LOCAL, _BROADCAST, _ANYCAST = 2, 3, 4  # RTN_*: what does not leave the host, or not only
# rtnetlink.h: RTMGRP_IPV4_IFADDR, RTMGRP_IPV4_ROUTE, RTMGRP_IPV4_RULE, RTMGRP_IPV6_IFADDR, RTMGRP_IPV6_ROUTE
_CHANGES: Final = 0x10 | 0x40 | 0x80 | 0x100 | 0x400
_VERSIONS: Final[dict[int, int]] = {family: version for version, family in families.FAMILIES.items()}
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


def host_addresses() -> OwnAddresses:
    """All that this network namespace takes as its own, now. Not to be called inside a running event loop.

    Routes count in tables that every packet may be looked up in; those that only marked packets or arriving ones get
    to, as a transparent proxy has them, say nothing about what the relay sends. Loopback is a class of its own.

    Raises:
        OSError: the kernel does not tell.
    """
    found: set[Network] = set()
    with IPRoute(strict_check=True) as netlink:
        try:
            found.update(_of_interfaces(netlink))
        except NetlinkError as error:
            raise OSError(error.code, os.strerror(error.code)) from None
        for family in _FAMILIES:
            try:
                found.update(_local_prefixes(netlink, family))
            except NetlinkError as error:
                refused = OSError(error.code, os.strerror(error.code))
                if not families.is_absent(refused, _VERSIONS[family]):
                    raise refused from None
    return OwnAddresses.of(each for each in found if each.num_addresses == 1 or not each.is_loopback)


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


def _of_interfaces(netlink: IPRoute) -> Iterator[Network]:
    for message in netlink.get_addr():
        text = message.get_attr("IFA_LOCAL") or message.get_attr("IFA_ADDRESS")
        if text:
            yield ip_network(text)


def _local_prefixes(netlink: IPRoute, family: int) -> Iterator[Network]:
    tables = set(_tables(netlink, family))
    for kind in (_LOCAL, _BROADCAST, _ANYCAST):
        for message in netlink.get_routes(family=family, type=kind):
            if message["type"] == kind and message.get_attr("RTA_TABLE") in tables:
                yield _prefix(message, family)


def _tables(netlink: IPRoute, family: int) -> Iterator[int]:
    for rule in netlink.get_rules(family=family):
        if rule.get_attr("FRA_FWMARK") is None and rule.get_attr("FRA_IIFNAME") is None:
            yield rule.get_attr("FRA_TABLE") or rule["table"]


def _prefix(message: Any, family: int) -> Network:
    return ip_network(f"{message.get_attr('RTA_DST') or _FAMILIES[family]}/{message['dst_len']}")
