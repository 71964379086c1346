"""Addresses and filters of resources, as the YAML file spells them, and the ranges that no resource may use.

The product's own ranges are never resources, because tunnel and sentinel addresses live there; the two default routes
are fine. Host bits must be zero: a gateway refuses the message otherwise.
"""

import re
from collections.abc import Callable, Mapping
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from types import MappingProxyType
from typing import Final

from connectivity import yaml_document
from connectivity.endpoint import IPAddress
from portal.configuration import Filter, ResourceType

# The whole ranges of the product; devices get addresses from their lower parts (derivation.py).
RESERVED: Final = (ip_network("100.64.0.0/10"), ip_network("fd00:2021:1111::/48"))
_LOCAL: Final = (
    ip_network("127.0.0.0/8"),
    ip_network("::1/128"),
    ip_network("0.0.0.0/32"),
    ip_network("::/128"),
)
_PORT_PROTOCOLS: Final = ("tcp", "udp")
_LABEL: Final = re.compile(r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?")
_PATTERN_LABEL: Final = re.compile(r"\*\*|[a-z0-9_*?]([a-z0-9_*?-]{0,61}[a-z0-9_*?])?")


def parse_network(value: object) -> str:
    """A network with its mask and without host bits.

    Raises:
        ValueError: the expectation.
    """
    found = yaml_document.text(value)
    expectation = "expected a network such as 10.20.0.0/16 or fd12:3456::/64"
    if "/" not in found:
        raise ValueError(f"{expectation} (for one address use type ip)")
    try:
        network = ip_network(found, strict=False)
    except ValueError:
        raise ValueError(expectation) from None
    _refuse_reserved(network)
    if str(network) != found.lower() and _has_host_bits(found, network):
        raise ValueError(f"expected host bits to be zero, as in {network}")
    return str(network)


def parse_address(value: object) -> str:
    """One address, as the network that holds nothing else."""
    try:
        address = ip_address(yaml_document.text(value))
    except ValueError:
        raise ValueError("expected an address such as 10.20.0.5") from None
    network = ip_network(address)
    _refuse_reserved(network)
    return str(network)


def parse_pattern(value: object) -> str:
    """A domain, in which ``*`` and ``?`` stand for parts of a label and ``**`` for several labels."""
    found = yaml_document.text(value).lower()
    labels = found.split(".")
    if len(found) > 253 or not all(_PATTERN_LABEL.fullmatch(label) for label in labels):
        raise ValueError("expected a domain such as app.example.com or *.example.com")
    if all(set(label) <= {"*", "?"} for label in labels):
        raise ValueError("expected a domain with a fixed part (for everything use type internet)")
    try:
        ip_address(found)
    except ValueError:
        return found
    raise ValueError("expected a domain (for an address use type ip)")


def parse_domain(value: object) -> str | None:
    """A domain without wildcards and without a trailing dot."""
    found = yaml_document.text(value).lower()
    if len(found) > 253 or not all(_LABEL.fullmatch(label) for label in found.split(".")):
        raise ValueError("expected a domain such as corp.example")
    return found


def parse_filter(value: object) -> Filter:
    """``tcp``, ``tcp/80``, ``udp/53-60`` or ``icmp``."""
    expectation = "expected a filter such as tcp, tcp/443, udp/5000-5010 or icmp"
    found = yaml_document.text(value).lower()
    protocol, separator, ports = found.partition("/")
    if protocol == "icmp" and not separator:
        return Filter(protocol)
    if protocol not in _PORT_PROTOCOLS:
        raise ValueError(expectation)
    if not separator:
        return Filter(protocol)
    first, dash, last = ports.partition("-")
    numbers = [int(part) for part in (first, last if dash else first) if part.isascii() and part.isdecimal()]
    if len(numbers) != 2 or not 0 <= numbers[0] <= numbers[1] <= 0xFFFF:
        raise ValueError(expectation)
    return Filter(protocol, (numbers[0], numbers[1]))


def refuse_reserved_address(address: IPAddress) -> None:
    """Raise when an address is in the product's own ranges or local to a host."""
    _refuse_reserved(ip_network(address))


def _refuse_reserved(network: IPv4Network | IPv6Network) -> None:
    for reserved in RESERVED:
        if network.version == reserved.version and network.subnet_of(reserved):  # type: ignore[arg-type]  # same version
            raise ValueError(f"expected an address outside {reserved}, which is reserved for tunnel addresses")
    for local in _LOCAL:
        if network.version == local.version and network.subnet_of(local):  # type: ignore[arg-type]  # same version
            raise ValueError(f"expected an address outside {local}, which no gateway can reach")


def _has_host_bits(text: str, network: IPv4Network | IPv6Network) -> bool:
    return ip_address(text.partition("/")[0]) != network.network_address


PARSERS: Final[Mapping[ResourceType, Callable[[object], str]]] = MappingProxyType(
    {ResourceType.CIDR: parse_network, ResourceType.IP: parse_address, ResourceType.DNS: parse_pattern}
)
EXPECTATIONS: Final[Mapping[ResourceType, str]] = MappingProxyType(
    {
        ResourceType.CIDR: "a network such as 10.20.0.0/16",
        ResourceType.IP: "an address such as 10.20.0.5",
        ResourceType.DNS: "a domain such as app.example.com or *.example.com",
    }
)
