"""Address ranges that a network does not include unless it lies within them, and those that are not of the Internet.

"Everything", or a wide network, does not mean other devices of the tunnel, what is link-local, loopback or multicast,
or a cloud's metadata service: a resource has to name those. IPv6 addresses that stand for an IPv4 one (NAT64, 6to4) are
judged as what they stand for.
"""

from functools import lru_cache
from ipaddress import IPv4Network, IPv6Network
from typing import Final, TypeAlias

from connectivity.endpoint import IPAddress

Network: TypeAlias = IPv4Network | IPv6Network

# What stands for a name's addresses inside the tunnel, and of that what stands for DNS servers.
PROXIES_IPV4: Final = IPv4Network("100.96.0.0/11")
PROXIES_IPV6: Final = IPv6Network("fd00:2021:1111:8000::/107")
SENTINELS_IPV4: Final = IPv4Network("100.100.111.0/24")
SENTINELS_IPV6: Final = IPv6Network("fd00:2021:1111:8000:100:100:111:0/120")

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
_PRIVATE_IPV4: Final = (IPv4Network("10.0.0.0/8"), IPv4Network("172.16.0.0/12"), IPv4Network("192.168.0.0/16"))
_PRIVATE_IPV6: Final = (IPv6Network("fc00::/7"),)  # unique local, RFC 4193
PRIVATE: Final[tuple[Network, ...]] = (*_PRIVATE_IPV4, *_PRIVATE_IPV6)

_NAT64: Final = IPv6Network("64:ff9b::/96")
_SIX_TO_FOUR: Final = IPv6Network("2002::/16")


def _standing_for(networks: tuple[IPv4Network, ...]) -> tuple[IPv6Network, ...]:
    return tuple(
        IPv6Network((int(form.network_address) | int(entry.network_address) << shift, form.prefixlen + entry.prefixlen))
        for form, shift in ((_NAT64, 0), (_SIX_TO_FOUR, 80))
        for entry in networks
    )


_SPECIAL: Final[dict[int, tuple[Network, ...]]] = {4: _IPV4, 6: (*_IPV6, *_standing_for(_IPV4))}
_PRIVATE: Final[dict[int, tuple[Network, ...]]] = {
    4: _PRIVATE_IPV4,
    6: (*_PRIVATE_IPV6, *_standing_for(_PRIVATE_IPV4)),
}
_REMEMBERED_ADDRESSES: Final = 4096  # what it costs is some hundred bytes each


def covers(network: Network, address: IPAddress) -> bool:
    """Whether a resource of this network includes the address."""
    if address.version != network.version or address not in network:
        return False
    return all(_within(network, special) for special in _special_around(address))


def is_proxy(address: IPAddress) -> bool:
    """Whether the address may stand for a name's addresses."""
    if address.version == 4:
        return address in PROXIES_IPV4 and address not in SENTINELS_IPV4
    return address in PROXIES_IPV6 and address not in SENTINELS_IPV6


def is_special(address: IPAddress) -> bool:
    """Whether only a network that lies within a special range includes the address; no name stands for it."""
    return bool(_special_around(address))


def is_of_the_internet(address: IPAddress) -> bool:
    """Whether the address is neither special nor somebody's private one."""
    return not is_special(address) and not any(address in network for network in _PRIVATE[address.version])


def excluded(networks: tuple[Network, ...]) -> tuple[Network, ...]:
    """The special ranges that lie in one of the networks, and that none of them names."""
    return tuple(
        special
        for special in SPECIAL
        if special not in networks and any(_within(special, network) for network in networks)
    )


@lru_cache(maxsize=_REMEMBERED_ADDRESSES)
def _special_around(address: IPAddress) -> tuple[Network, ...]:
    return tuple(special for special in _SPECIAL[address.version] if address in special)


def _within(inner: Network, outer: Network) -> bool:
    if isinstance(inner, IPv4Network):
        return isinstance(outer, IPv4Network) and inner.subnet_of(outer)
    return isinstance(outer, IPv6Network) and inner.subnet_of(outer)
