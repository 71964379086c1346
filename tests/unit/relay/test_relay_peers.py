"""The table of peers that may not be reached, and every disguise of them."""

from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from connectivity.address_classes import AddressClass, carried, classify
from connectivity.endpoint import Endpoint, IPAddress
from relay.core.peers import PeerPolicy, PeerRefusal, PeerRule, Refused, parse_rules

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
    "fd00:ec2::23",
    "fd20:ce::254",
    "100::1",
    "2001:1::1",
    "2001:20::1",
    "4000::1",
    "5f00::1",
    "64:ff9b:1::1",
]
UNASSIGNED = {"100::1", "4000::1", "5f00::1"}
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
        "v4-translated": IPv6Address(0xFFFF << 48 | value),
        "NAT64": IPv6Address(int(IPv6Address("64:ff9b::")) | value),
        "NAT64 of local use": IPv6Address(int(IPv6Address("64:ff9b:1::")) | value),
        "ISATAP": IPv6Address(int(IPv6Address("2a00::5efe:0:0")) | value),
        "ISATAP of a global address": IPv6Address(int(IPv6Address("2a00::200:5efe:0:0")) | value),
        "6to4": IPv6Address(0x2002 << 112 | value << 80 | 1),
        "Teredo client": IPv6Address(0x2001_0000 << 96 | somewhere << 64 | (value ^ 0xFFFF_FFFF)),
        "Teredo server": IPv6Address(0x2001_0000 << 96 | value << 64 | (somewhere ^ 0xFFFF_FFFF)),
    }


def rules(*texts: str) -> tuple[PeerRule, ...]:
    return tuple(rule for text in texts for rule in parse_rules(text))


def refusal(policy: PeerPolicy, ip: str | IPAddress, port: int = 443) -> PeerRefusal | None:
    return policy.refusal(Endpoint(ip_address(ip), port))


@pytest.mark.parametrize("text", GLOBAL)
def test_global_peers_are_served(text: str) -> None:
    assert classify(ip_address(text)) is AddressClass.GLOBAL
    assert refusal(STAND_ALONE, text) is None
    assert refusal(UNDER_PORTAL, text) is None


@pytest.mark.parametrize("text", [*PRIVATE, *SHARED, *DOCUMENTATION])
def test_local_peers_are_served_under_a_portal(text: str) -> None:
    assert refusal(STAND_ALONE, text) is not None
    assert refusal(UNDER_PORTAL, text) is None
    assert refusal(PeerPolicy(False, allow=rules("0.0.0.0/0", "::/0")), text) is None


@pytest.mark.parametrize("text", NEVER)
def test_some_peers_are_served_to_nobody_who_did_not_name_them(text: str) -> None:
    for policy in (STAND_ALONE, UNDER_PORTAL, PeerPolicy(True, allow=rules("0.0.0.0/0", "::/0", "::/1"))):
        if text in UNASSIGNED and policy.allow:
            continue  # of no special range, so a wide rule opens it
        assert refusal(policy, text) is not None
        assert policy.permission_refusal(ip_address(text)) is not None


@pytest.mark.parametrize("text", ["0.0.0.0", "::", "224.0.0.1", "255.255.255.255", "ff02::1", "::ffff:1.1.1.1"])
def test_what_no_rule_opens(text: str) -> None:
    policy = PeerPolicy(under_portal=True, allow=(PeerRule(ip_network(text)),))
    assert refusal(policy, text) is not None


@pytest.mark.parametrize(
    "rule", ["127.0.0.0/8", "127.0.0.1", "169.254.0.0/16", "100.100.100.200", "::1", "203:0:113::/64"]
)
def test_a_special_range_is_opened_by_a_rule_within_it(rule: str) -> None:
    policy = PeerPolicy(under_portal=False, allow=rules(rule))
    assert refusal(policy, ip_network(rule)[-1]) is None


@pytest.mark.parametrize("text", [text for text in [*PRIVATE, *SHARED, *DOCUMENTATION, *NEVER] if ":" not in text])
def test_no_disguise_helps(text: str) -> None:
    ip = IPv4Address(text)
    everything = PeerPolicy(under_portal=True, allow=rules("0.0.0.0/0", "::/0", "64:ff9b:1::/48", text))
    for name, address in wrapped(ip).items():
        for policy in (STAND_ALONE, UNDER_PORTAL, everything):
            assert refusal(policy, address) is not None, name
            assert policy.permission_refusal(address) is not None, name


