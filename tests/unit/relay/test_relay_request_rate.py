"""Requests per source, and what strangers cost in memory (RFC 8656 §21)."""

import tracemalloc
from ipaddress import IPv4Address, IPv6Address, ip_address

from connectivity.clock import MILLISECOND
from connectivity.endpoint import Endpoint
from connectivity.stun import (
    Attribute,
    Data,
    MessageClass,
    Method,
    Software,
    Username,
    XorPeerAddress,
    encode,
)
from relay.core import Quotas
from relay.core.quotas import SourceLimiter
from relay.core.statistics import QuotaKind
from tests.unit.relay.playbook import PEER4, RelayUnderTest, channel_message
from tests.unit.relay.test_relay_quotas import UDP, alice, messages, moved, refusals


def binding_request(*attributes: Attribute) -> bytes:
    return encode(Method.BINDING, MessageClass.REQUEST, bytes(12), attributes)


def test_requests_of_one_source_are_limited() -> None:
    relay = RelayUnderTest(quotas=Quotas(requests_per_second_per_source=10))
    busy, other = Endpoint.parse("203.0.113.5:1"), Endpoint.parse("203.0.113.6:1")
    answered = [bool(relay.from_client(busy._replace(port=1 + index), binding_request())) for index in range(20)]
    assert answered == [True] * 10 + [False] * 10
    assert relay.from_client(other, binding_request())
    relay.advance(0.5)
    assert [bool(relay.from_client(busy, binding_request())) for _ in range(6)] == [True] * 5 + [False]
    assert relay.drops() == {"too_many_requests": 11}
    assert refusals(relay) == {QuotaKind.REQUESTS_PER_SOURCE: 11}


def test_a_limited_source_keeps_its_data_flowing() -> None:
    relay = RelayUnderTest(quotas=Quotas(requests_per_second_per_source=4))
    client = alice(relay, 1)
    client.allocate()
    client.bind(0x4000, PEER4)
    for _ in range(10):
        client.send(binding_request())
    assert set(relay.drops()) == {"too_many_requests"}
    assert moved(client.send(messages(30, 100))) == 30
    indication = encode(Method.SEND, MessageClass.INDICATION, bytes(12), (XorPeerAddress(PEER4), Data(b"x")))
    assert sum(moved(client.send(indication)) for _ in range(30)) == 30
    before = relay.drops()
    relay.advance(0.25)
    client.send(binding_request())
    assert relay.drops() == before, "data took no tokens of requests"


def test_connections_count_as_requests_of_their_source() -> None:
    relay = RelayUnderTest(quotas=Quotas(requests_per_second_per_source=4))
    client = alice(relay, 1)
    assert [relay.server.admits_stream(client.endpoint.ip, relay.now) for _ in range(3)] == [True] * 3
    assert len(client.send(binding_request())) == 1
    assert client.send(binding_request()) == []
    assert not relay.server.admits_stream(client.endpoint.ip, relay.now)
    assert refusals(relay) == {QuotaKind.REQUESTS_PER_SOURCE: 2}
    assert relay.drops() == {"too_many_requests": 1}
    relay.advance(0.25)
    assert relay.server.admits_stream(client.endpoint.ip, relay.now)


def test_a_64_is_one_source() -> None:
    limiter = SourceLimiter(10, b"secret")
    network = int(IPv6Address("2001:db8:1:2::"))
    admitted = [limiter.admits(IPv6Address(network | host << 32), 10**12) for host in range(20)]
    assert admitted == [True] * 10 + [False] * 10
    assert limiter.admits(ip_address("2001:db8:1:3::"), 10**12)


def test_the_limiter_does_not_grow_and_rarely_punishes_neighbours() -> None:
    limiter, now = SourceLimiter(10, b"secret"), 10**12
    sources = [IPv4Address(0x0100_0000 + index) for index in range(5000)]
    for source in sources[:500]:
        while limiter.admits(source, now):
            pass
    assert sum(limiter.admits(source, now) for source in sources[500:]) > 4400
    tracemalloc.start()
    try:
        for index in range(20_000):
            limiter.admits(IPv4Address(0x2000_0000 + index), now + index)
        grown, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert grown < 4096


def test_no_limit_costs_nothing() -> None:
    limiter = SourceLimiter(None, b"secret")
    assert all(limiter.admits(IPv4Address(1), 0) for _ in range(1000))


def test_unauthenticated_requests_leave_nothing_behind() -> None:
    """From as many sources as they like, with whatever name: the server is as large as before."""
    relay = RelayUnderTest(quotas=Quotas(100, 1000, 8000, 8000, 100))

    def ask(index: int) -> None:
        source = Endpoint(IPv4Address(0x0100_0000 + index), 1024 + index % 60_000)
        name = Username(f"{1_893_456_000 + index}:{index}")
        for method in (Method.BINDING, Method.ALLOCATE, Method.REFRESH, 0x0FF):
            attributes = (UDP, Software(f"browser {index}"), name)
            relay.from_client(source, encode(method, MessageClass.REQUEST, index.to_bytes(12, "big"), attributes))
        forged = encode(Method.ALLOCATE, MessageClass.REQUEST, bytes(12), (UDP, name), integrity_key=b"guess")
        relay.from_client(source, forged)
        relay.from_client(source, channel_message(0x4000 + index % 4096, b"x"))
        relay.now += MILLISECOND

    for index in range(50):
        ask(index)
    tracemalloc.start()
    try:
        for index in range(50, 1050):
            ask(index)
        grown, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert grown < 16_384, "less than twenty bytes for each of a thousand sources"
    assert relay.server.statistics().allocations == 0
    assert len(relay.server._accounts) == len(relay.server._transactions._answers) == 0
    assert relay.server.poll_timeout() is None
