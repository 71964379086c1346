"""Fragments: what stands where a transport header would is payload, and is never taken for ports."""

import struct
from collections.abc import Callable

import pytest

from connectivity.ip import icmp
from connectivity.ip.checksum import PROTOCOL_ICMP, PROTOCOL_ICMPV6, PROTOCOL_TCP, PROTOCOL_UDP
from connectivity.ip.packet import IpError, IpReason, Packet, parse

FORGED_UDP = struct.pack(">HHHH", 40_000, 53, 40, 0) + bytes(32)  # payload that looks like an allowed datagram
FORGED_TCP = struct.pack(">HHIIBBHHH", 40_000, 80, 1, 1, 0x50, 2, 9, 0, 0) + bytes(20)


def ipv4(protocol: int, payload: bytes, *, offset: int = 0, more: bool = False) -> bytes:
    fragment = offset // 8 | (0x2000 if more else 0)
    head = struct.pack(">BBHHHBBH", 0x45, 0, 20 + len(payload), 7, fragment, 64, protocol, 0)
    return head + bytes((100, 64, 0, 1)) + bytes((10, 0, 0, 5)) + payload


def ipv6(protocol: int, payload: bytes, *, offset: int = 0, more: bool = False, options: bool = False) -> bytes:
    fragment = struct.pack(">BBHI", protocol, 0, offset | more, 7)
    extensions = (bytes((44, 0)) + bytes(6) if options else b"") + fragment
    head = struct.pack(">IHBB", 6 << 28, len(extensions) + len(payload), 60 if options else 44, 64)
    return head + bytes(15) + b"\x01" + bytes(15) + b"\x02" + extensions + payload


@pytest.mark.parametrize("make", [ipv4, ipv6])
@pytest.mark.parametrize(("protocol", "payload"), [(PROTOCOL_UDP, FORGED_UDP), (PROTOCOL_TCP, FORGED_TCP)])
def test_payload_that_looks_like_ports_is_none(make: Callable[..., bytes], protocol: int, payload: bytes) -> None:
    for offset in (8, 1256):
        with pytest.raises(IpError) as refused:
            parse(make(protocol, payload, offset=offset))
        assert refused.value.reason is IpReason.FRAGMENT
        assert "ports" in str(refused.value)
        assert "53" not in str(refused.value)
    assert parse(make(protocol, payload)).ports == payload[:4]


def test_extension_headers_before_it_hide_no_fragment() -> None:
    with pytest.raises(IpError) as refused:
        parse(ipv6(PROTOCOL_UDP, FORGED_UDP, offset=8, options=True))
    assert refused.value.reason is IpReason.FRAGMENT


@pytest.mark.parametrize("make", [ipv4, ipv6])
def test_a_first_fragment_says_what_it_is(make: Callable[..., bytes]) -> None:
    first = struct.pack(">HHHH", 40_000, 53, 1400, 0) + bytes(1200)
    with pytest.raises(IpError) as refused:
        parse(make(PROTOCOL_UDP, first, more=True))
    assert refused.value.reason is IpReason.FRAGMENT
    with pytest.raises(IpError) as refused:
        parse(make(PROTOCOL_UDP, first))
    assert refused.value.reason is IpReason.MALFORMED


@pytest.mark.parametrize(("make", "protocol"), [(ipv4, PROTOCOL_ICMP), (ipv6, PROTOCOL_ICMPV6)])
def test_of_icmp_it_is_neither_an_error_nor_an_echo(make: Callable[..., bytes], protocol: int) -> None:
    for kind in (0, 1, 3, 8, 128):
        packet: Packet = parse(make(protocol, bytes((kind, 0)) + bytes(40), offset=8))
        assert packet.is_later_fragment
        assert not packet.is_echo
        assert not icmp.is_error(packet)
        assert icmp.read_error(packet) is None
        assert packet.ports == bytes(4)
        assert "later fragment" in str(packet)


def test_other_protocols_have_no_ports_anyway() -> None:
    assert parse(ipv4(47, bytes(30), offset=8)).ports == bytes(4)


def test_too_large_has_a_reason_of_its_own() -> None:
    with pytest.raises(IpError) as refused:
        parse(bytes(1281))
    assert refused.value.reason is IpReason.TOO_LARGE
