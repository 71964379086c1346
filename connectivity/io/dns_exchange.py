"""One DNS query to one server from a socket of its own, over UDP or TCP, and the answer to it.

A fresh socket has a fresh port, which a stranger would have to guess together with the id. The socket is connected, so
the kernel keeps everything away that does not come from the server; what has another id or another question is no
answer (RFC 5452 §9). Nothing is tried again, and no time passes by itself: the caller sets a limit.
"""

import asyncio
import socket
from typing import Final

import dns.exception
import dns.message

from connectivity.endpoint import Endpoint, IPAddress
from connectivity.io.udp_options import set_mark

ANY_MESSAGE: Final = 65_535
# Datagrams of the right source that are no answer: a server sends none, so this is somebody who guesses.
MOST_STRAYS: Final = 100
_LENGTH_BYTES: Final = 2  # ahead of each message of a stream


class NoAnswerError(OSError):
    """The server said something that is no answer to the query, or closed the connection instead of giving one."""


async def exchange(query: bytes, server: Endpoint, *, over_tcp: bool, mark: int | None) -> bytes:
    """Ask a server.

    Args:
        query: a whole message with a question; its id should be random.
        server: whom to ask.
        over_tcp: else by UDP; an answer that was cut off is an answer, too.
        mark: what policy routing goes by; None for none.

    Raises:
        NoAnswerError: there will be no answer.
        OSError: there is no way to the server, or it refuses.
        DNSException: the query is none.
    """
    asked = dns.message.from_wire(query, question_only=True)
    kind = socket.SOCK_STREAM if over_tcp else socket.SOCK_DGRAM
    loop = asyncio.get_running_loop()
    with socket.socket(socket.AF_INET if server.ip.version == 4 else socket.AF_INET6, kind) as own:
        own.setblocking(False)
        if mark is not None:
            set_mark(own, mark)
        await loop.sock_connect(own, _address(server))
        if over_tcp:
            await loop.sock_sendall(own, len(query).to_bytes(_LENGTH_BYTES, "big") + query)
            answer = await read_message(own)
            if not is_answer(asked, answer):
                raise NoAnswerError("the server answered another query")
            return answer
        await loop.sock_sendall(own, query)
        for _ in range(MOST_STRAYS):
            answer = await loop.sock_recv(own, ANY_MESSAGE)
            if is_answer(asked, answer):
                return answer
            await asyncio.sleep(0)  # others get their turn, however many there are
        raise NoAnswerError("too many datagrams that are no answer")


async def read_message(stream: socket.socket) -> bytes:
    """The next message of a stream (RFC 1035 §4.2.2).

    Raises:
        NoAnswerError: the stream ended before it or in it.
        OSError: the connection is broken.
    """
    length = int.from_bytes(await _read(stream, _LENGTH_BYTES), "big")
    return await _read(stream, length)


def is_answer(asked: dns.message.Message, answer: bytes) -> bool:
    """Whether these bytes answer a query: same id, same question."""
    try:
        return asked.is_response(dns.message.from_wire(answer, question_only=True))
    except (dns.exception.DNSException, ValueError):  # ValueError: numbers that no enumeration knows
        return False


def with_id(message: bytes, query_id: int) -> bytes:
    """A DNS message with another id."""
    return query_id.to_bytes(2, "big") + message[2:]


async def _read(stream: socket.socket, count: int) -> bytes:
    loop = asyncio.get_running_loop()
    parts: list[bytes] = []
    while count:
        part = await loop.sock_recv(stream, count)
        if not part:
            raise NoAnswerError("the connection was closed")
        parts.append(part)
        count -= len(part)
    return b"".join(parts)


def _address(server: Endpoint) -> tuple[str, int] | tuple[str, int, int, int]:
    """A socket address that needs no look-up, whatever the scope of a link-local server."""
    ip: IPAddress = server.ip
    if ip.version == 4:
        return str(ip), server.port
    scope = ip.scope_id
    if scope is None:
        return str(ip), server.port
    index = int(scope) if scope.isdecimal() else socket.if_nametoindex(scope)
    return str(ip).partition("%")[0], server.port, 0, index
