"""The relay's UDP sockets: one per address to listen on, one per relayed port and family.

All of them are read by one event loop in turn, so they share one receive buffer. Nothing that arrives, and nothing that
a destination answers, may end the process: errors of data are counted by the sockets.
"""

import asyncio
import errno
import logging
import select
import socket
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from ipaddress import IPv4Address, IPv6Address
from typing import Final

from connectivity.endpoint import Endpoint, IPAddress
from connectivity.errors import FatalError
from connectivity.io import descriptors
from connectivity.io.buffers import SO_RCVBUFFORCE, SO_SNDBUFFORCE
from connectivity.io.http_limits import OPERATOR, PROBES
from connectivity.io.receive_buffer import ReceiveBuffer
from connectivity.io.udp import UdpSocket
from connectivity.io.udp_counters import UdpCounters
from connectivity.io.udp_options import MAX_REMEMBERED, PassedOn
from connectivity.run import Transmit
from connectivity.stun import AddressFamily

HOP_LIMIT: Final = 64  # on both data paths (RFC 8656 §13, alternate behaviour)
_MOST_TOO_LONG: Final = 32  # of one port, that nobody was told about yet
# What a relayed port asks the kernel for. A limit, not a reservation: idle ports cost nothing.
RELAYED_RECEIVE_BYTES: Final = 16 << 20
RELAYED_SEND_BYTES: Final = 4 << 20
# What is read at once from a listen socket to which many small datagrams come; a system call takes no more.
MOST_ARRIVALS: Final = 1024
# Relayed ports that are read before others get their turn.
_MOST_READY: Final = 256
_ANY: Final[dict[int, IPAddress]] = {4: IPv4Address(0), 6: IPv6Address(0)}
# Descriptors: what the process itself needs, and what whoever asks for its health and the operator may hold.
KEPT_FREE: Final = descriptors.KEPT_FREE + PROBES.connections + OPERATOR.connections
# Another port may be free where this one is not; all else would happen to any port.
_OF_THE_PORT: Final = frozenset({errno.EADDRINUSE, errno.EACCES})

_log = logging.getLogger("relay")


