"""What the kernel delivers to this host, so that clients cannot reach its own services through the relay.

Asked of the addresses of all interfaces, and of the routing table: it holds broadcast and anycast addresses too (of an
IPv6 router those of each subnet), and whole prefixes that were made local (AnyIP). Apart from what needs no pyroute2,
whose import takes a relay longer than to bind its sockets.
"""

import os
import socket
from collections.abc import Iterator
from ipaddress import ip_network
from typing import Any, Final

from pyroute2 import IPRoute, NetlinkError

from connectivity.io import families
from relay.core.own import Network, OwnAddresses

_FAMILIES: Final[dict[int, str]] = {socket.AF_INET: "0.0.0.0", socket.AF_INET6: "::"}
_LOCAL, _BROADCAST, _ANYCAST = 2, 3, 4  # RTN_*: what does not leave the host, or not only
_VERSIONS: Final[dict[int, int]] = {family: version for version, family in families.FAMILIES.items()}


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
