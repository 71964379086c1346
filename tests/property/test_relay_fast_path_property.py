"""The fast path does what the core does: the same packets, counters and drops, whatever happens.

Two relays live through the same story: one is the core alone, the other the driver's own code with the core behind it,
over sockets that are scripts, full at times and with an MTU for segments. What each destination gets, in which order
and from which socket, has to be equal.
"""

import gc
import struct
from typing import Any
from unittest.mock import ANY, patch

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from connectivity.endpoint import Endpoint
from connectivity.io.receive_buffer import SLOTS
from connectivity.run import Run
from connectivity.stun import (
    AddressFamily,
    ChannelNumber,
    Lifetime,
    Method,
    RequestedAddressFamily,
    XorPeerAddress,
)
from relay.core import Output, Quotas, Relayed
from relay.driver import fast_path as fast_path_module
from relay.driver.sockets import MOST_ARRIVALS
from tests.property.relay_twins import CLIENT, OTHER_PEER, STRANGER, Datagram, DrivenRelay, PlainRelay, seen, twins
from tests.unit.connectivity.test_io_udp import ScriptedBuffer
from tests.unit.relay.playbook import PEER4, SERVER4, Client, channel_message

payloads = st.sampled_from((0, 1, 3, 8, 8, 12)).flatmap(lambda size: st.binary(min_size=size, max_size=size))
tos = st.sampled_from((0, 0, 0x2D))
numbers = st.sampled_from((0x4000, 0x4000, 0x4001, 0x4002))
channel_data = st.builds(
    lambda number, payload, wrong, padding: (
        struct.pack("!HH", number, max(0, len(payload) + wrong)) + payload + padding
    ),
    numbers,
    payloads,
    st.sampled_from((0, 0, 0, 0, 1, -1, 4, -4)),
    st.sampled_from((0, 0, 0, 1, 2, 3, 4, 5)).map(bytes),
)
from_client = st.builds(Datagram, st.sampled_from((CLIENT, CLIENT, STRANGER)), channel_data | payloads, st.just(0), tos)
runs = st.builds(
    lambda messages, last, tos: Datagram(CLIENT, b"".join(messages) + last[: len(messages[0])], len(messages[0]), tos),
    st.one_of(
        st.builds(lambda message, count: [message] * count, channel_data, st.integers(1, 5)),
        st.lists(st.binary(min_size=12, max_size=12), min_size=2, max_size=3).map(
            lambda rows: [channel_message(0x4000 + row[0] % 2, row) for row in rows]
        ),
    ),
    st.just(b"") | channel_data,
    tos,
)
from_peer = st.builds(
    lambda sender, payload, count, last, tos: Datagram(
        sender, payload * count + payload[:last], len(payload) if count > 1 or last else 0, tos
    ),
    st.sampled_from((PEER4, PEER4, OTHER_PEER, STRANGER)),
    payloads,
    st.sampled_from((1, 1, 2, 5)),
    st.sampled_from((0, 0, 1, 3)),
    tos,
)
traffic = st.one_of(
    st.tuples(st.just("client"), st.lists(from_client | from_client | runs, min_size=1, max_size=8)),
    st.tuples(st.just("peer"), st.lists(from_peer, min_size=1, max_size=8)),
)
changes = st.one_of(
    st.tuples(st.just("wait"), st.sampled_from((1, 299, 301, 500))),
    st.tuples(st.just("bind"), st.sampled_from(((0x4000, PEER4), (0x4001, OTHER_PEER)))),
    st.tuples(st.just("deny"), st.sampled_from(((), (str(PEER4.ip),)))),
    st.tuples(st.just("meter"), st.booleans()),
    st.tuples(st.just("hinder"), st.tuples(st.integers(0, 3), st.sampled_from((65_535, 65_535, 8)))),
    st.tuples(st.just("refresh"), st.sampled_from((600, 0))),
)
FIRST = Datagram(CLIENT, channel_message(0x4000, b"first"))


