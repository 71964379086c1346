"""Whose requests wait, how many of them and how long."""

import socket
import struct
from typing import Any, cast

import pytest

from connectivity.endpoint import Endpoint
from connectivity.io.receive_buffer import Arrival
from connectivity.io.udp import UdpSocket
from connectivity.io.udp_options import UDP_GRO
from connectivity.stun import MessageClass, Method, encode
from relay.core import FiveTuple, Server
from relay.driver import request_queue
from relay.driver.request_queue import LONGEST_WAIT, MOST_WAITING, MOST_WAITING_BYTES, RequestQueue
from tests.unit.relay.playbook import SERVER4, channel_message

REQUEST = encode(Method.ALLOCATE, MessageClass.REQUEST, bytes(12), ())
INDICATION = encode(Method.SEND, MessageClass.INDICATION, bytes(12), ())
FIVE_TUPLE = FiveTuple(Endpoint.parse("203.0.113.5:1"), SERVER4)
LISTENING, OTHER = (cast(UdpSocket, object()) for _ in range(2))
NOW = 10**12


class Clients:
    """Stands for the server: who has an allocation, and what went unanswered."""

    def __init__(self) -> None:
        self.unanswered = 0
        self.holders = {FIVE_TUPLE}

    def has_allocation(self, five_tuple: FiveTuple) -> bool:
        return five_tuple in self.holders

    def count_unanswered(self, requests: int) -> None:
        self.unanswered += requests


@pytest.fixture
def clients() -> Clients:
    return Clients()


@pytest.fixture
def queue(clients: Clients) -> RequestQueue:
    return RequestQueue(cast(Server, cast(Any, clients)))


def envelope(port: int, segment: int = 0) -> bytes:
    name = struct.pack("=H", socket.AF_INET) + struct.pack("!H4s", port, bytes(4)) + bytes(24)
    return name + (struct.pack("@NiiI4x", 20, socket.IPPROTO_UDP, UDP_GRO, segment) if segment else b"")


def arrival(port: int, data: bytes = REQUEST, segment: int = 0) -> Arrival:
    return envelope(port, segment), memoryview(data)


def waiting(queue: RequestQueue, now: int = NOW) -> list[bytes]:
    found = []
    while (each := queue.take(now)) is not None:
        found.append(each.data)
    assert not queue
    return found


@pytest.mark.parametrize("data", [b"", REQUEST[:19], INDICATION, channel_message(0x4000, bytes(40)), b"\xff" * 40])
def test_only_requests_wait(queue: RequestQueue, data: bytes) -> None:
    assert not queue.defers(LISTENING, arrival(1, data), NOW)
    assert queue.defers(LISTENING, arrival(1), NOW)
    assert waiting(queue) == [REQUEST]


def test_they_are_answered_in_order_and_hold_no_memory_of_others(queue: RequestQueue, clients: Clients) -> None:
    borrowed = bytearray(REQUEST)
    for number in range(5):
        borrowed[-1] = number
        assert queue.defers(LISTENING, (envelope(1), memoryview(borrowed)), NOW)
    assert [each[-1] for each in waiting(queue)] == [0, 1, 2, 3, 4]
    assert clients.unanswered == 0


def test_a_client_s_do_not_wait_until_its_allocation_ends(queue: RequestQueue, clients: Clients) -> None:
    queue.learn(LISTENING, envelope(1), FIVE_TUPLE)
    queue.learn(LISTENING, envelope(2), FIVE_TUPLE._replace(client=Endpoint.parse("203.0.113.5:2")))
    assert not queue.defers(LISTENING, arrival(1), NOW)
    assert queue.defers(LISTENING, arrival(2), NOW)
    assert queue.defers(OTHER, arrival(1), NOW), "another five-tuple"
    clients.holders.clear()
    assert queue.defers(LISTENING, arrival(1), NOW)
    clients.holders.add(FIVE_TUPLE)
    assert queue.defers(LISTENING, arrival(1), NOW), "it is to be learnt anew"


def test_very_many_requests_of_a_client_wait_too(queue: RequestQueue) -> None:
    """Somebody who knows its address and port may have forged them."""
    queue.learn(LISTENING, envelope(1), FIVE_TUPLE)
    for _ in range(2):
        queue.begin_turn()
        deferred = [queue.defers(LISTENING, arrival(1), NOW) for _ in range(300)]
        assert deferred == [False] * 256 + [True] * 44


def test_requests_of_a_client_that_the_kernel_joined_do_not_wait_either(queue: RequestQueue) -> None:
    """Several ChannelBind requests, and data right behind them."""
    queue.learn(LISTENING, envelope(1), FIVE_TUPLE)
    assert not queue.defers(LISTENING, arrival(1, REQUEST * 3, len(REQUEST)), NOW)
    assert queue.defers(LISTENING, arrival(2, REQUEST * 3, len(REQUEST)), NOW)
    queue.begin_turn()
    deferred = [queue.defers(LISTENING, arrival(1, REQUEST * 64, len(REQUEST)), NOW) for _ in range(6)]
    assert deferred == [False] * 4 + [True] * 2


def test_of_too_many_the_oldest_go(queue: RequestQueue, clients: Clients) -> None:
    for number in range(MOST_WAITING + 500):
        queue.defers(LISTENING, arrival(1, REQUEST + number.to_bytes(4, "big")), NOW)
    assert len(queue) == MOST_WAITING
    assert clients.unanswered == 500
    assert [int.from_bytes(each[-4:], "big") for each in waiting(queue)] == [*range(500, MOST_WAITING + 500)]


def test_a_run_counts_as_the_requests_that_it_holds(queue: RequestQueue, clients: Clients) -> None:
    for _ in range(20):
        assert queue.defers(LISTENING, arrival(1, REQUEST * 64, len(REQUEST)), NOW)
    assert len(queue) == MOST_WAITING
    assert clients.unanswered == 4 * 64
    assert queue.defers(LISTENING, arrival(1, REQUEST * 2 + b"half", len(REQUEST)), NOW)
    assert len(queue) == MOST_WAITING - 64 + 3


def test_large_ones_are_bounded_by_their_bytes(queue: RequestQueue, clients: Clients) -> None:
    for _ in range(20):
        queue.defers(LISTENING, arrival(1, REQUEST + bytes(65_000)), NOW)
    kept = waiting(queue)
    assert sum(map(len, kept)) <= MOST_WAITING_BYTES
    assert len(kept) + clients.unanswered == 20
    assert len(kept) > 10


def test_what_has_waited_too_long_goes(queue: RequestQueue, clients: Clients) -> None:
    queue.defers(LISTENING, arrival(1, REQUEST + b"old."), NOW)
    queue.defers(LISTENING, arrival(1, REQUEST + b"new."), NOW + 1)
    assert [each[-4:] for each in waiting(queue, NOW + LONGEST_WAIT + 1)] == [b"new."]
    assert clients.unanswered == 1


def test_the_end_counts_what_still_waits(queue: RequestQueue, clients: Clients) -> None:
    for _ in range(3):
        queue.defers(LISTENING, arrival(1), NOW)
    queue.clear()
    assert (len(queue), clients.unanswered) == (0, 3)


def test_clients_are_remembered_up_to_a_bound(queue: RequestQueue, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(request_queue, "_MOST_KNOWN", 2)
    for port in (1, 2, 2, 3):
        queue.learn(LISTENING, envelope(port), FIVE_TUPLE)
    assert [queue.defers(LISTENING, arrival(port), NOW) for port in (1, 2, 3)] == [True, False, False]
