"""What sockets ask of the kernel beside datagrams: marks, metadata, offloads, fragmentation, queued ICMP errors."""

import errno
import socket
import struct
from collections.abc import Iterator
from functools import lru_cache
from ipaddress import ip_address
from typing import Final, NamedTuple, TypeAlias

from connectivity.endpoint import Endpoint

SOCKET_MARK: Final = 0xFD002021  # policy routing keeps what carries it out of the tunnel

# Addresses and what goes with them are remembered, so that none is put together or read twice.
MAX_REMEMBERED: Final = 4096

# linux/in.h
IP_PKTINFO: Final = 8
IP_MTU_DISCOVER: Final = 10
IP_RECVTOS: Final = 13
IP_PMTUDISC_PROBE: Final = 3
# linux/in6.h, linux/ipv6.h
IPV6_MTU_DISCOVER: Final = 23
IPV6_DONTFRAG: Final = 62
IPV6_PMTUDISC_PROBE: Final = 3
# linux/udp.h
UDP_SEGMENT: Final = 103
UDP_GRO: Final = 104
IP_RECVERR: Final = 11
IP_PMTUDISC_OMIT: Final = 5
IPV6_RECVERR: Final = 25
IPV6_PMTUDISC_DONT: Final = 0

# linux/errqueue.h: struct sock_extended_err
_EXTENDED_ERROR: Final = struct.Struct("=IBBBxII")
_FROM_HOST, _FROM_ICMP, _FROM_ICMP6 = 1, 2, 3
# What a router would have said (RFC 792, RFC 4443) where this host found out that a datagram is too big.
_TOO_BIG: Final = {4: (3, 4), 6: (2, 0)}
_ANCILLARY_BYTES: Final = 512

# Level, type and data of each.
ControlMessages: TypeAlias = tuple[tuple[int, int, bytes], ...]


def set_mark(opened: socket.socket, mark: int) -> None:
    """Mark what a socket of any kind sends, for policy routing (SO_MARK). The mark need not fit a C int.

    Raises:
        PermissionError: it takes CAP_NET_ADMIN.
    """
    opened.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, struct.pack("=I", mark))


class PassedOn(NamedTuple):
    """An ICMP error about a datagram to ``destination``; ``info`` is the MTU where the error is about size."""

    destination: Endpoint
    type: int
    code: int
    info: int


def probe(bound: socket.socket, option: int, value: int) -> bool:
    """Set an option of UDP that the kernel may not have."""
    try:
        bound.setsockopt(socket.IPPROTO_UDP, option, value)
    except OSError:
        return False  # a kernel without it: everything works with single datagrams
    return True


def request_metadata(bound: socket.socket, version: int, *, has_address: bool) -> None:
    """TOS with each datagram, and its destination address unless the socket has only one."""
    if version == 4:
        bound.setsockopt(socket.IPPROTO_IP, IP_RECVTOS, 1)
        if not has_address:
            bound.setsockopt(socket.IPPROTO_IP, IP_PKTINFO, 1)
    else:
        bound.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVTCLASS, 1)
        if not has_address:
            bound.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO, 1)


@lru_cache(MAX_REMEMBERED)
def sockaddr(destination: Endpoint) -> tuple[str, int]:
    """The address as a socket takes it."""
    return str(destination.ip), destination.port


# What a run may be refused with that its datagrams need not be: no offload (EIO); segments beyond the MTU (EMSGSIZE,
# EINVAL in older kernels), which are not fragmented.
OF_SEGMENTS: Final = frozenset({errno.EIO, errno.EINVAL, errno.EMSGSIZE})


