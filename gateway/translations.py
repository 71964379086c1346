"""What a client's proxy addresses stand for: a resource, a name under it, and one of the name's real addresses.

A client assigns four or eight proxy addresses to a name and keeps them for as long as it runs. Each real address of the
name's stands behind some of them, IPv4 behind IPv4 and IPv6 behind IPv6, by turns in sorted order; a family without any
leaves its proxy addresses unreachable. A client that assigns one to something else has started anew, and none of the
old assignments holds any more.
"""

from collections.abc import Iterable
from typing import Final, NamedTuple

from connectivity.endpoint import IPAddress

# About 2 kB each. A client that knows more names loses the one that it asked for least recently; it assigns it again
# with its next query for it, and what is open goes on.
MAX_CLIENT_NAMES: Final = 1024
MAX_NAMES: Final = 32_768


class Target(NamedTuple):
    """What a proxy address stands for; ``real`` None is unreachable."""

    resource_id: str
    domain: str
    real: IPAddress | None


class NameCapacity:
    """How many names all clients of a gateway have, and may have."""

    __slots__ = ("limit", "used")

    def __init__(self, limit: int = MAX_NAMES) -> None:
        self.limit = limit
        self.used = 0


class Translations:
    """All proxy addresses of one client."""

    def __init__(self, capacity: NameCapacity, *, limit: int = MAX_CLIENT_NAMES) -> None:
        self._capacity = capacity
        self._limit = limit
        self._targets: dict[IPAddress, Target] = {}
        self._names: dict[tuple[str, str], tuple[IPAddress, ...]] = {}  # by resource and domain, least recent first

    def __len__(self) -> int:
        """How many names there are."""
        return len(self._names)

    def get(self, proxy: IPAddress) -> Target | None:
        """What a proxy address stands for."""
        return self._targets.get(proxy)

    def is_renumbering(self, resource_id: str, domain: str, proxies: Iterable[IPAddress]) -> bool:
        """Whether one of these addresses stands for something else."""
        held = [self._targets[proxy] for proxy in proxies if proxy in self._targets]
        return any((target.resource_id, target.domain) != (resource_id, domain) for target in held)

    def assign(
        self, resource_id: str, domain: str, proxies: Iterable[IPAddress], resolved: Iterable[IPAddress]
    ) -> bool:
        """Let these addresses, and no others, stand for a name that has these real addresses.

        Returns:
            Whether that is news.
        """
        targets = {
            proxy: Target(resource_id, domain, real) for proxy, real in _by_turns(sorted_addresses(proxies), resolved)
        }
        name = resource_id, domain
        before = self._names.pop(name, ())
        changed = before != tuple(targets) or any(self._targets[proxy] != targets[proxy] for proxy in before)
        if not before:
            self._capacity.used += 1
        for proxy in before:
            del self._targets[proxy]
        self._names[name] = tuple(targets)
        self._targets |= targets
        return changed

    def make_room(self, resource_id: str, domain: str) -> tuple[bool, str | None]:
        """Forget the least recent name if there is no place for this one.

        Returns:
            Whether there is a place now, and the name that went.
        """
        if (resource_id, domain) in self._names:
            return True, None
        if len(self._names) < self._limit and self._capacity.used < self._capacity.limit:
            return True, None
        if not self._names:
            return False, None
        oldest = next(iter(self._names))
        self._forget(oldest)
        return True, oldest[1]

    def real_addresses(self, resource_id: str) -> set[IPAddress]:
        """The addresses behind the names of a resource."""
        return {
            target.real
            for target in self._targets.values()
            if target.resource_id == resource_id and target.real is not None
        }

    def forget_resource(self, resource_id: str) -> None:
        """Forget the names of a resource."""
        for name in [name for name in self._names if name[0] == resource_id]:
            self._forget(name)

    def clear(self) -> None:
        """Forget everything."""
        self._capacity.used -= len(self._names)
        self._names.clear()
        self._targets.clear()

    def _forget(self, name: tuple[str, str]) -> None:
        for proxy in self._names.pop(name):
            del self._targets[proxy]
        self._capacity.used -= 1


def sorted_addresses(addresses: Iterable[IPAddress]) -> list[IPAddress]:
    """Each once, IPv4 first, by value."""
    return sorted(set(addresses), key=lambda address: (address.version, int(address)))


def _by_turns(
    proxies: Iterable[IPAddress], resolved: Iterable[IPAddress]
) -> Iterable[tuple[IPAddress, IPAddress | None]]:
    """Each proxy address with a real one of its family, in turn."""
    real: dict[int, list[IPAddress]] = {4: [], 6: []}
    for address in sorted_addresses(resolved):
        real[address.version].append(address)
    turns = {4: 0, 6: 0}
    for proxy in proxies:
        choices = real[proxy.version]
        yield proxy, choices[turns[proxy.version] % len(choices)] if choices else None
        turns[proxy.version] += 1
