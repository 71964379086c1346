"""Packets that wait: in order, none twice, few."""

import pytest

from connectivity.packet_queue import MAX_WAITING, PacketQueue
from connectivity.run import Run
from tests.unit.connectivity.ip_oracle import tcp, udp, with_ipv4_options

SYN, SYN_ACK = 0x02, 0x12


@pytest.mark.parametrize("version", [4, 6])
def test_copies_are_kept_once_and_a_repeated_syn_replaces_the_first(version: int) -> None:
    queue = PacketQueue()
    first, again = tcp(version, b"", flags=SYN, sequence=1), tcp(version, b"", flags=SYN, sequence=1, tos=4, window=9)
    others = [
        tcp(version, b"", flags=SYN, sequence=2),
        tcp(version, b"", flags=SYN, sequence=1, ports=(443, 9)),
        tcp(version, b"", flags=SYN_ACK, sequence=1),
        udp(version, b"question"),
    ]
    for packet, tos in ((first, 0), (others[0], 0), (first, 0), (again, 4)):
        queue.push(Run.single(packet), tos)
    for packet in (*others, others[3], others[2]):
        queue.push(Run.single(packet), 1)
    assert queue.take() == [(again, 4), *((packet, 1) for packet in others)]
    assert (queue.take(), len(queue)) == ([], 0)


def test_options_before_a_syn_hide_nothing_and_a_later_fragment_is_none() -> None:
    queue = PacketQueue()
    first, again = (with_ipv4_options(tcp(4, b"", flags=SYN, window=window)) for window in (1, 2))
    fragments = [bytearray(tcp(4, b"", flags=SYN, window=window)) for window in (1, 2)]
    for fragment in fragments:
        fragment[7] = 1
    for packet in (first, again, *map(bytes, fragments)):
        queue.push(Run.single(packet), 0)
    assert [packet for packet, _ in queue.take()] == [again, *map(bytes, fragments)]


def test_the_oldest_packets_go_when_there_are_too_many() -> None:
    queue = PacketQueue()
    packets = [tcp(4, b"", flags=SYN, sequence=number) for number in range(MAX_WAITING + 10)]
    assert [queue.push(Run.single(packet), 0) for packet in packets] == [0] * MAX_WAITING + [1] * 10
    assert [packet for packet, _ in queue.take()] == packets[10:]
    assert queue.push(Run(memoryview(b"".join(packets)), len(packets[0])), 0) == 10


def test_what_is_no_whole_packet_is_kept_as_it_is() -> None:
    queue = PacketQueue()
    for packet in (b"E", b"E", tcp(4, b"", flags=SYN)[:39], tcp(6, b"", flags=SYN)[:59]):
        queue.push(Run.single(packet), 0)
    assert len(queue.take()) == 3
