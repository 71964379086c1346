"""The table of peers that may not be reached, and every disguise of them."""

from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.core.peers import PeerClass, PeerPolicy, classify, disguised

STAND_ALONE = PeerPolicy(under_portal=False)
UNDER_PORTAL = PeerPolicy(under_portal=True)

PRIVATE = ["10.0.0.1", "172.16.0.1", "172.31.255.255", "192.168.1.1", "fc00::1", "fd12::1"]
SHARED = ["100.64.0.1", "100.127.255.255"]
DOCUMENTATION = ["192.0.2.1", "198.51.100.1", "203.0.113.1", "2001:db8::1", "3fff::1"]
NEVER = [
    "0.0.0.0",
    "0.1.2.3",
    "127.0.0.1",
    "127.255.255.255",
    "169.254.169.254",
    "168.63.129.16",
    "100.100.100.200",
    "192.0.0.1",
    "192.88.99.1",
    "198.18.0.1",
    "224.0.0.1",
    "239.255.255.250",
    "240.0.0.1",
    "255.255.255.255",
    "::",
    "::1",
    "fe80::1",
    "fec0::1",
    "ff02::1",
    "fd00:ec2::254",
    "fd20:ce::254",
    "100::1",
    "2001:1::1",
    "2001:20::1",
    "4000::1",
    "5f00::1",
    "64:ff9b:1::1",
]
GLOBAL = [
    "1.1.1.1",
    "9.255.255.255",
    "11.0.0.0",
    "100.63.255.255",
    "172.32.0.1",
    "2606:4700::1",
    "2a00::1",
    "2001:200::1",
]


def wrapped(ip: IPv4Address) -> dict[str, IPv6Address]:
    """An IPv4 address in each of its disguises."""
    value = int(ip)
    somewhere = int(IPv4Address("9.9.9.9"))
    return {
        "v4-mapped": IPv6Address(0xFFFF << 32 | value),
        "v4-compatible": IPv6Address(value),
        "NAT64": IPv6Address(int(IPv6Address("64:ff9b::")) | value),
        "6to4": IPv6Address(0x2002 << 112 | value << 80 | 1),
        "Teredo client": IPv6Address(0x2001_0000 << 96 | somewhere << 64 | (value ^ 0xFFFF_FFFF)),
        "Teredo server": IPv6Address(0x2001_0000 << 96 | value << 64 | (somewhere ^ 0xFFFF_FFFF)),
    }


@pytest.mark.parametrize("text", GLOBAL)
def test_global_peers_are_served(text: str) -> None:
    assert classify(ip_address(text)) is PeerClass.GLOBAL
    assert STAND_ALONE.refusal(ip_address(text)) is None
    assert UNDER_PORTAL.refusal(ip_address(text)) is None


@pytest.mark.parametrize("text", [*PRIVATE, *SHARED, *DOCUMENTATION])
def test_local_peers_are_served_under_a_portal(text: str) -> None:
    assert STAND_ALONE.refusal(ip_address(text)) is not None
    assert UNDER_PORTAL.refusal(ip_address(text)) is None


@pytest.mark.parametrize("text", NEVER)
def test_some_peers_are_never_served(text: str) -> None:
    assert STAND_ALONE.refusal(ip_address(text)) is not None
    assert UNDER_PORTAL.refusal(ip_address(text)) is not None


@pytest.mark.parametrize("text", [text for text in [*PRIVATE, *SHARED, *DOCUMENTATION, *NEVER] if ":" not in text])
def test_no_disguise_helps(text: str) -> None:
    ip = IPv4Address(text)
    everything = PeerPolicy(under_portal=True, allow=(ip_network("0.0.0.0/0"),))
    for name, address in wrapped(ip).items():
        assert ip in disguised(address) or name.startswith("Teredo"), name
        for policy in (STAND_ALONE, UNDER_PORTAL, everything):
            assert policy.refusal(address) is not None, name


def test_tunnels_to_global_addresses_are_served() -> None:
    addresses = wrapped(IPv4Address("1.1.1.1"))
    for name in ("NAT64", "6to4", "Teredo client", "Teredo server"):
        assert STAND_ALONE.refusal(addresses[name]) is None, name
    for name in ("v4-mapped", "v4-compatible"):  # never on a wire
        assert STAND_ALONE.refusal(addresses[name]) is not None, name


def test_deny_beats_allow_beats_default() -> None:
    policy = PeerPolicy(
        under_portal=True,
        allow=(ip_network("127.0.0.0/8"), ip_network("10.0.0.0/8")),
        deny=(ip_network("10.1.0.0/16"), ip_network("1.1.1.0/24"), ip_network("2606::/16")),
    )
    assert policy.refusal(ip_address("127.0.0.1")) is None
    assert policy.refusal(ip_address("10.2.0.1")) is None
    assert policy.refusal(ip_address("10.1.0.1")) is PeerClass.PRIVATE
    assert policy.refusal(ip_address("1.1.1.1")) is not None
    assert policy.refusal(ip_address("2606:4700::1")) is not None
    assert policy.refusal(wrapped(IPv4Address("1.1.1.1"))["NAT64"]) is PeerClass.DISGUISED


def test_own_addresses_are_set_apart_unless_a_list_decides() -> None:
    own = frozenset({ip_address("198.51.100.1"), ip_address("8.8.8.8")})
    policy = PeerPolicy(under_portal=True, own=own)
    assert policy.is_own(ip_address("8.8.8.8"))
    assert policy.refusal(wrapped(IPv4Address("8.8.8.8"))["NAT64"]) is PeerClass.DISGUISED
    assert not PeerPolicy(under_portal=True, own=own, allow=(ip_network("8.8.8.8"),)).is_own(ip_address("8.8.8.8"))
    denied = PeerPolicy(under_portal=True, own=own, deny=(ip_network("8.8.8.8"),))
    assert not denied.is_own(ip_address("8.8.8.8"))
    assert denied.refusal(ip_address("8.8.8.8")) is not None


@given(st.ip_addresses(v=4))
def test_a_stand_alone_relay_agrees_with_the_standard_registry(ip: IPv4Address) -> None:
    # Ours may be stricter, never laxer.
    if not ip.is_global or ip.is_multicast:
        assert STAND_ALONE.refusal(ip) is not None


@given(st.ip_addresses(v=6))
def test_only_global_unicast_passes_in_ipv6(ip: IPv6Address) -> None:
    if STAND_ALONE.refusal(ip) is None:
        assert int(ip) >> 125 == 1 or ip in ip_network("64:ff9b::/96")
