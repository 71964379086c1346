"""Which flow fragments belong to: what the table keeps, for how long, and of whom."""

import pytest

from connectivity.fragment_table import LIFETIME, MAX_DATAGRAMS, FragmentDrop, FragmentTable
from connectivity.ip.flow import PacketRun
from connectivity.ip.packet import parse
from connectivity.run import Run
from tests.unit.connectivity.fragments import fragment, fragments
from tests.unit.connectivity.ip_oracle import ip, udp

BIG = bytes(4000)


def run_of(row: bytes) -> PacketRun:
    packet = parse(row)
    return PacketRun(Run.single(bytearray(row)), packet.key, packet.tos)


@pytest.mark.parametrize("version", [4, 6])
def test_later_fragments_are_of_the_flow_of_the_first_in_any_order_behind_it(version: int) -> None:
    table = FragmentTable()
    first, second, third, last = map(run_of, fragments(udp(version, BIG)))
    assert table.resolve(None, second, 0) is FragmentDrop.UNKNOWN
    flow = parse(udp(version, b"")).key
    for packets in (first, last, third, second, second):
        found = table.resolve(None, packets, 0)
        assert isinstance(found, PacketRun)
        assert (found.flow, found.run) == (flow, packets.run)


def test_each_sender_has_datagrams_of_its_own() -> None:
    table = FragmentTable()
    first, second, *_ = map(run_of, fragments(udp(4, BIG)))
    table.resolve("one", first, 0)
    assert table.resolve("other", second, 0) is FragmentDrop.UNKNOWN
    assert table.resolve(None, second, 0) is FragmentDrop.UNKNOWN
    for number in range(2 * MAX_DATAGRAMS):
        table.resolve("other", run_of(fragments(udp(4, BIG), identification=number)[0]), 0)
    assert len(table) == 1 + MAX_DATAGRAMS
    assert isinstance(table.resolve("one", second, 0), PacketRun)
    oldest = run_of(fragments(udp(4, BIG), identification=MAX_DATAGRAMS - 1)[1])
    assert table.resolve("other", oldest, 0) is FragmentDrop.UNKNOWN


def test_a_datagram_times_out() -> None:
    table = FragmentTable()
    first, second, *_ = map(run_of, fragments(udp(6, BIG)))
    table.resolve(None, first, 5)
    assert isinstance(table.resolve(None, second, 4 + LIFETIME), PacketRun)
    assert table.resolve(None, second, 5 + LIFETIME) is FragmentDrop.UNKNOWN
    table.expire(4 + LIFETIME)
    assert len(table) == 1
    table.expire(5 + LIFETIME)
    assert (len(table), table._firsts) == (0, {})


@pytest.mark.parametrize("version", [4, 6])
def test_nothing_overwrites_what_the_first_fragment_holds(version: int) -> None:
    table = FragmentTable()
    whole = udp(version, BIG)
    head = whole[: 20 if version == 4 else 40]
    table.resolve(None, run_of(fragments(whole)[0]), 0)
    for offset in (8, 16, 1224):
        over = run_of(fragment(head, bytes(1232), offset, more=True))
        assert table.resolve(None, over, 0) is FragmentDrop.OVERLAP
    shorter = run_of(fragments(whole, size=64)[0])  # a second first one does not open a gap in it
    table.resolve(None, shorter, 0)
    assert table.resolve(None, run_of(fragment(head, bytes(64), 64, more=True)), 0) is FragmentDrop.OVERLAP
    assert isinstance(table.resolve(None, run_of(fragment(head, bytes(64), 1232)), 0), PacketRun)


def test_another_first_fragment_takes_the_datagram_over() -> None:
    table = FragmentTable()
    table.resolve(None, run_of(fragments(udp(4, BIG))[0]), 0)
    table.resolve(None, run_of(fragments(udp(4, BIG, ports=(7, 8)))[0]), 0)
    found = table.resolve(None, run_of(fragments(udp(4, BIG))[1]), 0)
    assert isinstance(found, PacketRun)
    assert found.flow == parse(udp(4, b"", ports=(7, 8))).key


def test_what_ipv4_carries_as_protocol_44_is_no_fragment() -> None:
    packets = run_of(ip(4, 44, bytes(40)))
    assert FragmentTable().resolve(None, packets, 0) == packets