def test_tunnels_to_global_addresses_are_served() -> None:
    addresses = wrapped(IPv4Address("1.1.1.1"))
    for name in ("NAT64", "6to4", "Teredo client", "Teredo server", "ISATAP"):
        assert carried(addresses[name]), name
        assert refusal(STAND_ALONE, addresses[name]) is None, name
    for name in ("v4-mapped", "v4-compatible", "v4-translated"):  # never on a wire
        assert refusal(STAND_ALONE, addresses[name]) is AddressClass.DISGUISED, name


def test_deny_beats_allow_beats_default() -> None:
    policy = PeerPolicy(
        under_portal=True,
        allow=rules("127.0.0.0/8", "10.0.0.0/8"),
        deny=rules("10.1.0.0/16", "1.1.1.0/24", "2606::/16"),
    )
    assert refusal(policy, "127.0.0.1") is None
    assert refusal(policy, "10.2.0.1") is None
    assert refusal(policy, "10.1.0.1") is Refused.DENIED
    assert refusal(policy, "1.1.1.1") is Refused.DENIED
    assert refusal(policy, "2606:4700::1") is Refused.DENIED
    assert refusal(policy, wrapped(IPv4Address("1.1.1.1"))["NAT64"]) is AddressClass.DISGUISED


def test_rules_with_ports() -> None:
    policy = PeerPolicy(
        under_portal=False,
        allow=rules("10.0.0.0/8:1000-2000", "10.0.0.1:53", "[fd00::/8]:53"),
        deny=rules("10.0.0.0/8:1500", "1.1.1.1:25", "9.9.9.9:1-65535"),
    )
    judged = {port: refusal(policy, "10.0.0.2", port) for port in (53, 999, 1000, 1499, 1500, 1501, 2000, 2001)}
    assert [port for port, kind in judged.items() if kind is None] == [1000, 1499, 1501, 2000]
    assert refusal(policy, "10.0.0.1", 53) is None
    assert refusal(policy, "fd00::1", 53) is None
    assert refusal(policy, "fd00::1", 54) is AddressClass.PRIVATE
    assert refusal(policy, "1.1.1.1", 25) is Refused.DENIED
    assert refusal(policy, "1.1.1.1", 26) is None
    # A permission has no port: it is there if any port may be reached.
    for text, kind in (
        ("10.0.0.2", None),
        ("11.0.0.1", None),
        ("192.168.0.1", AddressClass.PRIVATE),
        ("1.1.1.1", None),
    ):
        assert policy.permission_refusal(ip_address(text)) is kind
    assert policy.permission_refusal(ip_address("9.9.9.9")) is Refused.DENIED


@given(st.lists(st.tuples(st.integers(1, 40), st.integers(0, 40), st.booleans()), max_size=6))
def test_a_permission_stands_for_any_port(ranges: list[tuple[int, int, bool]]) -> None:
    network = ip_network("10.0.0.0/8")
    made = [(PeerRule(network, low, low + more), is_allow) for low, more, is_allow in ranges]
    allow, deny = (tuple(rule for rule, is_allow in made if is_allow is wanted) for wanted in (True, False))
    policy = PeerPolicy(under_portal=False, allow=allow, deny=deny)
    reachable = any(refusal(policy, "10.0.0.1", port) is None for port in range(100))
    assert (policy.permission_refusal(ip_address("10.0.0.1")) is None) == reachable


@pytest.mark.parametrize("text", ["10.0.0.0/8", "10.0.0.1:53", "10.0.0.0/8:1-65535", "[fd00::/8]:53-54", "::1"])
def test_rules_read_back(text: str) -> None:
    (rule,) = parse_rules(text)
    assert parse_rules(str(rule)) == (rule,)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "10.0.0.1/8",
        "host",
        "10.0.0.0/8:",
        "10.0.0.0/8:0",
        "10.0.0.0/8:70000",
        "10.0.0.0/8:2-1",
        "10.0.0.0/8:1-2-3",
        "[10.0.0.0/8]:53",
        "[fd00::/8",
        "[fd00::/8]53",
        "[fd00::/8]:-1",
        "10.0.0.0/8:\u0665",
        " 10.0.0.0/8",
        "10.0.0.0/33",
        "10.0.0.9-10.0.0.5",
        "10.0.0.1-fd00::1",
        "10.0.0.0/8-10.0.0.9",
        "10.0.0.1-10.0.0.5:53-",
        "fd00::1-fd00::9:53-54-55",
        "fe80::1%1-fe80::2%1",
        "a-b",
        "-",
    ],
)
def test_what_is_no_rule(text: str) -> None:
    with pytest.raises(ValueError, match="expected"):
        parse_rules(text)