@settings(max_examples=300, deadline=None)
@given(story=st.lists(traffic | traffic | changes, min_size=1, max_size=12))
def test_the_fast_path_does_what_the_core_does(story: list[tuple[str, Any]]) -> None:
    with twins() as (plain, driven):
        lives = [(relay, Client(relay, str(CLIENT))) for relay in (plain, driven)]
        ports = [client.allocate(RequestedAddressFamily(AddressFamily.IPV4)) for _, client in lives]
        for (_, client), port in zip(lives, ports, strict=True):
            assert port == ports[0]
            client.bind(0x4000, PEER4)
        for kind, what in [("client", [FIRST]), *story]:
            for relay, client in lives:
                live(relay, client, ports[0], kind, what)
            assert seen(driven.log) == seen(plain.log)
            assert driven.server.statistics() == plain.server.statistics()


def live(relay: PlainRelay | DrivenRelay, client: Client, port: int, kind: str, what: Any) -> None:
    """One step of the story."""
    match kind:
        case "client":
            relay.feed(SERVER4.port, what)
        case "peer" if relay.server.allocation(port) is not None:
            relay.feed(port, what)
        case "wait":
            relay.advance(what)
        case "bind":
            number, peer = what
            client.send(client.request(Method.CHANNEL_BIND, XorPeerAddress(peer), ChannelNumber(number)))
        case "deny":
            relay.deny = what
            relay.reconfigure()
        case "meter":
            relay.quotas = Quotas(bandwidth=8 * 40 if what else None)
            relay.reconfigure()
        case "hinder":
            if isinstance(relay, DrivenRelay):
                relay.hinder(*what)
        case "refresh":
            client.send(client.request(Method.REFRESH, Lifetime(what)))
        case _:
            assert kind == "peer", "nobody has the port any more"


@pytest.mark.parametrize("segments", [1, 5])
@pytest.mark.parametrize("quotas", [Quotas(), Quotas(bandwidth=80_000, bandwidth_per_user=80_000)])
def test_the_second_arrival_takes_the_fast_path(quotas: Quotas, segments: int) -> None:
    """Or else nothing would be tested above."""
    with twins() as (_, driven):
        driven.quotas = quotas
        driven.reconfigure()
        client = Client(driven, str(CLIENT))
        port = client.allocate(RequestedAddressFamily(AddressFamily.IPV4))
        client.bind(0x4000, PEER4)
        message, answer = channel_message(0x4000, b"to the peer"), b"to the client"
        from_client = Datagram(CLIENT, message * segments, len(message) if segments > 1 else 0)
        from_peer = Datagram(PEER4, answer * segments, len(answer) if segments > 1 else 0)
        driven.feed(SERVER4.port, [from_client])
        driven.feed(port, [from_peer])
        with patch.object(driven.server, "handle_client"), patch.object(driven.server, "handle_peer"):
            before = len(driven.log)
            driven.feed(SERVER4.port, [from_client, from_client])
            driven.feed(port, [from_peer, from_peer])
        view = driven.server.allocation(port)
        assert view is not None
        assert (view.to_peer_packets, view.to_client_packets) == (3 * segments, 3 * segments)
        assert list(seen(driven.log[before:]).values()) == [
            [(b"to the peer", ())] * 2 * segments,
            [(channel_message(0x4000, answer), ANY)] * 2 * segments,
        ]
        calls = 2 if segments == 1 else 4  # single datagrams go together, runs of the kernel's as they are
        assert len(driven.log) - before == calls


@pytest.mark.parametrize("size", [2, 100, 1280, 30_000, 40_000])
def test_hundreds_leave_in_runs_that_a_kernel_takes(size: int) -> None:
    with twins(slots=128) as (_, driven):
        client = Client(driven, str(CLIENT))
        port = client.allocate(RequestedAddressFamily(AddressFamily.IPV4))
        client.bind(0x4000, PEER4)
        payloads = [index.to_bytes(2, "big").ljust(size, b"x") for index in range(700)]
        from_client = [Datagram(CLIENT, channel_message(0x4000, payload)) for payload in payloads]
        from_peer = [Datagram(PEER4, payload) for payload in payloads]
        driven.feed(SERVER4.port, from_client[:1])
        driven.feed(port, from_peer[:1])
        driven.log.clear()
        driven.feed(SERVER4.port, from_client)
        to_peer = len(driven.log)
        driven.feed(port, from_peer)
    expected: list[list[tuple[bytes, Any]]] = [
        [(payload, ()) for payload in payloads],
        [(channel_message(0x4000, payload), ANY) for payload in payloads],
    ]
    assert list(seen(driven.log).values()) == expected
    most_together = 1 if size > 32_000 else 2 if size > 20_000 else 30
    assert to_peer <= 700 / most_together + 10
    assert len(driven.log) - to_peer <= 700 / most_together + 10


