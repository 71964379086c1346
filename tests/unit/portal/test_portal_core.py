"""Joins, flows and candidates, as the components on the sockets see them."""

from typing import Any

import pytest

from portal.configuration import TokenType

OK: dict[str, Any] = {"status": "ok", "response": {}}


def test_join_is_confirmed_before_init(world: Any) -> None:
    for component in (world.client(), world.gateway(), world.relay()):
        assert component.inbox[0] == {
            "topic": component.session.topic,
            "event": "phx_reply",
            "payload": OK,
            "ref": 0,
        }
        assert component.inbox[1]["event"] == "init"
        assert component.inbox[1]["ref"] is None


def test_client_init(world: Any) -> None:
    init = world.client().take_one("init")
    assert init["interface"]["upstream_dns"] == []
    assert init["interface"]["search_domain"] is None
    lan, wiki = init["resources"]
    assert lan["type"] == "cidr"
    assert lan["address"] == "10.20.0.0/16"
    assert lan["gateway_groups"] == [{"id": world.configuration().sites[0].id, "name": "hq"}]
    assert wiki["type"] == "dns"
    assert init["relays"] == []


def test_client_without_policy_has_no_resource(world: Any) -> None:
    assert world.client("c2").take_one("init")["resources"] == []


def test_gateway_init_has_the_keys_that_must_not_be_missing(world: Any) -> None:
    init = world.gateway().take_one("init")
    assert init["config"] == {"ipv4_masquerade_enabled": True, "ipv6_masquerade_enabled": True}
    assert init["authorizations"] == []
    assert set(init["interface"]) == {"ipv4", "ipv6"}


def test_relay_init_is_empty(world: Any) -> None:
    assert world.relay().take_one("init") == {}


def test_heartbeat_is_answered_even_before_the_join(world: Any) -> None:
    client = world.connect(TokenType.CLIENT, "c1")
    ref = client.send("heartbeat", {}, topic="phoenix")
    assert client.inbox == [{"topic": "phoenix", "event": "phx_reply", "payload": OK, "ref": ref}]


@pytest.mark.parametrize("topic", ["client", "gateway", "other"])
def test_topic_that_is_not_joined(world: Any, topic: str) -> None:
    client = world.connect(TokenType.CLIENT, "c1")
    client.send("create_flow", {}, topic=topic)
    reply = client.take_one("phx_reply")
    assert reply == {"status": "error", "response": {"reason": "unmatched topic"}}


def test_join_of_a_foreign_topic(world: Any) -> None:
    client = world.connect(TokenType.CLIENT, "c1")
    client.send("phx_join", None, topic="gateway")
    assert client.take_one("phx_reply")["response"] == {"reason": "unmatched topic"}


@pytest.mark.parametrize(
    ("event", "payload"),
    [
        ("create_flow", {"resource_id": "x"}),
        ("create_flow", None),
        ("flow_authorized", {"ref": "x"}),
        ("broadcast_ice_candidates", {"gateway_ids": "x", "candidates": []}),
        ("broadcast_ice_candidates", {"gateway_ids": [], "candidates": [1]}),
        ("broadcast_ice_candidates", {"gateway_ids": [], "candidates": ["\ud800"]}),
        ("broadcast_ice_candidates", {"gateway_ids": [], "candidates": ["c" * 513]}),
        ("broadcast_ice_candidates", {"gateway_ids": ["g"] * 257, "candidates": []}),
        ("nonsense", {}),
    ],
)
def test_message_of_another_shape(world: Any, event: str, payload: Any) -> None:
    client = world.client()
    client.events()
    client.send(event, payload)
    assert client.take_one("phx_reply") == {"status": "error", "response": {"reason": "unknown_message"}}


def test_relay_without_stamp_secret(world: Any) -> None:
    relay = world.connect(TokenType.RELAY, "r1", ipv4="192.0.2.1")
    relay.send("phx_join", {})
    assert relay.take_one("phx_reply")["status"] == "error"
    relay.leave()


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "[" * 100_000, "NaN", '{"topic":"client","event":"phx_join","ref":"1"}']
)
def test_unreadable_frame_ends_the_connection(world: Any, text: str) -> None:
    client = world.client()
    client.send_text(text)
    assert client.closed


