"""What client and gateway say about their connections, after traffic between the real cores."""

import pytest

from connectivity.clock import MILLISECOND, SECOND, Duration
from tests.unit.test_world import answer, connected, question
from tests.unit.world import World


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
