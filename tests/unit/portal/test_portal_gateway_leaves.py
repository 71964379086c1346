"""What becomes of flows when a gateway leaves: another one of the site takes them, or the one that comes back."""

from typing import Any

from connectivity.clock import MILLISECOND
from portal.waiting_flows import MAXIMUM_WAITING_PER_CLIENT, WAIT_NS


def ask(client: Any, resource_id: str) -> None:
    client.send("create_flow", {"resource_id": resource_id, "connected_gateway_ids": []})


def confirm(gateway: Any) -> None:
    gateway.send("flow_authorized", {"ref": gateway.take_one("authorize_flow")["ref"]})


def test_a_flow_waits_for_a_gateway_that_left_a_moment_ago(world: Any) -> None:
    gateway, client = world.gateway(), world.client()
    gateway.leave()
    world.pass_time(0.2)
    ask(client, world.resource("lan"))
    world.pass_time(0.4)
    assert client.take("flow_creation_failed") == []
    world.gateway("g2")  # of another site
    confirm(world.gateway(key=5))
    assert client.take_one("flow_created")["resource_id"] == world.resource("lan")
    world.pass_time(5)
    assert client.take("flow_creation_failed") == []


def test_where_none_comes_back_the_site_is_offline_before_the_client_asks_again(world: Any) -> None:
    gateway, client = world.gateway(), world.client()
    gateway.leave()
    ask(client, world.resource("lan"))
    world.pass_time(1.9)
    assert client.take_one("flow_creation_failed")["reason"] == "offline"
    ask(client, world.resource("lan"))
    assert client.take("flow_creation_failed") == [], "it may still come back"
    world.pass_time(10)
    assert client.take_one("flow_creation_failed")["reason"] == "offline"
    ask(client, world.resource("lan"))
    assert client.take_one("flow_creation_failed")["reason"] == "offline", "it left long ago"
    confirm_nothing = world.gateway()
    assert confirm_nothing.take("authorize_flow") == []


def test_what_a_gateway_had_not_confirmed_goes_to_another_of_the_site(world: Any) -> None:
    gateway, client = world.gateway(external_id="one"), world.client()
    ask(client, world.resource("lan"))
    assert len(gateway.take("authorize_flow")) == 1
    other = world.gateway(external_id="two")
    gateway.leave()
    world.pass_time(0.01)
    confirm(other)
    assert client.take_one("flow_created")["gateway_id"] == other.id


def test_a_client_that_connected_again_meanwhile_has_to_ask_itself(world: Any) -> None:
    gateway, client = world.gateway(), world.client()
    gateway.leave()
    ask(client, world.resource("lan"))
    client.leave()
    client = world.client()
    assert world.gateway().take("authorize_flow") == []
    world.pass_time(5)
    assert client.take("flow_creation_failed") == []


def test_what_a_policy_took_away_meanwhile_is_not_given(world: Any) -> None:
    gateway, client = world.gateway(), world.client()
    gateway.leave()
    ask(client, world.resource("lan"))
    world.apply(("  - {resource: lan, groups: [staff]}\n", ""))
    assert world.gateway().take("authorize_flow") == []
    assert client.take_one("flow_creation_failed")["reason"] == "not_found"


def test_one_client_has_a_bounded_number_of_them(world: Any) -> None:
    gateway, client = world.gateway(), world.client()
    gateway.leave()
    for _ in range(MAXIMUM_WAITING_PER_CLIENT + 3):
        ask(client, world.resource("lan"))
    assert [answer["reason"] for answer in client.take("flow_creation_failed")] == ["offline"] * 3
    world.pass_time(WAIT_NS / 1e9 + MILLISECOND / 1e9)
    assert len(client.take("flow_creation_failed")) == MAXIMUM_WAITING_PER_CLIENT
