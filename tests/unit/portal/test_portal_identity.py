"""Whose device is whose: entries of the tokens, tunnel addresses, bounds; and relays at one another's address."""

from typing import Any

import pytest

from portal import devices
from portal.configuration import TokenType
from portal.login import Refusal, RelayLogin
from tests.unit.portal.conftest import AGENTS, public_key

TABLET = "  - {type: client, name: tablet, actor: alice, token: c3}\n"
PHONE = "  - {type: client, name: phone"


def test_another_entry_of_the_same_actor_has_devices_of_its_own(world: Any) -> None:
    world.apply((PHONE, f"{TABLET}{PHONE}"))
    gateway, laptop = world.gateway(), world.client("c1", external_id="one")
    grant(laptop, gateway, world.resource("lan"))
    tablet = world.client("c3", external_id="one", key=9)
    assert tablet.id != laptop.id
    assert interface(tablet) != interface(laptop)
    tablet.send("create_flow", {"resource_id": world.resource("wiki"), "connected_gateway_ids": []})
    request = gateway.take_one("authorize_flow")
    assert request["client"]["id"] == tablet.id
    assert request["client"]["ipv4"] == interface(tablet)["ipv4"]
    laptop.events()
    world.apply((TABLET, ""))
    assert not laptop.closed


def test_a_replaced_token_keeps_the_device(world: Any) -> None:
    before = world.client("c1", external_id="one")
    world.apply(("token: c1", "token: c9"))
    assert before.closed
    after = world.client("c9", external_id="one", key=9)
    assert after.id == before.id
    assert interface(after) == interface(before)


def test_a_client_that_changes_to_another_text_of_its_entry_keeps_device_addresses_and_policies(world: Any) -> None:
    gateway, before = world.gateway(), world.client("c1")
    lan = world.resource("lan")
    grant(before, gateway, lan)
    world.apply(("token: c1", "token: [c1, c9]"))
    assert not before.closed
    after = world.client("c9", key=9)  # a restart: another key
    assert (after.id, interface(after)) == (before.id, interface(before))
    grant(after, gateway, lan)
    after.events()
    gateway.events()
    world.apply(("token: [c1, c9]", "token: c9"))
    assert (before.closed, after.closed) == (True, False)
    assert (after.events(), gateway.events()) == ([], [])
    assert isinstance(ask_client(world, "c1", "x"), Refusal)


def test_who_has_not_changed_its_text_yet_is_cut_off_with_what_it_was_granted(world: Any) -> None:
    gateway, late, early = world.gateway(), world.client("c1"), world.client("c2")
    grant(late, gateway, world.resource("lan"))
    world.apply(("token: c1", "token: [c1, c9]"), ("token: c2", "token: [c2, c8]"))
    gateway.events()
    world.apply(("token: [c1, c9]", "token: c9"))
    assert (late.closed, early.closed) == (True, False)
    assert gateway.take_one("reject_access")["client_id"] == late.id


def test_a_gateway_that_changes_its_text_is_the_same_to_its_clients(world: Any) -> None:
    old, client = world.gateway(), world.client()
    world.apply(("token: g1", "token: [g1, g9]"))
    new = world.gateway("g9", key=8)
    assert new.id == old.id
    grant(client, new, world.resource("lan"))
    client.events()
    world.apply(("token: [g1, g9]", "token: g9"))
    assert (old.closed, new.closed) == (True, False)
    assert (client.events(), new.take("reject_access")) == ([], [])
    grant(client, new, world.resource("wiki"))


def test_a_relay_that_changes_its_text_has_its_address_at_once_and_for_good(world: Any) -> None:
    world.apply(("token: r1", "token: [r1, r9]"))
    old = world.relay()
    client = world.client()
    new = world.connect(TokenType.RELAY, "r9", ipv4="192.0.2.1", port="3478").join()
    assert client.take_one("relays_presence")["connected"][0]["id"] == new.id == old.id
    world.apply(("token: [r1, r9]", "token: r9"))
    world.pass_time(10)
    assert (old.closed, new.closed) == (True, False)
    assert client.take("relays_presence") == []
    assert isinstance(ask_relay(world, "r1", {"ipv4": "192.0.2.1"}), Refusal)


def test_a_gateway_whose_entry_has_another_site_serves_that_one(world: Any) -> None:
    world.apply(("gateway, site: hq", "gateway, name: mobile, site: hq"))
    first = world.gateway()
    world.apply(("name: mobile, site: hq", "name: mobile, site: branch"))
    assert first.closed
    second = world.gateway()
    assert second.id == first.id
    client = world.client()
    client.send("create_flow", {"resource_id": world.resource("lan"), "connected_gateway_ids": []})
    world.pass_time(2)
    assert client.take_one("flow_creation_failed")["reason"] == "offline"


def test_a_newcomer_whose_address_is_taken_gets_another(world: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "device_offset", lambda _secret, _device: 77)
    held = interface(world.client("c1"))
    assert held["ipv4"] == "100.64.0.77"
    assert interface(world.client("c2"))["ipv4"] == "100.64.0.78"
    assert interface(world.client("c1")) == held


def test_a_token_has_a_bounded_number_of_devices(world: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "MAXIMUM_DEVICES_PER_TOKEN", 3)
    first = [world.client("c1", external_id=f"device {number}") for number in range(3)]
    assert ask_client(world, "c1", "another") == Refusal(503, "Too many devices", 3600)
    assert not isinstance(ask_client(world, "c1", "device 1"), Refusal)
    assert not isinstance(ask_client(world, "c2", "another"), Refusal)
    for component in first:
        component.leave()
    world.pass_time(3599)
    assert isinstance(ask_client(world, "c1", "another"), Refusal)
    world.client("c1", external_id="device 0").leave()
    world.pass_time(2)
    assert not isinstance(ask_client(world, "c1", "another"), Refusal)
    world.client("c1", external_id="another")
    assert isinstance(ask_client(world, "c1", "and another"), Refusal) is False  # device 2 is forgotten next
    world.client("c1", external_id="and another")
    assert isinstance(ask_client(world, "c1", "one too many"), Refusal)  # device 0 was seen two seconds ago


