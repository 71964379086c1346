"""Addresses and ranges of them, as settings name those to be treated alike."""

from collections.abc import Iterable
from ipaddress import ip_network

from connectivity.endpoint import IPAddress
from connectivity.ranges import Network


def read_networks(texts: Iterable[str]) -> tuple[Network, ...]:
    """Addresses, or ranges of them.

    Raises:
        ValueError: one is neither.
    """
    try:
        return tuple(dict.fromkeys(ip_network(text.strip()) for text in texts))
    except ValueError:
        raise ValueError("expected addresses or ranges such as 10.0.0.5 or 10.0.0.0/24") from None


def is_within(ip: IPAddress, networks: Iterable[Network]) -> bool:
    """Whether one of the networks has this address."""
    return any(ip in network for network in networks)
