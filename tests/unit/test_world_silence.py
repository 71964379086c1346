"""A gateway that is killed and begins anew, and networks that only look as if it had been: between the real cores."""

import pytest

from connectivity.clock import MILLISECOND, SECOND
from connectivity.wireguard import KeyPair
from gateway.core import GatewayCore
from tests.unit.test_world import answer, connected, question
from tests.unit.world import World


def begin_anew(world: World, name: str = "gateway") -> None:
    """Another process in its place: the same device with another key, which the portal knows."""
    end = world.ends[name]
    end.keys = KeyPair.generate(world.random.randbytes)
    end.core = world.gateway = GatewayCore(keys=end.keys, rng=world.random.randbytes, now=world.now)
    world.to(name, "init", world.gateway_init(name=name))


def talk(world: World, duration: int, *, answered: bool = True) -> int:
    """Question and answer ten times a second; how long nothing came back at most, in milliseconds."""
    longest = silence = 0
    for _ in range(duration // (100 * MILLISECOND)):
        asked = len(world.host_received["gateway"])
        world.send_from_client(question())
        world.advance(50 * MILLISECOND)
        if answered and len(world.host_received["gateway"]) > asked:
            world.send_from_gateway(answer())
        before = len(world.host_received["client"])
        world.advance(50 * MILLISECOND)
        silence = 0 if len(world.host_received["client"]) > before else silence + 100
        longest = max(longest, silence)
    return longest


@pytest.mark.parametrize("direct", [True, False])
def test_a_gateway_that_was_killed_and_began_anew_is_found_within_moments(direct: bool) -> None:
    world = connected(direct=direct)
    talk(world, 2 * SECOND)
    begin_anew(world)
    assert talk(world, 4 * SECOND) <= 2100  # by ICE alone it takes 17 s
    assert len(world.sent("create_flow")) == 2


def test_one_of_two_gateways_that_is_killed_is_replaced_by_the_other() -> None:
    world = connected(gateways=2)
    talk(world, 2 * SECOND)
    world.online = ["gateway-2"]
    world.ends["gateway"].addresses = ("192.0.2.1", "2001:db8:ffff::1")  # nobody is there
    before = len(world.host_received["gateway-2"])
    for _ in range(25):
        world.send_from_client(question())
        world.advance(100 * MILLISECOND)
    assert len(world.host_received["gateway-2"]) > before


def test_data_that_flows_in_one_direction_only_is_no_silence() -> None:
    world = connected()
    for _ in range(300):
        world.send_from_client(question())
        world.advance(100 * MILLISECOND)
    assert len(world.sent("create_flow")) == 1
    assert len(world.host_received["gateway"]) == 301


def test_without_data_nobody_minds_silence() -> None:
    world = connected()
    talk(world, 2 * SECOND)
    world.loss["gateway"] = 1.0
    world.advance(10 * SECOND)
    assert len(world.sent("create_flow")) == 1


def test_a_network_that_pauses_for_ten_seconds_costs_only_these() -> None:
    """The connection goes on as it was, whatever the portal was asked meanwhile, and what it answers."""
    world = connected()
    talk(world, 2 * SECOND)
    world.loss["client"] = 1.0
    talk(world, 10 * SECOND)
    assert len(world.sent("create_flow")) > 1
    world.loss.clear()
    assert talk(world, 5 * SECOND) <= 200
    assert [row.peer_id for row in world.client.connections()] == ["g-1"]


def test_while_it_is_silent_the_portal_is_asked_every_two_seconds_at_most() -> None:
    world = connected()
    world.online = []
    world.loss["gateway"] = 1.0
    for _ in range(100):
        world.send_from_client(question())
        world.advance(100 * MILLISECOND)
    asked = len(world.sent("create_flow")) - 1
    assert 1 <= asked <= 10
    assert world.errors == []
