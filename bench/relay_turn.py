"""TURN clients by the hundred: allocate, bind one channel each, keep quiet. For any server, by name and password."""

import os
import select
import socket
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final, TypeVar

from connectivity.endpoint import Endpoint
from connectivity.stun import (
    Attribute,
    ChannelNumber,
    ErrorCodeAttribute,
    Message,
    MessageClass,
    Method,
    Nonce,
    Realm,
    RequestedTransport,
    Username,
    XorPeerAddress,
    XorRelayedAddress,
    decode,
    encode,
    long_term_key,
)
from lab.errors import LabError
from lab.network import entered

A = TypeVar("A", bound=Attribute)

USERNAME: Final = "bench"
PASSWORD: Final = "of-the-bench"
REALM: Final = "bench.example.org"
CHANNEL: Final = 0x4000
_KEY: Final = long_term_key(USERNAME, REALM, PASSWORD)
_UDP: Final = 17
_WINDOW: Final = 64  # requests that wait for an answer
_RETRANSMIT_SECONDS: Final = 1.0
_GIVE_UP_SECONDS: Final = 30.0


@dataclass(slots=True, eq=False)
class TurnClient:
    """One five-tuple with its allocation."""

    socket: socket.socket
    nonce: str = ""
    relayed_port: int = 0

    @property
    def port(self) -> int:
        return int(self.socket.getsockname()[1])

    def request(self, method: Method, *attributes: Attribute) -> bytes:
        """A request, signed once there is a nonce."""
        identifier = os.urandom(12)
        if not self.nonce:
            return encode(method, MessageClass.REQUEST, identifier, attributes)
        block = (*attributes, Username(USERNAME), Realm(REALM), Nonce(self.nonce))
        return encode(method, MessageClass.REQUEST, identifier, block, integrity_key=_KEY)


def connect(namespace: str, address: str, server: Endpoint, count: int) -> list[TurnClient]:
    """So many clients with a socket each, that have asked for nothing yet."""
    with entered(namespace):
        return [TurnClient(_connected(address, server)) for _ in range(count)]


def allocate(clients: Sequence[TurnClient]) -> float:
    """An allocation each; how long it took, with the refusals that hand out nonces, without encoding and decoding.

    Raises:
        LabError: the server refused or did not answer.
    """
    asked = RequestedTransport(_UDP)
    answers, first = exchange([(client, client.request(Method.ALLOCATE, asked)) for client in clients])
    for client, answer in zip(clients, answers, strict=True):
        client.nonce = _required(decode(answer), Nonce).value
    answers, second = exchange([(client, client.request(Method.ALLOCATE, asked)) for client in clients])
    for client, answer in zip(clients, answers, strict=True):
        client.relayed_port = _required(_succeeded(answer), XorRelayedAddress).endpoint.port
    return first + second


def bind(clients: Sequence[TurnClient], peers: Sequence[Endpoint]) -> None:
    """One channel each, always of the same number.

    Raises:
        LabError: the server refused or did not answer.
    """
    requests = [
        (client, client.request(Method.CHANNEL_BIND, ChannelNumber(CHANNEL), XorPeerAddress(peer)))
        for client, peer in zip(clients, peers, strict=True)
    ]
    for answer in exchange(requests)[0]:
        _succeeded(answer)


def exchange(requests: Sequence[tuple[TurnClient, bytes]]) -> tuple[list[bytes], float]:
    """Send all, several at a time, each again while its answer is missing: the answers in order, and the seconds."""
    answers = [b""] * len(requests)
    waiting: dict[int, tuple[int, float]] = {}
    left = iter(range(len(requests)))
    started = time.monotonic()
    with select.epoll() as poller:
        _send_more(requests, left, waiting, poller)
        while waiting:
            for descriptor, _ in poller.poll(_RETRANSMIT_SECONDS):
                index, _ = waiting[descriptor]
                client, request = requests[index]
                answer = client.socket.recv(2048)
                if answer[4:20] != request[4:20]:
                    continue  # to what was sent twice before
                answers[index] = answer
                del waiting[descriptor]
                poller.unregister(descriptor)
                _send_more(requests, left, waiting, poller)
            _retransmit(requests, waiting, started)
    return answers, time.monotonic() - started


def _send_more(
    requests: Sequence[tuple[TurnClient, bytes]],
    left: Iterator[int],
    waiting: dict[int, tuple[int, float]],
    poller: select.epoll,
) -> None:
    while len(waiting) < _WINDOW and (index := next(left, None)) is not None:
        client, request = requests[index]
        waiting[client.socket.fileno()] = (index, time.monotonic())
        poller.register(client.socket, select.EPOLLIN)
        client.socket.send(request)


def _retransmit(
    requests: Sequence[tuple[TurnClient, bytes]], waiting: dict[int, tuple[int, float]], started: float
) -> None:
    now = time.monotonic()
    if now - started > _GIVE_UP_SECONDS + len(requests) / 100:
        raise LabError(f"{len(waiting)} of {len(requests)} requests have no answer")
    for descriptor, (index, sent_at) in waiting.items():
        if now - sent_at > _RETRANSMIT_SECONDS:
            client, request = requests[index]
            waiting[descriptor] = (index, now)
            client.socket.send(request)


def _connected(address: str, server: Endpoint) -> socket.socket:
    opened = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    opened.bind((address, 0))
    opened.connect((str(server.ip), server.port))
    return opened


def _succeeded(answer: bytes) -> Message:
    message = decode(answer)
    if message.message_class is not MessageClass.SUCCESS:
        error = message.get(ErrorCodeAttribute)
        raise LabError(f"the server refused {Method(message.method).name}: {error}")
    return message


def _required(message: Message, kind: type[A]) -> A:
    found = message.get(kind)
    if found is None:
        raise LabError(f"the server's answer has no {kind.__name__}")
    return found
