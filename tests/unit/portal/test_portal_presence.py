"""Relay presence: choice, credentials, the debounce and who is told what."""

from typing import Any

from connectivity.clock import SECOND
from connectivity.turn import credentials


def test_one_entry_per_family_next_to_each_other(world: Any) -> None:
    relay = world.relay("192.0.2.1", ipv6="2001:db8::1")
    entries = world.client().take_one("init")["relays"]
    assert [entry["addr"] for entry in entries] == ["192.0.2.1:3478", "[2001:db8::1]:3478"]
    assert {entry["id"] for entry in entries} == {relay.id}
    assert {entry["type"] for entry in entries} == {"turn"}


def test_password_is_the_one_that_the_relay_computes(world: Any) -> None:
    world.relay()
    for device in (world.client(), world.gateway()):
        entry = device.take_one("init")["relays"][0]
        claims = credentials.parse_username(entry["username"])
        assert claims is not None
        assert claims.expiry == entry["expires_at"] > world.wall // SECOND
        assert credentials.password(claims.expiry, "secret 1", claims.salt) == entry["password"]


def test_two_relays_at_most(world: Any) -> None:
    for number in range(5):
        world.relay(f"192.0.2.{number}")
    assert len(world.client().take_one("init")["relays"]) == 2


def test_devices_are_spread_over_the_relays(world: Any) -> None:
    for number in range(4):
        world.relay(f"192.0.2.{number}")
    chosen = {entry["id"] for key in range(16) for entry in world.client(key=key + 10).take_one("init")["relays"]}
    assert len(chosen) == 4


def test_client_credentials_end_with_the_token(world: Any) -> None:
    world.apply(("token: c1", "token: c1, expires_at: 2027-01-31"))
    world.relay()
    assert world.client().take_one("init")["relays"][0]["expires_at"] == 1801353600


def test_credentials_stay_the_same_for_a_key(world: Any) -> None:
    world.relay()
    gateway = world.gateway()
    before = gateway.take_one("init")["relays"]
    gateway.leave()
    world.pass_time(2 * 24 * 3600)
    world.relay()
    after = world.gateway().take_one("init")["relays"]
    assert [entry["username"] for entry in before] == [entry["username"] for entry in after]


def test_credentials_are_replaced_before_they_end(make_world: Any) -> None:
    world = make_world()
    relay, gateway = world.relay(), world.gateway()
    first = gateway.take_one("init")["relays"][0]
    latest = first
    gateway.session.last_received_at = relay.session.last_received_at = 1 << 80  # never silent
    for _ in range(91):
        world.wall += 24 * 3600 * SECOND
        world.pass_time(61)
        for presence in gateway.take("relays_presence"):
            (latest,) = presence["connected"]
        assert latest["expires_at"] > world.wall // SECOND
    assert latest["expires_at"] > first["expires_at"]


def test_relay_that_leaves_is_announced_after_3_seconds(world: Any) -> None:
    relays = [world.relay(f"192.0.2.{number}") for number in range(3)]
    client = world.client()
    held = [entry["id"] for entry in client.take_one("init")["relays"]]
    gone = next(relay for relay in relays if relay.id == held[0])
    gone.leave()
    world.pass_time(2.9)
    assert client.take("relays_presence") == []
    world.pass_time(0.2)
    presence = client.take_one("relays_presence")
    assert presence["disconnected_ids"] == [gone.id]
    connected = {entry["id"] for entry in presence["connected"]}
    assert held[1] in connected
    assert len(connected) == 2
    assert gone.id not in connected


def test_relay_that_nobody_uses_is_not_announced(world: Any) -> None:
    relays = [world.relay(f"192.0.2.{number}") for number in range(3)]
    client = world.client()
    held = {entry["id"] for entry in client.take_one("init")["relays"]}
    next(relay for relay in relays if relay.id not in held).leave()
    world.pass_time(4)
    assert client.take("relays_presence") == []


def test_relay_that_comes_back_with_its_secret_is_not_announced(world: Any) -> None:
    relay, client = world.relay(), world.client()
    client.events()
    relay.leave()
    world.pass_time(1)
    again = world.connect(relay.session.token.type, "r1", ipv4="192.0.2.1", port="3478")
    again.send("phx_join", {"stamp_secret": "secret 1"})
    world.pass_time(4)
    assert again.id == relay.id
    assert client.events() == []


def test_relay_that_comes_back_with_another_secret_is_announced_at_once(world: Any) -> None:
    relay, client = world.relay(), world.client()
    before = client.take_one("init")["relays"][0]
    relay.leave()
    world.relay()
    presence = client.take_one("relays_presence")
    assert presence["disconnected_ids"] == [relay.id]
    assert presence["connected"][0]["id"] == relay.id
    assert presence["connected"][0]["password"] != before["password"]


def test_old_connection_of_a_relay_does_not_take_the_new_one_away(world: Any) -> None:
    old = world.relay()
    client = world.client()
    world.relay()
    client.events()
    old.leave()
    world.pass_time(4)
    assert client.events() == []


def test_device_without_relays_hears_of_the_first(world: Any) -> None:
    client, gateway = world.client(), world.gateway()
    relay = world.relay()
    for device in (client, gateway):
        presence = device.take_one("relays_presence")
        assert presence["disconnected_ids"] == []
        assert [entry["id"] for entry in presence["connected"]] == [relay.id]


def test_device_with_one_relay_gets_the_second(world: Any) -> None:
    first, client = world.relay(), world.client()
    second = world.relay("192.0.2.2")
    connected = client.take_one("relays_presence")["connected"]
    assert [entry["id"] for entry in connected] == [first.id, second.id]


def test_device_that_left_hears_nothing(world: Any) -> None:
    client = world.client()
    client.events()
    client.leave()
    world.relay()
    assert client.inbox == []
