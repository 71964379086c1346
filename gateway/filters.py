"""What a resource lets through: protocols and port ranges.

An empty filter list allows everything. A non-empty one is an allow-list, and then every protocol but TCP, UDP and ICMP
is refused. Networks of several resources can overlap: an address gets the union over *all* resources that include it.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from connectivity.ip.protocols import ICMP_PROTOCOLS, PROTOCOL_TCP, PROTOCOL_UDP
from connectivity.portal.values import Json, MessageError, text

_PROTOCOLS: Final = {"tcp": PROTOCOL_TCP, "udp": PROTOCOL_UDP}


@dataclass(frozen=True, slots=True)
class PortRange:
    """Ports ``first`` to ``last`` of TCP or UDP."""

    protocol: int
    first: int
    last: int


@dataclass(frozen=True, slots=True)
class Filters:
    """An allow-list, or with ``everything`` no list at all."""

    everything: bool
    ports: tuple[PortRange, ...] = ()
    icmp: bool = False

    def allow(self, protocol: int, port: int) -> bool:
        """Whether a packet of this protocol, to (or from, for answers) this port of the resource may pass."""
        if self.everything:
            return True
        if protocol in ICMP_PROTOCOLS:
            return self.icmp
        return any(
            entry.protocol == protocol and entry.first <= port <= entry.last  # others than TCP and UDP match nothing
            for entry in self.ports
        )


ALLOW_ALL: Final = Filters(everything=True)


def parse_filters(entries: Sequence[object]) -> Filters:
    """The ``filters`` of a resource. Strict, because a filter misread is a door left open.

    Raises:
        MessageError: an unknown protocol, a port that is no port, a range upside down.
    """
    if not entries:
        return ALLOW_ALL
    ports: list[PortRange] = []
    icmp = False
    for entry in entries:
        if not isinstance(entry, dict):
            raise MessageError("filters: expected objects")
        protocol = text(entry, "protocol")
        if protocol == "icmp":
            icmp = True
        elif protocol in _PROTOCOLS:
            first, last = _port(entry, "port_range_start", 0), _port(entry, "port_range_end", 0xFFFF)
            if first > last:
                raise MessageError(f"filters: port range {first}-{last} is empty")
            ports.append(PortRange(_PROTOCOLS[protocol], first, last))
        else:
            raise MessageError(f"filters: unknown protocol {protocol!r}")
    return Filters(everything=False, ports=tuple(ports), icmp=icmp)


def union(several: Iterable[Filters]) -> Filters:
    """Everything that any of them allows."""
    ports: list[PortRange] = []
    icmp = False
    for filters in several:
        if filters.everything:
            return ALLOW_ALL
        ports += filters.ports
        icmp = icmp or filters.icmp
    return Filters(everything=False, ports=tuple(ports), icmp=icmp)


def _port(entry: Json, name: str, default: int) -> int:
    value = entry.get(name, default)
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= 0xFFFF:
        raise MessageError(f"filters: {name} expected a port, got {value!r}")
    return value
