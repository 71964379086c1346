"""Clocks that leap: timers that come hours late, as after a suspend, and a wall clock that is set.

The monotonic clock never goes back. Nothing here calls ``handle_timeout`` unless it says so: what is over must be over
without it.
"""

import pytest

from connectivity.clock import MILLISECOND, SECOND
from connectivity.endpoint import Endpoint
from connectivity.run import Run
from connectivity.stun import (
    Attribute,
    Data,
    Lifetime,
    MessageClass,
    Method,
    RequestedTransport,
    XorPeerAddress,
    encode,
)
from relay.core import CloseRelayedPort, Direction, Quotas, RemoveChannel, RestCredentials
from tests.unit.relay.playbook import PEER4, PUBLIC, WALL, Client, RelayUnderTest, channel_message, error_code
from tests.unit.relay.standard import StandardClient, standalone

UDP = RequestedTransport(17)
STANDARD = "a browser"
HOURS = 3600 * SECOND


@pytest.fixture
def relay() -> RelayUnderTest:
    return RelayUnderTest()


def send_indication(peer: Endpoint) -> bytes:
    attributes: tuple[Attribute, ...] = (XorPeerAddress(peer), Data(b"x"))
    return encode(Method.SEND, MessageClass.INDICATION, bytes(12), attributes)


@pytest.mark.parametrize("leap", [600 * SECOND, 10 * HOURS, 10_000 * HOURS])
def test_what_is_over_is_over_without_a_timer(relay: RelayUnderTest, leap: int) -> None:
    left, right = Client(relay, software=STANDARD), Client(relay, "203.0.113.6:51000", software=STANDARD)
    left_address, right_address = (Endpoint(PUBLIC[4], client.allocate()) for client in (left, right))
    relay.now += 599 * SECOND - MILLISECOND
    left.bind(0x4000, PEER4)
    left.bind(0x4001, right_address)
    right.call(Method.CREATE_PERMISSION, XorPeerAddress(left_address))
    relay.now += leap
    for datagram in (channel_message(0x4000, b"x"), channel_message(0x4001, b"x"), send_indication(PEER4)):
        assert left.send(datagram) == []
    assert relay.from_peer(left_address.port, PEER4, b"x") == []
    assert relay.from_peer(right_address.port, left_address, b"x") == []
    assert len(relay.open_ports) == 2


def test_a_request_finds_nothing_that_is_over(relay: RelayUnderTest) -> None:
    client = Client(relay)
    client.allocate()
    client.bind(0x4000, PEER4)
    relay.now += 600 * SECOND
    outputs = client.send(client.request(Method.REFRESH, Lifetime(600)))
    assert [type(output) for output in outputs[:2]] == [RemoveChannel, CloseRelayedPort]
    assert error_code(client.call(Method.REFRESH, Lifetime(600))) == 437
    assert relay.server.poll_timeout() is None
    client.allocate()


def test_one_late_timer_does_all_the_work(relay: RelayUnderTest) -> None:
    clients = [Client(relay, f"203.0.113.5:{port}") for port in range(1, 21)]
    for client in clients:
        client.allocate()
        for number in range(0x4000, 0x4010):
            client.bind(number, Endpoint(PEER4.ip, number))
    relay.now += 10 * HOURS
    relay.server.handle_timeout(relay.now)
    relay.drain()
    assert (relay.open_ports, relay.installed) == ({}, {})
    assert relay.server.poll_timeout() is None
    assert relay.server.statistics().channels == 0


def test_buckets_hold_no_more_after_a_leap() -> None:
    relay = RelayUnderTest(quotas=Quotas(bandwidth_per_user=8000, requests_per_second_per_source=10))
    client = Client(relay)
    client.call(Method.ALLOCATE, UDP, Lifetime(3600))
    relay.now += 10 * SECOND
    client.bind(0x4000, PEER4)
    relay.now += 300 * SECOND
    client.send(Run(memoryview(channel_message(0x4000, b"x" * 100) * 100), 104))
    assert relay.server.statistics().bytes[Direction.TO_PEER] == 1100
    request = encode(Method.BINDING, MessageClass.REQUEST, bytes(12), ())
    relay.now += 10 * HOURS
    stranger = Endpoint.parse("203.0.113.99:1")
    assert sum(bool(relay.from_client(stranger, request)) for _ in range(100)) == 10


def test_setting_the_wall_clock_ends_no_allocation(relay: RelayUnderTest) -> None:
    client = Client(relay)
    client.allocate()
    client.bind(0x4000, PEER4)
    for wall_now in (0, 2**62):
        relay.wall_now = wall_now
        assert len(client.send(channel_message(0x4000, b"x"))) == 1
        assert len(relay.installed) == 1
    # The credentials' time is over by that clock; the next refresh fails, and nothing else: nonces have another clock.
    assert error_code(client.call(Method.REFRESH, Lifetime(600))) == 401
    relay.wall_now = 0
    assert error_code(client.call(Method.REFRESH, Lifetime(600))) == 0


def test_a_wall_clock_that_is_set_ends_no_call_with_a_rest_name() -> None:
    source = RestCredentials(["secret"])
    name = "1700000100:bob"
    (credential,) = source.lookup(name)
    relay = standalone(source=source, wall_now=1_700_000_000 * SECOND, allow=("198.51.100.0/24",))
    clients = [
        StandardClient(relay, f"203.0.113.5:{port}", username=name, password=credential.password) for port in (1, 2)
    ]
    assert error_code(clients[0].call(Method.ALLOCATE, UDP)) == 0
    for wall_now, is_in_time in ((2**62, False), (0, True), (1_700_000_101 * SECOND, False), (WALL, True)):
        relay.wall_now = wall_now
        assert error_code(clients[0].call(Method.REFRESH)) == 0
        assert error_code(clients[0].bind(0x4000, PEER4)) == 0
        assert error_code(clients[1].call(Method.ALLOCATE, UDP)) == (0 if is_in_time else 401)
        clients[1].call(Method.REFRESH, Lifetime(0))
    assert relay.installed
