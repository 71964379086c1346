"""For whom a proxy asks: ``X-Forwarded-For``, of which each proxy appends the address that it was asked from.

What stands there is a stranger's word but for what proxies of ours have appended, so it is read from its end: through
those that are trusted, to the first that is not. ``Forwarded`` (RFC 7239) is not read: a proxy that writes the one
passes a stranger's other one on.
"""

from collections.abc import Iterable
from ipaddress import IPv6Address, ip_address
from typing import Any, Final

from connectivity.endpoint import IPAddress
from connectivity.networks import is_within
from connectivity.ranges import Network

HEADER: Final = "X-Forwarded-For"
MOST_HOPS: Final = 16  # trusted proxies in a row
_LONGEST_ENTRY: Final = 64


def peer_of(address: Any) -> IPAddress | None:
    """Who is at the other end, by a socket's address: IPv4 as such on any listener; nobody at a Unix socket."""
    if not isinstance(address, tuple):
        return None
    return _plain(ip_address(address[0].partition("%")[0]))


def client_of(peer: IPAddress, values: Iterable[str], trusted: Iterable[Network]) -> IPAddress:
    """Who asks by a connection of ``peer`` with these values of the header.

    Where a trusted proxy says nothing, or what is no address, it is that proxy itself.
    """
    networks = tuple(trusted)
    found = peer
    for entry in reversed(",".join(values).rsplit(",", MOST_HOPS)[-MOST_HOPS:]):
        if not is_within(found, networks):
            break
        address = _address(entry.strip(" \t"))
        if address is None:
            break
        found = address
    return found


def _address(entry: str) -> IPAddress | None:
    """An address, also with a port behind it; with a zone it is of another host's links."""
    host = entry
    if entry.startswith("["):
        host = entry[1:].partition("]")[0]
    elif entry.count(":") == 1:
        host = entry.partition(":")[0]
    if len(entry) > _LONGEST_ENTRY or "%" in host:
        return None
    try:
        return _plain(ip_address(host))
    except ValueError:
        return None


def _plain(address: IPAddress) -> IPAddress:
    return (address.ipv4_mapped or address) if isinstance(address, IPv6Address) else address
