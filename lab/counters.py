"""The kernel's counters in a namespace: UDP buffer and input errors, interfaces, sockets."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from lab.network import execute

_ERRORS: Final = ("RcvbufErrors", "SndbufErrors", "InErrors", "MemErrors")
UDP_ERRORS: Final = frozenset(f"{family}{error}" for family in ("Udp", "Udp6") for error in _ERRORS)
# ss shows the kernel's double accounting: rb and tb are twice what was granted (socket(7)).
_SOCKET: Final = re.compile(
    r"^\S+\s+\d+\s+\d+\s+(?P<local>\S+):(?P<port>\d+)\s.*\n?.*rb(?P<rb>\d+),t\d+,tb(?P<tb>\d+)", re.M
)


@dataclass(frozen=True, slots=True)
class SocketBuffers:
    """What one UDP socket may hold, in bytes as they are asked for."""

    local: str
    port: int
    receive: int
    send: int


def parse_nstat(text: str) -> dict[str, int]:
    """Counters by name from ``nstat -az``: name, value, rate; comment lines start with ``#``."""
    rows = (line.split() for line in text.splitlines() if line and not line.startswith("#"))
    return {row[0]: int(row[1]) for row in rows if len(row) >= 2}


def parse_sockets(text: str) -> list[SocketBuffers]:
    """UDP sockets from ``ss -Huanm``."""
    return [
        SocketBuffers(found["local"], int(found["port"]), int(found["rb"]) // 2, int(found["tb"]) // 2)
        for found in _SOCKET.finditer(text)
    ]


def nstat(namespace: str, names: Iterable[str]) -> dict[str, int]:
    """Counters of a namespace since it was made, those of ``names`` that it has."""
    # -a absolute, -z zeros too, -s: leave the history file alone, it knows nothing of namespaces.
    found = parse_nstat(execute(namespace, ["nstat", "-azs"]))
    return {name: found[name] for name in names if name in found}


def udp_errors(namespace: str) -> dict[str, int]:
    """The UDP errors that are not zero, since the namespace was made."""
    return {name: value for name, value in nstat(namespace, sorted(UDP_ERRORS)).items() if value}


def udp_error_count(errors: dict[str, int]) -> int:
    """Datagrams lost, each counted once: the kernel includes the other receive errors in ``InErrors``."""
    return sum(count for name, count in errors.items() if name.endswith(("InErrors", "SndbufErrors")))


def udp_sockets(namespace: str) -> list[SocketBuffers]:
    """Every UDP socket in a namespace with the buffers that it really has."""
    return parse_sockets(execute(namespace, ["ss", "-Huanm"]))


def interface_bytes(namespace: str, interface: str) -> tuple[int, int]:
    """Bytes received and sent by an interface."""
    received, sent = _statistics(namespace, interface, "rx_bytes", "tx_bytes")
    return received, sent


def interface_drops(namespace: str, interface: str) -> int:
    """Packets that an interface has dropped on their way out, such as those that nobody read from a TUN device."""
    return _statistics(namespace, interface, "tx_dropped")[0]


def _statistics(namespace: str, interface: str, *names: str) -> list[int]:
    base = f"/sys/class/net/{interface}/statistics"
    return [int(value) for value in execute(namespace, ["cat", *(f"{base}/{name}" for name in names)]).split()]
