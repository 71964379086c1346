"""Merging runs for a TUN device: what is merged, what never is, and what the kernel is told."""

import struct
import sys
from typing import Any

import pytest

from connectivity.ip.coalescing import MAX_SUPER_PACKET_BYTES, NO_OFFLOAD, Coalescer
from connectivity.ip.flow import PacketRun, split_flows
from connectivity.ip.packet import IpError, parse
from connectivity.ip.segmentation import Splitter, VirtioNetHeader
from connectivity.run import Run
from tests.unit.connectivity.ip_oracle import (
    echo,
    internet_checksum,
    pseudo_header,
    super_packet,
    tcp,
    udp,
    with_ipv4_options,
)

ACK, PSH, FIN, SYN, RST, URG, ECE, CWR = 0x10, 0x08, 0x01, 0x02, 0x04, 0x20, 0x40, 0x80
TIMESTAMPS = b"\1\1\x08\x0aABCDEFGH"


def segments(version: int, count: int, size: int = 200, **fields: Any) -> list[bytes]:
    return [
        tcp(version, bytes((index,)) * size, sequence=0xFFFFFF00 + index * size, **fields) for index in range(count)
    ]


def written(rows: list[bytes], **switches: bool) -> list[bytes]:
    packet = parse(rows[0])
    run = PacketRun(Run(memoryview(b"".join(rows)), len(rows[0])), packet.key, packet.tos)
    return [b"".join(buffers) for buffers in Coalescer(**switches).coalesce(run)]


