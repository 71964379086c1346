"""One UDP socket that moves runs: UDP_GRO in, UDP_SEGMENT out, with local addresses and TOS as ancillary data.

Offloads are probed when the socket is bound. If the kernel refuses a segmented send the same bytes go out once more as
single datagrams. If that works and it was the device that could not (EIO), segmentation stays off until the socket is
bound anew (connectivity facts §6.3). Where only these segments were too long (EMSGSIZE, EINVAL) it stays on: whoever
sends such must not slow down others. A full socket queues copies up to a bound; ``flush`` sends them when the socket is
writable. Errors of sending are collected, never raised: one bad destination must not stop the rest of a batch.

Fragmentation is forbidden unless asked for: the path MTU is probed, not remembered.
"""

import errno
import logging
import socket
from collections import deque
from collections.abc import Iterator
from ipaddress import ip_address
from typing import Final

from connectivity.endpoint import Endpoint, IPAddress
from connectivity.io.buffers import RECEIVE_BUFFER_BYTES, SEND_BUFFER_BYTES, size_buffers
from connectivity.io.prepared_sender import PreparedSender
from connectivity.io.privileges import low_port, privileged
from connectivity.io.receive_buffer import SLOTS, Arrival, ReceiveBuffer
from connectivity.io.udp_counters import UdpCounters
from connectivity.io.udp_options import (
    OF_SEGMENTS,
    UDP_GRO,
    UDP_SEGMENT,
    ControlMessages,
    LastUsed,
    PassedOn,
    probe,
    read_error_queue,
    request_errors,
    request_metadata,
    set_dont_fragment,
    set_mark,
)
from connectivity.run import MAX_SEGMENTS, Received, Run, Transmit, owned

_MAX_BATCH_BYTES: Final = {4: 65535 - 68, 6: 65535 - 48}
_MAX_ERRORS: Final = 64
# What no ICMP error fails a send with.
_OF_THIS_SEND: Final = frozenset({errno.EIO, errno.EINVAL, errno.EMSGSIZE, errno.ENOBUFS, errno.ENOMEM, errno.EPERM})

_log = logging.getLogger(__name__)


