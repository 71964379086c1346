"""Address translation: the cases that a property test would meet too rarely."""

import struct

from connectivity.ip.flow import PacketRun
from connectivity.ip.packet import parse
from connectivity.ip.rewrite import rewrite
from connectivity.run import Run
from tests.unit.connectivity.ip_oracle import V4, V6, checksums_are_right, echo, ip, tcp, udp, with_ipv4_options


def run_of(*rows: bytes) -> PacketRun:
    packet = parse(rows[0])
    return PacketRun(Run(memoryview(bytearray(b"".join(rows))), len(rows[0])), packet.key, packet.tos)


def test_a_checksum_that_was_left_out_stays_out_among_others() -> None:
    without = bytearray(udp(4, b"abc"))
    without[26:28] = b"\0\0"
    changed = rewrite(run_of(udp(4, b"abc"), bytes(without), udp(4, b"xyz")), destination=V4[0] + 1, source_port=9)
    first, second, third = changed.run.segments()
    assert checksums_are_right(bytes(first))
    assert bytes(second[26:28]) == b"\0\0"
    assert checksums_are_right(bytes(third))


def test_a_udp_checksum_never_becomes_zero() -> None:
    packet = udp(6, b"ab", ports=(1, 2))
    (checksum,) = struct.unpack_from(">H", packet, 46)
    changed = rewrite(run_of(packet), source_port=1 + checksum)  # the sum grows by what is left to all ones
    assert bytes(changed.run.data[46:48]) == b"\xff\xff"
    assert checksums_are_right(bytes(changed.run.data))


def test_a_wrong_checksum_stays_wrong() -> None:
    packet = tcp(4, b"abc")
    changed = rewrite(run_of(packet[:-1] + b"d"), source=V4[1], destination_port=1)
    assert not checksums_are_right(bytes(changed.run.data))


def test_options_and_shorter_last_packets_are_rewritten_too() -> None:
    changed = rewrite(run_of(with_ipv4_options(tcp(4, b"abc"))), source=V4[0] + 1, source_port=77)
    assert checksums_are_right(bytes(changed.run.data))
    changed = rewrite(run_of(tcp(6, bytes(50)), tcp(6, b"")), source=V6[0] + 1, source_port=77)
    assert all(checksums_are_right(bytes(segment)) for segment in changed.run.segments())


def test_other_protocols_keep_everything_but_their_addresses() -> None:
    body = struct.pack(">HH", 1, 2) + bytes(20)
    changed = rewrite(run_of(ip(6, 47, body)), source=V6[0] + 1, source_port=77)
    assert bytes(changed.run.data[40:]) == body
    assert parse(changed.run.data).source == V6[0] + 1
    unreachable = echo(6, 5, kind=1)
    changed = rewrite(run_of(unreachable), destination=V6[0] + 1, destination_port=77)
    assert checksums_are_right(bytes(changed.run.data))
    assert bytes(changed.run.data[44:]) == unreachable[44:]
