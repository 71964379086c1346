"""Connections come about while strangers flood an end with handshake initiations that have a right mac1."""

from ipaddress import ip_address
from random import Random

import pytest

from connectivity.clock import MILLISECOND, SECOND
from connectivity.endpoint import Endpoint
from connectivity.node import Node, Opened, Statistics
from connectivity.run import Received, Run
from connectivity.wireguard import HandshakeReason, KeyPair, RateLimiter, Tunnel
from connectivity.wireguard.limiter import LIMIT, REPLY_LIMIT
from tests.unit.test_world import question
from tests.unit.world import PORT, World

EVERY = 20 * MILLISECOND
PER_SECOND = 2_000


def initiation(public_key: bytes, seed: int = 9) -> bytes:
    """By somebody whom nobody knows, to the owner of this key."""
    random = Random(seed)
    tunnel = Tunnel(
        keys=KeyPair.generate(random.randbytes),
        peer_public_key=public_key,
        preshared_key=bytes(32),
        connection_index=1,
        limiter=RateLimiter(public_key, random.randbytes),
        rng=random.randbytes,
        now=0,
    )
    tunnel.initiate(0, 0)
    outgoing = tunnel.poll_transmit()
    assert outgoing is not None
    return outgoing.message


def flooded(world: World, name: str, duration: int) -> int:
    """Let time pass while initiations arrive from everywhere; returns how many."""
    end, count = world.ends[name], 0
    messages = [initiation(end.keys.public, seed) for seed in range(5)]
    local = Endpoint(ip_address(end.addresses[0]), PORT)
    until = world.now + duration
    while world.now < until:
        for _ in range(PER_SECOND * EVERY // SECOND):
            count += 1
            source = Endpoint(
                ip_address(0xC6120000 + 256 * count % (1 << 17)), 1024 + count % 60_000
            )  # all networks of 198.18.0.0/15
            world.receive(name, Received(local, source, Run.single(bytearray(messages[count % 5]))))
        world.advance(EVERY)
    return count


@pytest.mark.parametrize("direct", [True, False], ids=["direct", "relayed"])
@pytest.mark.parametrize("victim", ["gateway", "client"])
def test_a_peer_gets_its_session_at_once(victim: str, direct: bool) -> None:
    world = World(direct=direct)
    world.start()
    flooded(world, victim, SECOND + SECOND // 2)  # in the middle of a window, where nothing is left of it
    world.send_from_client(question())
    flooded(world, victim, SECOND // 4)
    assert world.host_received["gateway"] == [question()]


def test_what_is_dropped_is_counted_and_costs_no_more_than_a_few_cookies() -> None:
    world = World()
    world.start()
    before = len(world.carried)
    count = flooded(world, "gateway", SECOND)
    statistics: Statistics = world.gateway.statistics()
    assert statistics.handshakes_refused[HandshakeReason.UNDER_LOAD] >= count - 2 * LIMIT
    replies = [data for _, _, data in world.carried[before:] if data[0] == 3]
    assert 0 < len(replies) <= 2 * REPLY_LIMIT  # two windows can lie in a second


def test_a_flood_leaves_no_error_for_each_message() -> None:
    random = Random(1)
    keys = KeyPair.generate(random.randbytes)
    node = Node(keys=keys, controlling=False, rng=random.randbytes)
    message = initiation(keys.public)
    run = Run(memoryview(bytearray(message * 60)), len(message))
    errors: list[Exception] = []
    opened: list[Opened] = []
    local = Endpoint(ip_address("192.0.2.2"), PORT)
    for number in range(100):
        source = Endpoint(ip_address(0xC6120000 + (number << 8)), 9)
        node.open_others(Received(local, source, run), 5, 5, opened.append, errors)
    assert not opened
    assert len(errors) < LIMIT + REPLY_LIMIT + 60
