"""Cutting decrypted rows into runs of one flow."""

import itertools
from typing import Any

import pytest

from connectivity.ip.flow import Flow, PacketRun, mark_congestion, split_flows
from connectivity.ip.packet import IpError, parse
from connectivity.run import Run
from tests.unit.connectivity.ip_oracle import checksums_are_right, echo, tcp, udp, with_ipv4_options

TIMESTAMPS = b"\1\1\x08\x0aABCDEFGH"


def runs_of(rows: list[bytes], stride: int | None = None, *, pad: bool = True) -> list[PacketRun]:
    size = stride or len(rows[0])
    data = b"".join(row.ljust(size, b"\0") for row in rows) if pad else b"".join(rows)
    errors: list[IpError] = []
    found = split_flows(Run(memoryview(bytearray(data)), size), errors)
    assert errors == []
    return found


def packets_of(runs: list[PacketRun]) -> list[list[bytes]]:
    return [[bytes(segment) for segment in found.run.segments()] for found in runs]


def rows_of(version: int, protocol: int, count: int, size: int = 100, **fields: Any) -> list[bytes]:
    if protocol == 17:
        return [udp(version, bytes(size), **fields) for _ in range(count)]
    return [tcp(version, bytes(size), sequence=index * size, options=TIMESTAMPS, **fields) for index in range(count)]


@pytest.mark.parametrize(("version", "protocol"), list(itertools.product([4, 6], [6, 17])))
def test_one_flow_is_one_run_without_a_copy(version: int, protocol: int) -> None:
    rows = rows_of(version, protocol, 48)
    data = bytearray().join(rows)
    (found,) = split_flows(Run(memoryview(data), len(rows[0])), [])
    assert found.run.data.obj is data
    assert bytes(found.run.data) == bytes(data)
    assert (found.run.segment_size, found.flow, found.tos) == (len(rows[0]), parse(rows[0]).key, 0)


@pytest.mark.parametrize(("version", "protocol"), list(itertools.product([4, 6], [6, 17])))
@pytest.mark.parametrize("padding", [0, 12], ids=["bare", "padded"])
def test_the_last_row_may_be_a_shorter_packet(version: int, protocol: int, padding: int) -> None:
    rows = [*rows_of(version, protocol, 5), rows_of(version, protocol, 1, size=31)[0]]
    data = bytearray().join(rows) + bytes(padding)
    (found,) = split_flows(Run(memoryview(data), len(rows[0])), [])
    assert packets_of([found]) == [rows]
    assert found.run.data.obj is data


@pytest.mark.parametrize("version", [4, 6])
def test_another_flow_or_tos_begins_another_run(version: int) -> None:
    rows = [
        *rows_of(version, 6, 3),
        *rows_of(version, 6, 2, tos=1),
        *rows_of(version, 6, 1, ports=(1, 2)),
        *rows_of(version, 17, 4, size=124),
    ]
    found = runs_of(rows)
    assert [run.run.segment_count for run in found] == [3, 2, 1, 4]
    assert [run.tos for run in found] == [0, 1, 0, 0]
    assert list(itertools.chain(*packets_of(found))) == rows


@pytest.mark.parametrize("version", [4, 6])
def test_padded_rows_are_joined(version: int) -> None:
    rows = [*rows_of(version, 17, 4, size=50), *rows_of(version, 17, 1, size=20), *rows_of(version, 17, 2, size=50)]
    found = runs_of(rows, stride=160)
    assert packets_of(found) == [rows[:5], rows[5:]]


def test_a_short_packet_ends_its_run() -> None:
    rows = [*rows_of(4, 17, 2, size=100), *rows_of(4, 17, 1, size=60), *rows_of(4, 17, 2, size=100)]
    assert packets_of(runs_of(rows)) == [rows[:3], rows[3:]]


def test_a_different_tcp_header_length_begins_another_run() -> None:
    rows = [tcp(4, bytes(12 + 8)), tcp(4, bytes(8), options=TIMESTAMPS), tcp(4, bytes(8), options=TIMESTAMPS)]
    assert packets_of(runs_of(rows)) == [rows[:1], rows[1:]]


def test_what_is_not_plain_tcp_or_udp_is_a_run_of_one() -> None:
    fragment = bytearray(tcp(4, bytes(20)))
    fragment[6] = 0x20
    for row in (echo(4, 7), echo(6, 7), bytes(fragment), with_ipv4_options(tcp(4, bytes(24)))):
        assert [found.run.segment_count for found in runs_of([row] * 3)] == [1, 1, 1]


def test_a_udp_packet_with_bytes_behind_its_datagram_is_a_run_of_one() -> None:
    row = bytearray(udp(4, bytes(20)))
    row[25] = 20
    assert [found.run.segment_count for found in runs_of([bytes(row)] * 2)] == [1, 1]


def test_a_row_that_is_no_packet_does_not_cost_the_others() -> None:
    rows = rows_of(6, 6, 5)
    rows[2] = b"\x50" + rows[2][1:]
    errors: list[IpError] = []
    found = split_flows(Run(memoryview(bytearray().join(rows)), len(rows[0])), errors)
    assert packets_of(found) == [rows[:2], rows[3:]]
    assert [str(error) for error in errors] == ["version 5 is neither IPv4 nor IPv6"]


def test_a_row_with_a_wrong_length_in_the_middle_is_checked_like_a_first() -> None:
    rows = rows_of(4, 17, 5)
    rows[3] = rows[3][:24] + b"\xff\xff" + rows[3][26:]
    errors: list[IpError] = []
    found = split_flows(Run(memoryview(bytearray().join(rows)), len(rows[0])), errors)
    assert packets_of(found) == [rows[:3], rows[4:]]
    assert "UDP length 65535 does not fit" in str(errors[0])


@pytest.mark.parametrize("version", [4, 6])
def test_a_flow_key_decodes_and_encodes(version: int) -> None:
    key = parse(udp(version, b"")).key
    assert Flow.from_key(key).key == key


@pytest.mark.parametrize(("version", "tos"), list(itertools.product([4, 6], [0, 1, 2, 3, 0xFC, 0xFD])))
def test_only_ecn_capable_packets_are_marked(version: int, tos: int) -> None:
    rows = [*rows_of(version, 17, 3, tos=tos), *rows_of(version, 17, 1, size=5, tos=tos)]
    (found,) = runs_of(rows, pad=False)
    marked = mark_congestion(found)
    expected = tos | 3 if tos & 3 in (1, 2) else tos
    assert marked.tos == expected
    for segment in marked.run.segments():
        assert parse(segment).tos == expected
        assert checksums_are_right(bytes(segment))
