"""Relayed data in both directions, between clients, and what is dropped on the way (RFC 8656 §10, §12)."""

import pytest

from connectivity.clock import SECOND
from connectivity.endpoint import Endpoint
from connectivity.run import Run
from connectivity.stun import (
    Attribute,
    Data,
    DontFragment,
    Icmp,
    Lifetime,
    MessageClass,
    Method,
    RequestedTransport,
    XorPeerAddress,
    decode,
    encode,
)
from relay.core import Direction, IcmpError, Output, Quotas, Relayed, RemoveChannel, ToClient, ToPeer
from relay.core.statistics import IcmpFate
from tests.unit.relay.playbook import (
    INTERNAL,
    PEER4,
    PEER6,
    PUBLIC,
    SERVER4,
    SERVER6,
    Client,
    RelayUnderTest,
    attribute_of,
    channel_message,
    datagrams,
    error_code,
    only_answer,
)

STANDARD = "a browser"


@pytest.fixture
def relay() -> RelayUnderTest:
    return RelayUnderTest()


def run_of(*segments: bytes) -> Run:
    return Run(memoryview(b"".join(segments)), len(segments[0]))


def the_one(outputs: list[Relayed | Output]) -> ToClient | ToPeer:
    (output,) = outputs
    assert isinstance(output, ToClient | ToPeer)
    return output


def send_indication(peer: Endpoint, data: bytes, *more: DontFragment) -> bytes:
    attributes: tuple[Attribute, ...] = (XorPeerAddress(peer), Data(data), *more)
    return encode(Method.SEND, MessageClass.INDICATION, bytes(12), attributes)


@pytest.mark.parametrize("client_address", ["203.0.113.5:51000", "[2001:db8:1::5]:51000"])
@pytest.mark.parametrize("peer", [PEER4, PEER6])
def test_a_run_goes_both_ways_in_all_families(relay: RelayUnderTest, client_address: str, peer: Endpoint) -> None:
    client = Client(relay, client_address)
    port = client.allocate()
    client.bind(0x4000, peer)
    payloads = [bytes([index]) * 1200 for index in range(20)] + [b"last"]

    out = the_one(client.send(run_of(*(channel_message(0x4000, payload) for payload in payloads)), tos=0xB9))
    assert isinstance(out, ToPeer)
    assert (out.relayed_port, out.transmit.destination, out.transmit.tos) == (port, peer, 0xB9)
    assert datagrams(out) == payloads

    back = the_one(relay.from_peer(port, peer, run_of(*payloads), tos=0x02))
    assert isinstance(back, ToClient)
    assert back.transmit.source == (SERVER4 if client.endpoint.ip.version == 4 else SERVER6)
    assert (back.transmit.destination, back.transmit.tos) == (client.endpoint, 0x02)
    assert datagrams(back) == [channel_message(0x4000, payload) for payload in payloads]

    statistics = relay.server.statistics()
    assert statistics.packets == {Direction.TO_PEER: 21, Direction.TO_CLIENT: 21}
    assert statistics.bytes == {Direction.TO_PEER: 24_004, Direction.TO_CLIENT: 24_004}


def test_one_run_for_two_channels_and_a_request(relay: RelayUnderTest) -> None:
    client = Client(relay)
    client.allocate()
    other = Endpoint(PEER4.ip, 7)
    client.bind(0x4000, PEER4)
    client.bind(0x4001, other)
    binding = encode(Method.BINDING, MessageClass.REQUEST, bytes(12), ())
    assert len(binding) == 20
    outputs = client.send(run_of(channel_message(0x4000, b"a" * 16), binding, channel_message(0x4001, b"b" * 16)))
    assert [type(output) for output in outputs] == [ToPeer, ToPeer, ToClient]
    assert datagrams(outputs[0]) == [b"a" * 16]
    assert datagrams(outputs[1]) == [b"b" * 16]


