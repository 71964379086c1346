"""What client and gateway say about their connections, after traffic between the real cores."""

from ipaddress import ip_address

import pytest

from connectivity.clock import MILLISECOND, SECOND, Duration
from connectivity.status import ResourceStatus, RoleStatus
from tests.unit.test_world import answer, connected, question
from tests.unit.world import CLIENT_TUNNEL, SECOND_RESOURCE, World


@pytest.mark.parametrize(("direct", "round_trip"), [(True, 10 * MILLISECOND), (False, 20 * MILLISECOND)])
def test_a_path_has_the_round_trip_of_its_last_check(direct: bool, round_trip: Duration) -> None:
    world = connected(direct=direct)
    world.advance(5 * SECOND)
    for core in (world.client, world.gateway):
        (status,) = core.connections()
        assert status.round_trip == round_trip
        assert status.socket is not None


def test_bytes_are_counted_both_ways_those_that_waited_for_a_session_too() -> None:
    world = World()
    world.start()
    world.send_from_client(question(b"first"))
    world.advance(2 * SECOND)
    sent = len(question(b"first"))
    (status,) = world.client.connections()
    assert (status.sent_bytes, status.received_bytes) == (sent, 0)
    world.send_from_client(question(b"again"))
    world.send_from_gateway(answer(b"an answer of another length"))
    world.advance(SECOND)
    client, gateway = (core.connections()[0] for core in (world.client, world.gateway))
    assert client.sent_bytes == 2 * sent
    assert gateway.sent_bytes == len(answer(b"an answer of another length"))
    assert 0 <= client.received_bytes - gateway.sent_bytes < 16  # padded as WireGuard carries it
    assert 0 <= gateway.received_bytes - client.sent_bytes < 32


def test_the_last_handshake_is_the_latest_of_all() -> None:
    world = connected()
    first = world.client.connections()[0].handshake_at
    assert first is not None
    assert first <= world.now
    for _ in range(150):  # data, which asks for a new session after two minutes
        world.send_from_client(question(b"more"))
        world.advance(SECOND)
    later = world.client.connections()[0].handshake_at
    assert later is not None
    assert later > first


def test_a_client_tells_which_gateway_each_resource_has_and_a_gateway_what_each_client_may_reach() -> None:
    world = World()
    world.start()
    world.to_client("resource_created_or_updated", {**SECOND_RESOURCE, "gateway_groups": [{"id": "s-1", "name": "s"}]})
    assert {row.resource_id: (row.state, row.gateway_id) for row in world.client.status().resources or ()} == {
        "r-1": ("unknown", None),
        "r-2": ("unknown", None),
    }
    assert world.gateway.status() == RoleStatus(clients=())
    world.send_from_client(question())
    world.advance(2 * SECOND)
    shown = world.client.status()
    assert shown.clients is None
    assert shown.resources == (
        ResourceStatus("r-2", "lab", "cidr", "10.30.0.0/24", "unknown", None),
        ResourceStatus("r-1", "lan", "cidr", "10.20.0.0/24", "online", "g-1", "gateway"),
    )
    assert (shown.names, world.gateway.status().names) == ({"g-1": "gateway"}, {"c-1": "client"})
    addresses = tuple(map(ip_address, CLIENT_TUNNEL))
    (client,) = world.gateway.status().clients or ()
    assert (client.client_id, client.name, client.addresses) == ("c-1", "client", addresses)
    assert [(grant.resource_id, grant.kind, grant.address) for grant in client.grants] == [
        ("r-1", "cidr", "10.20.0.0/24")
    ]
    before = world.gateway.statistics()
    assert before.received_bytes > 0
    world.client.close(world.now)
    world.drain("client")
    world.advance(SECOND)
    assert world.gateway.status() == RoleStatus(clients=())
    after = world.gateway.statistics()  # what connections carried is counted on when they are gone
    assert after.received_bytes >= before.received_bytes
