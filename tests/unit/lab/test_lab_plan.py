"""The topology as data: what each kind of router, underlay and relay count asks for."""

from ipaddress import ip_interface

import pytest

from connectivity.io.service import DEVICE
from connectivity.tunnel import PEERS_IPV4, PEERS_IPV6
from lab import rules
from lab.plan import (
    CLIENT,
    CLIENT_ROUTER,
    GATEWAY,
    RESOURCE,
    TUN_NAME,
    LabSettings,
    Nat,
    Route,
    Underlay,
    client_inside,
    client_site,
    make_plan,
    relay_site,
)
from lab.rules import router_rules


def test_network_behind_no_nat_is_routed_by_everybody() -> None:
    routes = make_plan(LabSettings()).routes
    for role in ("portal", "relay", "gateway-nat"):
        assert Route(role, CLIENT.network, CLIENT_ROUTER.address) in routes


def test_network_behind_a_nat_is_unknown_outside() -> None:
    for kind in (Nat.FULL_CONE, Nat.SYMMETRIC):
        routes = make_plan(LabSettings(client_nat=kind)).routes
        assert not [route for route in routes if route.destination == CLIENT.network]
        assert [route for route in routes if route.destination == GATEWAY.network]


def test_ipv6_is_routed_behind_every_nat_but_only_in_a_dual_underlay() -> None:
    dual = make_plan(LabSettings(Nat.SYMMETRIC, Nat.SYMMETRIC, Underlay.DUAL)).routes
    assert Route("relay", CLIENT.network6, CLIENT_ROUTER.address6) in dual
    assert not [route for route in make_plan(LabSettings()).routes if route.destination == CLIENT.network6]


def test_blocked_family_is_dropped_on_its_way_out_at_both_routers() -> None:
    plan = make_plan(LabSettings(underlay=Underlay.DUAL, direct_ipv6=False))
    assert f'iifname "inside*" ip6 daddr {GATEWAY.network6} drop' in plan.rules["client-nat"]
    assert f'iifname "inside*" ip6 daddr {CLIENT.network6} drop' in plan.rules["gateway-nat"]
    assert "ip daddr" not in plan.rules["client-nat"]


def test_blocked_ipv4_knows_public_and_inner_addresses() -> None:
    rules = make_plan(LabSettings(direct_ipv4=False)).rules["gateway-nat"]
    for to in (CLIENT.network, CLIENT_ROUTER.address):
        assert f'iifname "inside*" ip daddr {to} drop' in rules


def test_only_links_of_relays_are_switched() -> None:
    plan = make_plan(LabSettings(relay_count=2))
    assert {(role, interface) for role, interface, _ in plan.switches} == {
        ("internet", "relay"),
        ("relay", "eth0"),
        ("internet", "relay-2"),
        ("relay-2", "eth0"),
    }
    assert relay_site(2).address == "203.0.113.102"


def test_the_tunnel_has_the_ranges_and_the_name_that_the_programs_give_it() -> None:
    assert (str(PEERS_IPV4), str(PEERS_IPV6)) == (rules.TUNNEL_IPV4, rules.TUNNEL_IPV6)
    assert TUN_NAME == DEVICE


def test_symmetric_router_maps_at_random_and_lets_only_answers_in() -> None:
    rules = router_rules("symmetric", "203.0.113.20", "172.30.0.100")
    assert "masquerade random,fully-random" in rules
    assert 'iifname "outside" drop' in rules
    assert "dnat" not in rules


def test_unknown_kind_of_nat_is_refused() -> None:
    with pytest.raises(ValueError, match="no such kind of NAT: port-restricted"):
        router_rules("port-restricted", "203.0.113.20", "172.30.0.100")


@pytest.mark.parametrize("count", [0, 51])
def test_relay_count_is_bounded(count: int) -> None:
    with pytest.raises(ValueError, match="expected 1 to 50 relays"):
        LabSettings(relay_count=count)


@pytest.mark.parametrize("count", [0, 51])
def test_client_count_is_bounded(count: int) -> None:
    with pytest.raises(ValueError, match="expected 1 to 50 clients"):
        LabSettings(client_count=count)


def test_full_cone_nat_has_one_client() -> None:
    with pytest.raises(ValueError, match="forwards to one client"):
        LabSettings(client_nat=Nat.FULL_CONE, client_count=2)


def test_each_further_client_has_a_network_of_its_own_behind_the_same_router() -> None:
    plan = make_plan(LabSettings(underlay=Underlay.DUAL, client_count=3, direct_ipv4=False, direct_ipv6=False))
    sites = [client_site(number) for number in (1, 2, 3)]
    assert len({site.network for site in sites}) == len({site.network6 for site in sites}) == 3
    assert plan.roles[-2:] == ("client-2", "client-3")
    for site in sites:
        assert Route("relay", site.network, CLIENT_ROUTER.address) in plan.routes
        assert Route("relay", site.network6, CLIENT_ROUTER.address6) in plan.routes
        assert f'iifname "inside*" ip daddr {site.network} drop' in plan.rules["gateway-nat"]
        assert f'iifname "inside*" ip6 daddr {site.network6} drop' in plan.rules["gateway-nat"]
    assert Route("client-3", "0.0.0.0/0", client_inside(3).address) in plan.routes


@pytest.mark.parametrize("count", [0, 51])
def test_gateway_count_is_bounded(count: int) -> None:
    with pytest.raises(ValueError, match="gateways"):
        LabSettings(gateway_count=count)


def test_a_full_cone_nat_has_one_gateway() -> None:
    with pytest.raises(ValueError, match="one gateway"):
        LabSettings(gateway_nat=Nat.FULL_CONE, gateway_count=2)


def test_every_gateway_has_ways_of_its_own_out_and_to_the_resource() -> None:
    plan = make_plan(LabSettings(underlay=Underlay.DUAL, gateway_count=3, direct_ipv4=False, direct_ipv6=False))
    for role, host in (("gateway-2", "172.31.2.100"), ("gateway-3", "172.31.3.100")):
        assert role in plan.roles
        assert role in plan.forwarding
        outward = {route.destination for route in plan.routes if route.role == role}
        assert outward == {"0.0.0.0/0", "::/0", f"{RESOURCE.address}/32", f"{RESOURCE.address6}/128"}
        assert sum(port.role == role for link in plan.links for port in link) == 2
        assert str(ip_interface(f"{host}/24").network) in plan.rules["client-nat"]