def test_what_has_no_channel_is_dropped_and_counted(relay: RelayUnderTest) -> None:
    client = Client(relay)
    assert client.send(channel_message(0x4000, b"early")) == []
    port = client.allocate()
    client.bind(0x4000, PEER4)
    assert client.send(channel_message(0x4001, b"unbound")) == []
    assert client.send(b"\x40\x00\x00\x09short") == []
    assert relay.from_peer(port, Endpoint(PEER4.ip, PEER4.port + 1), b"another port") == []
    assert relay.from_peer(port, Endpoint.parse("198.51.100.8:40000"), b"another peer") == []
    assert relay.from_peer(port ^ 1, PEER4, b"another allocation") == []
    assert relay.drops() == {"no_allocation": 2, "no_channel": 3, "malformed_channel_data": 1}


@pytest.mark.parametrize("quotas", [Quotas(), Quotas(bandwidth=8000, bandwidth_per_user=8000)])
def test_empty_datagrams_are_relayed_both_ways(quotas: Quotas) -> None:
    """RFC 8656 §12.6: a zero-length message becomes a datagram without data, and the other way round."""
    relay = RelayUnderTest(quotas=quotas)
    client, other = Client(relay), Client(relay, "203.0.113.5:52000", software="a browser")
    port, other_port = client.allocate(), other.allocate()
    client.bind(0x4000, PEER4)
    other.call(Method.CREATE_PERMISSION, XorPeerAddress(PEER4))
    (sent,) = client.send(channel_message(0x4000, b""))
    assert isinstance(sent, ToPeer)
    assert (sent.transmit.destination, datagrams(sent)) == (PEER4, [b""])
    (got,) = relay.from_peer(port, PEER4, b"")
    assert datagrams(got) == [channel_message(0x4000, b"")]
    indication = encode(Method.SEND, MessageClass.INDICATION, bytes(12), (XorPeerAddress(PEER4), Data(b"")))
    (sent,) = other.send(indication)
    assert datagrams(sent) == [b""]
    (got,) = relay.from_peer(other_port, PEER4, b"")
    (message,) = datagrams(got)
    assert attribute_of(decode(message), Data).value == b""
    statistics = relay.server.statistics()
    assert (set(statistics.packets.values()), set(statistics.bytes.values()), relay.drops()) == ({2}, {0}, {})


def test_an_empty_datagram_needs_an_open_bucket_and_costs_nothing() -> None:
    relay = RelayUnderTest(quotas=Quotas(bandwidth=8 * 100))
    client = Client(relay)
    client.allocate()
    client.bind(0x4000, PEER4)
    assert all(client.send(channel_message(0x4000, b"")) for _ in range(1000))
    assert client.send(channel_message(0x4000, bytes(500)))
    assert client.send(channel_message(0x4000, b"")) == []
    assert relay.drops() == {"over_quota": 1}


def test_another_client_cannot_use_the_channel(relay: RelayUnderTest) -> None:
    client, stranger = Client(relay), Client(relay, "203.0.113.5:51001")
    client.allocate()
    stranger.allocate()
    client.bind(0x4000, PEER4)
    assert stranger.send(channel_message(0x4000, b"mine?")) == []


def test_noise_is_dropped_and_counted(relay: RelayUnderTest) -> None:
    endpoint = Endpoint.parse("203.0.113.5:51000")
    success = encode(Method.BINDING, MessageClass.SUCCESS, bytes(12), ())
    indication = encode(Method.BINDING, MessageClass.INDICATION, bytes(12), ())
    request = encode(Method.BINDING, MessageClass.REQUEST, bytes(12), ())
    for datagram in (b"\x00", b"\x80 no", request[:19], success, indication, request + b"1234"):
        assert relay.from_client(endpoint, datagram) == []
    assert relay.from_client(Endpoint(endpoint.ip, 0), request) == []
    assert relay.from_client(endpoint, request[:4] + b"\x21\x12\xa4\x43" + request[8:]) == []
    assert relay.drops() == {"not_turn": 4, "unexpected_class": 2, "malformed_stun": 1, "source_port_zero": 1}


