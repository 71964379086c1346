"""Fragments: what stands where a transport header would is payload, and is never taken for ports."""

import struct
from collections.abc import Callable

import pytest

from connectivity.ip import icmp
from connectivity.ip.flow import Flow
from connectivity.ip.packet import FRAGMENT, Fragment, IpError, IpReason, Packet, parse
from connectivity.ip.protocols import PROTOCOL_ICMP, PROTOCOL_ICMPV6, PROTOCOL_TCP, PROTOCOL_UDP
from tests.unit.connectivity.fragments import fragments, together
from tests.unit.connectivity.ip_oracle import checksums_are_right, tcp, udp

FORGED_UDP = struct.pack(">HHHH", 40_000, 53, 40, 0) + bytes(32)  # payload that looks like an allowed datagram
FORGED_TCP = struct.pack(">HHIIBBHHH", 40_000, 80, 1, 1, 0x50, 2, 9, 0, 0) + bytes(20)
FIRST_UDP = struct.pack(">HHHH", 40_000, 53, 1400, 0) + bytes(1200)


def ipv4(protocol: int, payload: bytes, *, offset: int = 0, more: bool = False) -> bytes:
    fragment = offset // 8 | (0x2000 if more else 0)
    head = struct.pack(">BBHHHBBH", 0x45, 0, 20 + len(payload), 7, fragment, 64, protocol, 0)
    return head + bytes((100, 64, 0, 1)) + bytes((10, 0, 0, 5)) + payload


def ipv6(protocol: int, payload: bytes, *, offset: int = 0, more: bool = False, before: bytes = b"") -> bytes:
    fragment = struct.pack(">BBHI", protocol, 0, offset | more, 7)
    kind = before[0] if before else 44
    extensions = bytes((44,)) + before[1:] + fragment if before else fragment
    head = struct.pack(">IHBB", 6 << 28, len(extensions) + len(payload), kind, 64)
    return head + bytes(15) + b"\x01" + bytes(15) + b"\x02" + extensions + payload


@pytest.mark.parametrize("make", [ipv4, ipv6])
@pytest.mark.parametrize(("protocol", "payload"), [(PROTOCOL_UDP, FORGED_UDP), (PROTOCOL_TCP, FORGED_TCP)])
def test_payload_that_looks_like_ports_is_none(make: Callable[..., bytes], protocol: int, payload: bytes) -> None:
    for offset in (8, 1256):
        packet = parse(make(protocol, payload, offset=offset))
        assert (packet.is_later_fragment, packet.ports) == (True, bytes(4))
        assert Flow.from_key(packet.key).protocol == FRAGMENT
        assert payload[:4] not in packet.key
        assert "53" not in str(packet)
    assert parse(make(protocol, payload)).ports == payload[:4]


@pytest.mark.parametrize("version", [4, 6])
def test_fragments_of_a_datagram_share_a_key_that_is_no_flow_s(version: int) -> None:
    whole = udp(version, bytes(range(256)) * 32)
    parts = [parse(part) for part in fragments(whole)]
    assert {packet.key for packet in parts} == {parts[0].key}
    assert parts[0].flow_key == parse(udp(version, b"short")).key
    assert Flow.from_key(parts[0].key).protocol == FRAGMENT
    assert [packet.fragment[1:] for packet in parts if packet.fragment] == [
        (0, 1232, True),
        *((number * 1232, 1232, True) for number in range(1, 6)),
        (7392, 808, False),
    ]
    others = [fragments(whole, identification=9)[0], fragments(tcp(version, bytes(3000)))[0]]
    assert parse(others[0]).key != parts[0].key
    assert (parse(others[1]).key != parts[0].key) is (version == 4)  # RFC 8200 §4.5 knows addresses and id only
    assert checksums_are_right(together(fragments(whole)))


