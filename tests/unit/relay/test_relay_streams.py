"""TURN over TCP and TLS: frames, padding, and the ends of connections (RFC 8489 §6.2.2, RFC 8656 §3.1, §12.5)."""

import pytest

from connectivity.run import Run
from connectivity.stun import (
    ChannelNumber,
    Data,
    Lifetime,
    MessageClass,
    Method,
    RequestedTransport,
    XorMappedAddress,
    XorPeerAddress,
    decode,
    encode,
)
from relay.core import CloseRelayedPort, CloseStream, NoteChannel, RemoveChannel, ToClient, ToPeer, Transport
from tests.unit.relay.playbook import PEER4, RelayUnderTest, attribute_of, channel_message, datagrams, error_code
from tests.unit.relay.standard import StandardClient, standalone

UDP = RequestedTransport(17)
BINDING = encode(Method.BINDING, MessageClass.REQUEST, bytes(12), ())


def padded(number: int, payload: bytes) -> bytes:
    return channel_message(number, payload) + bytes(-len(payload) % 4)


@pytest.fixture
def relay() -> RelayUnderTest:
    return standalone(under_portal=True)


@pytest.fixture(params=[Transport.TCP, Transport.TLS])
def client(request: pytest.FixtureRequest, relay: RelayUnderTest) -> StandardClient:
    return StandardClient(relay, transport=request.param)


def test_a_client_allocates_and_exchanges_data(relay: RelayUnderTest, client: StandardClient) -> None:
    port = client.allocate()
    assert error_code(client.bind(0x4000, PEER4)) == 0
    (output,) = client.send(padded(0x4000, b"hello"))
    assert isinstance(output, ToPeer)
    assert (output.relayed_port, datagrams(output)) == (port, [b"hello"])
    (output,) = relay.from_peer(port, PEER4, b"answer")
    assert isinstance(output, ToClient)
    assert output.transport is client.five_tuple.transport
    assert (output.transmit.destination, output.transmit.source) == client.five_tuple[:2]
    assert bytes(output.transmit.run.data) == padded(0x4000, b"answer")
    assert not relay.installed, "an offload knows no streams"


def test_each_datagram_to_a_stream_is_padded(relay: RelayUnderTest, client: StandardClient) -> None:
    port = client.allocate()
    client.bind(0x4000, PEER4)
    for size in range(1, 9):
        for last in range(1, size + 1):
            payloads = [bytes([65 + index]) * size for index in range(3)] + [b"z" * last]
            (output,) = relay.from_peer(port, PEER4, Run(memoryview(b"".join(payloads)), size))
            assert datagrams(output) == [b"".join(padded(0x4000, payload) for payload in payloads)]


def test_indications_go_both_ways(relay: RelayUnderTest, client: StandardClient) -> None:
    port = client.allocate()
    client.call(Method.CREATE_PERMISSION, XorPeerAddress(PEER4))
    indication = encode(Method.SEND, MessageClass.INDICATION, bytes(12), (XorPeerAddress(PEER4), Data(b"abc")))
    (output,) = client.send(indication)
    assert datagrams(output) == [b"abc"]
    (output,) = relay.from_peer(port, PEER4, b"defgh")
    assert isinstance(output, ToClient)
    assert output.transport is client.five_tuple.transport
    message = decode(output.transmit.run.data)
    assert (message.method, attribute_of(message, Data).value) == (Method.DATA, b"defgh")


def test_channel_data_that_arrives_together_moves_as_one_run(client: StandardClient) -> None:
    client.allocate()
    client.bind(0x4000, PEER4)
    client.bind(0x4001, PEER4._replace(port=1))
    payloads = [b"a" * 1001, b"b" * 1001, b"c" * 1001, b"d" * 7]
    together = b"".join(padded(0x4000, payload) for payload in payloads)
    other = padded(0x4001, b"e" * 1001)
    first, second, third = client.send(together + other + padded(0x4000, b"f"))
    assert datagrams(first) == payloads
    assert datagrams(second) == [b"e" * 1001]
    assert datagrams(third) == [b"f"]


def test_a_flood_is_cut_into_runs_that_a_socket_takes(client: StandardClient) -> None:
    client.allocate()
    client.bind(0x4000, PEER4)
    count = 300
    outputs = client.send(padded(0x4000, b"x" * 1000) * count)
    assert sum(len(datagrams(output)) for output in outputs) == count
    assert all(isinstance(output, ToPeer) and len(output.transmit.run.data) <= 65_535 for output in outputs)
    assert len(outputs) < 10


def test_the_largest_channel_data_comes_through_in_pieces(client: StandardClient) -> None:
    client.allocate()
    client.bind(0x4000, PEER4)
    message = padded(0x4000, b"x" * 65_535)
    assert [client.send(message[at : at + 1000]) for at in range(0, 65_000, 1000)] == [[]] * 65
    (output,) = client.send(message[65_000:] + BINDING)[:1]
    assert datagrams(output) == [b"x" * 65_535]