@pytest.mark.parametrize("software", ["snownet; session=00", STANDARD])
def test_the_permission_of_a_channel_lives_as_long_as_the_channel(relay: RelayUnderTest, software: str) -> None:
    client = Client(relay, software=software)
    client.call(Method.ALLOCATE, RequestedTransport(17), Lifetime(3600))
    port = next(iter(relay.open_ports))
    client.bind(0x4000, PEER4)
    client.call(Method.CREATE_PERMISSION, XorPeerAddress(PEER4))  # shortens nothing
    other = Endpoint.parse("198.51.100.8:40000")
    client.call(Method.CREATE_PERMISSION, XorPeerAddress(other))
    relay.advance(299)
    assert len(client.send(send_indication(other, b"x"))) == 1
    assert relay.advance(1) == []
    assert client.send(send_indication(other, b"x")) == []
    relay.advance(299)
    assert len(client.send(channel_message(0x4000, b"x"))) == 1
    assert len(client.send(send_indication(PEER4, b"x"))) == 1
    assert len(relay.from_peer(port, PEER4, b"x")) == 1
    assert [type(output) for output in relay.advance(1)] == [RemoveChannel]
    assert client.send(channel_message(0x4000, b"x")) == []
    assert client.send(send_indication(PEER4, b"x")) == []
    assert relay.from_peer(port, PEER4, b"x") == []
    assert not relay.installed


@pytest.mark.parametrize("software", ["snownet; session=00", STANDARD])
def test_stock_refreshes_after_five_minutes_lose_nothing(relay: RelayUnderTest, software: str) -> None:
    """Firezone's ends refresh allocation and channels 300 s after they were made, and never create a permission."""
    client = Client(relay, software=software)
    port = client.allocate()
    client.bind(0x4000, PEER4)
    relay.advance(299)
    for second in range(299, 341):
        if second == 303:  # the refreshes take a moment
            client.bind(0x4000, PEER4)
            client.call(Method.REFRESH, Lifetime(600))
        assert len(client.send(channel_message(0x4000, b"x"))) == 1, second
        assert len(relay.from_peer(port, PEER4, b"x")) == 1, second
        (installed,) = relay.installed.values()
        assert installed.expires_at > relay.now
        relay.advance(1)
    assert relay.drops() == {}


def test_a_channel_ends_with_its_allocation_and_is_prolonged_with_it(relay: RelayUnderTest) -> None:
    client = Client(relay)
    client.allocate()
    ends = relay.now + 600 * SECOND
    relay.advance(500)
    client.bind(0x4000, PEER4)
    (installed,) = relay.installed.values()
    assert installed.expires_at == ends, "not past the allocation, even if nobody is left to remove it"
    client.call(Method.REFRESH, Lifetime(3600))
    (installed,) = relay.installed.values()
    assert installed.expires_at == relay.now + 600 * SECOND


def test_firezones_peers_get_no_indications(relay: RelayUnderTest) -> None:
    client = Client(relay)
    client.call(Method.ALLOCATE, RequestedTransport(17), Lifetime(3600))
    port = next(iter(relay.open_ports))
    client.bind(0x4000, PEER4)
    relay.advance(599)
    assert len(client.send(channel_message(0x4000, b"x"))) == 1
    assert len(relay.from_peer(port, PEER4, b"x")) == 1
    assert relay.from_peer(port, Endpoint(PEER4.ip, 1), b"no indication, ever") == []


def test_send_and_data_indications(relay: RelayUnderTest) -> None:
    client = Client(relay, software=STANDARD)
    port = client.allocate()
    assert client.send(send_indication(PEER4, b"too early")) == []
    client.call(Method.CREATE_PERMISSION, XorPeerAddress(Endpoint(PEER4.ip, 0)))
    out = the_one(client.send(send_indication(PEER4, b"hello"), tos=0x20))
    assert isinstance(out, ToPeer)
    assert (out.relayed_port, out.transmit.destination, out.transmit.tos) == (port, PEER4, 0x20)
    assert datagrams(out) == [b"hello"]

    outputs = relay.from_peer(port, PEER4, run_of(b"one", b"two"))
    messages = [decode(datagram) for output in outputs for datagram in datagrams(output)]
    assert [(message.method, message.message_class) for message in messages] == [(7, MessageClass.INDICATION)] * 2
    assert [message.attributes for message in messages] == [
        (XorPeerAddress(PEER4), Data(b"one")),
        (XorPeerAddress(PEER4), Data(b"two")),
    ]
    assert messages[0].transaction_id != messages[1].transaction_id
    relay.advance(300)
    assert client.send(send_indication(PEER4, b"too late")) == []
    assert relay.from_peer(port, PEER4, b"too late") == []
    assert relay.drops() == {"no_permission": 3}


