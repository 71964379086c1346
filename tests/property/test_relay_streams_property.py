"""TURN over streams: however the bytes are cut, the same comes out as for whole messages, and noise breaks nothing."""

from collections.abc import Iterator
from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st

from connectivity.endpoint import Endpoint
from connectivity.stun import (
    AdditionalAddressFamily,
    AddressFamily,
    ChannelNumber,
    Data,
    EvenPort,
    Lifetime,
    MessageClass,
    Method,
    RequestedAddressFamily,
    RequestedTransport,
    XorPeerAddress,
    encode,
)
from relay.core import CloseStream, Output, Relayed, ToPeer, Transport
from relay.core.channel_runs import ChannelRun
from relay.core.stream import Lost, Stream
from tests.unit.relay.playbook import RelayUnderTest, channel_message, datagrams
from tests.unit.relay.standard import StandardClient, standalone

PEERS = (Endpoint.parse("198.51.100.7:1"), Endpoint.parse("[2001:db8:1::8]:2"))
NUMBERS = (0x4000, 0x4001, 0x7FFF)  # the last one is never bound
LARGEST_MESSAGE = 65_556

payloads = st.one_of(st.binary(max_size=9), st.sampled_from([0, 1, 63, 64, 1280, 3000]).map(lambda size: b"x" * size))


def channel_data(number: int, payload: bytes) -> bytes:
    return channel_message(number, payload) + bytes(-len(payload) % 4)


def indication(peer: Endpoint, payload: bytes) -> bytes:
    return encode(Method.SEND, MessageClass.INDICATION, bytes(12), (XorPeerAddress(peer), Data(payload)))


def connected() -> tuple[RelayUnderTest, StandardClient]:
    """A relay with a client that has an allocation, a permission and two channels; the same each time."""
    relay = standalone(under_portal=True, lowest_port=50_000, highest_port=50_009)
    client = StandardClient(relay, transport=Transport.TCP)
    client.call(Method.ALLOCATE, RequestedTransport(17), AdditionalAddressFamily(AddressFamily.IPV6))
    client.bind(NUMBERS[0], PEERS[0])
    client.bind(NUMBERS[1], PEERS[1])
    return relay, client


def requests() -> list[bytes]:
    """Some that change something and some that do not."""
    _, client = connected()
    return [
        encode(Method.BINDING, MessageClass.REQUEST, bytes(12), ()),
        client.request(Method.REFRESH, Lifetime(3600)),
        client.request(Method.REFRESH, RequestedAddressFamily(AddressFamily.IPV6), Lifetime(0)),
        client.request(Method.ALLOCATE, RequestedTransport(17), EvenPort(reserve=True)),
        client.request(Method.CHANNEL_BIND, XorPeerAddress(PEERS[0]), ChannelNumber(0x4002)),
        client.request(Method.CREATE_PERMISSION, *map(XorPeerAddress, PEERS)),
    ]


conversations = st.lists(
    st.one_of(
        st.sampled_from(requests()),
        st.builds(channel_data, st.sampled_from(NUMBERS), payloads),
        st.builds(indication, st.sampled_from(PEERS), payloads),
        st.builds(lambda count, payload: channel_data(NUMBERS[0], payload) * count, st.integers(2, 40), payloads),
    ),
    min_size=1,
    max_size=12,
)


def cut(data: bytes, places: list[int]) -> Iterator[bytes]:
    """The data in pieces."""
    borders = sorted({place % (len(data) + 1) for place in places} | {0, len(data)})
    return (data[start:end] for start, end in pairwise(borders))


def flat(outputs: list[Relayed | Output]) -> list[object]:
    """What happens, datagram by datagram: how many of them share a run depends on what arrives together."""
    found: list[object] = []
    for output in outputs:
        if isinstance(output, ToPeer):
            found += [(output.relayed_port, output.transmit.destination, one) for one in datagrams(output)]
        else:
            found.append(bytes(output.transmit.run.data) if hasattr(output, "transmit") else output)
    return found


@settings(max_examples=100, deadline=None)
@given(conversations, st.lists(st.integers(0, 1 << 20), max_size=30))
def test_cuts_change_nothing(messages: list[bytes], places: list[int]) -> None:
    (whole_relay, whole), (cut_relay, pieces) = connected(), connected()
    expected = [entry for message in messages for entry in flat(whole.send(message))]
    found = [entry for piece in cut(b"".join(messages), places) for entry in flat(pieces.send(piece))]
    # Relayed data leaves at once, answers when all that came together is done with: two orders, each kept.
    for is_data in (True, False):
        before, after = ([one for one in some if isinstance(one, tuple) == is_data] for some in (expected, found))
        assert before == after
    assert list(cut_relay.server.allocations()) == list(whole_relay.server.allocations())
    assert cut_relay.drops() == whole_relay.drops()
    assert cut_relay.open_ports == whole_relay.open_ports
    assert not cut_relay.closed_streams


@settings(max_examples=100, deadline=None)
@given(conversations, st.data())
def test_noise_closes_the_stream_or_goes_nowhere(messages: list[bytes], data: st.DataObject) -> None:
    relay, client = connected()
    stream = bytearray(b"".join(messages))
    for _ in range(data.draw(st.integers(1, 4))):
        stream[data.draw(st.integers(0, len(stream) - 1))] = data.draw(st.integers(0, 255))
    for piece in cut(bytes(stream), data.draw(st.lists(st.integers(0, 1 << 20), max_size=10))):
        outputs = client.send(piece)
        assert sum(isinstance(output, CloseStream) for output in outputs) <= 1
    assert len(relay.closed_streams) <= 1
    assert sum(map(len, relay.server._streams.values())) <= LARGEST_MESSAGE
    relay.server.stream_closed(client.five_tuple, relay.now)
    relay.drain()
    relay.advance(30)
    assert not relay.open_ports


@settings(deadline=None)
@given(st.binary(max_size=400), st.lists(st.integers(0, 400), max_size=20))
def test_any_bytes_are_read_to_the_last_one_or_lost(data: bytes, places: list[int]) -> None:
    stream = Stream()
    taken = 0
    for piece in cut(data, places):
        for part in stream.feed(memoryview(piece)):
            if isinstance(part, Lost):
                assert stream.is_lost
            else:
                taken += len(part.data) if isinstance(part, ChannelRun) else len(part)
    assert stream.is_lost or taken + len(stream) == len(data)
    assert not (stream.is_lost and len(stream))
