"""Proxy addresses: what stands for the names of DNS resources inside the tunnel (gateway and client facts §10.5).

A name of a resource gets four IPv4 or IPv6 addresses or both, by the resource's IP stack, when it is first asked for.
They are taken in sequence, stay the name's for the life of the process, and are never given to another, so that what
a program remembers goes on to mean what it meant, after a sign-out and sign-in too.
"""

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import Final

from client.resources import DnsResource, IpStack
from connectivity.endpoint import IPAddress
from connectivity.ranges import PROXIES_IPV4, PROXIES_IPV6, is_proxy

log = logging.getLogger("client")

PROXIES_PER_NAME: Final = 4  # of each family
# Programs of this host choose the names that match a wildcard, and addresses are never freed: about 2 KiB a name.
MAX_RECORDS: Final = 32_768


@dataclass(slots=True)
class Record:
    """A name of a resource, and what stands for it."""

    domain: str  # lower case, no final dot
    resource_id: str
    ipv4: tuple[IPAddress, ...] = ()
    ipv6: tuple[IPAddress, ...] = ()

    def of(self, version: int) -> tuple[IPAddress, ...]:
        """Its addresses of this IP version."""
        return self.ipv4 if version == 4 else self.ipv6

    def by(self, ip_stack: IpStack) -> tuple[IPAddress, ...]:
        """Its addresses of the families that this IP stack of the resource has."""
        return tuple(ip for version in (4, 6) if ip_stack.has(version) for ip in self.of(version))


class DnsRecords:
    """All names that were asked for."""

    def __init__(self, limit: int = MAX_RECORDS) -> None:
        self._limit = limit
        self._by_name: dict[tuple[str, str], Record] = {}
        self._by_address: dict[IPAddress, Record] = {}
        self._free = {4: _sequence(PROXIES_IPV4, first=1), 6: _sequence(PROXIES_IPV6, first=0)}
        self._is_full = False

    def __len__(self) -> int:
        """How many names have addresses."""
        return len(self._by_name)

    def assign(self, domain: str, resource: DnsResource) -> Record | None:
        """The name's record with addresses of each family that the resource has now; None if no more can be given."""
        key = (domain, resource.resource_id)
        record = self._by_name.get(key)
        if record is None:
            if len(self._by_name) >= self._limit:
                self._tell_full()
                return None
            record = self._by_name[key] = Record(domain, resource.resource_id)
        for version in (4, 6):
            if resource.ip_stack.has(version) and not record.of(version):
                addresses = tuple(next(self._free[version]) for _ in range(PROXIES_PER_NAME))
                if version == 4:
                    record.ipv4 = addresses
                else:
                    record.ipv6 = addresses
                self._by_address |= dict.fromkeys(addresses, record)
        return record

    def at(self, address: IPAddress) -> Record | None:
        """The name that an address stands for."""
        return self._by_address.get(address)

    def get(self, domain: str, resource_id: str) -> Record | None:
        """The record of a name of a resource."""
        return self._by_name.get((domain, resource_id))

    def _tell_full(self) -> None:
        if not self._is_full:
            self._is_full = True
            log.warning(
                "No more names of resources get addresses until a restart", extra={"fields": {"names": len(self)}}
            )


def _sequence(network: IPv4Network | IPv6Network, *, first: int) -> Iterator[IPAddress]:
    make = IPv4Address if network.version == 4 else IPv6Address
    start = int(network.network_address)
    for number in range(start + first, start + network.num_addresses):
        address = make(number)
        if is_proxy(address):
            yield address