@lru_cache(MAX_REMEMBERED)
def control_messages(version: int, source: Endpoint | None, tos: int, segment: int) -> ControlMessages:
    """What goes with a datagram from ``source``, or with a run of them, one every ``segment`` bytes (0: single)."""
    messages: list[tuple[int, int, bytes]] = []
    if source is not None and not source.ip.is_unspecified:
        if version == 4:
            messages.append((socket.IPPROTO_IP, IP_PKTINFO, struct.pack("=i4s4x", 0, source.ip.packed)))
        else:
            messages.append((socket.IPPROTO_IPV6, socket.IPV6_PKTINFO, struct.pack("=16si", source.ip.packed, 0)))
    if tos and version == 4:
        messages.append((socket.IPPROTO_IP, socket.IP_TOS, struct.pack("=i", tos)))
    elif tos:
        messages.append((socket.IPPROTO_IPV6, socket.IPV6_TCLASS, struct.pack("=i", tos)))
    if segment:
        messages.append((socket.IPPROTO_UDP, UDP_SEGMENT, struct.pack("=H", segment)))
    return tuple(messages)


class LastUsed:
    """Address and control messages of what went last, found without a hash where the same objects come again."""

    __slots__ = ("_address", "_control", "_destination", "_source")

    def __init__(self) -> None:
        self._destination: Endpoint | None = None
        self._address = ("", 0)
        self._source: Endpoint | None = None
        self._control: dict[tuple[int, int], ControlMessages] = {}

    def address(self, destination: Endpoint) -> tuple[str, int]:
        """An endpoint as ``sockaddr``."""
        if destination is not self._destination:
            self._destination, self._address = destination, sockaddr(destination)
        return self._address

    def control(self, version: int, source: Endpoint | None, tos: int, segment: int) -> ControlMessages:
        """What ``control_messages`` makes for a send; of one socket, so that the version is always the same."""
        if source is not self._source or len(self._control) >= MAX_REMEMBERED:
            self._source, self._control = source, {}
        control = self._control.get((tos, segment))
        if control is None:
            control = self._control[tos, segment] = control_messages(version, source, tos, segment)
        return control


def set_dont_fragment(bound: socket.socket, version: int, wanted: bool) -> None:
    """Whether datagrams may be fragmented, by this host and (IPv4) on their way.

    IPv4: IP_PMTUDISC_DONT would say the same of each datagram, but then the kernel keeps what routers say of those that
    went before with the bit set. IPv6: with IPV6_PMTUDISC_OMIT nothing would heed the path's MTU.
    """
    if version == 4:
        bound.setsockopt(socket.IPPROTO_IP, IP_MTU_DISCOVER, IP_PMTUDISC_PROBE if wanted else IP_PMTUDISC_OMIT)
    else:
        bound.setsockopt(socket.IPPROTO_IPV6, IPV6_MTU_DISCOVER, IPV6_PMTUDISC_PROBE if wanted else IPV6_PMTUDISC_DONT)
        bound.setsockopt(socket.IPPROTO_IPV6, IPV6_DONTFRAG, int(wanted))


def request_errors(bound: socket.socket, version: int) -> None:
    """Queue ICMP errors (ip(7), IP_RECVERR). One of them also fails the next call on the socket, once."""
    if version == 4:
        bound.setsockopt(socket.IPPROTO_IP, IP_RECVERR, 1)
    else:
        bound.setsockopt(socket.IPPROTO_IPV6, IPV6_RECVERR, 1)


def read_error_queue(bound: socket.socket, version: int, limit: int) -> Iterator[PassedOn]:
    """Take at most ``limit`` errors off the queue; those that did not come by ICMP are left out."""
    for _ in range(limit):
        try:
            _, ancillary, _, address = bound.recvmsg(0, _ANCILLARY_BYTES, socket.MSG_ERRQUEUE)
        except OSError:
            return  # empty: EAGAIN
        for level, kind, data in ancillary:
            if (level, kind) not in {(socket.IPPROTO_IP, IP_RECVERR), (socket.IPPROTO_IPV6, IPV6_RECVERR)}:
                continue
            number, origin, icmp_type, code, info, _ = _EXTENDED_ERROR.unpack_from(data)
            destination = Endpoint(ip_address(address[0]), address[1])
            if origin == _FROM_HOST and number == errno.EMSGSIZE:
                yield PassedOn(destination, *_TOO_BIG[version], info)
            elif origin in {_FROM_ICMP, _FROM_ICMP6}:
                yield PassedOn(destination, icmp_type, code, info)
