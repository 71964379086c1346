"""DNS over TCP for programs of this host: one kernel listener at each of the device's own addresses.

Programs connect to a sentinel's port 53; the flow table leads the packets to the listener and back, and what they see
of each other is: the listener a peer whose address is the sentinel, the program its sentinel. Nobody else has such an
address, and whoever connects from another one is shut out.
"""

import asyncio
import logging
import socket
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import Any, Final

from connectivity.endpoint import Endpoint, IPAddress
from connectivity.errors import chain
from connectivity.io.accepting import Acceptor, open_listener
from connectivity.io.extension import Tasks

CONNECTIONS_PER_SENTINEL: Final = 10
CONNECTIONS: Final = 256  # of all sentinels, a descriptor each
QUERIES_PER_CONNECTION: Final = 32  # at a time; further ones stay in the kernel
IDLE_SECONDS: Final = 10.0
# A query may wait for a flow and then for a server; whoever is not answered by then has given up.
ANSWER_SECONDS: Final = 30.0
_MAX_MESSAGE_BYTES: Final = 65535
_UNREAD_BYTES: Final = 4 * _MAX_MESSAGE_BYTES  # of answers, before a program that does not read them is given up

_log = logging.getLogger("client.dns")


@dataclass(slots=True, eq=False)
class _Connection:
    sentinel: IPAddress
    used_at: float
    writer: asyncio.StreamWriter | None = None  # until there is a transport
    places: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(QUERIES_PER_CONNECTION))
    open: set[int] = field(default_factory=set)  # ids of queries that are not answered
    answered: asyncio.Event = field(default_factory=asyncio.Event)

    def abort(self) -> None:
        """End it, answered or not."""
        if self.writer is not None:
            self.writer.transport.abort()

    def send(self, message: bytes) -> None:
        """Send an answer; who does not read them is given up."""
        if self.writer is None or self.writer.transport.is_closing():
            return
        self.writer.write(len(message).to_bytes(2) + message)
        if self.writer.transport.get_write_buffer_size() > _UNREAD_BYTES:
            self.abort()


