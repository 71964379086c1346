"""The wire log: a line a run with peers and sizes, nothing of what is in it, and nothing at all while it is off."""

import asyncio
import logging
from collections.abc import Iterator
from ipaddress import IPv4Address
from typing import Any, cast

import pytest

from connectivity.endpoint import Endpoint
from connectivity.io import logs, wire_log
from connectivity.io.logs import TRACE
from connectivity.io.tunnel import TunnelDriver
from connectivity.ip.flow import Flow, PacketRun
from connectivity.run import Received, Run, Transmit

SECRET = b"never to be seen"
A, B = Endpoint.parse("10.0.0.1:52625"), Endpoint.parse("203.0.113.20:3478")
FLOW = Flow(4, 17, IPv4Address("100.64.0.2"), IPv4Address("10.20.0.5"), 4000, 53)
PACKETS = PacketRun(Run(memoryview(SECRET * 3), 16), FLOW.key, 0xB9)


@pytest.fixture(autouse=True)
def filters() -> Iterator[None]:
    """The filter that others left comes back."""
    root, before, in_use = logging.getLogger(), logging.getLogger().level, logs.filter_in_use()
    yield
    logs.set_filter(in_use or "info")
    root.setLevel(before)


def told(caplog: pytest.LogCaptureFixture) -> list[tuple[str, dict[str, Any]]]:
    return [(record.name, cast(Any, record).fields) for record in caplog.records if record.name.startswith("wire.")]


def test_a_run_is_one_line_without_what_is_in_it(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(TRACE, "wire"):
        wire = wire_log.active()
        assert wire is not None
        wire.received(Received(A, B, PACKETS.run, 0xB9))
        wire.sent(Transmit(None, B, PACKETS.run, 2))
        wire.from_host(PACKETS)
        wire.to_host(PACKETS)
        wire.own_to_host(SECRET)
        wire_log.portal_said("init")
        wire_log.told_portal("create_flow")
    size = {"count": 3, "segment_size": 16, "num_bytes": 48}
    flow = {"src": Endpoint.parse("100.64.0.2:4000"), "dst": Endpoint.parse("10.20.0.5:53"), "protocol": 17, "ecn": 1}
    assert told(caplog) == [
        ("wire.net.recv", {"src": B, "dst": A, "ecn": 1, **size}),
        ("wire.net.send", {"src": "any", "dst": B, "ecn": 2, **size}),
        ("wire.dev.recv", {**flow, **size}),
        ("wire.dev.send", {**flow, **size}),
        ("wire.dev.send", {"num_bytes": 16}),
        ("wire.api.recv", {"event": "init"}),
        ("wire.api.send", {"event": "create_flow"}),
    ]
    assert SECRET.decode() not in caplog.text


@pytest.mark.parametrize(
    ("directives", "is_active"),
    [
        ("info", False),
        ("debug", False),
        ("debug,wire=debug", False),
        ("info,wire=trace", True),
        ("info,wire::net=trace", True),
        ("info,wire::dev::send=trace", True),
        ("info,wire::api=trace", False),  # no packets
        ("trace", True),
        ("trace,wire=off", False),
    ],
)
def test_it_exists_only_if_the_filter_wants_it(directives: str, is_active: bool) -> None:
    logs.set_filter(directives)
    assert (wire_log.active() is not None) == is_active
    assert logs.filter_in_use() == directives


@pytest.mark.parametrize(
    ("directives", "other"),
    [("info", "info,wire=trace"), ("", "wire=trace"), ("warn, relay=debug", "warn,relay=debug,wire=trace")],
)
def test_a_signal_switches_it_on_and_off(directives: str, other: str) -> None:
    assert wire_log.toggled(directives) == other
    assert wire_log.toggled(other) == directives.replace(" ", "")


class Passing:
    """Socket, device and core in one: a run from the network to the host, one from the host, one of the core's own."""

    waiting, backlogged, is_drained = 1, False, True

    def receive(self, _: int) -> list[Received]:
        return [Received(A, B, PACKETS.run)]

    def handle_datagrams(self, _r: object, _n: int, _w: int, sink: Any, _e: list[Exception]) -> bool:
        sink(PACKETS)
        return True

    def read_batch(self, _: int) -> list[PacketRun]:
        return [PACKETS]

    def handle_batch(self, batch: list[PacketRun], _now: int, _send: object, ask: Any) -> None:
        for packets in batch:
            ask(packets)

    def handle_packets(self, _p: object, _n: int, _e: object) -> Transmit | None:
        return Transmit(A, B, PACKETS.run)

    def poll_host_packet(self) -> bytes | None:
        self.waiting -= 1
        return SECRET if self.waiting == 0 else None

    def send(self, _: Transmit) -> None:
        return None

    def write(self, _: PacketRun) -> None:
        return None

    write_packet = write

    def take_errors(self) -> list[Exception]:
        return []

    def poll_transmit(self) -> None:
        return None

    poll_action = poll_timeout = poll_transmit


@pytest.mark.parametrize("on", [True, False])
def test_the_driver_writes_it_while_it_is_on(on: bool, caplog: pytest.LogCaptureFixture) -> None:
    async def run() -> None:
        passing = cast(Any, Passing())
        driver = TunnelDriver(passing, {4: passing}, passing, lambda _: None)
        with caplog.at_level(TRACE, "wire"):
            driver.trace(wire_log.active())
        if not on:
            driver.trace(wire_log.active())
        with caplog.at_level(TRACE, "wire"):
            driver._socket_readable(passing)
            driver._tun_readable(passing)
        driver._timer.cancel()

    logs.set_filter("info")
    asyncio.run(run())
    expected = ["wire.net.recv", "wire.dev.send", "wire.dev.send", "wire.dev.recv", "wire.net.send"]
    assert [name for name, _ in told(caplog)] == (expected if on else [])