class UdpSocket:
    """A bound, non-blocking UDP socket; register ``fileno()`` with the event loop."""

    __slots__ = (
        "_address",
        "_backlog",
        "_backlog_bytes",
        "_buffer",
        "_dont_fragment",
        "_errors",
        "_last",
        "_local",
        "_max_backlog_bytes",
        "_port",
        "_segments",
        "_socket",
        "_version",
        "_wants_errors",
        "counters",
        "gro",
        "gso",
    )

    def __init__(
        self,
        bound: socket.socket,
        *,
        gso: bool,
        gro: bool,
        address: IPAddress | None = None,
        buffer: ReceiveBuffer | None = None,
        counters: UdpCounters | None = None,
        max_backlog_bytes: int = 4 << 20,
        dont_fragment: bool = True,
    ) -> None:
        """Take over a non-blocking socket bound to this address; most callers want ``bind``."""
        self._socket = bound
        name = bound.getsockname()
        self._version = 4 if len(name) == 2 else 6  # an IPv6 address has a flow label and a scope, too
        self._port: int = name[1]
        # An unspecified address is all of them: then each datagram names its own.
        self._address = None if address is None or address.is_unspecified else address
        self._local = self._port.to_bytes(2, "big") + (b"" if self._address is None else self._address.packed)
        self._buffer = buffer or ReceiveBuffer()
        self.counters = counters or UdpCounters()
        self._errors: list[OSError] = []
        self._backlog: deque[Transmit] = deque()
        self._backlog_bytes = 0
        self._max_backlog_bytes = max_backlog_bytes
        self._dont_fragment = dont_fragment
        self._last = LastUsed()
        self._wants_errors = False
        request_metadata(bound, self._version, has_address=self._address is not None)
        set_dont_fragment(bound, self._version, dont_fragment)
        self.gso = gso and probe(bound, UDP_SEGMENT, 0)
        self.gro = gro and probe(bound, UDP_GRO, 1)
        self._segments = MAX_SEGMENTS if self.gso else 1

    @classmethod
    def bind(
        cls,
        address: str | IPAddress,
        port: int,
        *,
        any_port: bool = False,
        mark: int | None = None,
        send_buffer_bytes: int | None = SEND_BUFFER_BYTES,
        receive_buffer_bytes: int | None = RECEIVE_BUFFER_BYTES,
        gso: bool = True,
        gro: bool = True,
        buffer: ReceiveBuffer | None = None,
        counters: UdpCounters | None = None,
        dont_fragment: bool = True,
        shares_port: bool = False,
    ) -> "UdpSocket":
        """Bind and set everything up.

        Args:
            address: IPv4, or IPv6 (then for IPv6 only); may be unspecified.
            any_port: fall back to a port of the kernel's choice if ``port`` is in use.
            mark: SO_MARK, so that policy routing keeps these datagrams out of the tunnel.
            send_buffer_bytes: what to ask for; None keeps the kernel's default and logs nothing (allocation sockets).
            receive_buffer_bytes: likewise.
            gso: use UDP_SEGMENT if the kernel has it.
            gro: use UDP_GRO if the kernel has it.
            buffer: shared among sockets that are read in turn.
            counters: shared likewise.
            dont_fragment: as ``set_dont_fragment``, from the start.
            shares_port: with sockets of ours that share it as well (SO_REUSEPORT).

        Raises:
            OSError: the family does not exist, the port is taken, or the mark is not permitted.
        """
        ip = ip_address(address) if isinstance(address, str) else address
        family = socket.AF_INET if ip.version == 4 else socket.AF_INET6
        bound = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        try:
            if family == socket.AF_INET6:
                bound.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            if shares_port:
                bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            if mark is not None:
                with privileged("marking the UDP socket (SO_MARK)", "CAP_NET_ADMIN"):
                    set_mark(bound, mark)
            try:
                with low_port(port):
                    bound.bind((str(address), port))
            except OSError as error:
                if error.errno != errno.EADDRINUSE or not any_port:
                    raise
                bound.bind((str(address), 0))
            if send_buffer_bytes is not None or receive_buffer_bytes is not None:
                size_buffers(bound, send_buffer_bytes, receive_buffer_bytes)
            return cls(
                bound, gso=gso, gro=gro, address=ip, buffer=buffer, counters=counters, dont_fragment=dont_fragment
            )
        except BaseException:
            bound.close()
            raise

    def __repr__(self) -> str:
        return f"<UdpSocket IPv{self._version} port {self._port}>"

    @property
    def local(self) -> Endpoint:
        """The bound address, which may be unspecified, and the port."""
        return Endpoint(ip_address(self._socket.getsockname()[0]), self._port)

    @property
    def backlogged(self) -> bool:
        """Whether sends wait for the socket to become writable."""
        return bool(self._backlog)

    @property
    def waiting(self) -> int:
        """How many runs wait for that."""
        return len(self._backlog)

    def fileno(self) -> int:
        """The descriptor, -1 once closed."""
        return self._socket.fileno()

    def close(self) -> None:
        """Close; what waited is dropped and counted."""
        self.counters.backlog_dropped += sum(waiting.run.segment_count for waiting in self._backlog)
        self._backlog.clear()
        self._backlog_bytes = 0
        self._socket.close()

    def take_errors(self) -> list[OSError]:
        """What went wrong in ``receive`` and ``flush`` since the last call; beyond a bound errors are only counted."""
        taken, self._errors = self._errors, []
        return taken

    def collect_icmp(self) -> None:
        """Let the kernel keep what ICMP says about datagrams sent from here, for ``icmp_errors``."""
        request_errors(self._socket, self._version)
        self._wants_errors = True

    def icmp_errors(self, limit: int = 32) -> Iterator[PassedOn]:
        """What came since the last call. Until all of it was read the socket counts as readable."""
        return read_error_queue(self._socket, self._version, limit)

    def set_dont_fragment(self, wanted: bool) -> None:
        """Whether datagrams sent from now on may not be fragmented on their way."""
        if wanted != self._dont_fragment:
            set_dont_fragment(self._socket, self._version, wanted)
            self._dont_fragment = wanted

    def set_option(self, level: int, option: int, value: int | bytes) -> None:
        """Any other option of the socket (setsockopt(2)).

        Raises:
            OSError: the kernel does not have it, or does not permit it.
        """
        self._socket.setsockopt(level, option, value)

    def receive(self, limit: int = SLOTS) -> Iterator[Received]:
        """Read what is there, at most ``limit`` batches; each is valid until this ends or the buffer is used again.

        Empty datagrams are left out: of those who use this nobody is told anything by one.
        """
        while limit > 0 and (arrivals := self.arrivals(limit)):
            wanted, limit = min(limit, self._buffer.slots), limit - len(arrivals)
            for envelope, data in arrivals:
                if not data:
                    self.counters.received_unusable += 1
                elif (received := self.open(envelope, data)) is not None:
                    yield received
            if len(arrivals) < wanted:
                return  # all that there was

    def arrivals(self, limit: int = SLOTS) -> list[Arrival]:
        """At most ``limit`` batches in their envelopes, to be opened or passed on as they are; empty: nothing is there.

        Never more than the buffer has slots for; valid until it is used again.
        """
        while limit:
            try:
                arrivals = self._buffer.receive(self._socket.fileno(), limit)
            except OSError as error:  # an asynchronous error of an earlier send; the socket goes on
                self.counters.receive_errors += 1
                self._collect(error)
                limit -= 1
                continue
            self.counters.batches_received += len(arrivals)
            return arrivals
        return []

    def segment(self, envelope: bytes) -> int:
        """The size of the segments of what comes in this envelope; 0 if it is one datagram."""
        origin = self._buffer.origin(envelope, self._local)
        return 0 if origin is None else origin.segment

    def open(self, envelope: bytes, data: memoryview) -> Received | None:
        """What arrived, with its addresses; None if it cannot be used."""
        origin, size = self._buffer.origin(envelope, self._local), len(data)
        if origin is None:
            self.counters.received_unusable += 1
            return None
        local, remote, segment, tos = origin
        if segment > size:
            self.counters.received_unusable += 1
            return None
        self.counters.datagrams_received += -(-size // segment) if segment else 1
        return Received(local, remote, Run(data, segment or size), tos)

    def send(self, transmit: Transmit) -> OSError | None:
        """Send a run; a copy of what a full socket does not take now waits for ``flush``, dropped beyond a bound.

        Returns:
            What the kernel refused, the first of it if several parts of the run were refused.
        """
        source, destination, (data, segment), tos = transmit
        done, error = (0, None) if self._backlog else self._send(source, destination, data, segment, tos)
        if done < _work(data, segment):
            self._wait(source, destination, data[done:], segment, tos)
        return error

    def prepared_sender(self, source: Endpoint | None, destination: Endpoint, tos: int) -> PreparedSender:
        """What sends with these addresses and this TOS."""
        said = source if self._must_say(source) else None
        return PreparedSender(self._socket, self._backlog, self._most_bytes, said, destination, tos)

    def flush(self) -> bool:
        """Send what waited. Returns whether all of it has gone."""
        while self._backlog:
            source, destination, (data, segment), tos = self._backlog[0]
            done, error = self._send(source, destination, data, segment, tos)
            self._backlog_bytes -= done
            if error is not None:
                self._collect(error)
            if done < _work(data, segment):
                self._backlog[0] = Transmit(source, destination, Run(data[done:], segment), tos)
                return False
            self._backlog.popleft()
        return True

    def _send(
        self, source: Endpoint | None, destination: Endpoint, data: memoryview, segment: int, tos: int
    ) -> tuple[int, OSError | None]:
        """Send in as few calls as possible; returns how much of the work is done with (sent or refused for good)."""
        size, done, most = _work(data, segment), 0, self._most_bytes(segment)
        failure: OSError | None = None
        refusal: OSError | None = None  # of segments: the same bytes go once more as single datagrams
        may_retry = self._wants_errors
        address = self._last.address(destination)
        while done < size:
            part = data[done : done + most] if done or most < size else data
            length = len(part) or size
            cut = segment if length > segment else 0
            try:
                self._socket.sendmsg((part,), self._control(source, tos, cut), 0, address)
            except BlockingIOError:
                return done, failure
            except OSError as error:
                if may_retry and error.errno not in _OF_THIS_SEND:  # ICMP about an earlier one: this was not sent
                    may_retry = False
                    continue
                if cut and error.errno in OF_SEGMENTS:
                    most, refusal = segment, error
                    continue
                if refusal is not None and refusal.errno != errno.EMSGSIZE:  # no matter of segments: nothing can go
                    length = size - done
                self.counters.send_errors += 1
                failure = failure or _refused(error, done, length, size, segment, destination)
            else:
                if refusal is not None:
                    self._note(refusal)
                    refusal = None
                self.counters.batches_sent += 1
                self.counters.datagrams_sent += -(-length // segment) if segment else 1
            done += length
        return done, failure

    def _note(self, refusal: OSError) -> None:
        """Segments were refused that go one by one: by a device (EIO) for good, else because these are too long."""
        self.counters.gso_failures += 1
        if refusal.errno == errno.EIO:
            self._segments, self.gso = 1, False
            _log.info("UDP segmentation was refused: sending single datagrams", extra={"fields": {"port": self._port}})

    def _most_bytes(self, segment: int) -> int:
        """Of what goes in one call."""
        return segment * max(1, min(self._segments, _MAX_BATCH_BYTES[self._version] // segment)) if segment else 1

    def _control(self, source: Endpoint | None, tos: int, segment: int) -> ControlMessages:
        return self._last.control(self._version, source if self._must_say(source) else None, tos, segment)

    def _must_say(self, source: Endpoint | None) -> bool:
        """The only address that a socket has need not be said."""
        return source is not None and source.ip != self._address

    def _collect(self, error: OSError) -> None:
        if len(self._errors) < _MAX_ERRORS:
            self._errors.append(error)

    def _wait(self, source: Endpoint | None, destination: Endpoint, data: memoryview, segment: int, tos: int) -> None:
        run = Run(data, segment)
        if self._backlog_bytes + len(data) > self._max_backlog_bytes:
            self.counters.backlog_dropped += run.segment_count
            return
        self._backlog.append(owned(Transmit(source, destination, run, tos)))
        self._backlog_bytes += _work(data, segment)


def _work(data: memoryview, segment: int) -> int:
    """What there is to be done for a run: its bytes, and one for an empty datagram."""
    return len(data) if segment else 1


def _refused(error: OSError, done: int, length: int, size: int, segment: int, destination: Endpoint) -> OSError:
    """An error of a send (its class follows errno) with what was to be sent."""
    part = f"bytes {done} to {done + length} of {size}" if length < size else f"{size} bytes"
    refused = OSError(error.errno, f"cannot send {part} in segments of {segment} to {destination}")
    refused.__cause__ = error
    return refused
