"""Address ranges that a network does not include unless it lies within them.

"Everything", or a wide network, does not mean other devices of the tunnel, what is link-local, loopback or multicast,
or a cloud's metadata service: a resource has to name those. IPv6 addresses that stand for an IPv4 one (NAT64, 6to4) are
judged as what they stand for.
"""

from functools import lru_cache
from ipaddress import IPv4Network, IPv6Network
from typing import Final, TypeAlias

from connectivity.endpoint import IPAddress

Network: TypeAlias = IPv4Network | IPv6Network

# Services of clouds that trust whoever asks, where they are not link-local as most are.
METADATA_IPV4: Final = (
    IPv4Network("168.63.129.16/32"),  # Azure
    IPv4Network("100.100.100.200/32"),  # Alibaba Cloud
)
METADATA_IPV6: Final = (
    IPv6Network("fd00:ec2::/64"),  # Amazon: metadata, credentials of pods, time and names
    IPv6Network("fd20:ce::254/128"),  # Google Cloud
)
# Devices, proxy addresses of names and DNS sentinels of the tunnel all lie in the shared range (RFC 6598).
_IPV4: Final = (
    *METADATA_IPV4,
    *map(
        IPv4Network,
        (
            "0.0.0.0/8",
            "100.64.0.0/10",
            "127.0.0.0/8",
            "169.254.0.0/16",
            "169.254.169.254/32",  # metadata of most clouds
            "169.254.170.2/32",  # credentials of Amazon's containers
            "169.254.170.23/32",  # and of its pods
            "192.0.0.192/32",  # Oracle Cloud's metadata
            "224.0.0.0/4",
            "240.0.0.0/4",  # with the broadcast address
        ),
    ),
)
_IPV6: Final = (
    *METADATA_IPV6,
    *map(
        IPv6Network,
        (
            "::/128",
            "::1/128",
            "::ffff:0:0/96",  # IPv4-mapped: on no wire
            "fd00:2021:1111::/48",  # all of the tunnel
            "fe80::/10",
            "ff00::/8",
        ),
    ),
)
SPECIAL: Final[tuple[Network, ...]] = (*_IPV4, *_IPV6)

_NAT64: Final = IPv6Network("64:ff9b::/96")
_SIX_TO_FOUR: Final = IPv6Network("2002::/16")
_STANDING_FOR_IPV4: Final = tuple(
    IPv6Network((int(form.network_address) | int(entry.network_address) << shift, form.prefixlen + entry.prefixlen))
    for form, shift in ((_NAT64, 0), (_SIX_TO_FOUR, 80))
    for entry in _IPV4
)
_BY_VERSION: Final[dict[int, tuple[Network, ...]]] = {4: _IPV4, 6: (*_IPV6, *_STANDING_FOR_IPV4)}
_REMEMBERED_ADDRESSES: Final = 4096  # what it costs is some hundred bytes each


def covers(network: Network, address: IPAddress) -> bool:
    """Whether a resource of this network includes the address."""
    if address.version != network.version or address not in network:
        return False
    return all(_within(network, special) for special in _special_around(address))


def excluded(networks: tuple[Network, ...]) -> tuple[Network, ...]:
    """The special ranges that lie in one of the networks, and that none of them names."""
    return tuple(
        special
        for special in SPECIAL
        if special not in networks and any(_within(special, network) for network in networks)
    )


@lru_cache(maxsize=_REMEMBERED_ADDRESSES)
def _special_around(address: IPAddress) -> tuple[Network, ...]:
    return tuple(special for special in _BY_VERSION[address.version] if address in special)


def _within(inner: Network, outer: Network) -> bool:
    if isinstance(inner, IPv4Network):
        return isinstance(outer, IPv4Network) and inner.subnet_of(outer)
    return isinstance(outer, IPv6Network) and inner.subnet_of(outer)