def test_more_is_read_at_once_only_while_that_makes_runs() -> None:
    with twins(slots=MOST_ARRIVALS) as (_, driven):
        client = Client(driven, str(CLIENT))
        client.allocate(RequestedAddressFamily(AddressFamily.IPV4))
        client.bind(0x4000, PEER4)
        small, large = channel_message(0x4000, b"small"), channel_message(0x4000, bytes(20_000))
        stories = {
            "of channels": (Datagram(CLIENT, small), [SLOTS, 64, 128, 256, 512, 1024, 1024]),
            "long": (Datagram(CLIENT, large), [512, *[SLOTS] * 9]),
            "for the core": (Datagram(STRANGER, small), [SLOTS] * 10),
        }
        (listening,) = driven.service.sockets._listening.values()
        for datagram, expected in stories.values():
            limits: list[int] = []
            fill = listening._buffer.fill

            def recording(descriptor: int, limit: int, fill: Any = fill, limits: list[int] = limits) -> int:
                count = int(fill(descriptor, limit))
                limits.extend([limit] * (count > 0))
                return count

            with patch.object(ScriptedBuffer, "fill", staticmethod(recording)):
                driven.feed(SERVER4.port, [datagram] * sum(expected))
            assert limits == expected


def test_ways_are_remembered_up_to_a_bound_and_still_keep_order() -> None:
    with twins() as (plain, driven), patch.object(fast_path_module, "MOST_FORWARDERS", 2):
        ports = []
        for relay in (plain, driven):
            client = Client(relay, str(CLIENT))
            ports.append(client.allocate(RequestedAddressFamily(AddressFamily.IPV4)))
            for number, peer in ((0x4000, PEER4), (0x4001, OTHER_PEER)):
                client.bind(number, peer)
        for turn in range(12):
            batch = [
                Datagram(CLIENT, channel_message(0x4000 + index % 2, bytes((turn, index))), tos=index % 3 << 2)
                for index in range(9)
            ]
            for relay in (plain, driven):
                relay.feed(SERVER4.port, batch)
                relay.feed(ports[0], [Datagram(PEER4, bytes((turn, index)), tos=index % 5 << 2) for index in range(9)])
        assert seen(driven.log) == seen(plain.log)
        fast_path = driven.service._fast_path
        assert [len(ways) for ways in (*fast_path._to_peer.values(), fast_path._to_client)] == [2, 2]
        assert len(fast_path._waiting) <= 4


def test_channels_that_have_ended_leave_nothing_behind() -> None:
    with twins() as (_, driven):
        client = Client(driven, str(CLIENT))
        for _ in range(20):
            client.allocate(RequestedAddressFamily(AddressFamily.IPV4))
            client.bind(0x4000, PEER4)
            driven.feed(SERVER4.port, [FIRST, FIRST])
            client.send(client.request(Method.REFRESH, Lifetime(0)))
        gc.collect()
        assert len(driven.service._fast_path._waiting) == 1


class ClientOf(Client):
    """A client of one of the relay's addresses."""

    server = SERVER4

    def send(self, data: bytes | Run, *, tos: int = 0) -> list[Relayed | Output]:
        return self.relay.from_client(self.endpoint, data, tos=tos, server=self.server)


def test_each_address_that_a_client_talks_to_has_ways_of_its_own() -> None:
    """What a client sends to two of our ports may differ in nothing but the port."""
    other = Endpoint(SERVER4.ip, 3479)
    with twins() as (_, driven):
        sockets = driven.service.sockets
        sockets.listen([other])
        ports = []
        for server, peer in ((SERVER4, PEER4), (other, OTHER_PEER)):
            client = ClientOf(driven, str(CLIENT))
            client.server = server
            ports.append(client.allocate(RequestedAddressFamily(AddressFamily.IPV4)))
            client.bind(0x4000, peer)
        message = Datagram(CLIENT, channel_message(0x4000, b"to whom?"))
        before = len(driven.log)
        for _ in range(3):
            driven.feed(SERVER4.port, [message])
            driven.feed(other.port, [message])
        sent = [(sent.port, sent.to) for sent in driven.log[before:]]
        assert sent == [(ports[0], (str(PEER4.ip), PEER4.port)), (ports[1], (str(OTHER_PEER.ip), OTHER_PEER.port))] * 3
