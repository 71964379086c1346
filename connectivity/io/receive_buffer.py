"""Where datagrams land: recvmmsg(2) brings many at once, and what stands around them is read once per sender.

A datagram comes with a socket address and control messages. Those bytes, taken together, are its *envelope*: equal
envelopes mean the same ``Origin``, so each is parsed once and remembered. Whoever decides by origin may remember by
envelope as well.

Layouts are Linux's of 64-bit machines: ``struct mmsghdr``, ``iovec``, ``cmsghdr``, ``sockaddr_in`` and
``sockaddr_in6``, in the host's byte order.
"""

import ctypes
import errno
import mmap
import os
import socket
import struct
from collections.abc import Iterator
from ipaddress import IPv4Address, IPv6Address
from typing import Final, NamedTuple, TypeAlias

from connectivity.endpoint import Endpoint, IPAddress
from connectivity.io.udp_options import IP_PKTINFO, MAX_REMEMBERED, UDP_GRO

# Datagrams, or runs of them, that one system call brings; whoever wants more says so.
SLOTS: Final = 32

# Not a power of two apart, or the same few sets of the processor's caches would hold the start of every datagram.
_SLOT_BYTES: Final = 65_536 + 1_344
_NAME_BYTES: Final = 32  # sockaddr_in6 has 28; what follows is aligned to 8
# Enough for pktinfo (IPv6: 20 bytes), the traffic class and the GRO segment size, each with a 16-byte header.
_CONTROL_BYTES: Final = 96
_ENVELOPE_BYTES: Final = _NAME_BYTES + _CONTROL_BYTES

_HEADER: Final = struct.Struct("@PIPNPNi0PI0P")  # mmsghdr
_RESULT: Final = struct.Struct("@40xNi0PI0P")  # of it: msg_controllen, msg_flags, msg_len
_IOVEC: Final = struct.Struct("@PN")
_CONTROL: Final = struct.Struct("@Nii")  # cmsghdr
_IPV4: Final = struct.Struct("!2xH4s")  # sockaddr_in and sockaddr_in6, which begin with the family in host order
_IPV6: Final = struct.Struct("!2xH4x16s")
_FAMILY: Final = struct.Struct("=H")
_INT: Final = struct.Struct("=i")
_CONTROL_ALIGNMENT: Final = 8
_PORT_BYTES: Final = 2
_IPV6_BYTES: Final = 16
_MSG_TRUNC: Final = int(socket.MSG_TRUNC)
_MSG_DONTWAIT: Final = int(socket.MSG_DONTWAIT)

# What came, valid until the buffer is filled again: envelope, bytes. No envelope: it cannot be used.
Arrival: TypeAlias = tuple[bytes, memoryview]

# Without argtypes: integers and a pointer are passed as what they are, and checking them costs as much as the call.
_recvmmsg = ctypes.CDLL(None, use_errno=True).recvmmsg


class Origin(NamedTuple):
    """Who sent a datagram to which of our addresses; ``segment`` is 0 unless it is a run of such segments."""

    local: Endpoint
    remote: Endpoint
    segment: int
    tos: int


