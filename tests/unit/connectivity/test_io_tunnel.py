"""The driver of client and gateway over a scripted kernel: who gets a turn, and when it stops reading.

Readiness is what a socket pair says: always writable, and readable as long as a byte lies in it.
"""

import asyncio
import errno
import logging
import socket
import struct
from collections.abc import Callable
from ipaddress import ip_address
from itertools import groupby
from typing import Any, cast

import pytest

from connectivity.clock import Instant, WallTime
from connectivity.endpoint import Endpoint
from connectivity.io.tun import Tun
from connectivity.io.tunnel import TunnelDriver
from connectivity.ip.flow import PacketRun
from connectivity.node import UnknownConnectionError
from connectivity.run import Received, Run, Transmit
from tests.unit.connectivity.test_io_udp import ScriptedSocket, opened

PEER = Endpoint(ip_address("192.0.2.2"), 9)
PKTINFO = struct.pack("=i4s4s", 1, bytes(4), ip_address("192.0.2.1").packed)
PACKETS = PacketRun(Run.single(b"packet"), b"flow", 0)


class Ready:
    """A file descriptor that is readable until ``dry``."""

    def __init__(self) -> None:
        self._end, self._far = socket.socketpair()
        self._end.setblocking(False)
        self._far.send(b"x")

    def fileno(self) -> int:
        return self._end.fileno()

    def dry(self) -> None:
        try:
            self._end.recv(1)
        except BlockingIOError:
            return

    def close(self) -> None:
        self._end.close()
        self._far.close()


class BusySocket(ScriptedSocket):
    """Datagrams that lie in the kernel, and a descriptor that says so."""

    def __init__(self, datagrams: int, answers: list[int] | None = None) -> None:
        super().__init__(answers=answers)
        self.ready = Ready()
        self.incoming = [(b"datagram", [(socket.IPPROTO_IP, 8, PKTINFO)], 0, ("192.0.2.2", 9))] * datagrams

    def fileno(self) -> int:
        return self.ready.fileno()

    def dry(self) -> None:
        self.ready.dry()


class BusyTun:
    """A host with so many packets to send."""

    def __init__(self, packets: int) -> None:
        self.left = packets
        self.ready = Ready()
        self.errors: list[Exception] = []
        self.written: list[PacketRun] = []
        self.given: list[bytes] = []
        self.is_drained = False
        self.is_held = False

    def fileno(self) -> int:
        return self.ready.fileno()

    def hold(self) -> None:
        self.is_held = True

    def release(self) -> bool:
        was_held, self.is_held = self.is_held, False
        return was_held

    def read_batch(self, limit: int) -> list[PacketRun]:
        count = min(limit, self.left)
        self.left -= count
        self.is_drained = count < limit
        if self.is_drained:
            self.ready.dry()
        return [PACKETS] * count

    def write(self, packets: PacketRun) -> None:
        self.written.append(packets)

    def write_packet(self, packet: bytes) -> None:
        self.given.append(packet)

    def take_errors(self) -> list[Exception]:
        taken, self.errors = self.errors, []
        return taken


class RecordingCore:
    """Writes down what it is handed; every packet becomes a datagram."""

    def __init__(self, *, timer: bool = False) -> None:
        self.log: list[str] = []
        self.heard: Callable[[], None] = lambda: None
        self._due: Instant | None = 0 if timer else None
        self.datagram_errors: list[Exception] = []
        self.answers: list[bytes] = []

    def handle_packets(self, packets: PacketRun, now: Instant, errors: list[Exception]) -> Transmit | None:
        del now, errors
        self.log.append("packet")
        self.heard()
        return Transmit(None, PEER, packets.run)

    def handle_datagrams(
        self,
        received: Received,
        now: Instant,
        wall_now: WallTime,
        sink: Callable[[PacketRun], None],
        errors: list[Exception],
    ) -> bool:
        del now, wall_now
        self.log.append("datagram")
        errors += self.datagram_errors[:1]
        del self.datagram_errors[:1]
        self.heard()
        sink(PacketRun(received.run, b"flow", 0))
        return True

    def handle_batch(
        self, batch: list[PacketRun], now: Instant, send: Callable[[Transmit], None], ask: Callable[[PacketRun], None]
    ) -> None:
        del now, send
        for packets in batch:
            ask(packets)

    def handle_timeout(self, now: Instant, wall_now: WallTime) -> None:
        del now, wall_now
        self.log.append("timer")
        self.heard()

    def poll_timeout(self) -> Instant | None:
        return self._due

    def poll_transmit(self) -> None:
        return None

    def poll_host_packet(self) -> bytes | None:
        return self.answers.pop(0) if self.answers else None

    def poll_action(self) -> None:
        return None


