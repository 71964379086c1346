"""Resources of the client: how the portal writes them, and the choice of one for an address or a name."""

from ipaddress import ip_address, ip_network
from typing import Any

import pytest

from client.resources import (
    CidrResource,
    DnsResource,
    InternetResource,
    IpStack,
    ResourceTable,
    Site,
    is_same_target,
    parse_resource,
    parse_resources,
)
from connectivity.portal.values import MessageError

SITES = (Site("s", "HQ"),)
ID = "00000000-0000-0000-0000-000000000065"
GROUPS = [{"id": "s", "name": "HQ"}]


def cidr(resource_id: str, network: str) -> CidrResource:
    return CidrResource(resource_id, resource_id, ip_network(network), SITES)


def named(resource_id: str, pattern: str, stack: IpStack = IpStack.DUAL) -> DnsResource:
    return DnsResource(resource_id, resource_id, pattern, stack, SITES)


def table(*resources: CidrResource | DnsResource | InternetResource) -> ResourceTable:
    made = ResourceTable()
    for resource in resources:
        made.put(resource)
    return made


def chosen(made: ResourceTable, address: str, *connected: str) -> str | None:
    found = made.choose(ip_address(address), connected)
    return None if found is None else found.resource_id


@pytest.mark.parametrize(
    ("payload", "resource"),
    [
        (
            {"type": "dns", "id": ID, "name": "Wiki", "address": "*.corp.example", "address_description": None}
            | {"ip_stack": "dual", "gateway_groups": GROUPS, "filters": []},
            DnsResource(ID, "Wiki", "*.corp.example", IpStack.DUAL, SITES),
        ),
        (
            {"type": "dns", "id": ID, "name": "Wiki", "address": "a.example", "ip_stack": None, "sites": GROUPS},
            DnsResource(ID, "Wiki", "a.example", IpStack.DUAL, SITES),
        ),
        (
            {"type": "dns", "id": ID, "name": "Wiki", "address": "a.example", "ip_stack": "ipv6_only"}
            | {"gateway_groups": GROUPS},
            DnsResource(ID, "Wiki", "a.example", IpStack.IPV6_ONLY, SITES),
        ),
        (
            {"type": "cidr", "id": "r", "name": "LAN", "address": "10.20.0.0/16", "gateway_groups": GROUPS},
            CidrResource("r", "LAN", ip_network("10.20.0.0/16"), SITES),
        ),
        (
            {"type": "internet", "id": "r", "gateway_groups": GROUPS, "can_be_disabled": True},
            InternetResource("r", "Internet Resource", SITES),
        ),
        ({"type": "internet", "id": "r", "name": "All", "gateway_groups": GROUPS}, InternetResource("r", "All", SITES)),
        ({"type": "device_pool", "id": "r"}, None),
    ],
)
def test_resources_as_the_portal_writes_them(payload: Any, resource: object) -> None:
    assert parse_resource(payload) == resource


@pytest.mark.parametrize(
    ("changed", "complaint"),
    [
        ({"address": "a..b"}, "a name or a pattern"),
        ({"id": "r"}, "a UUID"),
        ({"address": 1}, "expected a string"),
        ({"ip_stack": "both"}, "ip_stack"),
        ({"ip_stack": ["dual"]}, "ip_stack"),
        ({"gateway_groups": None}, "gateway_groups"),
        ({"gateway_groups": [{"name": "no id"}]}, "id"),
    ],
)
def test_a_bad_field_is_named_and_the_others_of_the_list_stay(changed: Any, complaint: str) -> None:
    good = {"type": "dns", "id": ID, "name": "n", "address": "a.example", "gateway_groups": GROUPS}
    with pytest.raises(MessageError, match=complaint):
        parse_resource(good | changed)
    found, problems = parse_resources({"resources": [good | changed, good]})
    assert len(found) == len(problems) == 1


def test_the_longest_prefix_then_the_connected_one_then_the_higher_id_then_the_internet() -> None:
    made = table(
        cidr("a", "10.0.0.0/8"),
        cidr("b", "10.1.0.0/16"),
        cidr("c", "10.1.0.0/16"),
        cidr("d", "10.1.2.0/24"),
        cidr("e", "2001:db8::/32"),
        cidr("f", "2001:db8:1::/48"),
    )
    assert chosen(made, "10.2.0.1") == "a"
    assert chosen(made, "10.1.0.1") == "c"
    assert chosen(made, "10.1.0.1", "b") == "b"
    assert chosen(made, "10.1.2.3", "b") == "d"
    assert chosen(made, "2001:db8:1::1") == "f"
    assert chosen(made, "2001:db8:2::1") == "e"
    assert chosen(made, "192.0.2.1") is None
    made.put(InternetResource("i", "Internet", SITES))
    assert chosen(made, "10.2.0.1") == "a"
    assert chosen(made, "192.0.2.1") == chosen(made, "2606:4700::1") == "i"
    made.put(InternetResource("j", "Internet", SITES))
    assert chosen(made, "192.0.2.1") == "j"
    assert chosen(made, "192.0.2.1", "i") == "i"
    assert chosen(made, "192.168.1.1") is chosen(made, "fd12::1") is None  # nobody's Internet
    for never in ("224.0.0.22", "ff02::2", "169.254.169.254", "127.0.0.1", "fe80::1", "100.64.0.9", "255.255.255.255"):
        assert chosen(made, never) is None, never


