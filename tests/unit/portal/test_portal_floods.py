"""Who floods the portal is told no and then cut off; who listens is not, and others are served."""

from typing import Any

import pytest

from connectivity.budget import Rate
from portal import grants, pending
from portal.budgets import FLOWS, FRAMES, REFUSALS
from portal.configuration import TokenType

SECOND_LAPTOP = "  - {type: client, name: other, actor: carol, groups: [staff], token: c3}\n"
PHONE = "  - {type: client, name: phone"


def test_ids_count_once_each(world: Any) -> None:
    gateway, client = world.gateway(), world.client()
    gateway.events()
    client.send("broadcast_ice_candidates", {"gateway_ids": [gateway.id] * 256, "candidates": ["candidate:1"]})
    assert gateway.take("ice_candidates") == [{"client_id": client.id, "candidates": ["candidate:1"]}]


def test_candidates_pass_between_pairs_that_policy_allows_only(world: Any) -> None:
    near, foreign, client, stranger = world.gateway(), world.gateway("g2"), world.client(), world.client("c2")
    for sender in (client, stranger):
        sender.send("broadcast_ice_candidates", {"gateway_ids": [near.id, foreign.id], "candidates": ["candidate:1"]})
    assert [message["client_id"] for message in near.take("ice_candidates")] == [client.id]
    assert foreign.take("ice_candidates") == []
    for sender in (near, foreign):
        sender.send("broadcast_ice_candidates", {"client_ids": [client.id, stranger.id], "candidates": ["candidate:1"]})
    assert [message["gateway_id"] for message in client.take("ice_candidates")] == [near.id]
    assert stranger.take("ice_candidates") == []


@pytest.mark.parametrize("event", ["ice_candidates", "invalidated_ice_candidates"])
def test_a_portal_that_restarted_carries_candidates_of_living_connections(make_world: Any, event: str) -> None:
    world = make_world()
    gateway, client = world.gateway(), world.client()  # they met while another process was the portal
    told = event.replace("invalidated", "invalidate")
    client.send(f"broadcast_{event}", {"gateway_ids": [gateway.id], "candidates": ["candidate:1"]})
    gateway.send(f"broadcast_{event}", {"client_ids": [client.id], "candidates": ["candidate:2"]})
    assert gateway.take_one(told)["candidates"] == ["candidate:1"]
    assert client.take_one(told)["candidates"] == ["candidate:2"]


def test_no_candidates_pass_once_access_is_taken_away(world: Any) -> None:
    gateway, client = world.gateway(), world.client()
    world.apply(
        ("  - {resource: lan, groups: [staff]}\n", ""),
        ("  - {resource: wiki, actors: [alice]}\n", ""),
        ("policies:", ""),
    )
    client.send("broadcast_ice_candidates", {"gateway_ids": [gateway.id], "candidates": ["candidate:1"]})
    gateway.send("broadcast_ice_candidates", {"client_ids": [client.id], "candidates": ["candidate:1"]})
    assert gateway.take("ice_candidates") == client.take("ice_candidates") == []


def test_who_floods_with_candidates_is_cut_off_and_not_who_listens(world: Any) -> None:
    gateway, client = world.gateway(), world.client()
    message = {"gateway_ids": [gateway.id], "candidates": []}
    sent = send_until_closed(client, "broadcast_ice_candidates", message)
    heard = len(gateway.take("ice_candidates"))
    assert heard == 512  # half of what a connection holds back
    assert sent == heard + REFUSALS.burst + 1
    assert not gateway.closed


def test_candidates_of_one_do_not_cost_another(world: Any) -> None:
    world.apply((PHONE, f"{SECOND_LAPTOP}{PHONE}"))
    gateway, flooding, other = world.gateway(), world.client(), world.client("c3")
    send_until_closed(flooding, "broadcast_ice_candidates", {"gateway_ids": [gateway.id], "candidates": []})
    gateway.events()
    other.send("broadcast_ice_candidates", {"gateway_ids": [gateway.id], "candidates": ["candidate:1"]})
    assert gateway.take_one("ice_candidates")["client_id"] == other.id


