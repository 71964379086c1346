"""Self-test of an egress: does a frame that the program redirects out of it arrive anywhere?

Some devices accept a redirected frame and lose it (a veth whose far end has neither GRO nor a program of its own). So
an ARP request (RFC 826) or a neighbour solicitation (RFC 4861 §4.3) for a next hop goes through the attached program as
a live test frame, and must be answered within a second. If not, the stack asks the same: only where that is answered
the frames vanish, else the next hops are silent. Only the native path is like that: generic mode sends by the ordinary
queue.
"""

import logging
import select
import socket
import struct
import time
from collections.abc import Callable
from ipaddress import IPv4Address, IPv6Address
from typing import Final

from connectivity.endpoint import IPAddress
from ebpf.netlink import Interface, KnownHop
from ebpf.verdict import Finding

_ETHERTYPE_ARP: Final = 0x0806
_ETHERTYPE_IPV6: Final = 0x86DD
_ETHERTYPE_ALL: Final = 0x0003
_ARP_REQUEST, _ARP_REPLY = 1, 2
_SOLICITATION, _ADVERTISEMENT = 135, 136
_ICMPV6: Final = 58
_ANSWER_SECONDS: Final = 1.0
_SENDS: Final = 3  # a lost broadcast is no proof
_NEXT_HOPS_MAX: Final = 4  # any one of them that answers proves the egress

_log = logging.getLogger("ebpf.egress")


def examine_egress(interface: Interface, next_hops: list[KnownHop], send: Callable[[bytes], None]) -> Finding:
    """Ask next hops through ``send``, which passes a frame through the program and out of ``interface``.

    Takes up to two seconds.
    """
    questions = [(hop.address, question(interface, hop.address)) for hop in next_hops]
    asked = [(hop, frame) for hop, frame in questions if frame is not None][:_NEXT_HOPS_MAX]
    if not asked:
        return Finding.NOBODY
    hops, frames = {hop for hop, _ in asked}, [frame for _, frame in asked]
    try:
        with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_ETHERTYPE_ALL)) as listener:
            listener.bind((interface.name, _ETHERTYPE_ALL))
            listener.setblocking(False)
            if _ask(listener, hops, frames, send):
                return Finding.ANSWERED
            return Finding.SWALLOWED if _ask(listener, hops, frames, listener.send) else Finding.SILENT
    except OSError as error:
        _log.debug("egress test impossible", extra={"fields": {"interface": interface.name, "error": str(error)}})
        return Finding.NOBODY


def question(interface: Interface, next_hop: IPAddress) -> bytes | None:
    """The frame that asks for the hardware address of ``next_hop``; None without an address to ask from."""
    if isinstance(next_hop, IPv4Address):
        ours4 = next((address for address in interface.addresses if isinstance(address, IPv4Address)), None)
        return None if ours4 is None else _arp_request(interface.mac, ours4, next_hop)
    ours = [address for address in interface.addresses if isinstance(address, IPv6Address)]
    ours.sort(key=lambda address: address.is_link_local != next_hop.is_link_local)
    return _neighbour_solicitation(interface.mac, ours[0], next_hop) if ours else None


def answered_by(frame: bytes) -> IPAddress | None:
    """Whose hardware address a frame tells, if it is an ARP reply or a neighbour advertisement."""
    if len(frame) < 42:
        return None
    (ethertype,) = struct.unpack_from("!H", frame, 12)
    if ethertype == _ETHERTYPE_ARP:
        (operation,) = struct.unpack_from("!H", frame, 20)
        return IPv4Address(frame[28:32]) if operation == _ARP_REPLY else None
    is_advertisement = (
        ethertype == _ETHERTYPE_IPV6 and len(frame) >= 78 and frame[20] == _ICMPV6 and frame[54] == _ADVERTISEMENT
    )
    return IPv6Address(frame[62:78]) if is_advertisement else None


def _ask(listener: socket.socket, hops: set[IPAddress], frames: list[bytes], send: Callable[[bytes], object]) -> bool:
    for _ in range(_SENDS):
        for frame in frames:
            send(frame)
        if _is_answered(listener, hops, _ANSWER_SECONDS / _SENDS):
            return True
    return False


def _is_answered(listener: socket.socket, hops: set[IPAddress], seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while (remaining := deadline - time.monotonic()) > 0:
        if not select.select([listener], [], [], remaining)[0]:
            return False
        frame, source = listener.recvfrom(2048)
        if source[2] != socket.PACKET_OUTGOING and answered_by(frame) in hops:
            return True
    return False


def _arp_request(mac: bytes, ours: IPv4Address, target: IPv4Address) -> bytes:
    ethernet = b"\xff" * 6 + mac + struct.pack("!H", _ETHERTYPE_ARP)
    fixed = struct.pack("!HHBBH", 1, 0x0800, 6, 4, _ARP_REQUEST)
    return (ethernet + fixed + mac + ours.packed + bytes(6) + target.packed).ljust(60, b"\0")


def _neighbour_solicitation(mac: bytes, ours: IPv6Address, target: IPv6Address) -> bytes:
    group = IPv6Address("ff02::1:ff00:0").packed[:13] + target.packed[13:]
    ethernet = b"\x33\x33" + group[12:] + mac + struct.pack("!H", _ETHERTYPE_IPV6)
    body = struct.pack("!BBHI", _SOLICITATION, 0, 0, 0) + target.packed + b"\x01\x01" + mac
    pseudo = ours.packed + group + struct.pack("!II", len(body), _ICMPV6)
    total = sum(struct.unpack(f"!{len(pseudo + body) // 2}H", pseudo + body))
    checksum = 0xFFFF - (total % 0xFFFF or 0xFFFF)
    body = body[:2] + struct.pack("!H", checksum) + body[4:]
    return ethernet + struct.pack("!IHBB", 6 << 28, len(body), _ICMPV6, 255) + ours.packed + group + body
