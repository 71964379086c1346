"""A relayed connection through a network that loses a fifth of what it carries, for half an hour of virtual time."""

import pytest

from connectivity.clock import SECOND
from tests.unit.test_world import answer, connected, question
from tests.unit.world import World

LOSS = 0.2
MINUTES = 30
ONE, BOTH = ("client",), ("client", "gateway")


def lossy(ends: tuple[str, ...], seed: int) -> World:
    world = connected(direct=False, versions=(4,), seed=seed)
    world.is_recorded = False
    world.loss = dict.fromkeys(ends, LOSS)
    return world


def indices(world: World) -> list[int]:
    return [connection.index for connection in world.client._tunnel.node._connections]


@pytest.mark.parametrize(("ends", "seed"), [(ONE, 1), (ONE, 2), (BOTH, 3), (BOTH, 4)])
def test_a_connection_outlives_loss_in_both_directions(ends: tuple[str, ...], seed: int) -> None:
    world = lossy(ends, seed)
    (index,) = indices(world)
    last, longest, count = world.now, 0, len(world.host_received["gateway"])
    for _ in range(MINUTES * 60):
        world.send_from_client(question())
        world.send_from_gateway(answer())
        world.advance(SECOND)
        if len(world.host_received["gateway"]) > count:
            longest, last, count = max(longest, world.now - last), world.now, len(world.host_received["gateway"])
    assert world.now - last < 15 * SECOND
    assert longest < 20 * SECOND  # at one packet a second, of which up to nine in a row are lost by chance alone
    assert indices(world) == [index]  # it is the same one, whatever the portal was asked while nothing came
    assert not world.sent("ReconnectPortal")


@pytest.mark.parametrize("seed", range(5, 9))
def test_a_connection_that_mostly_idles_comes_back_by_itself(seed: int) -> None:
    """Nothing proves then that the relay lives, so it is given up now and then, and asked again."""
    world = lossy(ONE, seed)
    for _ in range(MINUTES // 3):
        world.advance(150 * SECOND)
        count = len(world.host_received["gateway"])
        for _ in range(30):
            world.send_from_client(question())
            world.advance(SECOND)
        assert len(world.host_received["gateway"]) > count
    assert not world.sent("ReconnectPortal")