def test_flow(world: Any) -> None:
    world.relay()
    gateway, client = world.gateway(), world.client()
    gateway.events()
    client.events()
    ask(client, world.resource("lan"))
    request = gateway.take_one("authorize_flow")
    assert client.inbox == []
    assert request["resource"] == {
        "type": "cidr",
        "id": world.resource("lan"),
        "name": "lan",
        "address": "10.20.0.0/16",
        "filters": [{"protocol": "tcp", "port_range_start": 80, "port_range_end": 80}],
    }
    assert request["client"]["id"] == client.id
    assert request["client"]["name"] == client.session.party.name
    assert request["subject"] == {"actor_name": "alice"}
    assert isinstance(request["expires_at"], int)
    gateway.send("flow_authorized", {"ref": request["ref"]})
    assert gateway.take_one("phx_reply") == OK
    created = client.take_one("flow_created")
    assert (created["gateway_id"], created["gateway_name"]) == (gateway.id, gateway.session.party.name)
    assert created["gateway_group_id"] == world.configuration().sites[0].id
    for same in ("client_ice_credentials", "gateway_ice_credentials"):
        assert created[same] == request[same]
    assert created["preshared_key"] == request["client"]["preshared_key"]


def test_flow_is_confirmed_once_and_by_its_gateway_only(world: Any) -> None:
    gateway, other, client = world.gateway(), world.gateway("g2"), world.client()
    ask(client, world.resource("lan"))
    reference = gateway.take_one("authorize_flow")["ref"]
    other.events()
    other.send("flow_authorized", {"ref": reference})
    assert other.take_one("phx_reply")["response"] == {"reason": "invalid_ref"}
    gateway.send("flow_authorized", {"ref": reference})
    gateway.send("flow_authorized", {"ref": reference})
    assert len(client.take("flow_created")) == 1


def test_second_resource_reuses_credentials_and_key(world: Any) -> None:
    gateway, client = world.gateway(), world.client()
    first, second = (establish(client, gateway, world.resource(name)) for name in ("lan", "wiki"))
    for same in ("preshared_key", "client_ice_credentials", "gateway_ice_credentials"):
        assert first[same] == second[same]


def test_everything_comes_out_the_same_after_a_restart(make_world: Any) -> None:
    results = []
    for _ in range(2):
        world = make_world()
        world.relay()
        world.relay("192.0.2.2")
        gateway, client = world.gateway(), world.client()
        relays = [relay["id"] for relay in client.take_one("init")["relays"]]
        results.append((establish(client, gateway, world.resource("lan")), client.id, relays))
    assert results[0] == results[1]


def test_new_key_means_new_credentials(world: Any) -> None:
    gateway, client = world.gateway(), world.client()
    before = establish(client, gateway, world.resource("lan"))
    client.leave()
    client = world.client(key=9)
    after = establish(client, gateway, world.resource("lan"))
    assert before["preshared_key"] != after["preshared_key"]
    assert before["gateway_ipv4"] == after["gateway_ipv4"]


def test_client_that_changed_its_key_does_not_get_the_old_answer(world: Any) -> None:
    gateway, client = world.gateway(), world.client()
    ask(client, world.resource("lan"))
    reference = gateway.take_one("authorize_flow")["ref"]
    client.leave()
    client = world.client(key=9)
    gateway.send("flow_authorized", {"ref": reference})
    assert client.take("flow_created") == []


def test_no_gateway_is_offline(world: Any) -> None:
    client = world.client()
    ask(client, world.resource("lan"))
    assert client.take_one("flow_creation_failed")["reason"] == "offline"


def test_gateway_of_another_site_does_not_help(world: Any) -> None:
    world.gateway("g2")
    client = world.client()
    ask(client, world.resource("lan"))
    assert client.take_one("flow_creation_failed")["reason"] == "offline"


@pytest.mark.parametrize("agent", ["x gateway/1.3.9", "x gateway/1.7.0", "x gateway/2.4.0"])
def test_gateway_of_a_foreign_version_is_not_chosen(world: Any, agent: str) -> None:
    world.gateway(agent=agent)
    client = world.client()
    ask(client, world.resource("lan"))
    assert client.take_one("flow_creation_failed")["reason"] == "offline"


def test_resource_without_policy_is_not_found(world: Any) -> None:
    world.gateway()
    client = world.client("c2")
    ask(client, world.resource("lan"))
    ask(client, "11111111-2222-3333-4444-555555555555")
    ask(client, 7)
    assert [answer["reason"] for answer in client.take("flow_creation_failed")] == ["not_found"] * 3


