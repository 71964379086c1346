"""What kind of address an IP address is: one table for all who decide whom to send to.

The table is ours, so that no release of Python changes a security decision. An IPv6 address that carries an IPv4 one
(NAT64, 6to4, Teredo, ISATAP) has the class of its own form here; ``carried`` says what it stands for, and whoever
judges it judges that too.
"""

from enum import Enum
from ipaddress import IPv4Address, IPv4Network, IPv6Network
from typing import Final

from connectivity.endpoint import IPAddress
from connectivity.ranges import METADATA_IPV4, METADATA_IPV6, Network


class AddressClass(Enum):
    """The special-purpose registries of IANA, as far as a decision depends on them (RFC 6890)."""

    GLOBAL = "global"
    PRIVATE = "private"
    SHARED = "shared"
    DOCUMENTATION = "documentation"
    LOOPBACK = "loopback"
    LINK_LOCAL = "link-local"
    MULTICAST = "multicast"
    UNSPECIFIED = "unspecified"
    METADATA = "cloud metadata"
    RESERVED = "reserved"
    DISGUISED = "disguised"


# The first that matches counts.
_IPV4: Final = tuple(
    (IPv4Network(text), kind)
    for text, kind in (
        *((str(network), AddressClass.METADATA) for network in METADATA_IPV4),  # some within the shared range
        ("169.254.0.0/16", AddressClass.LINK_LOCAL),  # with the metadata services of most clouds
        ("0.0.0.0/8", AddressClass.UNSPECIFIED),
        ("10.0.0.0/8", AddressClass.PRIVATE),
        ("100.64.0.0/10", AddressClass.SHARED),
        ("127.0.0.0/8", AddressClass.LOOPBACK),
        ("172.16.0.0/12", AddressClass.PRIVATE),
        ("192.0.2.0/24", AddressClass.DOCUMENTATION),
        ("192.0.0.0/24", AddressClass.RESERVED),  # IETF protocol assignments; Oracle's metadata service
        ("192.88.99.0/24", AddressClass.RESERVED),  # 6to4 relay anycast
        ("192.168.0.0/16", AddressClass.PRIVATE),
        ("198.18.0.0/15", AddressClass.RESERVED),  # benchmarking
        ("198.51.100.0/24", AddressClass.DOCUMENTATION),
        ("203.0.113.0/24", AddressClass.DOCUMENTATION),
        ("224.0.0.0/4", AddressClass.MULTICAST),
        ("255.255.255.255/32", AddressClass.MULTICAST),  # broadcast: many at once, too
        ("240.0.0.0/4", AddressClass.RESERVED),
        ("0.0.0.0/0", AddressClass.GLOBAL),
    )
)
_IPV6: Final = tuple(
    (IPv6Network(text), kind)
    for text, kind in (
        ("::/128", AddressClass.UNSPECIFIED),
        ("::1/128", AddressClass.LOOPBACK),
        ("64:ff9b::/96", AddressClass.GLOBAL),  # NAT64; what it carries is judged too
        # v4-mapped, v4-compatible, v4-translated, and NAT64 of local use (64:ff9b:1::/48), which does not tell where in
        # it an IPv4 address stands.
        ("::/8", AddressClass.DISGUISED),
        *((str(network), AddressClass.METADATA) for network in METADATA_IPV6),  # within the private range
        ("fc00::/7", AddressClass.PRIVATE),
        ("fe80::/10", AddressClass.LINK_LOCAL),
        ("fec0::/10", AddressClass.RESERVED),  # site-local of old
        ("ff00::/8", AddressClass.MULTICAST),
        ("2001:db8::/32", AddressClass.DOCUMENTATION),
        ("3fff::/20", AddressClass.DOCUMENTATION),
        ("2001::/32", AddressClass.GLOBAL),  # Teredo, likewise
        ("2001::/23", AddressClass.RESERVED),  # IETF protocol assignments
        ("2000::/3", AddressClass.GLOBAL),
        ("::/0", AddressClass.RESERVED),
    )
)
_NAT64: Final = IPv6Network("64:ff9b::/96")
_SIX_TO_FOUR: Final = IPv6Network("2002::/16")
_TEREDO: Final = IPv6Network("2001::/32")
_ISATAP: Final = frozenset({0x0000_5EFE, 0x0200_5EFE})  # the upper half of its interface identifiers
_LOW_32_BITS: Final = 0xFFFF_FFFF


def classify(ip: IPAddress) -> AddressClass:
    """The class of the address as it stands, not of what it may carry."""
    return class_and_range(ip)[1]


def class_and_range(ip: IPAddress) -> tuple[Network, AddressClass]:
    """The class, and the range of the table that it comes from."""
    if isinstance(ip, IPv4Address):
        return next(entry for entry in _IPV4 if ip in entry[0])
    return next(entry for entry in _IPV6 if ip in entry[0])


def carried(ip: IPAddress) -> tuple[IPv4Address, ...]:
    """The IPv4 addresses that an IPv6 address carries and that may be global."""
    if isinstance(ip, IPv4Address):
        return ()
    value = int(ip)
    if ip in _NAT64 or value >> 32 & _LOW_32_BITS in _ISATAP:
        return (IPv4Address(value & _LOW_32_BITS),)
    if ip in _SIX_TO_FOUR:
        return (IPv4Address(value >> 80 & _LOW_32_BITS),)
    if ip in _TEREDO:  # the server in clear, the client's address inverted
        return IPv4Address(value >> 64 & _LOW_32_BITS), IPv4Address(value & _LOW_32_BITS ^ _LOW_32_BITS)
    return ()
