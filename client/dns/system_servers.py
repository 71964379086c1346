"""Which DNS servers the host uses, as ``resolv.conf`` and ``resolvectl dns`` write them.

Our own sentinels are none of them: a server that leads back to us would be asked in a circle.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv6Address, ip_address
from typing import Final

from client.dns.sentinels import DNS_PORT, is_sentinel
from connectivity.endpoint import IPAddress

# Each gets a sentinel; no host has so many that work.
_MAX_SERVERS: Final = 16


@dataclass(frozen=True, slots=True)
class SystemServer:
    """A server by its address; ``zone`` is the interface that a link-local one is reached by, by name or number."""

    ip: IPAddress
    zone: str | None = None


def parse(word: str) -> SystemServer | None:
    """``192.0.2.1``, ``fe80::1%eth0``, or resolved's ``192.0.2.1:53#name``; None for what is not asked at port 53."""
    text = word.partition("#")[0]
    port = ""
    if text.startswith("["):
        text, _, port = text[1:].partition("]")
        port = port.removeprefix(":")
    elif text.count(":") == 1:
        text, _, port = text.partition(":")
    if port not in {"", str(DNS_PORT)}:
        return None
    try:
        address = ip_address(text)
    except ValueError:
        return None
    if isinstance(address, IPv6Address):
        return SystemServer(address.ipv4_mapped or IPv6Address(address.packed), address.scope_id)
    return SystemServer(address)


def usable(servers: Iterable[SystemServer | None]) -> tuple[SystemServer, ...]:
    """The servers to ask, each once, in order."""
    found: dict[IPAddress, SystemServer] = {}
    for server in servers:
        if server is not None and not is_sentinel(server.ip):
            found.setdefault(server.ip, server)
    return tuple(found.values())[:_MAX_SERVERS]


def in_resolvectl(output: str) -> dict[str, list[str]]:
    """The words behind each scope of ``resolvectl dns``: ``Global``, or a link's name."""
    scopes: dict[str, list[str]] = {}
    current: list[str] = []
    for line in output.splitlines():
        if line[:1].isspace():  # a long list goes on in the next line
            current += line.split()
            continue
        head, separator, rest = line.partition(": ")
        if not separator and not line.endswith(":"):
            continue
        name = head.removesuffix(":")
        if name.startswith("Link ") and "(" in name:
            name = name.partition("(")[2].removesuffix(")")
        current = scopes.setdefault(name, [])
        current += rest.split()
    return scopes
