"""UDP sockets over a scripted kernel: refusals, full queues, odd datagrams."""

import errno
import logging
import socket
import struct
from collections.abc import Sequence
from ipaddress import ip_address
from pathlib import Path
from typing import Any, cast

import pytest

from connectivity.endpoint import Endpoint
from connectivity.io import buffers
from connectivity.io.receive_buffer import SLOTS, ReceiveBuffer
from connectivity.io.udp import UdpSocket
from connectivity.io.udp_options import (
    IP_MTU_DISCOVER,
    IP_PMTUDISC_OMIT,
    IP_PMTUDISC_PROBE,
    UDP_GRO,
    UDP_SEGMENT,
    ControlMessages,
)
from connectivity.run import Run, Transmit

TO = Endpoint(ip_address("192.0.2.2"), 9)
PKTINFO = struct.pack("=i4s4s", 1, bytes(4), ip_address("192.0.2.1").packed)


class ScriptedSocket:
    """A socket whose ``sendmsg`` answers from a list: an errno in place of an answer is raised."""

    family = socket.AF_INET

    def __init__(self, *, missing: tuple[int, ...] = (), answers: list[int] | None = None) -> None:
        self.sent: list[tuple[bytes, ControlMessages, Any]] = []
        self.answers = answers or []  # 0: taken; else the errno to raise
        self.incoming: list[Any] = []
        self.missing = missing
        self.options: list[tuple[int, int, int]] = []
        self.closed = False

    def getsockname(self) -> tuple[str, int]:
        return "0.0.0.0", 52625

    def setsockopt(self, level: int, option: int, value: int) -> None:
        if level == socket.IPPROTO_UDP and option in self.missing:
            raise OSError(errno.ENOPROTOOPT, f"no option {option} for {value}")
        self.options.append((level, option, value))

    def sendmsg(self, parts: Sequence[bytes | memoryview], ancillary: ControlMessages, flags: int, to: Any) -> int:
        code = self.answers.pop(0) if self.answers else flags
        if code:
            raise OSError(code, "scripted")
        data = b"".join(parts)
        self.sent.append((data, ancillary, to))
        return len(data)

    def sendto(self, data: memoryview, to: Any) -> int:
        return self.sendmsg((data,), (), 0, to)

    def fileno(self) -> int:
        return 0

    def dry(self) -> None:
        """All that was incoming has been taken."""

    def close(self) -> None:
        self.closed = True


class ScriptedBuffer(ReceiveBuffer):
    """In place of recvmmsg(2): what a script's ``incoming`` has, as the kernel lays it out; an exception is raised."""

    def __init__(self, script: ScriptedSocket, slots: int = SLOTS) -> None:
        super().__init__(slots)
        self.script = script

    def fill(self, descriptor: int, limit: int) -> int:
        assert descriptor == self.script.fileno()
        limit = min(limit, self.slots)
        incoming = self.script.incoming
        if not incoming:
            self.script.dry()
        elif isinstance(incoming[0], OSError):
            raise incoming.pop(0)
        count = 0
        while count < limit and incoming and not isinstance(incoming[0], OSError):
            data, ancillary, flags, (text, port, *_) = incoming.pop(0)
            ip = ip_address(text)
            name = struct.pack("=H", socket.AF_INET if ip.version == 4 else socket.AF_INET6) + port.to_bytes(2, "big")
            name += ip.packed if ip.version == 4 else bytes(4) + ip.packed
            control = b"".join(
                struct.pack("=Qii", 16 + len(value), level, kind) + value + bytes(-len(value) % 8)
                for level, kind, value in ancillary
            )
            envelope, memory = self._slots[count]
            envelope[: 32 + len(control)] = name.ljust(32, b"\0") + control
            memory[: len(data)] = data
            # Behind name and vector: msg_controllen, msg_flags, msg_len (struct mmsghdr).
            self._headers[64 * count + 40 : 64 * count + 64] = struct.pack(
                "=QixxxxIxxxx", len(control), flags, len(data)
            )
            count += 1
        return count


def opened(script: ScriptedSocket, **switches: Any) -> UdpSocket:
    offloads: dict[str, Any] = {"gso": True, "gro": True}
    return UdpSocket(cast(socket.socket, script), **({"buffer": ScriptedBuffer(script)} | offloads | switches))


def run_of(count: int, size: int = 100) -> Run:
    return Run(memoryview(b"".join(bytes((index,)) * size for index in range(count))), size)


def lengths(script: ScriptedSocket) -> list[int]:
    return [len(data) for data, _, _ in script.sent]