def test_a_gateway_that_floods_one_client_still_reaches_others(world: Any) -> None:
    world.apply((PHONE, f"{SECOND_LAPTOP}{PHONE}"))
    gateway, one, other = world.gateway(), world.client(), world.client("c3")
    for _ in range(1000):
        gateway.send("broadcast_ice_candidates", {"client_ids": [one.id], "candidates": []})
    gateway.send("broadcast_ice_candidates", {"client_ids": [other.id], "candidates": ["candidate:1"]})
    assert len(one.take("ice_candidates")) == 512
    assert other.take_one("ice_candidates")["gateway_id"] == gateway.id


def test_what_is_used_up_comes_back_with_time(world: Any) -> None:
    gateway, client = world.gateway(), world.client()
    message = {"gateway_ids": [gateway.id], "candidates": ["c" * 256]}
    for _ in range(300):
        client.send("broadcast_ice_candidates", message)
    assert len(gateway.take("ice_candidates")) == 256
    world.pass_time(1)
    client.send("broadcast_ice_candidates", message)
    assert len(gateway.take("ice_candidates")) == 1


def test_who_floods_with_flows_is_refused_and_then_cut_off(world: Any) -> None:
    gateway, client = world.gateway(), world.client()
    gateway.events()
    asked = {"resource_id": world.resource("lan"), "connected_gateway_ids": []}
    sent = send_until_closed(client, "create_flow", asked)
    assert sent == FLOWS.burst + REFUSALS.burst + 1
    assert len(gateway.take("authorize_flow")) == FLOWS.burst
    assert {answer["reason"] for answer in client.take("flow_creation_failed")} == {"limit_reached"}
    assert not gateway.closed


def test_others_get_their_flows_meanwhile(world: Any) -> None:
    world.apply((PHONE, f"{SECOND_LAPTOP}{PHONE}"))
    gateway, flooding, other = world.gateway(), world.client(), world.client("c3")
    asked = {"resource_id": world.resource("lan"), "connected_gateway_ids": []}
    send_until_closed(flooding, "create_flow", asked)
    gateway.events()
    other.send("create_flow", asked)
    gateway.send("flow_authorized", {"ref": gateway.take_one("authorize_flow")["ref"]})
    assert other.take_one("flow_created")["gateway_id"] == gateway.id


def test_a_new_connection_gives_a_flooder_no_new_means(world: Any) -> None:
    world.gateway()
    asked = {"resource_id": world.resource("lan"), "connected_gateway_ids": []}
    send_until_closed(world.client(), "create_flow", asked)
    assert send_until_closed(world.client(), "create_flow", asked) == 1
    world.pass_time(60)
    again = world.client()
    again.send("create_flow", asked)
    assert not again.closed


@pytest.mark.parametrize("kind", list(TokenType))
def test_frames_of_any_kind_are_limited(make_world: Any, monkeypatch: pytest.MonkeyPatch, kind: TokenType) -> None:
    monkeypatch.setitem(FRAMES, kind, Rate(100, 1))
    world = make_world()
    component = {TokenType.CLIENT: world.client, TokenType.GATEWAY: world.gateway, TokenType.RELAY: world.relay}[kind]()
    other = world.gateway("g2") if kind is not TokenType.GATEWAY else world.client("c2")
    component.events()
    for _ in range(99):  # the join was one
        component.send("heartbeat", {}, topic="phoenix")
    assert len(component.take("phx_reply")) == 99
    component.send("heartbeat", {}, topic="phoenix")
    assert (component.closed, component.events(), other.closed) == (True, [], False)


