"""Sentinels: the addresses inside the tunnel at which the host asks for names, each with a server behind it (§10.2).

The servers are those that the portal names, else those of the host. As long as they are the same set nothing changes;
other servers get other sentinels than the last ones, so that the host notices.
"""

from collections.abc import Iterable, Iterator
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import Final, TypeAlias

from connectivity.endpoint import Endpoint, IPAddress
from connectivity.ranges import SENTINELS_IPV4, SENTINELS_IPV6

Mapping: TypeAlias = tuple[tuple[IPAddress, Endpoint], ...]

DNS_PORT: Final = 53
MAX_SERVERS: Final = 64  # of all that are named; two sets side by side fit in the range many times


def effective_servers(upstream: Iterable[Endpoint], system: Iterable[IPAddress]) -> tuple[Endpoint, ...]:
    """The servers that the portal names, else those of the host; what the host calls our own sentinels is none."""
    named = _usable(upstream)
    return named or _usable(Endpoint(address, DNS_PORT) for address in system)


class Sentinels:
    """The mapping in force."""

    def __init__(self) -> None:
        self.mapping: Mapping = ()
        self._last: frozenset[IPAddress] = frozenset()
        self._servers: dict[IPAddress, Endpoint] = {}

    def update(self, servers: tuple[Endpoint, ...]) -> bool:
        """Put these servers behind sentinels; whether anything changed."""
        if {server for _, server in self.mapping} == set(servers):
            return False
        used = {sentinel for sentinel, _ in self.mapping} or self._last
        free = {4: _addresses(SENTINELS_IPV4, 1, used), 6: _addresses(SENTINELS_IPV6, 0, used)}
        self._last = frozenset(used)
        self.mapping = tuple((next(free[server.ip.version]), server) for server in servers)
        self._servers = dict(self.mapping)
        return True

    def server(self, sentinel: IPAddress) -> Endpoint | None:
        """The server behind a sentinel; None if nothing is."""
        return self._servers.get(sentinel)

    def first(self, version: int) -> IPAddress | None:
        """The first sentinel of this IP version."""
        return next((sentinel for sentinel in self._servers if sentinel.version == version), None)


def is_sentinel(address: IPAddress) -> bool:
    """Whether an address is in the range of sentinels, in force or not."""
    return address in (SENTINELS_IPV4 if address.version == 4 else SENTINELS_IPV6)


def _usable(servers: Iterable[Endpoint]) -> tuple[Endpoint, ...]:
    found = dict.fromkeys(server for server in servers if not is_sentinel(server.ip))
    return tuple(found)[:MAX_SERVERS]


def _addresses(network: IPv4Network | IPv6Network, first: int, used: Iterable[IPAddress]) -> Iterator[IPAddress]:
    make = IPv4Address if network.version == 4 else IPv6Address
    taken = set(used)
    start = int(network.network_address)
    return (make(number) for number in range(start + first, start + network.num_addresses) if make(number) not in taken)
