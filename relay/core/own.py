"""What is delivered to the relay's own host: single addresses, and ranges of which every address is (AnyIP)."""

from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network, collapse_addresses
from typing import Final, TypeAlias

from connectivity.endpoint import IPAddress

Network: TypeAlias = IPv4Network | IPv6Network


@dataclass(frozen=True, slots=True)
class OwnAddresses:
    """Addresses and ranges of this host; ranges are looked through one after the other, and few."""

    addresses: frozenset[IPAddress] = frozenset()
    ranges: tuple[Network, ...] = ()

    @classmethod
    def of(cls, networks: Iterable[Network]) -> "OwnAddresses":
        """From prefixes in any order, each as often as it likes."""
        given = set(networks)
        ranges = {each for each in given if each.num_addresses > 1}
        ipv4 = collapse_addresses(each for each in ranges if isinstance(each, IPv4Network))
        ipv6 = collapse_addresses(each for each in ranges if isinstance(each, IPv6Network))
        return cls(frozenset(each.network_address for each in given - ranges), (*ipv4, *ipv6))

    def __contains__(self, address: object) -> bool:
        return address in self.addresses or any(address in each for each in self.ranges)

    def __or__(self, addresses: Iterable[IPAddress]) -> "OwnAddresses":
        return OwnAddresses(self.addresses | frozenset(addresses), self.ranges)


NO_ADDRESSES: Final = OwnAddresses()
