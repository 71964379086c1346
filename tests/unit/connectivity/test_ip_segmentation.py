"""Cutting super-packets: refusals and special cases; the whole rule is a property test."""

import struct

import pytest

from connectivity.ip.packet import IpError, parse
from connectivity.ip.segmentation import Splitter, VirtioNetHeader
from tests.unit.connectivity.ip_oracle import V6, checksums_are_right, echo, super_packet, tcp, udp


def split(virtio: bytes, packet: bytes) -> list[bytes]:
    found = Splitter().split(VirtioNetHeader.decode(virtio), memoryview(bytearray(packet)))
    return [bytes(segment) for segment in found.run.segments()]


def test_a_header_is_encoded_as_it_was_decoded() -> None:
    header = VirtioNetHeader(1, 4, 72, 1208, 40, 16)
    buffer = bytearray(10)
    header.encode_into(buffer)
    assert VirtioNetHeader.decode(buffer) == header


@pytest.mark.parametrize("whole", [tcp(4, b"abc"), tcp(6, b"abc"), udp(4, b"abcd"), udp(6, b"x"), echo(4, 1)])
def test_a_single_packet_stays_as_it_is(whole: bytes) -> None:
    assert split(bytes(10), whole) == [whole]


@pytest.mark.parametrize(("version", "protocol"), [(4, 6), (6, 6), (4, 17), (6, 17)])
@pytest.mark.parametrize("payload", [b"", b"abc"])
def test_a_partial_checksum_is_completed(version: int, protocol: int, payload: bytes) -> None:
    virtio, partial = super_packet(version, protocol, payload, 0)
    assert not checksums_are_right(partial)
    (found,) = split(virtio[:1] + b"\0" + virtio[2:], partial)
    assert found == (tcp if protocol == 6 else udp)(version, payload)


def test_a_udp_checksum_of_zero_is_written_as_ffff() -> None:
    for filler in range(65536):
        if udp(4, struct.pack(">H", filler))[26:28] == b"\xff\xff":
            break
    payload = struct.pack(">H", filler)
    virtio, partial = super_packet(4, 17, payload, 0)
    assert split(virtio[:1] + b"\0" + virtio[2:], partial)[0][26:28] == b"\xff\xff"
    virtio, partial = super_packet(4, 17, payload * 3, 2)
    assert [packet[26:28] for packet in split(virtio, partial)][:1] == [b"\xff\xff"]


def test_a_super_packet_of_one_segment_is_a_single_packet() -> None:
    virtio, whole = super_packet(4, 6, b"abc", 1000)
    assert split(virtio, whole) == [tcp(4, b"abc")]


def test_tiny_segments_need_more_scratch_memory() -> None:
    virtio, whole = super_packet(4, 6, bytes(60000), 12)
    packets = split(virtio, whole)
    assert len(packets) == 5000
    assert all(checksums_are_right(packet) for packet in packets[:3] + packets[-3:])


def test_ecn_is_said_once() -> None:
    virtio, whole = super_packet(6, 6, bytes(300), 100, flags=0xD0)
    packets = split(virtio[:1] + bytes((virtio[1] | 0x80,)) + virtio[2:], whole)
    assert [packet[53] for packet in packets] == [0xD0, 0x50, 0x50]


def test_extension_headers_are_copied_to_each_packet() -> None:
    body = tcp(6, bytes(200))[40:]
    whole = bytearray(struct.pack(">IHBB", 6 << 28, 8 + len(body), 60, 64) + V6[0].packed + V6[1].packed)
    whole += b"\x06\x00\x01\x04\0\0\0\0" + body
    pseudo = V6[0].packed + V6[1].packed + struct.pack(">II", len(body), 6)
    total = sum(struct.unpack(f">{len(pseudo) // 2}H", pseudo))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    whole[64:66] = struct.pack(">H", total)
    packets = split(VIRTIO_TCP6_BEHIND_OPTIONS, bytes(whole))
    assert len(packets) == 2
    for packet in packets:
        assert parse(packet).l4 == 48
        without = packet[:4] + struct.pack(">H", len(packet) - 48) + b"\x06" + packet[7:40] + packet[48:]
        assert checksums_are_right(without)


VIRTIO_TCP6_BEHIND_OPTIONS = struct.pack("=BBHHHH", 1, 4, 68, 100, 48, 16)


@pytest.mark.parametrize(
    ("header", "packet"),
    [
        (VirtioNetHeader(1, 1, 40, 100, 20, 16), tcp(6, bytes(300))),
        (VirtioNetHeader(1, 4, 60, 100, 40, 16), tcp(4, bytes(300))),
        (VirtioNetHeader(1, 1, 40, 100, 20, 16), udp(4, bytes(300))),
        (VirtioNetHeader(1, 1, 40, 100, 24, 16), tcp(4, bytes(300))),
        (VirtioNetHeader(1, 1, 40, 0, 20, 16), tcp(4, bytes(300))),
        (VirtioNetHeader(1, 3, 28, 100, 20, 6), udp(4, bytes(300))),
        (VirtioNetHeader(1, 1, 40, 100, 20, 16), tcp(4, bytes(300)) + b"x"),
        (VirtioNetHeader(1, 1, 40, 1241, 20, 16), tcp(4, bytes(3000))),
        (VirtioNetHeader(1, 1, 40, 100, 20, 16), tcp(4, b"")[:30]),
        (VirtioNetHeader(1, 5, 28, 100, 20, 6), b""),
        (VirtioNetHeader(1, 4, 60, 100, 39, 16), tcp(6, bytes(300))),
        (VirtioNetHeader(1, 4, 60, 100, 400, 16), tcp(6, bytes(300))),
        (VirtioNetHeader(1, 0, 0, 0, 20, 90), tcp(4, b"abc")),
        (VirtioNetHeader(0, 0, 0, 0, 0, 0), b"\x45"),
    ],
)
def test_what_does_not_fit_its_header_is_refused(header: VirtioNetHeader, packet: bytes) -> None:
    with pytest.raises(IpError):
        Splitter().split(header, memoryview(bytearray(packet)))
