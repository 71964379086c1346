"""The driver of client and gateway: what leaves before what, what ends it, and what it does no more once stopped."""

import asyncio
import errno
import logging
from collections import deque
from collections.abc import Callable
from ipaddress import ip_address
from typing import Any, cast

import pytest

from connectivity.clock import Instant, WallTime
from connectivity.endpoint import Endpoint
from connectivity.io.tun import Tun
from connectivity.io.tunnel import TunnelDriver
from connectivity.ip.flow import PacketRun
from connectivity.node import StrayDatagramError
from connectivity.run import Run, Transmit
from tests.unit.connectivity.test_io_tunnel import BusySocket, BusyTun, RecordingCore
from tests.unit.connectivity.test_io_udp import opened

PEER = Endpoint(ip_address("192.0.2.2"), 9)


class ScriptedCore(RecordingCore):
    """The first packet finds no channel and asks for one; the others use it. Says goodbye when closed."""

    def __init__(self, *, timer: bool = False, broken: str = "") -> None:
        super().__init__(timer=timer)
        self.control: deque[bytes] = deque()
        self.messages: list[str] = []
        self._broken = broken

    def handle_packets(self, packets: PacketRun, now: Instant, errors: list[Exception]) -> Transmit | None:
        is_first = "packet" not in self.log
        super().handle_packets(packets, now, errors)
        if is_first:
            self.control.append(b"bind")
            return None
        return Transmit(None, PEER, packets.run)

    def handle_timeout(self, now: Instant, wall_now: WallTime) -> None:
        super().handle_timeout(now, wall_now)
        if self._broken == "timer":
            raise RuntimeError("a defect")

    def handle_portal(self, event: str, payload: object, now: Instant, wall_now: WallTime) -> None:
        del payload, now, wall_now
        self.messages.append(event)

    def close(self, now: Instant) -> None:
        del now
        self.control.append(b"goodbye")

    def poll_transmit(self) -> Transmit | None:  # type: ignore[override]  # the other core has nothing to send
        return Transmit(None, PEER, Run.single(self.control.popleft())) if self.control else None

    def poll_action(self) -> None:
        if self._broken == "drain" and "packet" in self.log:
            raise RuntimeError("a defect")


def run(
    core: ScriptedCore, kernel: BusySocket, tun: BusyTun, test: Callable[[TunnelDriver, asyncio.Event], Any]
) -> None:
    async def steps() -> None:
        heard = asyncio.Event()
        core.heard = heard.set
        udp = opened(kernel, gso=False, gro=False)
        driver = TunnelDriver(cast(Any, core), {4: udp}, cast(Tun, tun), lambda _: None)
        driver.start()
        try:
            async with asyncio.timeout(20):
                await test(driver, heard)
        finally:
            driver.stop()

    try:
        asyncio.run(steps())
    finally:
        kernel.ready.close()
        tun.ready.close()


def test_a_request_leaves_before_the_data_that_rests_on_it() -> None:
    core, kernel, tun = ScriptedCore(), BusySocket(0), BusyTun(3)

    async def test(driver: TunnelDriver, heard: asyncio.Event) -> None:
        del driver
        await heard.wait()

    run(core, kernel, tun, test)
    assert [datagram[0] for datagram in kernel.sent] == [b"bind", b"packet", b"packet"]


@pytest.mark.parametrize("broken", ["timer", "drain"])
def test_a_defect_anywhere_ends_the_service(broken: str) -> None:
    core, kernel, tun = ScriptedCore(timer=broken == "timer", broken=broken), BusySocket(0), BusyTun(1)

    async def test(driver: TunnelDriver, heard: asyncio.Event) -> None:
        del heard
        with pytest.raises(RuntimeError, match="a defect"):
            await driver.failed

    run(core, kernel, tun, test)


def test_who_has_stopped_takes_no_messages_reads_nothing_and_flushes_its_goodbye() -> None:
    core, kernel, tun = ScriptedCore(), BusySocket(0, answers=[errno.EAGAIN, errno.EAGAIN]), BusyTun(0)

    async def test(driver: TunnelDriver, heard: asyncio.Event) -> None:
        del heard
        driver.stop()
        await driver.say_goodbye()
        driver.handle_portal("authorize_flow", {})
        tun.left = 5
        tun.ready._far.send(b"x")
        for _ in range(5):
            await asyncio.sleep(0)

    run(core, kernel, tun, test)
    assert [datagram[0] for datagram in kernel.sent] == [b"goodbye"]
    assert core.messages == []
    assert core.log == []


def test_what_any_host_can_send_is_no_warning(caplog: pytest.LogCaptureFixture) -> None:
    core, kernel, tun = ScriptedCore(), BusySocket(1), BusyTun(0)
    core.datagram_errors = [StrayDatagramError("not a WireGuard packet")]

    async def test(driver: TunnelDriver, heard: asyncio.Event) -> None:
        del driver
        await heard.wait()
        await asyncio.sleep(0)

    with caplog.at_level(logging.DEBUG, "connectivity.io"):
        run(core, kernel, tun, test)
    assert [record.levelname for record in caplog.records if record.getMessage() == "Tunnel error"] == ["DEBUG"]


def test_other_sockets_take_over_and_the_old_ones_are_let_go() -> None:
    core, old, tun = ScriptedCore(), BusySocket(0, answers=[errno.EAGAIN] * 9), BusyTun(2)
    new = BusySocket(1)

    async def test(driver: TunnelDriver, heard: asyncio.Event) -> None:
        await heard.wait()  # a packet met the full socket, and the host is not read any more
        for _ in range(3):
            await asyncio.sleep(0)
        core.control.append(b"from the new one")
        sockets = {4: opened(new, gso=False, gro=False)}
        driver.rebind(sockets)
        old.incoming.append((b"late", [], 0, ("192.0.2.2", 9)))
        while "datagram" not in core.log:
            heard.clear()
            await heard.wait()
        tun.left = 1
        tun.ready._far.send(b"x")
        while core.log.count("packet") < 3:
            heard.clear()
            await heard.wait()

    try:
        run(core, old, tun, test)
    finally:
        new.ready.close()
    assert old.closed
    assert not new.closed
    assert len(old.incoming) == 1
    assert old.sent == []
    assert [datagram[0] for datagram in new.sent] == [b"from the new one", b"packet"]


def test_who_has_stopped_takes_no_sockets() -> None:
    core, old, tun, new = ScriptedCore(), BusySocket(0), BusyTun(0), BusySocket(1)

    async def test(driver: TunnelDriver, heard: asyncio.Event) -> None:
        del heard
        driver.stop()
        driver.rebind({4: opened(new, gso=False, gro=False)})
        await asyncio.sleep(0)

    try:
        run(core, old, tun, test)
    finally:
        new.ready.close()
    assert (old.closed, new.closed) == (False, True)
    assert core.log == []