def test_routes_are_networks_once_and_everything_for_the_internet() -> None:
    made = table(cidr("b", "10.1.0.0/16"), cidr("c", "10.1.0.0/16"), named("d", "a.example"))
    assert made.networks() == (ip_network("10.1.0.0/16"),)
    made.put(InternetResource("i", "Internet", SITES))
    assert made.networks() == (ip_network("0.0.0.0/0"), ip_network("10.1.0.0/16"), ip_network("::/0"))
    assert list(map(str, made.apart())) == ["10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "fc00::/7"]
    for named_by_a_resource in ("10.0.0.0/8", "172.0.0.0/6", "fc00::/7", "192.168.0.0/17"):
        made.put(cidr(named_by_a_resource, named_by_a_resource))
    assert list(map(str, made.apart())) == ["192.168.0.0/16"]
    made.remove("i")
    assert made.apart() == ()
    assert ip_network("0.0.0.0/0") not in made.networks()


def test_the_best_pattern_is_meant() -> None:
    made = table(
        named("1", "**"),
        named("2", "**.example.com"),
        named("3", "*.example.com"),
        named("4", "?.example.com"),
        named("5", "www.example.com"),
        named("6", "*ample.com"),
        named("7", "x.*.example.com"),
    )

    def match(name: str) -> str | None:
        found = made.match(name)
        return None if found is None else found.resource_id

    assert match("www.example.com") == "5"
    assert match("a.example.com") == "4"
    assert match("ab.example.com") == "3"
    assert match("example.com") == "3"
    assert match("a.b.example.com") == "2"
    assert match("sample.com") == "6"
    assert match("x.y.example.com") == "7"
    assert match("elsewhere.test") == "1"
    made.remove("1")
    assert match("elsewhere.test") is None
    made.put(named("8", "www.example.com"))
    assert match("www.example.com") == "8"
    assert match("") is None


def test_people_see_the_internet_first_then_names() -> None:
    made = table(cidr("b", "10.1.0.0/16"), named("a", "x"), InternetResource("z", "zzz", SITES))
    assert [one.resource_id for one in made.all()] == ["z", "a", "b"]
    assert [one.address for one in made.all()] == ["", "x", "10.1.0.0/16"]


def test_what_flows_survive() -> None:
    assert is_same_target(cidr("a", "10.0.0.0/8"), CidrResource("a", "other name", ip_network("10.0.0.0/8"), ()))
    assert not is_same_target(cidr("a", "10.0.0.0/8"), cidr("a", "10.0.0.0/9"))
    assert not is_same_target(cidr("a", "10.0.0.0/8"), named("a", "x"))
    assert is_same_target(named("a", "x"), named("a", "x"))
    assert not is_same_target(named("a", "x"), named("a", "y"))
    assert not is_same_target(named("a", "x"), named("a", "x", IpStack.IPV4_ONLY))
    assert is_same_target(InternetResource("a", "x", SITES), InternetResource("a", "y", SITES))


def test_a_look_up_does_not_go_through_all_resources(monkeypatch: pytest.MonkeyPatch) -> None:
    made = table(*(cidr(f"c{n}", f"10.{n // 250}.{n % 250}.0/24") for n in range(3000)))
    for n in range(3000):
        made.put(named(f"n{n}", f"*.tenant-{n}.example.com"))
    asked: list[str] = []

    def spy(pattern: str, _name: str) -> bool:
        asked.append(pattern)
        return True

    monkeypatch.setattr("client.resources.matches", spy)
    found = made.match("www.tenant-7.example.com")
    assert found is not None
    assert asked == ["*.tenant-7.example.com"]
    covered: list[str] = []

    def spy_covers(network: object, _address: object) -> bool:
        covered.append(str(network))
        return True

    monkeypatch.setattr("client.resources.covers", spy_covers)
    assert chosen(made, "10.4.7.9") == "c1007"
    assert covered == ["10.4.7.0/24"]


def test_a_wide_resource_is_not_chosen_for_what_it_does_not_name() -> None:
    made = table(cidr("all", "0.0.0.0/0"), cidr("all6", "::/0"), cidr("named", "169.254.7.0/24"))
    assert chosen(made, "192.0.2.1") == "all"
    assert chosen(made, "169.254.7.7") == "named"
    for address in ("169.254.169.254", "224.0.0.22", "ff02::2", "fe80::1", "100.100.111.1"):
        assert chosen(made, address) is None
