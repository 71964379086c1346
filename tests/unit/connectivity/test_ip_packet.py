"""The strict parser, check by check."""

import struct

import pytest

from connectivity.ip.flow import Flow
from connectivity.ip.packet import MAX_PACKET_BYTES, IpError, ip_length, parse
from tests.unit.connectivity.ip_oracle import ADDRESSES, V4, V6, echo, ip, tcp, udp

WHO4 = f"src={V4[0]} dst={V4[1]}"
WHO6 = f"src={V6[0]} dst={V6[1]}"
UDP_HEADER = struct.pack(">HHHH", 53, 50000, 8, 0)


def edited(packet: bytes, position: int, *values: int) -> bytes:
    return packet[:position] + bytes(values) + packet[position + len(values) :]


@pytest.mark.parametrize("version", [4, 6])
def test_a_packet_tells_its_flow(version: int) -> None:
    source, destination = ADDRESSES[version]
    for packet, protocol, ports in (
        (tcp(version, b"abc", tos=0x2D), 6, (443, 50000)),
        (udp(version, b"abc", tos=0x2D), 17, (53, 50000)),
    ):
        parsed = parse(packet)
        assert (parsed.version, parsed.protocol, parsed.tos) == (version, protocol, 0x2D)
        assert Flow.from_key(parsed.key) == Flow(version, protocol, source, destination, *ports)
        assert bytes(parsed.data) == packet


@pytest.mark.parametrize("version", [4, 6])
def test_an_echo_has_its_identifier_in_both_ports_and_other_icmp_none(version: int) -> None:
    assert Flow.from_key(parse(echo(version, 4711)).key)[4:] == (4711, 4711)
    assert Flow.from_key(parse(echo(version, 4711, kind=0 if version == 4 else 129)).key)[4:] == (4711, 4711)
    assert Flow.from_key(parse(echo(version, 4711, kind=3)).key)[4:] == (0, 0)


@pytest.mark.parametrize("version", [4, 6])
def test_other_protocols_are_accepted_unparsed(version: int) -> None:
    parsed = parse(ip(version, 47, b"\0"))
    assert (parsed.protocol, parsed.ports, str(parsed).rpartition(" ")[2]) == (47, bytes(4), "protocol(47)")


def test_bytes_behind_the_total_length_are_cut_off() -> None:
    assert bytes(parse(udp(4, b"abc") + b"padding").data) == udp(4, b"abc")
    assert bytes(parse(udp(6, b"abc") + b"padding").data) == udp(6, b"abc")


def test_an_ipv6_payload_length_of_zero_means_the_rest() -> None:
    assert bytes(parse(edited(udp(6, b"abc"), 4, 0, 0)).data) == edited(udp(6, b"abc"), 4, 0, 0)
    assert ip_length(memoryview(edited(udp(6, b"abc"), 4, 0, 0))) == 40


def test_a_udp_length_of_zero_means_the_rest() -> None:
    assert parse(ip(4, 17, struct.pack(">HHHH", 1, 2, 0, 0) + b"abc")).protocol == 17


def test_extension_headers_are_skipped() -> None:
    hop, options = b"\x3c\x00" + bytes(6), b"\x2b\x01" + bytes(14)
    routing, fragment, authentication = b"\x2c\x00" + bytes(6), b"\x33\x00" + bytes(6), b"\x11\x01" + bytes(10)
    chain = hop + options + routing + fragment + authentication
    parsed = parse(ip(6, 0, chain + UDP_HEADER))
    assert (parsed.protocol, parsed.l4, parsed.ports) == (17, 40 + len(chain), UDP_HEADER[:4])
    parsed = parse(ip(4, 51, authentication + UDP_HEADER))
    assert (parsed.protocol, parsed.l4) == (17, 20 + len(authentication))


def test_a_wrapped_packet_has_the_flow_key_of_its_wrapper() -> None:
    authentication, options = b"\x11\x01" + bytes(10), b"\x33\x00" + bytes(6)
    onward, finished = b"\x11\x00\x00\x01" + bytes(4), b"\x11\x00" + bytes(6)
    for packet, protocol in (
        (ip(4, 51, authentication + UDP_HEADER), 51),
        (ip(6, 51, authentication + UDP_HEADER), 51),
        (ip(6, 60, options + authentication + UDP_HEADER), 51),
        (ip(6, 43, onward + UDP_HEADER), 43),
    ):
        parsed = parse(packet)
        assert parsed.protocol == 17
        assert (parsed.key[1], parsed.key[-4:]) == (protocol, bytes(4))
    assert parse(ip(6, 43, finished + UDP_HEADER)).key == parse(ip(6, 17, UDP_HEADER)).key