def test_indications_that_cannot_be_honoured_are_dropped(relay: RelayUnderTest) -> None:
    client = Client(relay, software=STANDARD)
    assert client.send(send_indication(PEER4, b"no allocation")) == []
    client.allocate()
    client.call(Method.CREATE_PERMISSION, XorPeerAddress(PEER4))
    no_data = encode(Method.SEND, MessageClass.INDICATION, bytes(12), (XorPeerAddress(PEER4),))
    no_peer = encode(Method.SEND, MessageClass.INDICATION, bytes(12), (Data(b"x"),))
    no_port = send_indication(Endpoint(PEER4.ip, 0), b"x")
    unknown = bytearray(send_indication(PEER4, b"data") + bytes.fromhex("7fff0000"))
    unknown[2:4] = (len(unknown) - 20).to_bytes(2, "big")
    for datagram in (no_data, no_peer, no_port, bytes(unknown)):
        assert client.send(datagram) == []
    assert relay.drops() == {"no_allocation": 1, "malformed_indication": 4}


def test_what_no_indication_holds_is_dropped_whole(relay: RelayUnderTest) -> None:
    client = Client(relay, software=STANDARD)
    port = client.allocate()
    client.call(Method.CREATE_PERMISSION, XorPeerAddress(PEER4))
    output = the_one(relay.from_peer(port, PEER4, bytes(65_000)))
    assert len(output.transmit.run.data) <= 65_507
    assert relay.from_peer(port, PEER4, bytes(65_001)) == []
    assert relay.drops() == {"too_large": 1}
    client.bind(0x4000, PEER4)
    assert datagrams(the_one(relay.from_peer(port, PEER4, bytes(65_001)))) == [channel_message(0x4000, bytes(65_001))]


def test_dont_fragment_is_handed_on(relay: RelayUnderTest) -> None:
    client = Client(relay, software=STANDARD)
    client.allocate()
    client.call(Method.CREATE_PERMISSION, XorPeerAddress(PEER4))
    for more, expected in (((), False), ((DontFragment(),), True)):
        (output,) = client.send(send_indication(PEER4, b"x", *more))
        assert isinstance(output, ToPeer)
        assert output.dont_fragment is expected


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (IcmpError(PEER4, 3, 3), Icmp(3, 3)),
        (IcmpError(PEER4, 3, 4, 1400), Icmp(3, 4, bytes.fromhex("00000578"))),
        (IcmpError(PEER4, 11, 0), Icmp(11, 0)),
        (IcmpError(PEER6, 2, 0, 1280), Icmp(2, 0, bytes.fromhex("00000500"))),
        (IcmpError(PEER4, 5, 1), None),
        (IcmpError(PEER4, 3, 300), None),
        (IcmpError(PEER6, 4, 0), None),
        (IcmpError(Endpoint.parse("198.51.100.8:40000"), 3, 3), None),
    ],
)
def test_icmp_errors_reach_the_client_where_it_may_send(
    relay: RelayUnderTest, error: IcmpError, expected: Icmp | None
) -> None:
    client = Client(relay, software=STANDARD)
    port = client.allocate()
    assert relay.icmp(port, error) == []
    client.call(Method.CREATE_PERMISSION, XorPeerAddress(PEER4), XorPeerAddress(PEER6))
    outputs = relay.icmp(port, error)
    if expected is None:
        assert outputs == []
        assert relay.server.statistics().icmp_errors == {IcmpFate.DROPPED: 2}
        return
    message = only_answer(outputs, client.endpoint)
    assert (message.method, message.message_class) == (Method.DATA, MessageClass.INDICATION)
    assert message.attributes == (XorPeerAddress(error.peer), expected)
    relay.advance(300)
    assert relay.icmp(port, error) == []
    assert relay.icmp(port + 1, error) == []
    assert relay.server.statistics().icmp_errors == {IcmpFate.DROPPED: 3, IcmpFate.RELAYED: 1}


