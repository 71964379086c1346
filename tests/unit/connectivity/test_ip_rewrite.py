"""Address translation: the cases that a property test would meet too rarely."""

import struct
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from connectivity.ip.flow import PacketRun
from connectivity.ip.packet import parse
from connectivity.ip.rewrite import Rewriting, rewrite, tcp_flags
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


@given(
    st.sampled_from((tcp, udp)),
    st.sampled_from((4, 6)),
    st.lists(st.binary(min_size=20, max_size=20), min_size=1, max_size=5),
    st.binary(max_size=20),
    st.lists(st.integers(0, 0xFFFF), min_size=6, max_size=6),
    st.lists(st.integers(0, 0xFFFF), min_size=4, max_size=4),
    st.booleans(),
)
def test_what_was_worked_out_once_does_the_same_to_every_run(
    kind: Any, version: int, payloads: list[bytes], tail: bytes, checksums: list[int], ports: list[int], to: bool
) -> None:
    """Whatever the checksum fields hold: wrong ones, zero, all ones."""
    addresses = V4 if version == 4 else V6
    rows = [kind(version, payload, ports=tuple(ports[:2])) for payload in payloads]
    if tail:
        rows.append(kind(version, tail, ports=tuple(ports[:2])))
    at = (20 if version == 4 else 40) + (16 if kind is tcp else 6)
    for index, checksum in zip(range(len(rows)), checksums, strict=False):
        changed = bytearray(rows[index])
        changed[at : at + 2] = struct.pack(">H", checksum if index % 2 else (checksum & 1) * 0xFFFF)
        rows[index] = bytes(changed)
    replace: dict[str, Any] = {"destination": addresses[1] + 7, "source_port": ports[2]}
    if to:
        replace = {"source": addresses[0] + 7, "destination_port": ports[3]}
    slow, fast = run_of(*rows), run_of(*rows)
    flags = tcp_flags(slow) if kind is tcp else None
    assert Rewriting.fits(fast)
    rewriting = Rewriting(fast.flow, rewrite(run_of(*rows), **replace).flow)
    assert flags is None or rewriting.tcp_flags(fast.run) == flags
    expected, found = rewrite(slow, **replace), rewriting.apply(fast)
    assert bytes(found.run.data) == bytes(expected.run.data)
    assert found == expected._replace(run=found.run)


def test_only_plain_headers_are_worked_out_once() -> None:
    for other in (
        with_ipv4_options(tcp(4, b"abc")),
        echo(4, 5),
        echo(6, 5),
        ip(4, 47, bytes(20)),
        ip(6, 47, bytes(20)),
    ):
        assert not Rewriting.fits(run_of(other))
    behind_options = bytes((6, 0, 1, 4, 0, 0, 0, 0)) + tcp(6, b"abc")[40:]
    assert not Rewriting.fits(run_of(ip(6, 60, behind_options)))
