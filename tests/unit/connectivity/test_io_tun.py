"""The TUN device over a scripted kernel: how packets are packed into runs, and what a refused write leads to."""

import errno
import os
import struct
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from connectivity.errors import FatalError
from connectivity.io import tun_device
from connectivity.io.tun import Tun
from connectivity.ip.flow import PacketRun, shares_runs
from connectivity.ip.packet import IpError, parse
from connectivity.ip.segmentation import VirtioNetHeader
from connectivity.run import Run
from tests.unit.connectivity.fragments import fragments
from tests.unit.connectivity.ip_oracle import checksums_are_right, echo, super_packet, tcp, udp

NO_OFFLOAD = bytes(10)


class ScriptedDevice:
    """What a kernel would answer: packets to read (virtio header in front), and errors for writes by their kind."""

    def __init__(self) -> None:
        self.incoming: list[bytes | OSError] = []
        self.written: list[bytes] = []
        self.refuse: Callable[[VirtioNetHeader], int] = lambda header: 0 * header.flags

    def readv(self, _: int, into: Sequence[Any]) -> int:
        if not self.incoming:
            raise BlockingIOError
        packet = self.incoming.pop(0)
        if isinstance(packet, OSError):
            raise packet
        into[0][:] = packet[:10]
        into[1][: len(packet) - 10] = packet[10:]
        return len(packet)

    def writev(self, _: int, parts: Sequence[Any]) -> int:
        data = b"".join(parts)
        code = self.refuse(VirtioNetHeader.decode(data))
        if code:
            raise OSError(code, os.strerror(code))
        self.written.append(data)
        return len(data)


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> ScriptedDevice:
    script = ScriptedDevice()
    monkeypatch.setattr(os, "readv", script.readv)
    monkeypatch.setattr(os, "writev", script.writev)
    return script


@pytest.fixture
def tun() -> Tun:
    return Tun(-1, "tun-test", tso=True, uso=True)


def read(tun: Tun, limit: int = 100) -> list[list[bytes]]:
    return [[bytes(segment) for segment in packets.run.segments()] for packets in tun.read(limit)]


def partial(version: int, protocol: int, payload: bytes, **fields: Any) -> bytes:
    """As the kernel hands out a single packet with checksum offload."""
    virtio, packet = super_packet(version, protocol, payload, 0, **fields)
    return virtio[:1] + b"\0" + virtio[2:] + packet


def run_of(rows: list[bytes]) -> PacketRun:
    packet = parse(rows[0])
    return PacketRun(Run(memoryview(b"".join(rows)), len(rows[0])), packet.key, packet.tos)


def stream(count: int, size: int = 100) -> list[bytes]:
    return [tcp(4, bytes((index,)) * size, sequence=index * size) for index in range(count)]


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("size", [100, 101, 3])
@pytest.mark.parametrize("needs_checksum", [True, False])
def test_equal_packets_of_one_flow_are_one_run(
    device: ScriptedDevice, tun: Tun, version: int, size: int, needs_checksum: bool
) -> None:
    payloads = [bytes((index,)) * size for index in range(9)] + [b"end"[:size]]
    expected = [udp(version, payload) for payload in payloads]
    device.incoming = [partial(version, 17, payload) for payload in payloads]
    if not needs_checksum:
        device.incoming = [NO_OFFLOAD + packet for packet in expected]
    assert read(tun) == [expected]
    assert tun.counters.packets_read == 10


def test_another_flow_length_or_tos_begins_another_run(device: ScriptedDevice, tun: Tun) -> None:
    groups = [
        [udp(4, b"aaaa"), udp(4, b"bbbb"), udp(4, b"c")],
        [udp(4, b"d")],
        [udp(4, b"eeeee")],
        [udp(4, b"fffff", tos=1)],
        [udp(6, b"fffff", tos=1)] * 2,
        [tcp(6, b"", acknowledgement=1), tcp(6, b"", acknowledgement=2)],
    ]
    device.incoming = [NO_OFFLOAD + packet for group in groups for packet in group]
    device.incoming.append(partial(6, 6, b"", acknowledgement=3))
    assert read(tun) == [*groups, [tcp(6, b"", acknowledgement=3)]]