def test_icmp_errors_are_nothing_to_firezones_peers(relay: RelayUnderTest) -> None:
    client = Client(relay)
    port = client.allocate()
    client.bind(0x4000, PEER4)
    assert relay.icmp(port, IcmpError(PEER4, 3, 3)) == []


@pytest.mark.parametrize("version", [4, 6])
def test_two_clients_of_one_relay_meet_inside_it(relay: RelayUnderTest, version: int) -> None:
    left, right = Client(relay), Client(relay, "[2001:db8:1::6]:51000")
    left_address = Endpoint(PUBLIC[version], left.allocate())
    right_address = Endpoint(PUBLIC[version], right.allocate())
    left.bind(0x4000, right_address)
    assert left.send(channel_message(0x4000, b"no channel back yet")) == []
    right.bind(0x4ABC, left_address)

    payloads = [b"x" * 900, b"y" * 900, b"z"]
    output = the_one(left.send(run_of(*(channel_message(0x4000, payload) for payload in payloads)), tos=3))
    assert isinstance(output, ToClient)
    assert output.transmit.destination == right.endpoint
    assert output.transmit.source == SERVER6
    assert output.transmit.tos == 3
    assert datagrams(output) == [channel_message(0x4ABC, payload) for payload in payloads]

    # Each has sent or got it; the relay has relayed it once.
    views = [relay.server.allocation(address.port) for address in (left_address, right_address)]
    assert [(view.to_peer_packets, view.to_peer_bytes) for view in views if view] == [(3, 1801), (0, 0)]
    assert [(view.to_client_packets, view.to_client_bytes) for view in views if view] == [(0, 0), (3, 1801)]
    statistics = relay.server.statistics()
    assert (statistics.packets[Direction.TO_PEER], statistics.packets[Direction.TO_CLIENT]) == (0, 3)

    right.call(Method.REFRESH, Lifetime(0))
    assert left.send(channel_message(0x4000, b"gone")) == []
    assert relay.drops() == {"no_channel": 1, "peer_refused": 1}


def test_browsers_of_one_relay_meet_by_indications_and_reach_nothing_else(relay: RelayUnderTest) -> None:
    left, right = Client(relay, software=STANDARD), Client(relay, "203.0.113.6:51000", software=STANDARD)
    left_address = Endpoint(PUBLIC[4], left.allocate())
    right_address = Endpoint(PUBLIC[4], right.allocate())
    left.call(Method.CREATE_PERMISSION, XorPeerAddress(right_address))
    right.call(Method.CREATE_PERMISSION, XorPeerAddress(left_address))
    output = the_one(left.send(send_indication(right_address, b"hello")))
    assert output.transmit.destination == right.endpoint
    assert decode(output.transmit.run.data).attributes == (XorPeerAddress(left_address), Data(b"hello"))
    for port in (22, 3478, 8080):
        assert left.send(send_indication(Endpoint(PUBLIC[4], port), b"host?")) == []
    assert relay.drops() == {"peer_refused": 3}


def test_an_own_address_behind_nat_is_a_relayed_address_too(relay: RelayUnderTest) -> None:
    left, right = Client(relay), Client(relay, "203.0.113.6:51000")
    left_port, right_port = left.allocate(), right.allocate()
    assert error_code(left.bind(0x4000, Endpoint(INTERNAL, right_port))) == 0
    right.bind(0x4000, Endpoint(PUBLIC[4], left_port))
    assert the_one(left.send(channel_message(0x4000, b"x"))).transmit.destination == right.endpoint