def test_of_two_that_ask_at_once_for_the_last_place_one_gets_it(world: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "MAXIMUM_DEVICES_PER_TOKEN", 1)
    logins = [ask_client(world, "c1", name) for name in ("one", "two")]
    assert world.core.handle_connected(logins[0], world.now) is not None
    assert world.core.handle_connected(logins[1], world.now) is None


def test_an_address_is_free_again_when_its_device_is_forgotten(world: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "MAXIMUM_DEVICES", 1)
    monkeypatch.setattr(devices, "device_offset", lambda _secret, _device: 77)
    world.client("c1").leave()
    assert interface(world.client("c2"))["ipv4"] == "100.64.0.77"


RELAY2 = ("  - {type: relay, token: r1}", "  - {type: relay, token: r1}\n  - {type: relay, name: other, token: r2}")


@pytest.mark.parametrize(
    "announced",
    [
        {"ipv4": "192.0.2.1"},
        {"ipv6": "2001:db8::1"},
        {"ipv4": "192.0.2.9", "ipv6": "2001:db8::1"},
        {"ipv4": "192.0.2.1", "ipv6": "2001:db8::9"},
    ],
)
def test_the_address_of_a_relay_is_refused_to_another_entry(world: Any, announced: dict[str, str]) -> None:
    world.apply(RELAY2)
    relay, client = world.relay("192.0.2.1", ipv6="2001:db8::1"), world.client()
    before = client.take_one("init")["relays"]
    client.events()
    assert ask_relay(world, "r2", announced) == Refusal(503, "Another relay has this address", 41)
    assert isinstance(ask_relay(world, "r2", announced, port="3479"), RelayLogin)
    assert client.events() == []
    relay.leave()
    world.pass_time(2)  # it may come back yet
    assert isinstance(ask_relay(world, "r2", announced), Refusal)
    world.pass_time(2)
    assert isinstance(ask_relay(world, "r2", announced), RelayLogin)
    assert {entry["id"] for entry in before} == {relay.id}


def test_a_relay_that_restarts_gets_its_address_at_once(world: Any) -> None:
    world.apply(RELAY2)
    world.relay()
    client = world.client()
    first = client.take_one("init")["relays"][0]
    world.relay()  # while the link of the one before still looks open
    announced = client.take_one("relays_presence")
    assert announced["disconnected_ids"] == [first["id"]]
    assert announced["connected"][0]["password"] != first["password"]


def test_of_two_entries_that_connect_at_once_the_first_to_join_has_the_address(world: Any) -> None:
    world.apply(RELAY2)
    first, second = (world.connect(TokenType.RELAY, token, ipv4="192.0.2.1", port="3478") for token in ("r1", "r2"))
    first.join()
    second.join()
    assert (first.closed, second.closed) == (False, True)
    assert second.events() == []  # words would end the program for good
    assert len(world.client().take_one("init")["relays"]) == 1


def test_a_relay_that_another_left_before_it_joined_is_there(world: Any) -> None:
    first, second = (world.connect(TokenType.RELAY, "r1", ipv4="192.0.2.1", port="3478") for _ in range(2))
    first.leave()
    second.join()
    assert len(world.client().take_one("init")["relays"]) == 1


def test_one_entry_leaves_room_for_relays_of_others(world: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("portal.presence.MAXIMUM_RELAYS_PER_TOKEN", 2)
    world.apply(RELAY2)
    for number in range(2):
        world.relay(f"192.0.2.{number}")
    third = ask_relay(world, "r1", {"ipv4": "192.0.2.9"})
    assert world.core.handle_connected(third, world.now) is None
    assert world.core.handle_connected(ask_relay(world, "r2", {"ipv4": "192.0.2.9"}), world.now) is not None


@pytest.mark.parametrize("secret", ["", "\ud800", "a\n", "x" * 257, "é", None, 7])
def test_a_stamp_secret_that_makes_no_password_is_refused(world: Any, secret: Any) -> None:
    client = world.client()
    relay = world.connect(TokenType.RELAY, "r1", ipv4="192.0.2.1", port="3478")
    relay.send("phx_join", {"stamp_secret": secret})
    assert relay.take_one("phx_reply")["response"] == {"reason": "invalid_payload"}
    assert client.take("relays_presence") == []


def ask_client(world: Any, token: str, external_id: str) -> Any:
    parameters = {"token": token, "external_id": external_id, "name": "n", "public_key": public_key(1)}
    return world.ask(TokenType.CLIENT, parameters, AGENTS[TokenType.CLIENT])


def ask_relay(world: Any, token: str, announced: dict[str, str], port: str = "3478") -> Any:
    return world.ask(TokenType.RELAY, {"token": token, "port": port, **announced}, AGENTS[TokenType.RELAY])


def interface(component: Any) -> Any:
    device = component.session.party
    return {"ipv4": str(device.ipv4), "ipv6": str(device.ipv6)}


def grant(client: Any, gateway: Any, resource_id: str) -> None:
    client.send("create_flow", {"resource_id": resource_id, "connected_gateway_ids": []})
    gateway.send("flow_authorized", {"ref": gateway.take_one("authorize_flow")["ref"]})
    assert client.take_one("flow_created")["resource_id"] == resource_id
