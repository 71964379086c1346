"""What a relay may announce as its address: what a device could send to and what its reader takes.

One entry that cannot be read makes the whole message that names relays unreadable to a device, and a relay at an
address of the device's own host or link would have every device send there. Private, shared and documentation ranges
are fine: labs and private networks have relays, too.
"""

import re
from ipaddress import IPv4Network, IPv6Address, IPv6Network, ip_network
from typing import Final

from connectivity.endpoint import Endpoint, IPAddress
from connectivity.portal.values import MessageError, relay_address
from connectivity.ranges import METADATA_IPV4, METADATA_IPV6

_PORT: Final = re.compile(r"[1-9][0-9]{0,4}", re.ASCII)
_NOWHERE: Final[tuple[IPv4Network | IPv6Network, ...]] = (
    *METADATA_IPV4,
    *METADATA_IPV6,
    *map(
        ip_network,
        (
            "0.0.0.0/8",
            "127.0.0.0/8",
            "169.254.0.0/16",  # link-local, with the metadata services of most clouds
            "192.0.0.0/24",  # IETF protocol assignments; Oracle's metadata
            "224.0.0.0/3",  # multicast, reserved, broadcast
            "::/8",  # unspecified, loopback, v4-mapped, v4-compatible, NAT64 of local use
            "64:ff9b::/96",  # NAT64, and below 6to4 and Teredo: addresses that stand for an IPv4 one
            "2002::/16",
            "2001::/32",
            "fe80::/10",
            "fec0::/10",
            "ff00::/8",
        ),
    ),
)


def parse_port(text: str) -> int:
    """A port as components write it.

    Raises:
        ValueError: any other spelling, or none of 1 to 65535.
    """
    if not _PORT.fullmatch(text) or int(text) > 0xFFFF:
        raise ValueError("port must be from 1 to 65535")
    return int(text)


def check(ip: IPAddress, port: int) -> None:
    """Raise unless devices can be told of a relay there.

    Raises:
        ValueError: what is wrong with the address.
    """
    if (isinstance(ip, IPv6Address) and ip.scope_id is not None) or any(ip in entry for entry in _NOWHERE):
        raise ValueError("is not an address that devices can use")
    try:
        relay_address(str(Endpoint(ip, port)))
    except MessageError:
        raise ValueError("is not an address that devices can read") from None