@pytest.mark.parametrize(
    ("packet", "text"),
    [
        (b"", "packet is empty"),
        (bytes(MAX_PACKET_BYTES + 1), "packet too large: 1281 bytes, at most 1280 are allowed"),
        (b"\x50" + bytes(40), "version 5 is neither IPv4 nor IPv6"),
        (b"\x45" + bytes(18), "IPv4 header needs 20 bytes, 19 are there"),
        (edited(udp(4, b""), 0, 0x44), "IPv4 header length of 16 bytes is less than 20"),
        (edited(udp(4, b""), 0, 0x4F), "IPv4 header needs 60 bytes, 28 are there"),
        (edited(udp(4, b""), 2, 0, 19), "IPv4 total length 19 is less than the header's 20 bytes"),
        (edited(udp(4, b""), 2, 0, 29), "IPv4 total length 29 exceeds the 28 bytes that are there"),
        (b"\x60" + bytes(38), "IPv6 header needs 40 bytes, 39 are there"),
        (edited(udp(6, b""), 4, 0, 9), "IPv6 payload length 9 exceeds the 8 bytes that are there"),
        (ip(6, 60, b"\x00\x00" + bytes(14)), f"hop-by-hop options are not first: {WHO6}"),
        (ip(6, 43, bytes(7)), f"extension header 43 needs 8 bytes, 7 are left: {WHO6}"),
        (ip(6, 43, b"\x11\x01" + bytes(8)), f"extension header 43 needs 16 bytes, 10 are left: {WHO6}"),
        (ip(4, 51, b"\x11\x00" + bytes(20)), f"authentication header has length 0: {WHO4}"),
        (ip(4, 17, bytes(7)), f"UDP header needs 8 bytes, 7 are left: {WHO4}"),
        (
            ip(4, 17, struct.pack(">HHHH", 5, 6, 9, 0xABC)),
            (
                "UDP length 9 does not fit in 8 bytes: "
                f"{WHO4} udp(source_port=5 destination_port=6 length=9 checksum=0x0abc)"
            ),
        ),
        (ip(6, 17, struct.pack(">HHHH", 5, 6, 7, 0)), "UDP length 7 does not fit in 8 bytes: " + WHO6),
        (ip(6, 6, bytes(19)), f"TCP header needs 20 bytes, 19 are left: {WHO6}"),
        (
            ip(4, 6, struct.pack(">HHIIBBHHH", 1, 2, 3, 4, 0x60, 0x12, 5, 6, 7)),
            (
                f"TCP data offset of 24 bytes does not fit in 20: {WHO4} tcp(source_port=1 destination_port=2 seq=3 "
                "ack=4 data_offset=6 flags=0x12 window=5 checksum=0x0006 urgent=7)"
            ),
        ),
        (ip(4, 6, bytes(20)), "TCP data offset of 0 bytes does not fit in 20"),
        (ip(6, 1, bytes(8)), f"ICMP does not belong in IPv6: {WHO6}"),
        (ip(4, 58, bytes(8)), f"ICMPv6 does not belong in IPv4: {WHO4}"),
        (ip(4, 1, bytes(7)), f"ICMP header needs 8 bytes, 7 are left: {WHO4}"),
        (ip(4, 1, b"\x0d" + bytes(18)), f"ICMP timestamp has 19 bytes instead of 20: {WHO4} icmp(type=13 code=0"),
    ],
)
def test_what_is_wrong_is_named(packet: bytes, text: str) -> None:
    with pytest.raises(IpError) as caught:
        parse(packet)
    assert str(caught.value).startswith(text)


def test_each_cut_of_a_packet_is_an_error() -> None:
    for whole in (
        tcp(4, b"payload"),
        tcp(6, b"payload"),
        udp(4, b"payload"),
        udp(6, b"payload"),
        echo(4, 1),
        echo(6, 1),
    ):
        for length in range(len(whole)):
            with pytest.raises(IpError):
                parse(whole[:length])


def test_the_length_of_what_has_no_header_is_unknown() -> None:
    assert [ip_length(memoryview(data)) for data in (b"", b"\x45" * 19, b"\x60" * 39, b"\x11" * 60)] == [0] * 4