def test_a_run_is_one_send_with_segment_size_source_and_tos() -> None:
    script = ScriptedSocket()
    source = Endpoint(ip_address("192.0.2.1"), 1)
    assert opened(script).send(Transmit(source, TO, run_of(48), 0x2D)) is None
    (sent,) = script.sent
    assert sent == (
        bytes(run_of(48).data),
        (
            (socket.IPPROTO_IP, 8, struct.pack("=i4s4x", 0, source.ip.packed)),
            (socket.IPPROTO_IP, socket.IP_TOS, struct.pack("=i", 0x2D)),
            (socket.IPPROTO_UDP, UDP_SEGMENT, struct.pack("=H", 100)),
        ),
        ("192.0.2.2", 9),
    )


def test_chunks_hold_at_most_64_segments_and_what_a_length_field_can_say() -> None:
    script = ScriptedSocket()
    opened(script).send(Transmit(None, TO, run_of(130)))
    opened(script).send(Transmit(None, TO, run_of(60, 1312)))
    assert lengths(script) == [6400, 6400, 200, 49 * 1312, 11 * 1312]


def test_a_single_datagram_carries_no_segment_size() -> None:
    script = ScriptedSocket()
    opened(script).send(Transmit(None, TO, run_of(65)))
    assert [ancillary for _, ancillary, _ in script.sent] == [
        ((socket.IPPROTO_UDP, UDP_SEGMENT, struct.pack("=H", 100)),),
        (),
    ]


@pytest.mark.parametrize("refusal", [errno.EINVAL, errno.EMSGSIZE])
def test_segments_beyond_the_mtu_go_as_single_datagrams_and_slow_down_no_others(refusal: int) -> None:
    script = ScriptedSocket(answers=[refusal])
    sender = opened(script)
    assert sender.send(Transmit(None, TO, run_of(5))) is None
    assert lengths(script) == [100] * 5
    assert (sender.gso, sender.counters.gso_failures, sender.counters.datagrams_sent) == (True, 1, 5)
    sender.send(Transmit(None, TO, run_of(2)))
    assert lengths(script) == [100] * 5 + [200]


def test_refused_segmentation_sends_the_same_bytes_once_more_and_remembers() -> None:
    script = ScriptedSocket(answers=[errno.EIO])
    sender = opened(script)
    assert sender.send(Transmit(None, TO, run_of(5))) is None
    assert b"".join(data for data, _, _ in script.sent) == bytes(run_of(5).data)
    assert lengths(script) == [100] * 5
    assert (sender.gso, sender.counters.gso_failures, sender.counters.datagrams_sent) == (False, 1, 5)
    sender.send(Transmit(None, TO, run_of(2)))
    assert lengths(script) == [100] * 7


def test_a_second_refusal_is_reported_and_does_not_blame_segmentation() -> None:
    script = ScriptedSocket(answers=[errno.EINVAL, errno.EINVAL])
    sender = opened(script)
    error = sender.send(Transmit(None, TO, run_of(130)))
    assert error is not None
    assert (error.errno, str(error.args[1])) == (
        errno.EINVAL,
        "cannot send 13000 bytes in segments of 100 to 192.0.2.2:9",
    )
    assert (sender.gso, sender.counters.send_errors, lengths(script)) == (True, 1, [])


def test_a_full_queue_while_finding_out_loses_nothing() -> None:
    script = ScriptedSocket(answers=[errno.EIO, errno.EAGAIN, errno.EAGAIN])
    sender = opened(script)
    assert sender.send(Transmit(None, TO, run_of(3))) is None
    assert sender.backlogged
    assert not sender.flush()
    assert sender.flush()
    assert b"".join(data for data, _, _ in script.sent) == bytes(run_of(3).data)


@pytest.mark.parametrize("refusal", [errno.EPERM, errno.ENOBUFS])
def test_one_refused_chunk_does_not_stop_the_next(refusal: int) -> None:
    script = ScriptedSocket(answers=[0, refusal, 0])
    udp = opened(script)
    error = udp.send(Transmit(None, TO, run_of(130)))
    assert error is not None
    assert error.errno == refusal
    assert "bytes 6400 to 12800 of 13000" in str(error)
    assert lengths(script) == [6400, 200]
    assert (udp.gso, udp.counters.send_errors, udp.backlogged) == (True, 1, False)


def test_what_a_full_socket_does_not_take_waits_in_order() -> None:
    script = ScriptedSocket(answers=[0, errno.EAGAIN])
    sender = opened(script)
    scratch = bytearray(run_of(70).data)
    assert sender.send(Transmit(None, TO, Run(memoryview(scratch), 100), tos=1)) is None
    assert sender.send(Transmit(None, TO, Run.single(b"later"))) is None
    assert sender.send(Transmit(None, TO, Run.single(b""))) is None
    scratch[:] = bytes(len(scratch))  # the run was only borrowed
    assert sender.backlogged
    script.answers = [errno.EAGAIN]
    assert not sender.flush()
    assert sender.flush()
    assert not sender.backlogged
    assert b"".join(data for data, _, _ in script.sent) == bytes(run_of(70).data) + b"later"
    assert [bool(ancillary) for _, ancillary, _ in script.sent] == [True, True, False, False]
    assert script.sent[-1][0] == b"", "an empty datagram is one"


