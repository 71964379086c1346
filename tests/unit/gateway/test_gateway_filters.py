"""What a gateway lets through, by resource filters."""

from ipaddress import ip_address, ip_network

import pytest

from connectivity.portal.values import MessageError
from gateway.filters import ALLOW_ALL, TCP, UDP, Filters, effective, parse_filters, union

WEB = parse_filters([{"protocol": "tcp", "port_range_start": 80, "port_range_end": 443}])
PING = parse_filters([{"protocol": "icmp"}])


def test_an_empty_list_allows_everything_also_odd_protocols() -> None:
    assert parse_filters([]).allow(47, 0)


def test_a_list_is_an_allow_list() -> None:
    assert WEB.allow(TCP, 80)
    assert WEB.allow(TCP, 443)
    assert not WEB.allow(TCP, 444)
    assert not WEB.allow(UDP, 80)
    assert not WEB.allow(1, 0)
    assert not WEB.allow(47, 0)


def test_icmp_covers_both_families() -> None:
    assert PING.allow(1, 7)
    assert PING.allow(58, 7)
    assert not PING.allow(TCP, 7)


def test_ranges_default_to_all_ports() -> None:
    assert parse_filters([{"protocol": "udp"}]).allow(UDP, 65535)


@pytest.mark.parametrize(
    "entry",
    [
        {"protocol": "sctp"},
        {"protocol": "tcp", "port_range_start": None},
        {"protocol": "tcp", "port_range_end": 65536},
        {"protocol": "tcp", "port_range_start": 9, "port_range_end": 8},
        {"protocol": "tcp", "port_range_start": True},
        "tcp",
        {},
    ],
)
def test_a_filter_that_cannot_be_read_is_an_error_not_an_open_door(entry: object) -> None:
    with pytest.raises(MessageError):
        parse_filters([entry])


def test_the_union_allows_what_any_allows() -> None:
    both = union([WEB, PING])
    assert both.allow(TCP, 80)
    assert both.allow(1, 0)
    assert not both.allow(UDP, 53)
    assert union([WEB, ALLOW_ALL]) == ALLOW_ALL
    assert union([]) == Filters(everything=False)


@pytest.mark.parametrize(
    "address",
    [
        "100.64.0.9", "100.96.0.1", "169.254.169.254", "169.254.1.1", "168.63.129.16", "127.0.0.1", "224.0.0.22",
        "255.255.255.255", "fd00:2021:1111::9", "fd00:2021:1111:8000::1", "fd00:ec2::254", "fe80::1", "ff02::2", "::1",
        "64:ff9b::a9fe:a9fe", "2002:a9fe:a9fe::1",
    ],
)  # fmt: skip
def test_everything_means_no_peer_nothing_local_and_no_metadata_unless_named(address: str) -> None:
    everything = [(ip_network("0.0.0.0/0"), ALLOW_ALL), (ip_network("::/0"), ALLOW_ALL)]
    assert effective(ip_address(address), everything) is None
    assert effective(ip_address(address), [*everything, (ip_network(address), WEB)]) == WEB


def test_what_is_global_or_private_is_in_everything() -> None:
    everything = [(ip_network("0.0.0.0/0"), ALLOW_ALL), (ip_network("::/0"), ALLOW_ALL)]
    for address in (
        "8.8.8.8",
        "10.0.0.1",
        "100.63.255.255",
        "100.128.0.0",
        "2001:db8::1",
        "fd00::1",
        "64:ff9b::808:808",
    ):
        assert effective(ip_address(address), everything) == ALLOW_ALL


def test_the_longest_prefix_decides_with_all_rules_that_contain_it() -> None:
    rules = [(ip_network("10.0.0.0/8"), PING), (ip_network("10.1.0.0/16"), WEB), (ip_network("fd00::/8"), WEB)]
    inside = effective(ip_address("10.1.2.3"), rules)
    assert inside is not None
    assert inside.allow(TCP, 80)
    assert inside.allow(1, 0)
    outside = effective(ip_address("10.2.2.3"), rules)
    assert outside is not None
    assert not outside.allow(TCP, 80)
    assert effective(ip_address("192.0.2.1"), rules) is None