def sizes(rows: list[bytes], **switches: bool) -> list[int]:
    """How many packets are in each write."""
    counts = []
    for write in written(rows, **switches):
        header = VirtioNetHeader.decode(write)
        payload = len(write) - 10 - header.header_length
        counts.append(-(-payload // header.gso_size) if header.gso_type else 1)
    assert sum(counts) == len(rows)
    return counts


@pytest.mark.parametrize(("version", "kind"), [(4, 1), (6, 4)])
@pytest.mark.parametrize("options", [b"", TIMESTAMPS])
@pytest.mark.parametrize("last", [200, 199, 1])
def test_a_stream_becomes_one_super_packet_with_a_partial_checksum(
    version: int, kind: int, options: bytes, last: int
) -> None:
    rows = segments(version, 48, options=options)
    rows[-1] = tcp(version, b"z" * last, sequence=0xFFFFFF00 + 47 * 200, options=options, flags=ACK | PSH)
    (write,) = written(rows)
    l4 = 20 if version == 4 else 40
    head = l4 + 20 + len(options)
    assert VirtioNetHeader.decode(write) == (1, kind, head, 200, l4, 16)
    packet = write[10:]
    assert packet[head:] == b"".join(row[head:] for row in rows)
    assert packet[l4 + 13] == ACK | PSH
    assert packet[l4 + 4 : l4 + 8] == rows[0][l4 + 4 : l4 + 8]
    length = struct.unpack_from(">H", packet, 2 if version == 4 else 4)[0]
    assert length == len(packet) - (0 if version == 4 else 40)
    if version == 4:
        assert internet_checksum(packet[:20]) == 0
    (partial,) = struct.unpack_from(">H", packet, l4 + 16)
    assert partial % 0xFFFF == (~internet_checksum(pseudo_header(packet)) & 0xFFFF) % 0xFFFF


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("flag", [FIN, SYN, RST, URG, CWR])
@pytest.mark.parametrize("position", [0, 2, 4])
def test_special_segments_travel_alone(version: int, flag: int, position: int) -> None:
    rows = segments(version, 5)
    rows[position] = tcp(version, bytes(200), sequence=0xFFFFFF00 + position * 200, flags=ACK | flag)
    assert sizes(rows) == {0: [1, 4], 2: [2, 1, 2], 4: [4, 1]}[position]


def test_a_push_ends_a_merge() -> None:
    rows = segments(4, 6)
    rows[2] = tcp(4, bytes(200), sequence=0xFFFFFF00 + 400, flags=ACK | PSH)
    assert sizes(rows) == [3, 3]


@pytest.mark.parametrize(
    "fields",
    [
        {"window": 501},
        {"acknowledgement": 78},
        {"flags": ACK | ECE},
        {"hop_limit": 63},
        {"options": b"\1\1\x08\x0aABCDEFGX"},
    ],
)
@pytest.mark.parametrize("version", [4, 6])
def test_a_changed_header_field_ends_a_merge(version: int, fields: dict[str, Any]) -> None:
    base: dict[str, Any] = {"options": TIMESTAMPS}
    rows = segments(version, 3, **base) + segments(version, 6, **(base | fields))[3:]
    if version == 6 and "hop_limit" in fields:  # measured by the first row's header, they are left to the kernel
        assert sizes(rows) == [3, 1, 1, 1]
    else:
        assert sizes(rows) == [3, 3]


def test_a_gap_or_a_repetition_ends_a_merge() -> None:
    rows = segments(4, 6)
    assert sizes([*rows[:2], *rows[3:]]) == [2, 3]
    assert sizes([*rows[:2], *rows[1:]]) == [2, 5]


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize(("position", "expected"), [(0, [1, 4]), (2, [2, 1, 2]), (4, [4, 1])])
@pytest.mark.parametrize("last", [200, 37])
def test_a_wrong_checksum_travels_alone_and_untouched(
    version: int, position: int, expected: list[int], last: int
) -> None:
    rows = segments(version, 5)
    rows[4] = tcp(version, bytes(last), sequence=0xFFFFFF00 + 800)
    rows[position] = rows[position][:-1] + bytes((rows[position][-1] ^ 0x40,))
    assert sizes(rows) == expected
    assert NO_OFFLOAD + rows[position] in written(rows)


def test_a_wrong_ip_header_checksum_is_left_to_the_kernel() -> None:
    rows = segments(4, 3)
    rows[1] = rows[1][:10] + b"\0\1" + rows[1][12:]
    assert sizes(rows) == [1, 1, 1]


def test_bare_acknowledgements_are_never_merged() -> None:
    assert sizes([tcp(4, b"", acknowledgement=index) for index in range(4)]) == [1] * 4
    assert sizes([*segments(6, 3), tcp(6, b"", sequence=0xFFFFFF00 + 600)]) == [3, 1]
    assert sizes([*segments(6, 1), tcp(6, b"", sequence=0xFFFFFF00 + 200)]) == [1, 1]


def test_a_super_packet_never_exceeds_the_length_field() -> None:
    rows = segments(4, 120, size=1240)
    writes = written(rows)
    assert [len(write) - 10 for write in writes[:2]] == [40 + 52 * 1240] * 2
    assert max(len(write) - 10 for write in writes) <= MAX_SUPER_PACKET_BYTES
    assert sizes(rows) == [52, 52, 16]


@pytest.mark.parametrize("size", [1, 3, 7, 202, 1217])
@pytest.mark.parametrize("version", [4, 6])
def test_odd_sizes_are_merged_too(version: int, size: int) -> None:
    assert sizes(segments(version, 9, size=size)) == [9]


@pytest.mark.parametrize("version", [4, 6])
def test_datagrams_are_merged_only_where_the_device_takes_them(version: int) -> None:
    rows = [*(udp(version, bytes((index,)) * 100) for index in range(70)), udp(version, b"last")]
    assert sizes(rows) == [1] * 71
    switch = {f"udp{version}": True}
    assert sizes(rows, **switch) == [64, 7]
    first = written(rows, **switch)[0]
    l4 = 20 if version == 4 else 40
    assert VirtioNetHeader.decode(first) == (1, 5, l4 + 8, 100, l4, 6)
    assert struct.unpack_from(">H", first, 10 + l4 + 4)[0] == len(first) - 10 - l4
    assert sizes([udp(version, b"")] * 3, **switch) == [1] * 3


def test_a_datagram_without_checksum_is_written_alone() -> None:
    rows = [udp(4, b"abcd") for _ in range(3)]
    rows[1] = rows[1][:26] + b"\0\0" + rows[1][28:]
    assert sizes(rows, udp4=True) == [1, 1, 1]


def test_switched_off_or_unfit_runs_are_written_packet_by_packet() -> None:
    assert sizes(segments(4, 3), tcp4=False) == sizes(segments(6, 3), tcp6=False) == [1, 1, 1]
    assert sizes([echo(4, 1)]) == [1]
    assert sizes([with_ipv4_options(tcp(4, bytes(24)))] * 2) == [1, 1]


def test_batches_leave_nothing_behind() -> None:
    """After warm-up, neither the interpreter's blocks nor packet-sized memory grow."""
    rows = segments(4, 48, size=1228, options=TIMESTAMPS)
    virtio, whole = super_packet(4, 6, bytes(48 * 1228), 1228, options=TIMESTAMPS)
    header, packet = VirtioNetHeader.decode(virtio), memoryview(bytearray(whole))
    run, errors = Run(memoryview(b"".join(rows)), 1280), list[IpError]()
    splitter, coalescer = Splitter(), Coalescer()

    def carry(batches: int) -> int:
        for _ in range(batches):
            splitter.split(header, packet)
            for packets in split_flows(run, errors):
                for _ in coalescer.coalesce(packets):
                    pass
        return sys.getallocatedblocks()

    carry(20)
    before = carry(20)
    assert carry(500) - before < 100
