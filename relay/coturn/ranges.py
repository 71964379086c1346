"""Ranges of peers. With coturn ``allowed-peer-ip`` beats ``denied-peer-ip``; with us ``deny`` beats ``allow``."""

import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass

from connectivity.endpoint import IPAddress


@dataclass(frozen=True, slots=True, order=True)
class Range:
    """From one address to another of the same family, both within."""

    version: int
    first: int
    last: int

    def __str__(self) -> str:
        lowest, highest = (_address(self.version, number) for number in (self.first, self.last))
        networks = list(ipaddress.summarize_address_range(lowest, highest))
        if len(networks) > 1:
            return f"{lowest}-{highest}"
        return str(lowest) if self.first == self.last else str(networks[0])


def read_range(text: str) -> Range:
    """An address, or two with a dash between.

    Raises:
        ValueError: it is neither.
    """
    first, _, last = text.partition("-")
    try:
        lowest = ipaddress.ip_address(first.strip())
        highest = ipaddress.ip_address(last.strip() or first.strip())
    except ValueError:
        raise ValueError("expected an address, or two with a dash between") from None
    if lowest.version != highest.version or int(lowest) > int(highest):
        raise ValueError("expected two addresses of one family, the lower one first")
    return Range(lowest.version, int(lowest), int(highest))


def read_network(text: str) -> Range:
    """What people write and coturn does not read: a network with its prefix, besides a range.

    Raises:
        ValueError: it is neither.
    """
    if "/" not in text:
        return read_range(text)
    network = ipaddress.ip_network(text.strip(), strict=False)
    return Range(network.version, int(network[0]), int(network[-1]))


def without(denied: Iterable[Range], allowed: Iterable[Range]) -> list[Range]:
    """What of ``denied`` is left once ``allowed`` is taken out, so that deny may beat allow and nothing changes."""
    left = list(denied)
    for hole in allowed:
        left = [part for each in left for part in _cut(each, hole)]
    return left


def _cut(each: Range, hole: Range) -> list[Range]:
    if each.version != hole.version or hole.last < each.first or hole.first > each.last:
        return [each]
    before = Range(each.version, each.first, hole.first - 1)
    behind = Range(each.version, hole.last + 1, each.last)
    return [part for part in (before, behind) if part.first <= part.last]


def _address(version: int, number: int) -> IPAddress:
    return ipaddress.IPv4Address(number) if version == 4 else ipaddress.IPv6Address(number)
