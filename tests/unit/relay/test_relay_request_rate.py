"""Requests per source, and what strangers cost in memory (RFC 8656 §21)."""

import tracemalloc
from ipaddress import IPv4Address, IPv6Address

import pytest

from connectivity.clock import MILLISECOND
from connectivity.endpoint import Endpoint
from connectivity.stun import (
    Attribute,
    Data,
    MessageClass,
    Method,
    Nonce,
    Software,
    Username,
    XorPeerAddress,
    encode,
)
from relay.config_file import CONNECTIONS_PER_SECOND, REQUESTS_PER_SECOND
from relay.core import FiveTuple, Quotas, Transport
from relay.core.admission import CROWD, Admission, RateLimiter
from relay.core.statistics import QuotaKind
from tests.unit.relay.playbook import PEER4, SERVER4, Client, RelayUnderTest, channel_message, error_code
from tests.unit.relay.standard import StandardClient, standalone
from tests.unit.relay.test_relay_quotas import UDP, alice, messages, moved, refusals

LIMITED = Quotas(requests_per_second_per_source=10)


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


@pytest.mark.parametrize("knows_the_port", [False, True])
def test_forged_requests_cost_their_victim_nothing(knows_the_port: bool) -> None:
    """Refreshes carry a nonce that only he can know who receives what is sent to that address."""
    relay = RelayUnderTest(quotas=LIMITED)
    victim = alice(relay, 1)
    victim.allocate()
    victim.bind(0x4000, PEER4)
    for second in range(8):
        for index in range(1000):
            port = victim.endpoint.port if knows_the_port else 1024 + index
            relay.from_client(victim.endpoint._replace(port=port), binding_request())
        assert error_code(victim.call(Method.REFRESH)) == 0, second
        assert error_code(victim.bind(0x4000, PEER4)) == 0
        relay.advance(1)


def test_who_begins_is_not_kept_out_by_forgeries_once_he_has_a_nonce() -> None:
    relay = RelayUnderTest(quotas=LIMITED)
    newcomer = alice(relay, 1)
    newcomer.nonce = relay.nonces.mint(newcomer.endpoint, relay.now)
    while relay.from_client(newcomer.endpoint, binding_request()):
        pass
    assert newcomer.allocate()


def test_a_client_s_own_bindings_pass_beside_forgeries_that_do_not_know_its_port() -> None:
    relay = RelayUnderTest(quotas=LIMITED)
    victim = alice(relay, 1)
    victim.allocate()
    for port in range(1024, 1124):
        relay.from_client(victim.endpoint._replace(port=port), binding_request())
    assert len(victim.send(binding_request())) == 1


def test_a_nonce_of_another_address_and_a_forged_one_prove_nothing() -> None:
    relay = RelayUnderTest(quotas=LIMITED)
    client, elsewhere = alice(relay, 1), Endpoint.parse("203.0.113.99:1")
    minted = [relay.nonces.mint(each, relay.now) for each in (client.endpoint, elsewhere)]
    mine, foreign = (encode(Method.ALLOCATE, MessageClass.REQUEST, bytes(12), (UDP, Nonce(nonce))) for nonce in minted)
    while relay.from_client(client.endpoint, binding_request()):
        pass
    assert relay.from_client(client.endpoint, mine)
    for forged in (foreign, mine.replace(minted[0][-2:].encode(), b"zz"), foreign[:-8], mine[:24]):
        assert relay.from_client(client.endpoint, forged) == []


def test_a_proven_source_has_a_limit_too() -> None:
    relay = RelayUnderTest(quotas=LIMITED)
    client = alice(relay, 1)
    nonce = Nonce(relay.nonces.mint(client.endpoint, relay.now))
    request = encode(Method.ALLOCATE, MessageClass.REQUEST, bytes(12), (UDP, nonce))
    answered = sum(bool(relay.from_client(client.endpoint, request)) for _ in range(2 * CROWD * 10))
    assert answered == CROWD * 10
    relay.advance(1)
    client.allocate()
    allowed = [bool(client.send(client.request(Method.REFRESH))) for _ in range(20)]
    assert allowed == [True] * 10 + [False] * 10