class ReceiveBuffer:
    """Sockets that are read in turn may share one. Of the 67 KB of a slot those pages exist that were ever used."""

    __slots__ = ("_filled", "_fresh", "_headers", "_origins", "_pointer", "_slots", "_vectors", "slots")

    def __init__(self, slots: int = SLOTS) -> None:
        self.slots = slots
        data = mmap.mmap(-1, slots * _SLOT_BYTES, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        data.madvise(mmap.MADV_NOHUGEPAGE)  # or one byte would bring two megabytes
        envelopes = bytearray(slots * _ENVELOPE_BYTES)
        vectors, headers = bytearray(slots * _IOVEC.size), bytearray(slots * _HEADER.size)
        data_at, envelopes_at, vectors_at = _address_of(data), _address_of(envelopes), _address_of(vectors)
        for slot in range(slots):
            _IOVEC.pack_into(vectors, slot * _IOVEC.size, data_at + slot * _SLOT_BYTES, _SLOT_BYTES)
            name_at = envelopes_at + slot * _ENVELOPE_BYTES
            vector_at = vectors_at + slot * _IOVEC.size
            header = (name_at, _NAME_BYTES, vector_at, 1, name_at + _NAME_BYTES, _CONTROL_BYTES, 0, 0)
            _HEADER.pack_into(headers, slot * _HEADER.size, *header)
        view, envelope_view = memoryview(data), memoryview(envelopes)
        self._slots = [
            (
                envelope_view[slot * _ENVELOPE_BYTES : (slot + 1) * _ENVELOPE_BYTES],
                view[slot * _SLOT_BYTES : (slot + 1) * _SLOT_BYTES],
            )
            for slot in range(slots)
        ]
        self._pointer = ctypes.c_void_p(_address_of(headers))
        self._vectors = vectors  # only the kernel looks at them
        self._headers = memoryview(headers)
        self._fresh = memoryview(bytes(headers))  # the kernel overwrites lengths and flags
        self._filled = 0  # bytes of headers that it has written
        self._origins: dict[tuple[bytes, bytes], Origin | None] = {}

    def receive(self, descriptor: int, limit: int = SLOTS) -> list[Arrival]:
        """What lies in a socket, at most ``limit`` batches; empty when there is nothing.

        Raises:
            OSError: the socket's own, usually an asynchronous error of an earlier send.
        """
        count = self.fill(descriptor, limit)
        if not count:
            return []
        if count == 1:  # what most sockets hold: not worth an iterator
            return [_arrival(_RESULT.unpack_from(self._headers), self._slots[0])]
        results = _RESULT.iter_unpack(self._headers[: count * _HEADER.size])
        return [  # as _arrival, which would have to be called
            (envelope[: 0 if flags & _MSG_TRUNC else _NAME_BYTES + length].tobytes(), data[:size])
            for (length, flags, size), (envelope, data) in zip(results, self._slots, strict=False)
        ]

    def fill(self, descriptor: int, limit: int) -> int:
        """Let the kernel write into the slots, at most ``limit`` of them; returns into how many.

        Raises:
            OSError: as ``receive``.
        """
        self._headers[: self._filled] = self._fresh[: self._filled]
        count: int = _recvmmsg(descriptor, self._pointer, min(limit, self.slots), _MSG_DONTWAIT, None)
        if count >= 0:
            self._filled = count * _HEADER.size
            return count
        self._filled = _HEADER.size
        number = ctypes.get_errno()
        if number == errno.EAGAIN:
            return 0
        raise OSError(number, os.strerror(number))

    def origin(self, envelope: bytes, local: bytes) -> Origin | None:
        """What the envelope of a datagram to this socket says; None if nothing names our address.

        Args:
            envelope: As it came with the datagram.
            local: The socket's port in network order, then its address, which is missing if the envelope has it.
        """
        key = envelope, local
        try:
            return self._origins[key]
        except KeyError:
            if len(self._origins) >= MAX_REMEMBERED:
                self._origins.clear()
            origin = self._origins[key] = _read(envelope, local)
            return origin


def segment_of(envelope: bytes) -> int:
    """The size of the segments of what comes in this envelope, 0 if it is one datagram; remembers nothing."""
    for level, kind, data in _control_messages(envelope, _NAME_BYTES):
        if level == socket.IPPROTO_UDP and kind == UDP_GRO:
            return int(_INT.unpack_from(data)[0])
    return 0


def sender_of(envelope: bytes) -> bytes:
    """What of it names the sender, whatever else came with the datagram; remembers nothing."""
    return envelope[:_NAME_BYTES]


def _arrival(result: tuple[int, int, int], slot: tuple[memoryview, memoryview]) -> Arrival:
    length, flags, size = result
    envelope, data = slot
    return envelope[: 0 if flags & _MSG_TRUNC else _NAME_BYTES + length].tobytes(), data[:size]


def _address_of(memory: bytearray | mmap.mmap) -> int:
    return ctypes.addressof(ctypes.c_char.from_buffer(memory))


def _read(envelope: bytes, bound: bytes) -> Origin | None:
    if not envelope:
        return None
    port, local = int.from_bytes(bound[:_PORT_BYTES], "big"), _address(bound[_PORT_BYTES:])
    segment = tos = 0
    for level, kind, data in _control_messages(envelope, _NAME_BYTES):
        if level == socket.IPPROTO_UDP and kind == UDP_GRO:
            (segment,) = _INT.unpack_from(data)
        elif level == socket.IPPROTO_IP and kind == IP_PKTINFO:
            local = IPv4Address(data[8:12])
        elif level == socket.IPPROTO_IP and kind == socket.IP_TOS:
            tos = data[0]
        elif level == socket.IPPROTO_IPV6 and kind == socket.IPV6_PKTINFO:
            local = _address(data[:16])
        elif level == socket.IPPROTO_IPV6 and kind == socket.IPV6_TCLASS:
            (tos,) = _INT.unpack_from(data)
    return None if local is None else Origin(Endpoint(local, port), _remote(envelope), segment, tos)


def _remote(envelope: bytes) -> Endpoint:
    (family,) = _FAMILY.unpack_from(envelope)
    if family == socket.AF_INET:
        port, packed = _IPV4.unpack_from(envelope)
        return Endpoint(IPv4Address(packed), port)
    port, packed = _IPV6.unpack_from(envelope)
    address = _address(packed)
    assert address is not None, "sixteen bytes are one"
    return Endpoint(address, port)


def _control_messages(envelope: bytes, offset: int) -> Iterator[tuple[int, int, bytes]]:
    """Level, type and data of each."""
    while offset + _CONTROL.size <= len(envelope):
        length, level, kind = _CONTROL.unpack_from(envelope, offset)
        yield level, kind, envelope[offset + _CONTROL.size : offset + length]
        offset += length + -length % _CONTROL_ALIGNMENT


def _address(packed: bytes) -> IPAddress | None:
    """An IPv4 address that is written as an IPv6 one is an IPv4 address; nothing is none."""
    if len(packed) != _IPV6_BYTES:
        return IPv4Address(packed) if packed else None
    address = IPv6Address(packed)
    return address.ipv4_mapped or address