@pytest.mark.parametrize("protocol", [6, 17])
@pytest.mark.parametrize("version", [4, 6])
def test_packets_share_a_run_only_if_the_strict_parser_finds_one_flow_in_them(
    device: ScriptedDevice, tun: Tun, version: int, protocol: int
) -> None:
    """Whatever byte differs in the second packet, the shortcut must decide as parsing does."""
    make = udp if protocol == 17 else tcp
    first = make(version, b"payload of some length")
    for index in range(len(first)):
        for bit in (0x01, 0x40):
            second = bytearray(first)
            second[index] ^= bit
            try:
                packet = parse(second)
            except IpError:
                expected = [[first]]
            else:
                one_flow = shares_runs(packet) and (packet.key, packet.tos) == (parse(first).key, parse(first).tos)
                whole = one_flow and len(packet.data) == len(first)
                expected = [[first, bytes(second)]] if whole else [[first], [bytes(packet.data)]]
            device.incoming = [NO_OFFLOAD + first, NO_OFFLOAD + bytes(second)]
            assert read(tun) == expected, (index, bit)
            tun.take_errors()


def test_what_is_not_tcp_or_udp_is_a_run_of_one(device: ScriptedDevice, tun: Tun) -> None:
    device.incoming = [NO_OFFLOAD + echo(4, 1)] * 2
    assert read(tun) == [[echo(4, 1)], [echo(4, 1)]]


def test_fragments_of_the_host_are_runs_of_one(device: ScriptedDevice, tun: Tun) -> None:
    parts = [part for version in (4, 6) for part in fragments(udp(version, bytes(8192)))]
    device.incoming = [NO_OFFLOAD + part for part in parts]
    assert read(tun) == [[part] for part in parts]


def test_fragments_of_the_host_that_are_none_are_counted_as_such(device: ScriptedDevice, tun: Tun) -> None:
    first, later = bytearray(udp(4, bytes(100))), bytearray(udp(4, bytes(100)))
    first[6] = 0x20  # "more fragments" of a datagram that is whole
    later[6], later[7] = 0x20, 157  # of 108 bytes, and more to come behind
    device.incoming = [NO_OFFLOAD + bytes(packet) for packet in (first, later, b"\0" * 20)]
    assert read(tun) == []
    assert (tun.counters.unusable, tun.counters.fragments) == (3, 2)
    assert len(tun.take_errors()) == 3


def test_a_packet_of_ours_is_written_as_it_is_and_a_refusal_counted(device: ScriptedDevice, tun: Tun) -> None:
    tun.write_packet(tcp(4, b"a"))
    assert device.written == [NO_OFFLOAD + tcp(4, b"a")]
    for code in (errno.EAGAIN, errno.EINVAL):
        device.refuse = lambda _, code=code: code  # type: ignore[misc]  # bound now
        tun.write_packet(tcp(4, b"b"))
    counted = tun.counters
    assert (counted.packets_written, counted.write_dropped, counted.write_errors) == (1, 1, 1)
    assert len(tun.take_errors()) == 1


def test_a_super_packet_ends_a_pack_and_is_a_run_of_its_own(device: ScriptedDevice, tun: Tun) -> None:
    virtio, whole = super_packet(4, 6, bytes(250), 100)
    device.incoming = [NO_OFFLOAD + udp(4, b"a"), virtio + whole, NO_OFFLOAD + udp(4, b"b")]
    runs = read(tun)
    assert [len(run) for run in runs] == [1, 3, 1]
    assert all(checksums_are_right(packet) for packet in runs[1])
    assert tun.counters.super_packets_read == 1


def test_runs_have_at_most_64_packets(device: ScriptedDevice, tun: Tun) -> None:
    virtio, whole = super_packet(4, 6, bytes(15000), 100)
    device.incoming = [virtio + whole, *([NO_OFFLOAD + udp(4, bytes(1252))] * 150)]
    assert [len(run) for run in read(tun, 1000)] == [64, 64, 22, 64, 64, 22]


def test_the_limit_counts_packets_as_they_are_sent(device: ScriptedDevice, tun: Tun) -> None:
    virtio, whole = super_packet(4, 6, bytes(5000), 100)
    device.incoming = [virtio + whole] * 4
    assert sum(len(run) for run in read(tun, 100)) == 100
    assert len(device.incoming) == 2


def test_unusable_packets_are_reported_and_skipped(device: ScriptedDevice, tun: Tun) -> None:
    device.incoming = [
        NO_OFFLOAD + udp(4, b"a"),
        NO_OFFLOAD + b"\x50rubbish",
        struct.pack("=BBHHHH", 1, 1, 0, 0, 0, 0) + tcp(4, bytes(50)),
        NO_OFFLOAD + udp(4, b"b"),
    ]
    assert [packet for run in read(tun) for packet in run] == [udp(4, b"a"), udp(4, b"b")]
    assert tun.counters.unusable == 2
    assert ["version 5" in str(error) for error in tun.take_errors()] == [True, False]
    assert tun.take_errors() == []