def test_each_client_behind_one_address_has_a_budget_once_it_has_an_allocation() -> None:
    """An office, a proxy, another relay: what one of them asks for costs the others nothing."""
    relay = RelayUnderTest(quotas=LIMITED)
    clients = [Client(relay, f"203.0.113.5:{5000 + number}") for number in range(8)]
    for client in clients:
        client.allocate()
    for _ in range(100):
        clients[0].send(clients[0].request(Method.REFRESH))
    for client in clients[1:]:
        assert all(error_code(client.call(Method.REFRESH)) == 0 for _ in range(5))


def test_an_office_may_begin_at_once() -> None:
    """150 clients over TLS behind one address, with what a relay's file has if it says nothing."""
    quotas = Quotas(
        requests_per_second_per_source=REQUESTS_PER_SECOND, connections_per_second_per_source=CONNECTIONS_PER_SECOND
    )
    relay = standalone(quotas=quotas, under_portal=True)
    for port in range(5000, 5150):
        client = StandardClient(relay, f"203.0.113.5:{port}", transport=Transport.TLS)
        assert relay.server.admits_stream(client.endpoint.ip, relay.now)
        client.allocate()
        assert error_code(client.bind(0x4000, PEER4)) == 0
    assert relay.drops() == {}


def test_connections_have_a_budget_apart_from_requests() -> None:
    relay = RelayUnderTest(quotas=Quotas(requests_per_second_per_source=4, connections_per_second_per_source=3))
    client = alice(relay, 1)
    for _ in range(100):
        client.send(binding_request())
    source = client.endpoint.ip
    assert [relay.server.admits_stream(source, relay.now) for _ in range(4)] == [True] * 3 + [False]
    assert refusals(relay)[QuotaKind.CONNECTIONS_PER_SOURCE] == 1
    relay.advance(0.34)
    assert relay.server.admits_stream(source, relay.now)


def test_requests_of_connections_are_proven_by_the_connection() -> None:
    relay = RelayUnderTest(quotas=LIMITED)
    client = alice(relay, 1)
    while client.send(binding_request()):
        pass
    crowd = [FiveTuple(client.endpoint._replace(port=1000 + number), SERVER4, Transport.TLS) for number in range(50)]
    assert all(relay.from_stream(each, binding_request()) for each in crowd)


def test_a_64_is_one_source() -> None:
    admission = Admission(LIMITED, b"secret")

    def admits(ip: IPv6Address) -> bool:
        return admission.admits_request(Endpoint(ip, 1), 10**12, is_proven=False, has_allocation=False)

    network = int(IPv6Address("2001:db8:1:2::"))
    assert [admits(IPv6Address(network | host << 32)) for host in range(20)] == [True] * 10 + [False] * 10
    assert admits(IPv6Address("2001:db8:1:3::"))


def test_the_limiter_does_not_grow_and_rarely_punishes_neighbours() -> None:
    limiter, now = RateLimiter(10, b"secret"), 10**12
    sources = [IPv4Address(0x0100_0000 + index).packed for index in range(5000)]
    for source in sources[:500]:
        while limiter.admits(source, now):
            pass
    assert sum(limiter.admits(source, now) for source in sources[500:]) > 4400
    tracemalloc.start()
    try:
        for index in range(20_000):
            limiter.admits(IPv4Address(0x2000_0000 + index).packed, now + index)
        grown, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert grown < 4096


def test_no_limit_costs_nothing() -> None:
    limiter = RateLimiter(None, b"secret")
    assert all(limiter.admits(b"one", 0) for _ in range(1000))


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
    assert len(relay.server._accounts) == len(relay.server._requests._answers) == 0
    assert relay.server.poll_timeout() is None
