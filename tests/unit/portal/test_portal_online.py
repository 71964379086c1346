"""Who is on line, what is counted of logins and flows, and how full the tables are."""

from typing import Any

from connectivity.clock import SECOND
from portal.configuration import TokenType
from portal.login import Refusal
from portal.statistics import FlowResult, LoginResult, Sizes


def test_who_has_joined_is_on_line_until_it_leaves(world: Any) -> None:
    assert world.core.online() == []
    relay, gateway, client = world.relay(), world.gateway(), world.client()
    world.now += 5 * SECOND
    client.leave()
    again = world.client()
    found = {each.type: each for each in world.core.online()}
    assert len(world.core.online()) == 3
    shown = found[TokenType.CLIENT]
    assert (shown.id, shown.entry, shown.owner, shown.version) == (again.id, "laptop", "alice", "1.5.4")
    assert (shown.name, shown.resources) == (again.session.party.name, 2)
    assert shown.joined_at == world.now
    assert (found[TokenType.GATEWAY].id, found[TokenType.GATEWAY].owner) == (gateway.id, "hq")
    assert found[TokenType.GATEWAY].joined_at == world.now - 5 * SECOND
    assert (found[TokenType.RELAY].id, found[TokenType.RELAY].version) == (relay.id, "")
    assert {each.text for each in found.values()} == {1}
    world.apply(("token: c1", "token: [c9, c1]"))
    assert next(each.text for each in world.core.online() if each.type is TokenType.CLIENT) == 2
    for component in (again, gateway, relay):
        component.leave()
    assert world.core.online() == []


def test_logins_and_flows_are_counted_by_what_became_of_them(world: Any) -> None:
    counted = world.core.statistics
    world.relay()
    gateway, client = world.gateway(), world.client()
    answer = world.core.authenticate(TokenType.CLIENT, {"token": "wrong"}, {}, "192.0.2.1", world.now, world.wall)
    assert isinstance(answer, Refusal)
    answer = world.core.authenticate(TokenType.CLIENT, {"token": "c1"}, {}, "192.0.2.1", world.now, world.wall)
    assert isinstance(answer, Refusal)
    assert counted.logins == {
        (TokenType.RELAY, LoginResult.ACCEPTED): 1,
        (TokenType.GATEWAY, LoginResult.ACCEPTED): 1,
        (TokenType.CLIENT, LoginResult.ACCEPTED): 1,
        (TokenType.CLIENT, LoginResult.WRONG_TOKEN): 1,
        (TokenType.CLIENT, LoginResult.MALFORMED): 1,
    }
    for resource_id in (world.resource("lan"), "nothing"):
        client.send("create_flow", {"resource_id": resource_id, "connected_gateway_ids": []})
    gateway.send("flow_authorized", {"ref": gateway.take_one("authorize_flow")["ref"]})
    assert counted.flows == {FlowResult.CREATED: 1, FlowResult.NOT_FOUND: 1}
    assert counted.received == {TokenType.RELAY: 1, TokenType.GATEWAY: 2, TokenType.CLIENT: 3}
    assert counted.sent[TokenType.CLIENT] == len(client.events())
    assert world.core.sizes() == Sizes(3, {TokenType.CLIENT: 1, TokenType.GATEWAY: 1}, 1, 1, 0)
