"""Resources as the portal sends them to gateways."""

from ipaddress import ip_address, ip_network
from typing import Any

import pytest

from connectivity.portal.values import MessageError
from gateway.filters import ALLOW_ALL, Filters, PortRange
from gateway.resources import CidrResource, DnsResource, InternetResource, is_same_target, parse_resource, with_filters

CIDR: dict[str, Any] = {"type": "cidr", "id": "r", "name": "n", "address": "10.0.0.0/24", "filters": []}
DNS: dict[str, Any] = {"type": "dns", "id": "r", "name": "n", "address": "*.corp.example", "filters": []}
HTTP = {"protocol": "tcp", "port_range_start": 80, "port_range_end": 80}
ONLY_HTTP = Filters(everything=False, ports=(PortRange(6, 80, 80),))


def test_each_kind_is_read() -> None:
    assert parse_resource(CIDR) == CidrResource("r", ip_network("10.0.0.0/24"), ALLOW_ALL)
    assert parse_resource(DNS | {"filters": [HTTP]}) == DnsResource("r", "*.corp.example", ONLY_HTTP)
    assert parse_resource({"type": "internet", "id": "r"}) == InternetResource("r", ALLOW_ALL)
    assert parse_resource({"type": "internet", "id": "r", "filters": [HTTP]}) == InternetResource("r", ONLY_HTTP)


@pytest.mark.parametrize(
    "message",
    [
        CIDR | {"type": "vlan"},
        CIDR | {"address": "10.0.0.1/24"},
        CIDR | {"filters": None},
        DNS | {"filters": None},
        DNS | {"address": ""},
        DNS | {"address": "app..internal"},
        DNS | {"filters": [{"protocol": "sctp"}]},
        {"type": "internet", "id": "r", "filters": "all"},
        {"type": "internet"},
    ],
)
def test_what_cannot_be_read_is_an_error(message: dict[str, Any]) -> None:
    with pytest.raises(MessageError):
        parse_resource(message)


def test_names_are_no_addresses() -> None:
    resource = DnsResource("r", "*.corp.example", ALLOW_ALL)
    assert resource.names("wiki.corp.example")
    assert not resource.names("wiki.corp.example.org")
    assert not resource.includes(ip_address("10.0.0.1"))


def test_an_update_is_of_the_same_kind_and_changes_filters_only() -> None:
    held, update = parse_resource(CIDR), parse_resource(CIDR | {"address": "10.0.0.0/8", "filters": [HTTP]})
    assert with_filters(held, update) == parse_resource(CIDR | {"filters": [HTTP]})
    assert with_filters(held, parse_resource(DNS)) is None
    assert is_same_target(held, parse_resource(CIDR | {"filters": [HTTP]}))
    assert not is_same_target(held, update)
    assert not is_same_target(held, parse_resource(DNS))
