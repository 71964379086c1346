"""Clients over TCP and TLS: accepts, reads in large pieces, writes what the core yields in one go, gives nothing away.

Bounds: a client that does not read loses datagrams instead of growing our memory; a connection without an allocation is
closed after half a minute, and earlier where there are too many of them, the oldest of the address that has most; so is
one that has not finished its handshake; accepting pauses when the process is out of file descriptors.

A proxy that is trusted says in front of each connection for whom it is (``relay.core.proxy_protocol``), before TLS:
that client's address is the connection's then, for limits too.
"""

import asyncio
import functools
import logging
import os
import socket
import ssl
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Any, Final

from connectivity.clock import SECOND, Instant
from connectivity.endpoint import Endpoint, IPAddress
from connectivity.errors import FatalError, chain
from connectivity.io.accepting import BACKLOG, Acceptor
from connectivity.io.privileges import low_port
from connectivity.networks import is_within
from connectivity.ranges import Network
from relay.core import FiveTuple, Transport
from relay.core.proxy_protocol import ProxyHeaderError
from relay.driver.crowds import Crowd, CrowdLog, read_proxy_header
from relay.driver.sockets import KEPT_FREE, describe

# Implementation constants.
IDLE: Final = 30 * SECOND  # without an allocation
MOST_STREAMS: Final = 16_384
MOST_WITHOUT_ALLOCATION: Final = 1024
MOST_UNSENT_BYTES: Final = 1 << 20  # of one client: at 10 Mbit/s almost a second
_HANDSHAKE_SECONDS: Final = 10.0
_READ_BYTES: Final = 256 << 10

_log = logging.getLogger("relay")


@dataclass(slots=True)
class StreamCounters:
    """What became of connections and of what was to be written to them."""

    accepted: int = 0
    refused: int = 0  # too many, of all or of one address, or the process is out of descriptors
    failed_handshakes: int = 0
    bad_proxy_headers: int = 0  # of trusted proxies, which have to send one
    timed_out: int = 0  # without an allocation for too long
    dropped: int = 0  # writes to clients that do not read


class Stream(asyncio.BufferedProtocol):
    """One connection. All of them are read in turn, so they share one buffer."""

    def __init__(self, owner: "Streams", transport: Transport, client: Endpoint | None = None) -> None:
        """``client`` is for whom a proxy has opened it."""
        self._owner = owner
        self._kind = transport
        self._client = client
        self.five_tuple: FiveTuple | None = None
        self.transport: asyncio.Transport | None = None
        self.unsent = bytearray()
        self.without_allocation_since: Instant = time.monotonic_ns()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        remote, local = transport.get_extra_info("peername"), transport.get_extra_info("sockname")
        self.transport = transport
        if not remote or not local:  # it has gone already
            transport.abort()
            return
        five_tuple = FiveTuple(self._client or _endpoint(remote), _endpoint(local), self._kind)
        if not self._owner.opened(self, five_tuple):  # a proxy names a client whom another connection has
            transport.abort()
            return
        self.five_tuple = five_tuple

    def get_buffer(self, sizehint: int) -> memoryview:  # noqa: ARG002 - asyncio's signature
        return self._owner.buffer

    def buffer_updated(self, nbytes: int) -> None:
        if self.five_tuple is not None:
            self._owner.on_data(self.five_tuple, self._owner.buffer[:nbytes])

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's signature
        self.transport = None
        if self.five_tuple is not None:
            self._owner.closed(self, self.five_tuple)

    def write(self) -> bool:
        """Hand what was collected to the kernel; False if it was dropped, as the client does not read."""
        data, self.unsent = self.unsent, bytearray()
        if self.transport is None or self.transport.is_closing():
            return True
        if self.transport.get_write_buffer_size() + len(data) > MOST_UNSENT_BYTES:
            return False
        if self._kind is Transport.TLS:
            # All in one send: when it fails, asyncio warns of each that follows.
            self.transport.writelines(list(_messages(memoryview(data))))
        else:
            self.transport.write(data)
        return True