def test_a_client_has_a_bounded_number_of_flows_that_wait(make_world: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pending, "MAXIMUM_PENDING_PER_CLIENT", 1)
    world = make_world()
    gateway, client = world.gateway(), world.client()
    lan, wiki = world.resource("lan"), world.resource("wiki")
    for resource_id in (lan, lan, wiki):
        client.send("create_flow", {"resource_id": resource_id, "connected_gateway_ids": []})
    first, second = gateway.take("authorize_flow")
    assert client.take_one("flow_creation_failed") == {
        "resource_id": wiki,
        "reason": "limit_reached",
        "violated_properties": [],
    }
    gateway.send("flow_authorized", {"ref": first["ref"]})  # the second took its place
    assert gateway.take("phx_reply")[-1]["response"] == {"reason": "invalid_ref"}
    gateway.send("flow_authorized", {"ref": second["ref"]})
    assert client.take_one("flow_created")["resource_id"] == lan


@pytest.mark.parametrize("bound", ["MAXIMUM_PENDING", "MAXIMUM_PENDING_PER_GATEWAY"])
def test_who_has_the_most_makes_room(make_world: Any, monkeypatch: pytest.MonkeyPatch, bound: str) -> None:
    monkeypatch.setattr(pending, bound, 2)
    world = make_world()
    world.apply((PHONE, f"{SECOND_LAPTOP}{PHONE}"))
    gateway, greedy, modest = world.gateway(), world.client(), world.client("c3")
    for name in ("lan", "wiki"):
        greedy.send("create_flow", {"resource_id": world.resource(name), "connected_gateway_ids": []})
    gateway.events()
    modest.send("create_flow", {"resource_id": world.resource("lan"), "connected_gateway_ids": []})
    gateway.send("flow_authorized", {"ref": gateway.take_one("authorize_flow")["ref"]})
    assert modest.take_one("flow_created")["gateway_id"] == gateway.id
    for resource in ("lan", "wiki"):
        greedy.send("create_flow", {"resource_id": world.resource(resource), "connected_gateway_ids": []})
    assert len(world.core._flows._pending) == 2


def test_one_token_leaves_room_at_a_gateway_for_others(make_world: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grants, "MAXIMUM_GRANTS_PER_TOKEN", 2)
    monkeypatch.setattr(grants, "MAXIMUM_GRANTS_PER_GATEWAY", 3)
    world = make_world()
    world.apply((PHONE, f"{SECOND_LAPTOP}{PHONE}"))
    gateway = world.gateway()
    asked = {"resource_id": world.resource("lan"), "connected_gateway_ids": []}
    greedy = [world.client(external_id=name) for name in ("one", "two", "three")]
    for client in (*greedy, world.client("c3"), greedy[0]):  # the last asks again for what it has
        client.send("create_flow", asked)
    assert [client.take("flow_creation_failed") != [] for client in greedy] == [False, False, True]
    assert len(gateway.take("authorize_flow")) == 4


@pytest.mark.parametrize("connected", [["x"] * 257, [{}, [], 7, None], "text", {"a": 1}])
def test_a_list_of_gateways_that_makes_no_sense_names_none(world: Any, connected: Any) -> None:
    gateway, client = world.gateway(), world.client()
    client.send("create_flow", {"resource_id": world.resource("lan"), "connected_gateway_ids": connected})
    assert gateway.take_one("authorize_flow")["client"]["id"] == client.id


@pytest.mark.parametrize("resource_id", ["x" * 65, ["x"], {"x": 1}])
def test_a_long_resource_id_is_not_repeated(world: Any, resource_id: Any) -> None:
    client = world.client()
    client.events()
    client.send("create_flow", {"resource_id": resource_id, "connected_gateway_ids": []})
    assert client.take_one("phx_reply")["response"] == {"reason": "unknown_message"}


def send_until_closed(component: Any, event: str, payload: Any) -> int:
    sent = 0
    while not component.closed:
        component.send(event, payload)
        sent += 1
        assert sent < 10_000
    return sent
