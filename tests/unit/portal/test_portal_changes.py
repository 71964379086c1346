"""What a new configuration and the passing of time push to those who are connected."""

from typing import Any

from connectivity.clock import SECOND


def test_same_file_read_again_pushes_nothing(world: Any) -> None:
    world.relay()
    gateway, client = granted(world)
    world.apply()
    world.pass_time(1)
    assert client.events() == []
    assert gateway.events() == []


def test_policy_added(world: Any) -> None:
    client = world.client("c2")
    client.events()
    world.apply(("policies:", "policies:\n  - {resource: wiki, tokens: [phone]}"))
    assert client.take_one("resource_created_or_updated")["id"] == world.resource("wiki")


def test_policy_removed(world: Any) -> None:
    gateway, client = granted(world)
    world.apply(("  - {resource: lan, groups: [staff]}\n", ""))
    assert client.take_one("resource_deleted") == world.resource("lan")
    assert gateway.take_one("reject_access") == {"client_id": client.id, "resource_id": world.resource("lan")}


def test_another_policy_keeps_the_access(world: Any) -> None:
    world.apply(("policies:", "policies:\n  - {resource: lan, actors: [alice], expires_at: 2027-01-31}"))
    gateway, client = granted(world)
    world.apply(("  - {resource: lan, groups: [staff]}\n", ""))
    assert client.events() == []
    assert gateway.take_one("access_authorization_expiry_updated") == {
        "client_id": client.id,
        "resource_id": world.resource("lan"),
        "expires_at": 1801353600,
    }


def test_filters_edited(world: Any) -> None:
    gateway, client = granted(world)
    world.apply(("filters: [tcp/80]", "filters: [tcp/443]"))
    assert client.events() == ["resource_created_or_updated"]
    updated = gateway.take_one("resource_updated")
    assert updated["filters"] == [{"protocol": "tcp", "port_range_start": 443, "port_range_end": 443}]
    assert gateway.events() == []


def test_address_edited(world: Any) -> None:
    gateway, client = granted(world)
    world.apply(("10.20.0.0/16", "10.30.0.0/16"))
    assert client.take_one("resource_created_or_updated")["address"] == "10.30.0.0/16"
    assert len(gateway.take("reject_access")) == 1


def test_site_added_is_delete_then_create(world: Any) -> None:
    gateway, client = granted(world)
    world.apply(("address: 10.20.0.0/16, sites: [hq]", "address: 10.20.0.0/16, sites: [hq, branch]"))
    assert client.events() == ["resource_deleted", "resource_created_or_updated"]
    assert gateway.events() == []


def test_site_taken_away_revokes_at_its_gateways(world: Any) -> None:
    gateway, client = granted(world)
    world.apply(("address: 10.20.0.0/16, sites: [hq]", "address: 10.20.0.0/16, sites: [branch]"))
    assert client.events() == ["resource_deleted", "resource_created_or_updated"]
    assert gateway.events() == ["reject_access"]


def test_dns_settings_edited(world: Any) -> None:
    _, client = granted(world)
    world.apply(("sites: [{name: hq}", "dns: {upstream: [9.9.9.9]}\nsites: [{name: hq}"))
    interface = client.take_one("config_changed")["interface"]
    assert interface["upstream_dns"] == [{"protocol": "ip_port", "address": "9.9.9.9:53"}]


def test_client_token_removed(world: Any) -> None:
    gateway, client = granted(world)
    world.apply(("token: c1", "token: c9"))
    assert client.closed
    assert client.inbox == []
    assert len(gateway.take("reject_access")) == 1


def test_relay_token_removed_is_said_before_the_connection_goes(world: Any) -> None:
    relay = world.relay()
    relay.events()
    world.apply(("token: r1", "token: r9"))
    assert relay.take_one("disconnect") == {"reason": "token_expired"}
    assert relay.closed


def test_token_that_moves_to_another_site(world: Any) -> None:
    gateway = world.gateway()
    world.apply(("{type: gateway, site: hq, token: g1}", "{type: gateway, name: gateway hq, site: branch, token: g1}"))
    assert gateway.closed


def test_groups_edited_without_cutting_off(world: Any) -> None:
    gateway, client = granted(world)
    world.apply(("policies:\n  - {resource: lan, groups: [staff]}", "policies:"), ("groups: [staff], ", ""))
    assert not client.closed
    assert client.take_one("resource_deleted") == world.resource("lan")
    assert len(gateway.take("reject_access")) == 1


def test_token_ends(world: Any) -> None:
    world.apply(("token: c1", f"token: c1, expires_at: {world.wall // SECOND + 20}"))
    gateway, client = granted(world)
    world.pass_time(18)
    assert not client.closed
    world.pass_time(4)
    assert client.closed
    assert not gateway.closed


def test_policy_ends_on_time(world: Any) -> None:
    end = world.wall // SECOND + 20
    world.apply(("groups: [staff]}", f"groups: [staff], expires_at: {end}}}"))
    gateway, client = granted(world)
    world.pass_time(18)
    assert client.events() == []
    world.pass_time(4)
    assert client.take_one("resource_deleted") == world.resource("lan")
    assert len(gateway.take("reject_access")) == 1


def test_access_that_has_ended_is_not_prolonged(world: Any) -> None:
    end = world.wall // SECOND + 20
    world.apply(("groups: [staff]}", f"groups: [staff], expires_at: {end}}}"))
    gateway, client = granted(world)
    world.wall += 20 * SECOND  # the gateway has noticed; the portal looks only now and then
    world.apply((f"groups: [staff], expires_at: {end}}}", "groups: [staff]}"))
    assert gateway.events() == []
    ask(client, world.resource("lan"))
    assert gateway.take_one("authorize_flow")["expires_at"] > end


def test_expiry_is_the_earlier_of_policy_and_token(world: Any) -> None:
    wall = world.wall // SECOND
    world.apply(
        ("groups: [staff]}", f"groups: [staff], expires_at: {wall + 500}}}"),
        ("token: c1", f"token: c1, expires_at: {wall + 300}"),
    )
    gateway, client = world.gateway(), world.client()
    ask(client, world.resource("lan"))
    assert gateway.take_one("authorize_flow")["expires_at"] == wall + 300


def test_gateway_that_was_away_hears_of_the_revocation_after_init(world: Any) -> None:
    gateway, client = granted(world)
    gateway.leave()
    world.apply(("  - {resource: lan, groups: [staff]}\n", ""))
    gateway = world.gateway(key=8)
    assert [message["event"] for message in gateway.inbox] == ["phx_reply", "init", "reject_access"]
    assert gateway.take_one("reject_access")["client_id"] == client.id


def test_gateway_init_lists_all_that_its_clients_may_use_there(world: Any) -> None:
    gateway, client = granted(world)
    gateway.leave()
    listed = world.gateway().take_one("init")["authorizations"]
    assert {(entry["client_id"], entry["resource_id"]) for entry in listed} == {
        (client.id, world.resource("lan")),
        (client.id, world.resource("wiki")),
    }
    assert all(isinstance(entry["expires_at"], int) for entry in listed)


def granted(world: Any) -> tuple[Any, Any]:
    """A gateway that lets a client reach ``lan``; both have read all they got."""
    gateway, client = world.gateway(), world.client()
    ask(client, world.resource("lan"))
    gateway.send("flow_authorized", {"ref": gateway.take_one("authorize_flow")["ref"]})
    gateway.events()
    assert "flow_created" in client.events()
    return gateway, client


def ask(client: Any, resource_id: str) -> None:
    client.send("create_flow", {"resource_id": resource_id, "connected_gateway_ids": []})