class RelaySockets:
    """Opens, watches and closes; knows no protocol. ``on_listen`` and ``on_relayed`` read what has become readable."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        *,
        on_listen: Callable[[UdpSocket], None],
        on_relayed: Callable[[list[tuple[int, UdpSocket]]], None],
    ) -> None:
        self._loop = loop
        self._on_listen = on_listen
        self._on_relayed = on_relayed
        self._relayed_at = _ANY  # by IP version: where relayed ports are bound
        self._buffer = ReceiveBuffer(MOST_ARRIVALS)
        self.counters = UdpCounters()
        self._listening: dict[Endpoint, UdpSocket] = {}
        self._by_source: dict[Endpoint, UdpSocket | None] = {}
        self._relayed: dict[tuple[int, int], UdpSocket] = {}
        # The event loop watches one descriptor for all relayed ports: it spends as much on each as reading it costs.
        self._epoll = select.epoll()
        self._by_descriptor: dict[int, tuple[int, UdpSocket]] = {}
        self._flushing: set[int] = set()
        self._too_long: dict[int, deque[Endpoint]] = {}

    def relay_at(self, addresses: Mapping[int, IPAddress]) -> None:
        """Bind relayed ports to these addresses of the host from now on; by IP version, any where there is none."""
        self._relayed_at = {**_ANY, **addresses}

    def listen(self, addresses: Iterable[Endpoint]) -> None:
        """Bind the listen sockets. They are read only after ``start``.

        Raises:
            FatalError: an address is taken, or not one of this host's, or a family is missing.
        """
        for address in addresses:
            try:
                opened = UdpSocket.bind(
                    address.ip, address.port, buffer=self._buffer, counters=self.counters, dont_fragment=False
                )
            except OSError as error:
                raise FatalError(f"cannot listen on UDP {describe(address)}") from error
            _set_hop_limit(opened, address.ip.version)
            self._listening[address] = opened

    def start(self) -> None:
        """Begin to serve."""
        for opened in self._listening.values():
            self._loop.add_reader(opened.fileno(), self._on_listen, opened)
        self._loop.add_reader(self._epoll.fileno(), self._relayed_readable)

    def open_relayed(self, port: int, families: Iterable[AddressFamily]) -> bool | None:
        """Bind a relayed port in all families or in none.

        Returns:
            True if it is open, False if another port may do, None if no port would.
        """
        opened: list[tuple[int, UdpSocket]] = []
        try:
            descriptors.keep_some_free(self._epoll.fileno(), KEPT_FREE)
            for family in families:
                relayed = UdpSocket.bind(
                    self._relayed_at[family.version],
                    port,
                    send_buffer_bytes=None,
                    receive_buffer_bytes=None,
                    buffer=self._buffer,
                    counters=self.counters,
                    dont_fragment=False,
                )
                opened.append((family.version, relayed))
                _set_hop_limit(relayed, family.version)
                _size_buffers(relayed)
                relayed.collect_icmp()
                self._epoll.register(relayed.fileno(), select.EPOLLIN)
        except OSError as error:
            for _, relayed in opened:
                relayed.close()
            _log.debug("Cannot open relayed port", extra={"fields": {"port": port, "error": error}})
            return False if error.errno in _OF_THE_PORT else None
        for version, relayed in opened:
            self._relayed[port, version] = relayed
            self._by_descriptor[relayed.fileno()] = port, relayed
        return True

    def close_relayed(self, port: int, families: Iterable[AddressFamily]) -> None:
        """Close a relayed port in these families."""
        for family in families:
            relayed = self._relayed.pop((port, family.version))
            del self._by_descriptor[relayed.fileno()]
            self._epoll.unregister(relayed.fileno())
            self._close(relayed)

    def listening(self, server: Endpoint) -> UdpSocket | None:
        """The listen socket of this address."""
        return self._by_source.get(server) or self._find_listening(server)

    def relayed(self, port: int, version: int) -> UdpSocket | None:
        """The socket of a relayed port."""
        return self._relayed.get((port, version))

    def send_to_client(self, transmit: Transmit) -> None:
        """Send by the listen socket that the client talks to."""
        if transmit.source is not None:
            self._send(self.listening(transmit.source), transmit)

    def send_to_peer(self, port: int, transmit: Transmit, dont_fragment: bool) -> None:
        """Send from a relayed port. A datagram that has to wait for a full socket may be fragmented nevertheless."""
        by = self._relayed.get((port, transmit.destination.ip.version))
        if by is None or not dont_fragment:
            self._send(by, transmit)
            return
        by.set_dont_fragment(True)
        error = self._send(by, transmit)
        by.set_dont_fragment(False)
        if error is not None and error.errno == errno.EMSGSIZE:
            self._too_long.setdefault(by.fileno(), deque(maxlen=_MOST_TOO_LONG)).append(transmit.destination)

    def icmp_errors(self, by: UdpSocket, limit: int) -> Iterator[PassedOn]:
        """What came since the last call. Of IPv4 datagrams that this host finds too long the kernel tells no port."""
        too_long = self._too_long.pop(by.fileno(), None) or deque()
        for error in by.icmp_errors(limit):
            if error.destination.port:
                yield error
                continue
            while too_long:  # in the same order
                meant = too_long.popleft()
                if meant.ip == error.destination.ip:
                    yield error._replace(destination=meant)
                    break

    def close(self) -> None:
        """Close everything."""
        for opened in (*self._listening.values(), *self._relayed.values()):
            self._close(opened)
        self._listening.clear()
        self._by_source.clear()
        self._relayed.clear()
        self._by_descriptor.clear()
        self._loop.remove_reader(self._epoll.fileno())
        self._epoll.close()

    def _relayed_readable(self) -> None:
        found = (self._by_descriptor.get(descriptor) for descriptor, _ in self._epoll.poll(0, _MOST_READY))
        self._on_relayed([readable for readable in found if readable is not None])

    def _find_listening(self, source: Endpoint) -> UdpSocket | None:
        found = self._listening.get(source) or self._listening.get(Endpoint(_ANY[source.ip.version], source.port))
        if len(self._by_source) >= MAX_REMEMBERED:
            self._by_source.clear()
        self._by_source[source] = found
        return found

    def _send(self, by: UdpSocket | None, transmit: Transmit) -> OSError | None:
        if by is None:
            return None
        error = by.send(transmit)
        if by.backlogged and by.fileno() not in self._flushing:
            try:
                self._loop.add_writer(by.fileno(), self._flush, by)
            except OSError as refused:  # no memory, or no more watches: the next datagram asks again
                _log.debug("Cannot wait for a socket", extra={"fields": {"error": refused}})
                return error
            self._flushing.add(by.fileno())
        return error

    def _flush(self, by: UdpSocket) -> None:
        if by.flush():
            self._flushing.discard(by.fileno())
            self._loop.remove_writer(by.fileno())

    def _close(self, opened: UdpSocket) -> None:
        self._loop.remove_reader(opened.fileno())
        self._loop.remove_writer(opened.fileno())
        self._flushing.discard(opened.fileno())
        self._too_long.pop(opened.fileno(), None)
        opened.close()


def describe(address: Endpoint) -> str:
    """An address to listen on, for people."""
    if address.ip.is_unspecified:
        return f"port {address.port} over IPv{address.ip.version}"
    return str(address)


def _set_hop_limit(opened: UdpSocket, version: int) -> None:
    if version == 4:
        opened.set_option(socket.IPPROTO_IP, socket.IP_TTL, HOP_LIMIT)
    else:
        opened.set_option(socket.IPPROTO_IPV6, socket.IPV6_UNICAST_HOPS, HOP_LIMIT)


def _size_buffers(opened: UdpSocket) -> None:
    """Larger buffers than the default, past the sysctl's limit where we may; said nowhere, as there are many ports."""
    for force, plain, size in (
        (SO_RCVBUFFORCE, socket.SO_RCVBUF, RELAYED_RECEIVE_BYTES),
        (SO_SNDBUFFORCE, socket.SO_SNDBUF, RELAYED_SEND_BYTES),
    ):
        try:
            opened.set_option(socket.SOL_SOCKET, force, size)
        except PermissionError:
            opened.set_option(socket.SOL_SOCKET, plain, size)
