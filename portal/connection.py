"""One WebSocket's way out: a queue that is bounded in messages and bytes, and what becomes of who does not read."""

import asyncio
import logging
from dataclasses import dataclass, field
from typing import Final

from aiohttp import web

from portal.session import Session

SEND_QUEUE_LIMIT: Final = 1024
# Not read yet by one connection, in our queue and in the kernel's; the message that goes beyond is still taken, since
# the first one (``init``) grows with the file.
UNSENT_BYTES: Final = 4 << 20
UNJOINED_UNSENT_BYTES: Final = 16 << 10  # nothing but short replies goes there
TOTAL_UNSENT_BYTES: Final = 256 << 20  # of all queues; beyond it whoever has most of them is dropped

_logger = logging.getLogger("portal")


class Backlog:
    """Bytes that wait in all queues together, and whose they are."""

    def __init__(self) -> None:
        self.bytes = 0
        self._connections: dict[Connection, None] = {}

    def count(self, connection: "Connection", size: int) -> None:
        """So many bytes more, or fewer, wait for a connection, whose own count is right already."""
        self.bytes += size
        if connection.queued_bytes:
            self._connections[connection] = None
        else:
            self._connections.pop(connection, None)

    def relieve(self) -> None:
        """Where all have too much together, drop who has most: he reads slowly, and others are not to pay for that."""
        while self.bytes > TOTAL_UNSENT_BYTES:
            max(self._connections, key=lambda connection: connection.queued_bytes).drop()


@dataclass(slots=True, eq=False)
class Connection:
    """One WebSocket's way out: messages in order, bounded in number and bytes. None in the queue ends it."""

    session: Session
    websocket: web.WebSocketResponse
    request: web.Request
    transport: asyncio.Transport
    backlog: Backlog
    queue: "asyncio.Queue[str | None]" = field(default_factory=lambda: asyncio.Queue(SEND_QUEUE_LIMIT))
    queued_bytes: int = 0
    is_dropped: bool = False

    def put(self, text: str | None, *, is_droppable: bool = False) -> None:
        """Send a message when those before it are gone, or drop who does not read.

        What others say through us is dropped before that: nobody shall end a connection that listens by speaking to it.
        """
        if self.is_dropped:
            return
        if is_droppable and self._is_behind():
            _logger.warning(
                "Dropped messages of others for a connection that is behind", extra={"fields": self._fields()}
            )
            return
        if self.queue.full() or (text is not None and self._has_too_much()):
            self.drop()
            return
        self.queue.put_nowait(text)
        self._count(len(text or ""))  # frames are ASCII
        self.backlog.relieve()

    async def send_all(self) -> None:
        """Send what comes into the queue, until its end or the connection's."""
        try:
            while (text := await self._get()) is not None:
                await self.websocket.send_str(text)
        except (ConnectionError, RuntimeError) as error:
            _logger.debug("Sending failed", extra={"fields": {"error": str(error)}})
        self.transport.close()

    def drop(self) -> None:
        """End who does not read."""
        _logger.warning("Dropping a connection that does not read", extra={"fields": self._fields()})
        self.transport.abort()
        self.forget()

    def forget(self) -> None:
        """Nothing more will be sent."""
        self._count(-self.queued_bytes)
        self.is_dropped = True

    @property
    def unsent_bytes(self) -> int:
        """What the peer has left unread, as far as we can see."""
        return self.queued_bytes + self.transport.get_write_buffer_size()

    def _is_behind(self) -> bool:
        return self.queue.qsize() >= SEND_QUEUE_LIMIT // 2 or self.unsent_bytes >= UNSENT_BYTES // 2

    def _fields(self) -> dict[str, object]:
        return {"kind": self.session.token.type.value, "bytes": self.unsent_bytes}

    def _has_too_much(self) -> bool:
        return self.unsent_bytes > (UNSENT_BYTES if self.session.joined else UNJOINED_UNSENT_BYTES)

    async def _get(self) -> str | None:
        text = await self.queue.get()
        self._count(-len(text or ""))
        return text

    def _count(self, size: int) -> None:
        if not self.is_dropped:
            self.queued_bytes += size
            self.backlog.count(self, size)