@pytest.mark.parametrize("gone", [OSError(errno.EBADFD, "scripted"), b""])
def test_a_device_that_is_gone_ends_the_service(device: ScriptedDevice, tun: Tun, gone: Any) -> None:
    device.incoming = [gone or bytes(10)]
    with pytest.raises(FatalError, match="tun-test"):
        read(tun)


def test_a_run_is_written_as_a_super_packet(device: ScriptedDevice, tun: Tun) -> None:
    tun.write(run_of(stream(10)))
    tun.write(run_of([echo(6, 1)]))
    assert [VirtioNetHeader.decode(data).gso_type for data in device.written] == [1, 0]
    assert (tun.counters.packets_written, tun.counters.super_packets_written) == (2, 1)


@pytest.mark.parametrize(
    ("rows", "switch", "other"),
    [(stream(5), "tso", "uso"), ([udp(6, bytes((index,)) * 9) for index in range(5)], "uso", "tso")],
)
def test_a_refused_super_packet_goes_out_as_single_packets_and_the_offload_stays_off(
    device: ScriptedDevice, tun: Tun, rows: list[bytes], switch: str, other: str
) -> None:
    device.refuse = lambda header: errno.EINVAL if header.gso_type else 0
    for _ in range(2):
        tun.write(run_of(rows))
    assert len(device.written) == 10
    assert [data[10:] for data in device.written[5:]] == rows
    assert all(checksums_are_right(data[10:]) for data in device.written)
    assert (getattr(tun, switch), getattr(tun, other), tun.counters.offload_failures) == (False, True, 1)
    assert tun.take_errors() == []


def test_a_device_that_is_full_while_finding_out_drops_what_it_cannot_take_and_no_more(
    device: ScriptedDevice, tun: Tun
) -> None:
    answers = [errno.EINVAL, 0, errno.EAGAIN, 0, 0, errno.EAGAIN]  # the super-packet, then its five packets
    device.refuse = lambda _: answers.pop(0)
    tun.write(run_of(stream(5)))
    assert len(device.written) == 3
    assert (tun.counters.write_dropped, tun.counters.write_errors, tun.take_errors()) == (2, 0, [])


def test_an_interface_that_is_down_blames_no_offload(device: ScriptedDevice, tun: Tun) -> None:
    device.refuse = lambda _: errno.EIO
    tun.write(run_of(stream(5)))
    tun.write(run_of([echo(4, 1)]))
    assert (tun.tso, tun.counters.offload_failures, tun.counters.write_errors) == (True, 0, 2)
    down = "[Errno 5] tun-test is down, or is being deleted"
    assert [str(error) for error in tun.take_errors()] == [down] * 2


def test_what_is_held_back_is_written_in_its_order_once_the_host_is_ready(device: ScriptedDevice, tun: Tun) -> None:
    rows = [echo(4, index) for index in range(5)]
    buffer = bytearray(rows[1])
    tun.hold()
    tun.write_packet(rows[0])
    tun.write(run_of([rows[1]])._replace(run=Run(memoryview(buffer), len(buffer))))
    buffer[:] = bytes(len(buffer))  # the run was valid for that call only
    tun.write_packet(rows[2])
    assert (device.written, tun.counters.packets_written) == ([], 0)
    assert tun.release()
    tun.write_packet(rows[3])
    assert not tun.release()
    assert device.written == [NO_OFFLOAD + row for row in rows[:4]]


def test_no_more_is_held_back_than_the_bound(device: ScriptedDevice, tun: Tun) -> None:
    tun.hold()
    for _ in range(256):
        tun.write(run_of(stream(2)))
    tun.write(run_of(stream(3)))
    tun.write_packet(echo(4, 1))
    assert tun.counters.write_dropped == 4
    assert tun.release()
    assert len(device.written) == 256


def test_a_full_device_drops_and_counts(device: ScriptedDevice, tun: Tun) -> None:
    device.refuse = lambda _: errno.EAGAIN
    tun.write(run_of(stream(5)))
    assert (tun.counters.write_dropped, tun.take_errors()) == (1, [])


def test_the_node_is_made_where_it_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[tuple[Path, int, int]] = []
    monkeypatch.setattr(os, "mknod", lambda *arguments: made.append(arguments))
    node = tmp_path / "net" / "tun"
    tun_device._ensure_node(node)
    assert made == [(node, 0o020600, os.makedev(10, 200))]
    assert node.parent.stat().st_mode & 0o777 == 0o751
    node.touch()
    tun_device._ensure_node(node)
    assert len(made) == 1


def test_no_device_node_is_one_clear_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "mknod", refuse)
    monkeypatch.setattr(tun_device, "_DEVICE", tmp_path / "tun")
    with pytest.raises(FatalError, match=r"cannot open .*tun for device tun-test"):
        Tun.create("tun-test")