@pytest.mark.parametrize("make", [ipv4, ipv6])
def test_a_first_fragment_has_its_whole_header_and_is_not_all(make: Callable[..., bytes]) -> None:
    packet = parse(make(PROTOCOL_UDP, FIRST_UDP, more=True))
    assert packet.fragment == Fragment(packet.key[-4:], 0, 1208, True)
    assert Flow.from_key(packet.flow_key)[-2:] == (40_000, 53)
    options = struct.pack(">HHIIBBHHH", 1, 2, 1, 1, 0x80, 2, 9, 0, 0) + bytes(12)
    parse(make(PROTOCOL_TCP, options, more=True))
    for protocol, payload in (
        (PROTOCOL_TCP, options[:24]),
        (PROTOCOL_TCP, options[:16]),
        (PROTOCOL_TCP, options[:8]),
        (PROTOCOL_UDP, struct.pack(">HHHH", 1, 2, 8, 0)),  # is all
        (PROTOCOL_UDP, struct.pack(">HHHH", 1, 2, 0, 0) + bytes(8)),
        (PROTOCOL_UDP, struct.pack(">HHHH", 1, 2, 7, 0) + bytes(8)),
        (PROTOCOL_UDP, FIRST_UDP[:-1]),
        (PROTOCOL_UDP, b""),
    ):
        with pytest.raises(IpError):
            parse(make(protocol, payload, more=True))
    with pytest.raises(IpError) as refused:
        parse(make(PROTOCOL_UDP, FIRST_UDP))
    assert refused.value.reason is IpReason.MALFORMED


@pytest.mark.parametrize("make", [ipv4, ipv6])
@pytest.mark.parametrize(
    ("payload", "offset", "more"),
    [(b"", 8, False), (b"", 8, True), (bytes(9), 8, True), (bytes(1000), 65_528 - 200, False)],
)
def test_fragments_that_fit_nowhere_are_refused(
    make: Callable[..., bytes], payload: bytes, offset: int, more: bool
) -> None:
    with pytest.raises(IpError) as refused:
        parse(make(PROTOCOL_UDP, payload, offset=offset, more=more))
    assert refused.value.reason is IpReason.FRAGMENT


def test_extension_headers_before_it_hide_no_fragment() -> None:
    options = bytes((60, 0)) + bytes(6)
    packet = parse(ipv6(PROTOCOL_UDP, FORGED_UDP, offset=8, before=options))
    assert packet.is_later_fragment
    assert packet.key == parse(ipv6(PROTOCOL_UDP, FIRST_UDP, more=True)).key
    routed, authenticated = bytes((43, 0, 0, 1)) + bytes(4), bytes((51, 1)) + bytes(10)
    twice = bytes((44, 0)) + bytes(6)
    for before in (routed, authenticated, twice):
        for payload, place in ((FORGED_UDP, {"offset": 8}), (FIRST_UDP, {"more": True})):
            with pytest.raises(IpError) as refused:
                parse(ipv6(PROTOCOL_UDP, payload, before=before, **place))
            assert refused.value.reason is IpReason.FRAGMENT


def test_a_fragment_that_is_all_is_a_packet_like_any_other() -> None:
    """An "atomic fragment" (RFC 6946)."""
    packet = parse(ipv6(PROTOCOL_UDP, FORGED_UDP))
    assert packet.fragment is None
    assert Flow.from_key(packet.key)[-2:] == (40_000, 53)


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


def test_an_error_that_quotes_a_later_fragment_quotes_no_ports() -> None:
    source, destination = (parse(ipv4(PROTOCOL_UDP, FORGED_UDP)).source for _ in range(2))
    for offset, known in ((0, True), (8, False)):
        quoted = ipv4(PROTOCOL_UDP, FORGED_UDP, offset=offset)
        packet = parse(icmp.build_error(source, destination, icmp.V4_TIME_EXCEEDED, 0, bytes(4), quoted))
        assert (icmp.read_error(packet) is not None) is known


def test_other_protocols_have_no_ports_anyway() -> None:
    assert parse(ipv4(47, bytes(30), offset=8)).ports == bytes(4)


def test_too_large_has_a_reason_of_its_own() -> None:
    with pytest.raises(IpError) as refused:
        parse(bytes(1281))
    assert refused.value.reason is IpReason.TOO_LARGE
