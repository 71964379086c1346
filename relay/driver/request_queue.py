"""Requests over UDP in the order in which they are answered: those of clients first, then the last of all others.

Reading a datagram costs a fraction of answering it. So all that lies in a socket is read, data is relayed, clients that
have an allocation are answered, and the requests of everybody else wait here to be answered, a few at a time. When more
come than can be answered, the oldest are dropped: whoever sent them has sent them again by then, or has given up. The
socket's own queue, which holds seconds of a flood because data needs it that long, is empty meanwhile.

Never here: data, indications, and anything of a client's (unless very many requests claim to be his).
"""

from collections import deque
from typing import Final, NamedTuple

from connectivity.clock import MILLISECOND, Duration, Instant
from connectivity.io.receive_buffer import Arrival, segment_of, sender_of
from connectivity.io.udp import UdpSocket
from connectivity.stun import HEADER_BYTES
from relay.core import FiveTuple, Server
from relay.core.server import is_request

# A client sends again after 500 ms at first (RFC 8489 §6.2.1): this request has a younger copy.
LONGEST_WAIT: Final[Duration] = 500 * MILLISECOND
# What takes some 0.1 s to answer.
MOST_WAITING: Final = 1024
MOST_WAITING_BYTES: Final = 1 << 20
# Of clients, in one turn of the event loop; who knows a client's address and port can forge more.
_MOST_OF_CLIENTS: Final = 256
# Addresses of clients that are remembered; past this the oldest go, and their next request waits with the others.
_MOST_KNOWN: Final = 16_384


class Waiting(NamedTuple):
    """What was read from a socket, how many requests that is, and when."""

    readable: UdpSocket
    envelope: bytes
    data: bytes
    requests: int
    since: Instant


class RequestQueue:
    """Requests that wait, bounded in number, bytes and age; all that is dropped is counted by the server."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._waiting: deque[Waiting] = deque()
        self._requests = 0
        self._bytes = 0
        self._known: dict[tuple[UdpSocket, bytes], FiveTuple] = {}
        self._of_clients = 0

    def __len__(self) -> int:
        return self._requests

    def begin_turn(self) -> None:
        """The event loop has come round."""
        self._of_clients = 0

    def defers(self, readable: UdpSocket, arrival: Arrival, now: Instant) -> bool:
        """Keep what shall wait; False: it is to be handled now."""
        envelope, data = arrival
        if len(data) < HEADER_BYTES or not is_request(data):
            return False
        segment, size = segment_of(envelope), len(data)
        requests = -(-size // segment) if segment else 1
        sender = sender_of(envelope)
        five_tuple = self._known.get((readable, sender))
        if five_tuple is not None:
            if not self._server.has_allocation(five_tuple):
                del self._known[readable, sender]
            elif self._of_clients < _MOST_OF_CLIENTS:
                self._of_clients += requests
                return False
        self._waiting.append(Waiting(readable, envelope, bytes(data), requests, now))
        self._requests += requests
        self._bytes += size
        while self._requests > MOST_WAITING or self._bytes > MOST_WAITING_BYTES:
            self._drop()
        return True

    def take(self, now: Instant) -> Waiting | None:
        """The one that has waited longest and may still be answered."""
        while self._waiting and now - self._waiting[0].since > LONGEST_WAIT:
            self._drop()
        return self._next() if self._waiting else None

    def learn(self, readable: UdpSocket, envelope: bytes, five_tuple: FiveTuple) -> None:
        """What comes from this sender is a client's, if the five-tuple has an allocation now.

        Be it one request or several that the kernel joined: data on channels comes right behind their bindings.
        """
        if self._server.has_allocation(five_tuple):
            sender = sender_of(envelope)
            if len(self._known) >= _MOST_KNOWN and (readable, sender) not in self._known:
                del self._known[next(iter(self._known))]
            self._known[readable, sender] = five_tuple

    def clear(self) -> None:
        """Drop everything."""
        while self._waiting:
            self._drop()
        self._known.clear()

    def _next(self) -> Waiting:
        waiting = self._waiting.popleft()
        self._requests -= waiting.requests
        self._bytes -= len(waiting.data)
        return waiting

    def _drop(self) -> None:
        self._server.count_unanswered(self._next().requests)