def test_ended_policy_is_forbidden_and_says_why(world: Any) -> None:
    world.gateway()
    client = world.client()
    world.apply(("{resource: lan, groups: [staff]}", "{resource: lan, groups: [staff], expires_at: 1000000000}"))
    ask(client, world.resource("lan"))
    assert client.take_one("flow_creation_failed") == {
        "resource_id": world.resource("lan"),
        "reason": "forbidden",
        "violated_properties": ["current_utc_datetime"],
    }


def test_gateway_in_use_is_preferred(world: Any) -> None:
    gateways = [world.gateway(external_id=str(number)) for number in range(5)]
    client = world.client()
    for gateway in gateways:
        ask(client, world.resource("lan"), [gateway.id])
        assert len(gateway.take("authorize_flow")) == 1


def test_newest_gateway_is_preferred(world: Any) -> None:
    world.gateway(external_id="old", agent="x gateway/1.4.9")
    newest = world.gateway(external_id="new", agent="x gateway/1.4.10")
    client = world.client()
    for _ in range(4):
        ask(client, world.resource("lan"))
    assert len(newest.take("authorize_flow")) == 4


def test_candidates_go_both_ways_as_they_are(world: Any) -> None:
    gateway, client = world.gateway(), world.client()
    client.send("broadcast_ice_candidates", {"gateway_ids": [gateway.id], "candidates": ["candidate:1", "odd"]})
    assert gateway.take_one("ice_candidates") == {"client_id": client.id, "candidates": ["candidate:1", "odd"]}
    gateway.send("broadcast_invalidated_ice_candidates", {"client_ids": [client.id, "none"], "candidates": []})
    assert client.take_one("invalidate_ice_candidates") == {"gateway_id": gateway.id, "candidates": []}


def test_candidates_to_a_device_of_the_same_kind_go_nowhere(world: Any) -> None:
    client, other = world.client(), world.client("c2", key=3)
    other.events()
    client.send("broadcast_ice_candidates", {"gateway_ids": [other.id], "candidates": ["a"]})
    assert other.inbox == []


def test_order_at_the_gateway_and_at_the_client(world: Any) -> None:
    gateway, client = world.gateway(), world.client()
    gateway.events()
    client.events()
    ask(client, world.resource("lan"))
    reference = gateway.inbox[0]["payload"]["ref"]
    gateway.send("flow_authorized", {"ref": reference})
    gateway.send("broadcast_ice_candidates", {"client_ids": [client.id], "candidates": ["a"]})
    client.send("broadcast_ice_candidates", {"gateway_ids": [gateway.id], "candidates": ["b"]})
    assert client.events() == ["flow_created", "ice_candidates"]
    assert gateway.events() == ["authorize_flow", "phx_reply", "ice_candidates"]


@pytest.mark.parametrize(("kind", "limit"), [("gateway", 37), ("relay", 41), ("client", 307)])
def test_silent_connection_is_closed(world: Any, kind: str, limit: int) -> None:
    component = getattr(world, kind)()
    world.pass_time(limit - 2)
    assert not component.closed
    world.pass_time(3)
    assert component.closed


def test_heartbeats_keep_the_connection(world: Any) -> None:
    gateway = world.gateway()
    for _ in range(10):
        world.pass_time(30)
        gateway.send("heartbeat", {}, topic="phoenix")
    assert not gateway.closed


def test_newest_connection_of_a_device_counts(world: Any) -> None:
    gateway = world.gateway()
    old = world.client()
    new = world.client(key=7)
    assert old.id == new.id
    establish(new, gateway, world.resource("lan"))
    old.leave()
    establish(new, gateway, world.resource("wiki"))


def test_address_is_the_same_after_leaving(world: Any) -> None:
    client = world.client()
    before = client.take_one("init")["interface"]
    client.leave()
    assert world.client(key=5).take_one("init")["interface"] == before
    assert world.client("c2").take_one("init")["interface"] != before


def ask(client: Any, resource_id: Any, connected: list[str] | None = None) -> None:
    client.send("create_flow", {"resource_id": resource_id, "connected_gateway_ids": connected or []})


def establish(client: Any, gateway: Any, resource_id: str) -> Any:
    ask(client, resource_id)
    gateway.send("flow_authorized", {"ref": gateway.take_one("authorize_flow")["ref"]})
    return client.take_one("flow_created")
