"""The flow table: what is remembered, what it falls with, and that it is bounded."""

from enum import StrEnum

import pytest

from connectivity.flow_table import FlowTable, translate
from connectivity.ip.flow import PacketRun
from connectivity.ip.packet import parse
from connectivity.run import Run
from connectivity.verdict import Drop, Forward, Translation
from tests.unit.connectivity.fragments import fragments, together
from tests.unit.connectivity.ip_oracle import ADDRESSES, V4, checksums_are_right, echo, ip, tcp, udp


class Reason(StrEnum):
    CLOSED = "closed"


def run_of(*rows: bytes) -> PacketRun:
    packet = parse(rows[0])
    return PacketRun(Run(memoryview(bytearray(b"".join(rows))), len(rows[0])), packet.key, packet.tos)


def key(number: int) -> bytes:
    return parse(udp(4, b"", ports=(number, 1))).key


def test_a_verdict_falls_with_each_thing_that_it_rests_on_and_nothing_else_does() -> None:
    table = FlowTable()
    table.remember(key(1), Forward("g", rests_on=(("gateway", "g"), ("resource", "r-1"))))
    table.remember(key(2), Forward("g", rests_on=(("gateway", "g"), ("resource", "r-2"))))
    table.remember(("g", key(1)), Forward("g", rests_on=(("resource", "r-1"),)))
    table.forget(("resource", "r-1"))
    assert [table.get(key(1)), table.get(("g", key(1)))] == [None, None]
    assert table.get(key(2)) is not None
    table.forget(("resource", "r-1"))
    table.forget(("gateway", "g"))
    assert len(table) == 0
    assert not table._resting, "what nothing rests on is forgotten, too"


def test_a_new_verdict_replaces_what_the_old_one_rested_on() -> None:
    table = FlowTable()
    table.remember(key(1), Forward("a", rests_on=(("gateway", "a"),)))
    table.remember(key(1), Forward("b", rests_on=(("gateway", "b"),)))
    table.forget(("gateway", "a"))
    assert table.get(key(1)) == Forward("b", rests_on=(("gateway", "b"),))


def test_drops_are_remembered_only_with_what_they_fall_with() -> None:
    table = FlowTable()
    table.remember(key(1), Drop(Reason.CLOSED))
    table.remember(key(2), Drop(Reason.CLOSED, rests_on=("policy",)))
    assert table.get(key(1)) is None
    assert table.get(key(2)) is not None


def test_what_shares_a_key_with_other_flows_is_judged_each_time() -> None:
    table = FlowTable()
    for version, kind in ((4, 3), (6, 1)):
        table.remember(parse(echo(version, 7, kind=kind)).key, Forward("g"))
    assert len(table) == 0
    table.remember(parse(echo(4, 7)).key, Forward("g"))
    assert len(table) == 1


def test_the_oldest_verdict_goes_when_the_table_is_full() -> None:
    table = FlowTable(limit=3)
    for number in range(1, 6):
        table.remember(key(number), Forward("g", rests_on=(number,)))
    assert [table.get(key(number)) is not None for number in range(1, 6)] == [False, False, True, True, True]
    assert set(table._resting) == {3, 4, 5}
    table.clear()
    assert (len(table), len(table._resting)) == (0, 0)


def test_a_translation_is_applied_to_a_whole_run_and_notes_what_passed() -> None:
    translation = Translation(source=V4[0] + 9, source_port=777)
    packets = run_of(tcp(4, b"ab", flags=0x10), tcp(4, b"cd", flags=0x18), tcp(4, b"", flags=0x11))
    translated = translate(packets, translation, 5)
    assert (translation.last_used, translation.tcp_flags) == (5, 0x19)
    for segment in translated.run.segments():
        packet = parse(segment)
        assert (packet.source, packet.ports[:2]) == (V4[0] + 9, (777).to_bytes(2, "big"))
        assert checksums_are_right(bytes(segment))
    translate(run_of(tcp(4, b"", flags=0x04)), translation, 6)
    assert (translation.last_used, translation.tcp_flags) == (6, 0x1D)


@pytest.mark.parametrize("version", [4, 6])
def test_fragments_among_whole_packets_are_whole_again_at_their_end(version: int) -> None:
    translation = Translation(destination=ADDRESSES[version][1] + 9, source_port=777)
    whole = udp(version, b"whole")
    datagram = udp(version, bytes(range(250)) * 20)
    for packet in (whole, whole, *fragments(whole, size=8), whole):
        translate(run_of(packet), translation, 1)
    translated = [bytes(translate(run_of(part), translation, 1).run.data) for part in fragments(datagram)]
    assert len(translated) > 3
    assert together(translated)[-5000:] == datagram[-5000:]
    assert checksums_are_right(together(translated))


def test_flags_are_of_tcp_alone() -> None:
    translation = Translation(destination=V4[0] + 9, destination_port=53)
    for packet in (udp(4, bytes(40)), echo(4, 1), ip(4, 47, bytes(40))):
        translated = translate(run_of(packet), translation, 1)
        assert parse(translated.run.data).destination == V4[0] + 9
    assert translation.tcp_flags == 0