class Streams:
    """All listeners and connections; knows no protocol.

    ``on_data`` gets bytes that are valid until it returns; ``has_allocation`` says whether a connection is in use,
    ``admits`` whether an address may open one more. ``trusted_proxies`` may be replaced.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        *,
        on_data: Callable[[FiveTuple, memoryview], None],
        on_closed: Callable[[FiveTuple], None],
        has_allocation: Callable[[FiveTuple], bool],
        admits: Callable[[IPAddress], bool],
    ) -> None:
        self.on_data = on_data
        self.trusted_proxies: tuple[Network, ...] = ()
        self.buffer = memoryview(bytearray(_READ_BYTES))
        self.counters = StreamCounters()
        self._loop = loop
        self._on_closed = on_closed
        self._has_allocation = has_allocation
        self._admits = admits
        self._listening: list[tuple[socket.socket, Transport]] = []
        self._context: ssl.SSLContext | None = None
        self._streams: dict[FiveTuple, Stream] = {}
        self._waiting: Crowd[FiveTuple] = Crowd()  # not known to have an allocation
        self._starting: Crowd[asyncio.Future[Any]] = Crowd()
        self._crowds = CrowdLog()
        self._written: set[Stream] = set()
        self._acceptor = Acceptor(loop, _log, kept_free=KEPT_FREE, on_pause=self._count_refused)

    def __len__(self) -> int:
        return len(self._streams)

    def listen(self, addresses: Iterable[Endpoint], transport: Transport) -> None:
        """Bind listeners. They accept only after ``start``.

        Raises:
            FatalError: an address cannot be used.
        """
        for address in addresses:
            family = socket.AF_INET if address.ip.version == 4 else socket.AF_INET6
            try:
                listener = _listener(address, family)
            except OSError as error:
                raise FatalError(f"cannot listen on {transport.name} {describe(address)}") from error
            listener.setblocking(False)
            self._listening.append((listener, transport))

    def use_certificate(self, context: ssl.SSLContext) -> None:
        """Greet clients over TLS with this certificate from now on."""
        self._context = context

    def start(self) -> None:
        """Begin to accept."""
        for listener, transport in self._listening:
            self._acceptor.start(listener, functools.partial(self._accepted, transport))

    def send(self, five_tuple: FiveTuple, data: memoryview) -> None:
        """Collect for a client; ``flush`` writes."""
        stream = self._streams.get(five_tuple)
        if stream is not None:
            stream.unsent += data
            self._written.add(stream)

    def flush(self) -> None:
        """Write what was collected, each client's in one call."""
        while self._written:
            if not self._written.pop().write():
                self.counters.dropped += 1

    def close_stream(self, five_tuple: FiveTuple) -> None:
        """Close a connection; what was written to it before still goes out."""
        stream = self._streams.get(five_tuple)
        if stream is not None:
            self.flush()
            _end(stream)

    def maintain(self, now: Instant) -> None:
        """Close connections that are not in use; every few seconds."""
        for five_tuple, stream in list(self._streams.items()):
            if self._has_allocation(five_tuple):
                stream.without_allocation_since = now
                self._waiting.discard(five_tuple)
            elif now - stream.without_allocation_since > IDLE:
                self.counters.timed_out += 1
                _abort(stream)
            else:
                self._waiting.add(five_tuple, five_tuple.client.ip)

    def close(self) -> None:
        """Close everything at once."""
        self._acceptor.close()
        for listener, _ in self._listening:
            listener.close()
        for starting in list(self._starting):
            starting.cancel()
        for stream in list(self._streams.values()):
            _abort(stream)

    def opened(self, stream: Stream, five_tuple: FiveTuple) -> bool:
        """A connection can be used; False if there is one of that name."""
        if five_tuple in self._streams:
            self.counters.refused += 1
            return False
        self._streams[five_tuple] = stream
        self._waiting.add(five_tuple, five_tuple.client.ip)
        if len(self._waiting) > MOST_WITHOUT_ALLOCATION:
            self._make_room()
        return True

    def closed(self, stream: Stream, five_tuple: FiveTuple) -> None:
        """A connection has gone."""
        if self._streams.get(five_tuple) is stream:
            del self._streams[five_tuple]
            self._waiting.discard(five_tuple)
            self._written.discard(stream)
            self._on_closed(five_tuple)

    def _make_room(self) -> None:
        """Drop the oldest connection that is not in use, of the address that has most of them."""
        while self._waiting:
            five_tuple = self._waiting.pop_of_largest()
            if not self._has_allocation(five_tuple):
                self.counters.refused += 1
                _abort(self._streams[five_tuple])
                return

    def _accepted(self, transport: Transport, accepted: socket.socket, address: tuple[Any, ...]) -> None:
        source = _endpoint(address).ip
        is_proxy = is_within(source, self.trusted_proxies)
        if len(self._streams) >= MOST_STREAMS or not (is_proxy or self._lets_in(source)):
            self.counters.refused += 1
            accepted.close()
            return
        if len(self._starting) >= MOST_WITHOUT_ALLOCATION:
            self._forget_oldest_start()
        self.counters.accepted += 1
        starting = asyncio.ensure_future(self._begin(accepted, source, transport, is_proxy=is_proxy))
        self._starting.add(starting, source)
        starting.add_done_callback(functools.partial(self._started, accepted))

    def _count_refused(self) -> None:
        self.counters.refused += 1

    def _forget_oldest_start(self) -> None:
        """Whoever begins handshakes and leaves them there keeps nobody else out."""
        self.counters.refused += 1
        self._starting.pop_of_largest().cancel()

    def _started(self, accepted: socket.socket, starting: asyncio.Future[Any]) -> None:
        """A connection can be used, or not, or was cut off on the way."""
        self._starting.discard(starting)
        if starting.cancelled():
            accepted.close()

    def _lets_in(self, source: IPAddress) -> bool:
        """Whether this address may open one more connection; says so if not."""
        if self._admits(source):
            return True
        self._crowds.refused(source, time.monotonic_ns())
        return False

    async def _begin(self, accepted: socket.socket, source: IPAddress, transport: Transport, *, is_proxy: bool) -> None:
        """Make a connection usable: a proxy's takes a header, TLS a handshake."""
        client: Endpoint | None = None
        if is_proxy:
            try:
                async with asyncio.timeout(_HANDSHAKE_SECONDS):
                    client = await read_proxy_header(self._loop, accepted)
            except (OSError, ProxyHeaderError) as error:  # a time-out is an OSError
                self.counters.bad_proxy_headers += 1
                if isinstance(error, ProxyHeaderError):
                    self._crowds.unproxied(source, time.monotonic_ns())
                accepted.close()
                return
            if client is not None and not self._lets_in(client.ip):
                self.counters.refused += 1
                accepted.close()
                return
            task = asyncio.current_task()
            if client is not None and task is not None and task in self._starting:
                self._starting.add(task, client.ip)
        context = self._context if transport is Transport.TLS else None
        timeout = None if context is None else _HANDSHAKE_SECONDS
        try:
            accepted.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            await self._loop.connect_accepted_socket(
                lambda: Stream(self, transport, client), accepted, ssl=context, ssl_handshake_timeout=timeout
            )
        except OSError as error:  # timeouts and ssl.SSLError are such, too
            self.counters.failed_handshakes += 1
            _log.debug("A connection did not begin", extra={"fields": {"error": chain(error)}})
            accepted.close()


def _messages(data: memoryview) -> Iterator[memoryview]:
    """Each message, to be a TLS record of its own: coturn's client reads no more than one message from a record."""
    while data:
        length = data[2] << 8 | data[3]
        size = 4 + length + -length % 4 if data[0] & 0xC0 else 20 + length
        yield data[:size]
        data = data[size:]


def _end(stream: Stream) -> None:
    if stream.transport is not None:
        stream.transport.close()


def _abort(stream: Stream) -> None:
    if stream.transport is not None:
        stream.transport.abort()


def _listener(address: Endpoint, family: socket.AddressFamily) -> socket.socket:
    with low_port(address.port):
        try:
            return socket.create_server((str(address.ip), address.port), family=family, backlog=BACKLOG)
        except OSError as error:  # without the address, which is said once
            raise OSError(error.errno, os.strerror(error.errno or 0)) from None


def _endpoint(address: tuple[Any, ...]) -> Endpoint:
    return Endpoint(ip_address(address[0]), address[1])
