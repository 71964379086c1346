"""A flood of requests at the relay's driver: data and clients go first, and of the others the newest are answered."""

from collections.abc import Iterator

import pytest

from connectivity.clock import SECOND
from connectivity.endpoint import Endpoint
from connectivity.io.udp import UdpSocket
from connectivity.stun import (
    AddressFamily,
    MessageClass,
    Method,
    RequestedAddressFamily,
    RequestedTransport,
    decode,
    encode,
)
from relay.driver.request_queue import MOST_WAITING
from relay.driver.service import REQUESTS_PER_TURN
from relay.driver.sockets import MOST_ARRIVALS
from tests.property.relay_twins import CLIENT, Datagram, DrivenRelay, Sent, twins
from tests.unit.relay.playbook import PEER4, SERVER4, Client, channel_message

FLOOD = 6000


def forged(number: int) -> Datagram:
    """An Allocate of a stranger of its own."""
    request = encode(Method.ALLOCATE, MessageClass.REQUEST, number.to_bytes(12, "big"), (RequestedTransport(17),))
    return Datagram(Endpoint.parse(f"192.0.2.{number % 200}:{1024 + number // 200}"), request)


def turns(driven: DrivenRelay, arriving: list[Datagram]) -> list[list[Sent]]:
    """Let the event loop come round until nothing is to be done; what was sent each time."""
    listening = driven.service.sockets.listening(SERVER4)
    assert isinstance(listening, UdpSocket)
    wire = listening._socket
    wire.incoming += [each.incoming for each in arriving]  # type: ignore[attr-defined]  # a script
    found: list[list[Sent]] = []
    while wire.incoming or driven.service._answering is not None:  # type: ignore[attr-defined]  # a script
        before = len(driven.log)
        driven.service._read_listen(listening)
        driven.loop.call_soon(driven.loop.stop)
        driven.loop.run_forever()
        found.append(driven.log[before:])
        assert len(found) < FLOOD
    return found


def answered(sent: list[Sent]) -> list[bytes]:
    """The transaction ids of what strangers were told."""
    return [each.data[8:20] for each in sent if each.port == SERVER4.port and each.to != (str(CLIENT.ip), CLIENT.port)]


@pytest.fixture
def driven() -> Iterator[DrivenRelay]:
    """With a client that has an allocation and a channel."""
    with twins(MOST_ARRIVALS) as (_, relay):
        yield relay


def test_a_client_is_answered_and_relayed_whatever_lies_before_it(driven: DrivenRelay) -> None:
    client = Client(driven, str(CLIENT))
    port = client.allocate(RequestedAddressFamily(AddressFamily.IPV4))
    client.bind(0x4000, PEER4)
    data = [Datagram(CLIENT, channel_message(0x4000, number.to_bytes(2, "big"))) for number in range(100)]
    refresh = client.request(Method.REFRESH)
    rounds = turns(driven, [*map(forged, range(FLOOD)), *data, Datagram(CLIENT, refresh)])
    last = next(index for index, sent in enumerate(rounds) if any(each.data[8:20] == refresh[8:20] for each in sent))
    before = [identifier for sent in rounds[: last + 1] for identifier in answered(sent)]
    assert len(before) <= 2 * REQUESTS_PER_TURN * (last + 1) < FLOOD / 4
    relayed = b"".join(each.data for sent in rounds for each in sent if each.port == port)
    assert relayed == b"".join(number.to_bytes(2, "big") for number in range(100)), "no data is dropped"


def test_the_newest_of_a_flood_are_answered_and_the_others_counted(driven: DrivenRelay) -> None:
    rounds = turns(driven, [*map(forged, range(FLOOD))])
    told = [int.from_bytes(identifier, "big") for sent in rounds for identifier in answered(sent)]
    assert told == sorted(told), "in order"
    assert told[-MOST_WAITING // 2 :] == [*range(FLOOD - MOST_WAITING // 2, FLOOD)]
    assert len(told) < FLOOD / 2
    assert driven.drops() == {"overload": FLOOD - len(told)}
    assert all(decode(each.data).message_class is MessageClass.ERROR for sent in rounds for each in sent)


def test_what_the_process_left_waiting_while_it_was_stopped_is_not_answered(driven: DrivenRelay) -> None:
    listening = driven.service.sockets.listening(SERVER4)
    assert listening is not None
    arriving = [forged(number) for number in range(2 * REQUESTS_PER_TURN)]
    listening._socket.incoming += [each.incoming for each in arriving]  # type: ignore[attr-defined]  # a script
    for _ in range(2):
        driven.service._read_listen(listening)
    first = answered(driven.log)
    driven.now += SECOND
    driven.loop.call_soon(driven.loop.stop)
    driven.loop.run_forever()
    assert answered(driven.log) == first
    assert driven.drops() == {"overload": 2 * REQUESTS_PER_TURN - len(first)}


def test_few_requests_are_answered_at_once(driven: DrivenRelay) -> None:
    (sent,) = turns(driven, [*map(forged, range(REQUESTS_PER_TURN))])
    assert len(sent) == REQUESTS_PER_TURN
    assert driven.drops() == {}