def test_empty_channel_data_is_relayed_message_by_message(client: StandardClient) -> None:
    port = client.allocate()
    client.bind(0x4000, PEER4)
    sent = client.send(padded(0x4000, b"") * 3 + padded(0x4000, b"data") + padded(0x4000, b""))
    assert [data for output in sent for data in datagrams(output)] == [b"", b"", b"", b"data", b""]
    (got,) = client.relay.from_peer(port, PEER4, b"")
    assert bytes(got.transmit.run.data) == padded(0x4000, b"")  # type: ignore[union-attr]  # relayed data


@pytest.mark.parametrize(
    "noise",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",  # a TLS handshake where there is no TLS
        b"\x80\x00\x00\x00",
        b"\x00\x01\x00\x02" + BINDING[4:],  # a length that no STUN message has
        b"\x00\x01\x00\x00" + bytes(16),  # no magic cookie
        b"\x00\x01\x00\x00\x21\x12\xa4\x43",  # noticed as soon as it can be
    ],
)
@pytest.mark.parametrize("pieces", [1, 64])
def test_a_connection_that_carries_no_turn_is_closed(
    relay: RelayUnderTest, client: StandardClient, noise: bytes, pieces: int
) -> None:
    data = BINDING + noise
    size = max(1, len(data) // pieces)
    outputs = [output for at in range(0, len(data), size) for output in client.send(data[at : at + size])]
    assert [type(output) for output in outputs] == [ToClient, CloseStream]
    assert relay.closed_streams == [client.five_tuple]
    assert client.send(BINDING * 3) == [], "what follows has no beginning"
    assert relay.drops() == {"not_turn": 1}
    relay.server.stream_closed(client.five_tuple, relay.now)
    assert len(client.send(BINDING)) == 1, "the same addresses, another connection"


def test_a_stranger_cannot_make_the_relay_keep_much(relay: RelayUnderTest, client: StandardClient) -> None:
    """An HTTP request reads like the beginning of a long ChannelData message."""
    assert client.send(b"GET / HTTP/1.1\r\n" + b"x" * 2000) == []
    (closed,) = client.send(b"x" * 100)
    assert closed == CloseStream(client.five_tuple)
    (stream,) = relay.server._streams.values()
    assert len(stream) == 0


def test_the_end_of_a_connection_is_the_end_of_its_allocation(relay: RelayUnderTest, client: StandardClient) -> None:
    other = StandardClient(relay, transport=Transport.UDP)
    port, other_port = client.allocate(), other.allocate()
    client.bind(0x4000, PEER4)
    relay.server.stream_closed(client.five_tuple, relay.now)
    assert CloseRelayedPort in [type(output) for output in relay.drain()]
    assert set(relay.open_ports) == {other_port}
    assert relay.from_peer(port, PEER4, b"late") == []
    relay.server.stream_closed(client.five_tuple, relay.now)
    assert relay.drain() == []
    assert not relay.server._streams


def test_one_client_may_have_an_allocation_on_each_transport(relay: RelayUnderTest) -> None:
    clients = [StandardClient(relay, transport=transport) for transport in Transport]
    ports = [client.allocate() for client in clients]
    assert len(set(ports)) == 3
    for client, port in zip(clients, ports, strict=True):
        client.bind(0x4000, PEER4)
        (output,) = client.send(padded(0x4000, b"mine"))
        assert isinstance(output, ToPeer)
        assert output.relayed_port == port
    assert [five_tuple_of[2] for five_tuple_of in relay.installed] == [0x4000], "only UDP's"


def test_channels_of_streams_are_told_and_not_installed(relay: RelayUnderTest, client: StandardClient) -> None:
    port = client.allocate()
    request = client.request(Method.CHANNEL_BIND, XorPeerAddress(PEER4), ChannelNumber(0x4000))
    assert client.send(request)[0] == NoteChannel(client.five_tuple, 0x4000, port, relays=True)
    outputs = client.send(client.request(Method.REFRESH, Lifetime(0)))
    assert NoteChannel(client.five_tuple, 0x4000, port, relays=False) in outputs
    assert not relay.installed


def test_a_copy_of_a_request_on_a_stream_gets_the_same_answer(client: StandardClient) -> None:
    client.call(Method.REFRESH)
    request = client.request(Method.ALLOCATE, UDP)
    first = client.send(request)[-1]
    (second,) = client.send(request)
    assert datagrams(first) == datagrams(second)
    assert attribute_of(decode(datagrams(first)[0]), XorMappedAddress).endpoint == client.endpoint


def test_a_refusal_stays_one_for_copies_of_its_request(relay: RelayUnderTest, client: StandardClient) -> None:
    client.call(Method.REFRESH)
    too_early = client.request(Method.REFRESH, Lifetime(600))
    assert error_code(client.answer(too_early)) == 437
    client.allocate()
    assert error_code(client.answer(too_early)) == 437
    assert error_code(client.call(Method.REFRESH, Lifetime(0))) == 0
    assert not relay.open_ports
    assert RemoveChannel not in [type(output) for output in relay.drain()]