@pytest.mark.parametrize("version", [4, 6])
@given(data=st.data())
def test_a_range_covers_its_addresses_and_no_others(version: int, data: st.DataObject) -> None:
    make = IPv4Address if version == 4 else IPv6Address
    most = 2 ** make(0).max_prefixlen - 1
    first, last = sorted(data.draw(st.tuples(st.integers(0, most), st.integers(0, most))))
    made = parse_rules(f"{make(first)}-{make(last)}")
    assert 1 <= len(made) <= 2 * make(0).max_prefixlen
    assert sum(rule.network.num_addresses for rule in made) == last - first + 1
    assert (made[0].network[0], made[-1].network[-1]) == (make(first), make(last))
    text = f"{make(first)}-{make(last)}"
    with_ports = parse_rules(f"[{text}]:53-54" if version == 6 else f"{text}:53-54")
    assert with_ports == tuple(PeerRule(rule.network, 53, 54) for rule in made)


def test_port_zero_is_nobodys() -> None:
    assert refusal(STAND_ALONE, "1.1.1.1", 0) is Refused.PORT_ZERO


def test_own_addresses_are_set_apart_unless_a_rule_names_them() -> None:
    own = frozenset({ip_address("198.51.100.1"), ip_address("8.8.8.8")})
    policy = PeerPolicy(under_portal=True, own=own)
    assert refusal(policy, "8.8.8.8") is Refused.OWN
    assert policy.permission_refusal(ip_address("8.8.8.8")) is Refused.OWN
    assert refusal(policy, wrapped(IPv4Address("8.8.8.8"))["NAT64"]) is AddressClass.DISGUISED
    covered = PeerPolicy(under_portal=True, own=own, allow=rules("8.0.0.0/8", "0.0.0.0/0"))
    assert refusal(covered, "8.8.8.8") is Refused.OWN
    named = PeerPolicy(under_portal=True, own=own, allow=rules("8.8.8.8:5000"))
    assert refusal(named, "8.8.8.8", 5000) is None
    assert refusal(named, "8.8.8.8", 5001) is Refused.OWN
    denied = PeerPolicy(under_portal=True, own=own, deny=rules("8.8.8.8"))
    assert refusal(denied, "8.8.8.8") is Refused.DENIED


def test_the_hosts_loopback_is_a_special_range_and_not_an_own_address() -> None:
    own = frozenset({ip_address("127.0.0.1"), ip_address("::1")})
    for allow, kind in (((), AddressClass.LOOPBACK), (rules("127.0.0.0/8", "::1"), None)):
        policy = PeerPolicy(under_portal=False, own=own, allow=allow)
        assert [refusal(policy, text) for text in ("127.0.0.1", "::1")] == [kind, kind]


def test_verdicts_follow_the_hosts_addresses() -> None:
    policy = PeerPolicy(under_portal=False)
    assert refusal(policy, "8.8.8.8") is None
    policy.replace_own(frozenset({ip_address("8.8.8.8")}))
    assert refusal(policy, "8.8.8.8") is Refused.OWN


@given(st.ip_addresses(v=4))
def test_a_stand_alone_relay_agrees_with_the_standard_registry(ip: IPv4Address) -> None:
    # Ours may be stricter, never laxer.
    if not ip.is_global or ip.is_multicast:
        assert refusal(STAND_ALONE, ip) is not None


@given(st.ip_addresses(v=6))
def test_only_global_unicast_passes_in_ipv6(ip: IPv6Address) -> None:
    if refusal(STAND_ALONE, ip) is None:
        assert int(ip) >> 125 == 1 or ip in ip_network("64:ff9b::/96")