class TcpListener:
    """Listeners and connections.

    Args:
        device: name of the TUN device; what comes by another one is nobody of ours.
        query: takes a query's id, the sentinel that it came to, and the message.
        serve: gets the listeners' ports by IP version.
        fail: ends the service for a defect.
    """

    def __init__(
        self,
        *,
        device: str,
        query: Callable[[int, IPAddress, bytes], None],
        serve: Callable[[dict[int, int]], None],
        fail: Callable[[Exception], None],
    ) -> None:
        self._device = device
        self._query = query
        self._serve = serve
        self._tasks = Tasks(fail)
        self._acceptor: Acceptor | None = None
        self._addresses: tuple[IPAddress, ...] = ()
        self._sentinels: frozenset[IPAddress] = frozenset()
        self._connections: set[_Connection] = set()
        self._queries: dict[int, _Connection] = {}
        self._last_id = 0
        self.counts = {"accepted": 0, "refused": 0, "timed_out": 0, "paused": 0}

    def configure(self, addresses: tuple[IPAddress, ...], sentinels: Iterable[IPAddress]) -> None:
        """Listen at these addresses, for those who ask one of these sentinels."""
        self._sentinels = frozenset(sentinels)
        for connection in self._connections:
            if connection.sentinel not in self._sentinels:
                connection.abort()
        if addresses != self._addresses:
            self._addresses = addresses
            self._listen()

    def reply(self, query_id: int, message: bytes | None) -> None:
        """Answer a query, or not."""
        connection = self._queries.pop(query_id, None)
        if connection is None:
            return  # whoever asked has gone
        connection.open.discard(query_id)
        connection.places.release()
        connection.answered.set()
        connection.used_at = asyncio.get_running_loop().time()
        if message is not None:
            connection.send(message)

    async def close(self) -> None:
        """Close everything."""
        if self._acceptor is not None:
            self._acceptor.close()
            self._acceptor = None
        await self._tasks.cancel()

    def _listen(self) -> None:
        if self._acceptor is not None:
            self._acceptor.close()
        self._acceptor = Acceptor(asyncio.get_running_loop(), _log, on_pause=self._paused)
        ports: dict[int, int] = {}
        for address in self._addresses:
            try:
                listener = open_listener(Endpoint(address, 0))
            except OSError as error:
                fields = {"version": address.version, "error": chain(error)}
                _log.info("No DNS over TCP by this family", extra={"fields": fields})
                continue
            _bind_to(listener, self._device)
            ports[address.version] = listener.getsockname()[1]
            self._acceptor.start(listener, self._accepted)
        self._serve(ports)

    def _paused(self) -> None:
        self.counts["paused"] += 1

    def _accepted(self, accepted: socket.socket, peer: Any) -> None:
        sentinel = ip_address(peer[0])
        if sentinel not in self._sentinels or not self._has_room(sentinel):
            self.counts["refused"] += 1
            accepted.close()
            return
        self.counts["accepted"] += 1
        connection = _Connection(sentinel, asyncio.get_running_loop().time())
        self._connections.add(connection)
        self._tasks.start(self._serve_one(accepted, connection))

    def _has_room(self, sentinel: IPAddress) -> bool:
        """Whoever has been idle for longest makes room, if somebody is."""
        alike = [one for one in self._connections if one.sentinel == sentinel]
        if len(alike) < CONNECTIONS_PER_SENTINEL and len(self._connections) < CONNECTIONS:
            return True
        idle = [one for one in alike if not one.open and one.writer is not None]
        if not idle:
            return False
        oldest = min(idle, key=lambda one: one.used_at)
        self._connections.discard(oldest)
        oldest.abort()
        return True

    async def _serve_one(self, accepted: socket.socket, connection: _Connection) -> None:
        reader, connection.writer = await asyncio.open_connection(sock=accepted, limit=_MAX_MESSAGE_BYTES + 2)
        try:
            await self._read(reader, connection)
        except TimeoutError:
            self.counts["timed_out"] += 1
        except OSError as error:
            _log.debug("A connection for DNS broke", extra={"fields": {"error": chain(error)}})
        finally:
            self._connections.discard(connection)
            for query_id in connection.open:
                self._queries.pop(query_id, None)
            connection.abort() if connection.open else connection.writer.close()

    async def _read(self, reader: asyncio.StreamReader, connection: _Connection) -> None:
        """Hand on one query after the other.

        Raises:
            TimeoutError: nothing came, or no answer.
        """
        while True:
            try:
                message = await self._next(reader, connection)
            except asyncio.IncompleteReadError:
                break
            async with asyncio.timeout(ANSWER_SECONDS):
                await connection.places.acquire()
            self._last_id += 1
            connection.used_at = asyncio.get_running_loop().time()
            connection.open.add(self._last_id)
            self._queries[self._last_id] = connection
            self._query(self._last_id, connection.sentinel, message)
        await self._until_answered(connection)  # who has said all that he has to say is still to be answered

    async def _next(self, reader: asyncio.StreamReader, connection: _Connection) -> bytes:
        head = b""
        while not head:
            try:
                async with asyncio.timeout(IDLE_SECONDS):
                    head = await reader.readexactly(2)
            except TimeoutError:
                if not connection.open:
                    raise
                await self._until_answered(connection)
        async with asyncio.timeout(IDLE_SECONDS):
            return await reader.readexactly(int.from_bytes(head))

    async def _until_answered(self, connection: _Connection) -> None:
        async with asyncio.timeout(ANSWER_SECONDS):
            while connection.open:
                connection.answered.clear()
                await connection.answered.wait()


def _bind_to(listener: socket.socket, device: str) -> None:
    """Connections by this device only; who may not ask for that still shuts strangers out by their address."""
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, device.encode() + b"\0")
    except PermissionError as error:
        _log.debug("The listener is not bound to the device", extra={"fields": {"error": chain(error)}})