def test_the_backlog_is_bounded_and_what_is_dropped_is_counted() -> None:
    script = ScriptedSocket(answers=[errno.EAGAIN])
    sender = opened(script, max_backlog_bytes=450)
    for _ in range(3):
        assert sender.send(Transmit(None, TO, run_of(2))) is None
    assert sender.counters.backlog_dropped == 2
    sender.close()
    assert (sender.counters.backlog_dropped, script.closed) == (6, True)


def test_errors_of_a_flush_are_kept_for_whoever_asks() -> None:
    script = ScriptedSocket(answers=[errno.EAGAIN, errno.ENETUNREACH])
    sender = opened(script)
    sender.send(Transmit(None, TO, run_of(1)))
    assert sender.flush()
    assert [error.errno for error in sender.take_errors()] == [errno.ENETUNREACH]
    assert sender.take_errors() == []


def test_fragmentation_is_as_asked_for_from_the_start() -> None:
    for wanted in (True, False):
        script = ScriptedSocket()
        udp = opened(script, dont_fragment=wanted)
        mode = IP_PMTUDISC_PROBE if wanted else IP_PMTUDISC_OMIT
        chosen = [option for option in script.options if option[1] == IP_MTU_DISCOVER]
        assert chosen == [(socket.IPPROTO_IP, IP_MTU_DISCOVER, mode)]
        before = len(script.options)
        udp.set_dont_fragment(wanted)
        assert len(script.options) == before


def test_offloads_that_the_kernel_or_the_operator_refuses_stay_off() -> None:
    assert (opened(ScriptedSocket()).gso, opened(ScriptedSocket()).gro) == (True, True)
    without = opened(ScriptedSocket(missing=(UDP_SEGMENT, UDP_GRO)))
    assert (without.gso, without.gro) == (False, False)
    script = ScriptedSocket()
    refused = opened(script, gso=False, gro=False)
    assert (refused.gso, refused.gro) == (False, False)
    refused.send(Transmit(None, TO, run_of(3)))
    assert lengths(script) == [100, 100, 100]


def test_kernel_limits_are_raised_but_never_lowered(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "rmem_max").write_text("212992\n")
    (tmp_path / "wmem_max").write_text("99999999\n")
    with caplog.at_level(logging.DEBUG):
        buffers.raise_limits(tmp_path)
        buffers.raise_limits(tmp_path / "missing")
    assert (tmp_path / "rmem_max").read_text() == str(128 << 20)
    assert (tmp_path / "wmem_max").read_text() == "99999999\n"
    assert [record.levelname for record in caplog.records] == ["DEBUG"] * 4


def extended_error(number: int, origin: int, icmp_type: int, code: int, info: int) -> bytes:
    return struct.pack("=IBBBxII", number, origin, icmp_type, code, info, 0) + bytes(16)


def test_what_icmp_said_of_an_earlier_datagram_costs_no_later_one() -> None:
    script = ScriptedSocket(answers=[errno.ECONNREFUSED])
    udp = opened(script)
    udp.collect_icmp()
    assert udp.send(Transmit(None, TO, run_of(3))) is None
    assert lengths(script) == [300]
    script.answers = [errno.EHOSTUNREACH, errno.EHOSTUNREACH]
    error = udp.send(Transmit(None, TO, run_of(3)))
    assert error is not None
    assert error.errno == errno.EHOSTUNREACH
    for about_this_one in (errno.EMSGSIZE, errno.ENOBUFS):  # asking again would only be told twice
        script.answers = [about_this_one]
        assert udp.send(Transmit(None, TO, run_of(1))) is not None
        assert lengths(script) == [300]
    assert udp.counters.send_errors == 3


def test_icmp_errors_come_off_the_queue_with_their_peer() -> None:
    script = ScriptedSocket()
    queue = [
        (errno.ECONNREFUSED, 2, 3, 3, 0),
        (errno.EMSGSIZE, 2, 3, 4, 1400),
        (errno.EMSGSIZE, 1, 0, 0, 1280),  # found out by this host
        (errno.ENOMSG, 4, 0, 0, 0),  # a timestamp
    ]

    def recvmsg(_: int, __: int, flags: int) -> Any:
        assert flags == socket.MSG_ERRQUEUE
        if not queue:
            raise BlockingIOError
        return b"", [(socket.IPPROTO_IP, 11, extended_error(*queue.pop(0)))], flags, ("192.0.2.2", 9)

    script.recvmsg = recvmsg  # type: ignore[attr-defined]  # only this test has an error queue
    assert list(opened(script).icmp_errors()) == [(TO, 3, 3, 0), (TO, 3, 4, 1400), (TO, 3, 4, 1280)]
    assert queue == []
