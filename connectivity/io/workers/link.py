"""A socket between the core and a worker, or towards one: a message a datagram, in order.

What may be lost, packets, is dropped where there is no room; what may not be waits, up to a bound beyond which the
other end is taken for dead: nothing of ours takes so long.
"""

import socket
from collections import deque
from collections.abc import Iterator
from typing import Final

from connectivity.data_path import messages
from connectivity.data_path.messages import MAX_MESSAGE_BYTES, Message, decode, encode
from connectivity.io.buffers import SO_SNDBUFFORCE

BUFFER_BYTES: Final = 4 << 20
_MAX_WAITING: Final = 16_384  # messages
_LOSSY: Final = (messages.Question, messages.Datagrams, messages.HostPackets)


class LinkError(Exception):
    """The other end is gone, or reads no more."""


class Link:
    """One end of it: messages are sent and received, or wait."""

    def __init__(self, connected: socket.socket) -> None:
        self._socket = connected
        connected.setblocking(False)
        self._waiting: deque[bytes] = deque()
        self._buffer = memoryview(bytearray(MAX_MESSAGE_BYTES))

    @property
    def backlogged(self) -> bool:
        """Whether messages wait for room."""
        return bool(self._waiting)

    def fileno(self) -> int:
        """The descriptor, -1 once closed."""
        return self._socket.fileno()

    def close(self) -> None:
        """Close; what waits is lost."""
        self._waiting.clear()
        self._socket.close()

    def send(self, message: Message) -> bool:
        """Send one; False if it was one that may be lost and there is no room for it.

        Raises:
            LinkError: the other end is gone, or has not read for long.
        """
        is_lossy = isinstance(message, _LOSSY)
        if self._waiting:
            if not is_lossy:
                self._wait(encode(message))
            return not is_lossy
        data = encode(message)
        try:
            self._socket.send(data)
        except BlockingIOError:
            if is_lossy:
                return False
            self._wait(data)
        except OSError as error:
            raise LinkError("the other end is gone") from error
        return True

    def flush(self) -> None:
        """Send what waits, as far as there is room.

        Raises:
            LinkError: the other end is gone.
        """
        while self._waiting:
            try:
                self._socket.send(self._waiting[0])
            except BlockingIOError:
                return
            except OSError as error:
                raise LinkError("the other end is gone") from error
            self._waiting.popleft()

    def receive(self, limit: int) -> Iterator[Message]:
        """What has come, at most so many; each is valid until the next.

        Raises:
            LinkError: the other end is gone.
        """
        for _ in range(limit):
            try:
                size = self._socket.recv_into(self._buffer)
            except BlockingIOError:
                return
            except OSError as error:
                raise LinkError("the other end is gone") from error
            if not size:
                raise LinkError("the other end is gone")
            yield decode(self._buffer[:size])

    def _wait(self, data: bytes) -> None:
        if len(self._waiting) >= _MAX_WAITING:
            raise LinkError("the other end does not read")
        self._waiting.append(data)


def pair(kind: socket.SocketKind) -> tuple[socket.socket, socket.socket]:
    """Two connected sockets with room for some runs each way."""
    both = socket.socketpair(socket.AF_UNIX, kind)
    for one in both:
        try:
            one.setsockopt(socket.SOL_SOCKET, SO_SNDBUFFORCE, BUFFER_BYTES)
        except OSError:  # EPERM without CAP_NET_ADMIN
            one.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, BUFFER_BYTES)
    return both