def drive(core: RecordingCore, kernel: BusySocket, tun: BusyTun, is_over: Callable[[], bool]) -> list[tuple[str, int]]:
    """Run until something is the case; what the core was handed, as (kind, how often in a row)."""

    async def until() -> None:
        loop = asyncio.get_running_loop()
        over = loop.create_future()
        core.heard = lambda: over.set_result(None) if is_over() and not over.done() else None
        udp = opened(kernel, gso=False, gro=False)
        driver = TunnelDriver(cast(Any, core), {4: udp}, cast(Tun, tun), lambda _: None)
        driver.start()
        try:
            async with asyncio.timeout(20):
                await over
        finally:
            driver.stop()

    try:
        asyncio.run(until())
    finally:
        kernel.ready.close()
        tun.ready.close()
    return [(kind, len(list(row))) for kind, row in groupby(core.log)]


def test_busy_sources_take_turns() -> None:
    core, kernel, tun = RecordingCore(timer=True), BusySocket(400), BusyTun(1_000_000)
    turns = drive(core, kernel, tun, lambda: core.log.count("datagram") == 400)
    most = {kind: max(count for other, count in turns if other == kind) for kind, _ in turns}
    assert most["datagram"] <= 8
    assert most["packet"] <= 100
    assert core.log.count("timer") >= 400 / 8 / 2
    assert core.log.count("packet") >= 400 / 8 / 2 * 100


def test_a_busy_sender_still_hears_what_arrives() -> None:
    """A STUN answer that comes in the middle of an upload waits for one turn of the device, not for its end."""
    core, kernel, tun = RecordingCore(), BusySocket(0), BusyTun(1_000_000)

    def is_over() -> bool:
        if len(core.log) == 1_000:
            kernel.incoming.append((b"answer", [(socket.IPPROTO_IP, 8, PKTINFO)], 0, ("192.0.2.2", 9)))
            kernel.ready._far.send(b"x")
        return "datagram" in core.log

    drive(core, kernel, tun, is_over)
    assert core.log.index("datagram") <= 1_100


def test_a_full_network_stops_reading_from_the_host_but_not_from_the_network() -> None:
    kernel, tun = BusySocket(80, answers=[errno.EAGAIN] * 6), BusyTun(250)
    core = RecordingCore()
    turns = drive(core, kernel, tun, lambda: core.log.count("packet") == 250 and core.log.count("datagram") == 80)
    # The first 100 packets meet the full socket; while it stays full only datagrams are taken.
    first = turns.index(("packet", 100))
    assert sum(count for kind, count in turns[first + 1 : turns.index(("packet", 100), first + 1)]) >= 5 * 8
    assert len(kernel.sent) == 250
    assert len(tun.written) == 80


@pytest.mark.parametrize("input_kind", ["packet", "datagram", "timer"])
def test_what_the_core_has_for_the_host_is_written_after_any_input(input_kind: str) -> None:
    class Answering(RecordingCore):
        def handle_packets(self, packets: PacketRun, now: Instant, errors: list[Exception]) -> Transmit | None:
            super().handle_packets(packets, now, errors)
            assert not self.answers, "the last packet's answers have been written before this one is handled"
            self.answers += [b"one", b"two"]
            return None

    core = Answering(timer=input_kind == "timer")
    kernel, tun = BusySocket(3 if input_kind == "datagram" else 0), BusyTun(3 if input_kind == "packet" else 0)

    def is_over() -> bool:
        if input_kind != "packet" and not core.answers and core.log[-1] == input_kind:
            core.answers += [b"one", b"two"]
        return core.log.count(input_kind) >= 3

    drive(core, kernel, tun, is_over)
    assert tun.given[:2] == [b"one", b"two"]


def test_no_error_of_a_batch_hides_another(caplog: pytest.LogCaptureFixture) -> None:
    core, kernel, tun = RecordingCore(), BusySocket(5), BusyTun(0)
    tun.errors.append(OSError(errno.EINVAL, "odd packet"))
    core.datagram_errors = [
        ValueError("the first"),
        UnknownConnectionError("no connection for index 7"),
        ValueError("the third"),
    ]
    with caplog.at_level(logging.DEBUG, "connectivity.io"):
        drive(core, kernel, tun, lambda: core.log.count("datagram") == 5)
    told = [
        (record.levelname, cast(Any, record).fields["error"])
        for record in caplog.records
        if record.getMessage() == "Tunnel error"
    ]
    assert told == [
        ("WARNING", "the first"),
        ("DEBUG", "no connection for index 7"),
        ("DEBUG", "the third"),  # as the first: counted, and told of once a minute
        ("DEBUG", "odd packet"),
    ]
    assert len(tun.written) == 5


def test_a_defect_in_the_core_ends_the_service_instead_of_spinning() -> None:
    core, kernel, tun = RecordingCore(), BusySocket(1), BusyTun(0)

    def fail() -> bool:
        raise RuntimeError("a defect")

    async def until() -> None:
        core.heard = fail  # type: ignore[assignment]  # raises before it could answer
        udp = opened(kernel, gso=False, gro=False)
        driver = TunnelDriver(cast(Any, core), {4: udp}, cast(Tun, tun), lambda _: None)
        driver.start()
        with pytest.raises(RuntimeError, match="a defect"):
            await asyncio.wait_for(driver.failed, 20)

    try:
        asyncio.run(until())
    finally:
        kernel.ready.close()
        tun.ready.close()
