"""What a gateway lets through, by resource filters."""

import pytest

from connectivity.ip.protocols import PROTOCOL_TCP as TCP
from connectivity.ip.protocols import PROTOCOL_UDP as UDP
from connectivity.portal.values import MessageError
from gateway.filters import ALLOW_ALL, Filters, parse_filters, union

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
