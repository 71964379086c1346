"""Connections of clients over TCP and TLS: how many there may be, for how long, and who goes first."""

import asyncio
import socket
import ssl
from collections.abc import Callable, Iterable
from typing import Any, cast
from unittest.mock import MagicMock

import pytest

from connectivity.clock import SECOND
from connectivity.endpoint import Endpoint, IPAddress
from relay.core import FiveTuple, Transport
from relay.driver import streams
from relay.driver.streams import IDLE, MOST_UNSENT_BYTES, Stream, Streams

SERVER = ("198.51.100.1", 3478)


class Wire(asyncio.Transport):
    """Keeps what was written; its peer reads nothing if ``is_stuck``."""

    def __init__(self, port: int, *, is_stuck: bool = False) -> None:
        super().__init__({"peername": ("198.51.100.2", port), "sockname": SERVER})
        self.written: list[bytes] = []
        self.together: list[list[bytes]] = []
        self.is_stuck = is_stuck
        self.stream: Stream | None = None
        self.is_aborted = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.written.append(bytes(data))

    def writelines(self, list_of_data: Iterable[bytes | bytearray | memoryview]) -> None:
        self.together.append([bytes(data) for data in list_of_data])

    def get_write_buffer_size(self) -> int:
        return sum(map(len, self.written)) if self.is_stuck else 0

    def is_closing(self) -> bool:
        return self.is_aborted

    def abort(self) -> None:
        self.is_aborted = True
        assert self.stream is not None
        self.stream.connection_lost(None)


class Table:
    """A relay's connections without a relay."""

    def __init__(self) -> None:
        self.closed: list[int] = []
        self.read: list[bytes] = []
        self.in_use: set[int] = set()
        self.streams = Streams(
            cast(Any, None),
            on_data=lambda _, data: self.read.append(bytes(data)),
            on_closed=lambda five_tuple: self.closed.append(five_tuple.client.port),
            has_allocation=lambda five_tuple: five_tuple.client.port in self.in_use,
            admits=lambda _: True,
        )

    def connect(self, port: int, transport: Transport = Transport.TCP, *, is_stuck: bool = False) -> Wire:
        wire = Wire(port, is_stuck=is_stuck)
        wire.stream = Stream(self.streams, transport)
        wire.stream.without_allocation_since = 0
        wire.stream.connection_made(wire)
        return wire


def five_tuple(port: int, transport: Transport = Transport.TCP) -> FiveTuple:
    return FiveTuple(Endpoint.parse(f"198.51.100.2:{port}"), Endpoint.parse("198.51.100.1:3478"), transport)


def test_who_has_no_allocation_goes_after_a_while() -> None:
    table = Table()
    idle, used = table.connect(1), table.connect(2)
    table.in_use = {2}
    table.streams.maintain(IDLE)
    assert table.closed == []
    table.streams.maintain(IDLE + 1)
    assert (table.closed, idle.is_aborted, used.is_aborted) == ([1], True, False)
    table.in_use = set()  # it has expired: half a minute is left
    table.streams.maintain(2 * IDLE)
    assert not used.is_aborted
    table.streams.maintain(2 * IDLE + SECOND * 2)
    assert (table.closed, len(table.streams), table.streams.counters.timed_out) == ([1, 2], 0, 2)


def test_of_too_many_the_oldest_without_an_allocation_goes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "MOST_WITHOUT_ALLOCATION", 3)
    table = Table()
    table.in_use = {1}
    for port in range(1, 7):
        table.connect(port)
    assert table.closed == [2, 3]
    assert table.streams.counters.refused == 2
    assert len(table.streams) == 4


class Waiting:
    """A listener with connections that wait, and an event loop with which no handshake ends."""

    def __init__(self, count: int) -> None:
        self.sockets = [MagicMock(spec=socket.socket) for _ in range(count)]
        self.listener = MagicMock(spec=socket.socket)
        waiting = [(accepted, (f"198.51.100.{host}", 5000)) for host, accepted in enumerate(self.sockets)]
        self.listener.accept.side_effect = [*waiting, BlockingIOError]
        self.loop = MagicMock(spec=asyncio.AbstractEventLoop)
        self.loop.connect_accepted_socket = lambda *_, **__: asyncio.get_running_loop().create_future()

    def accepted_by(self, admits: Callable[[IPAddress], bool]) -> Streams:
        crowded = Streams(
            self.loop,
            on_data=lambda *_: None,
            on_closed=lambda _: None,
            has_allocation=lambda _: False,
            admits=admits,
        )
        crowded.listen([Endpoint.parse("198.51.100.1:5349")], Transport.TLS)
        crowded.use_certificate(MagicMock(spec=ssl.SSLContext))
        crowded.start()
        _, accept, *arguments = self.loop.add_reader.call_args.args
        accept(*arguments)
        return crowded

    def closed(self) -> list[bool]:
        return [accepted.close.called for accepted in self.sockets]


def test_unfinished_handshakes_keep_nobody_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "MOST_WITHOUT_ALLOCATION", 3)

    async def crowd() -> None:
        waiting = Waiting(5)
        monkeypatch.setattr(socket, "create_server", lambda *_, **__: waiting.listener)
        crowded = waiting.accepted_by(lambda _: True)
        begun = asyncio.all_tasks() - {asyncio.current_task()}
        await asyncio.wait(begun, timeout=1, return_when=asyncio.FIRST_COMPLETED)
        assert waiting.closed() == [True, True, False, False, False]
        assert (crowded.counters.accepted, crowded.counters.refused) == (5, 2)
        crowded.close()

    asyncio.run(crowd())


def test_who_is_not_admitted_gets_no_handshake(monkeypatch: pytest.MonkeyPatch) -> None:
    async def crowd() -> None:
        waiting = Waiting(4)
        monkeypatch.setattr(socket, "create_server", lambda *_, **__: waiting.listener)
        crowded = waiting.accepted_by(lambda source: str(source) in {"198.51.100.0", "198.51.100.3"})
        assert waiting.closed() == [False, True, True, False]
        assert (crowded.counters.accepted, crowded.counters.refused) == (2, 2)
        crowded.close()

    asyncio.run(crowd())


def test_what_is_yielded_together_is_written_together() -> None:
    table = Table()
    wire = table.connect(1)
    for part in (b"\x40\x00\x00\x01a\0\0\0", b"\x40\x00\x00\x04abcd"):
        table.streams.send(five_tuple(1), memoryview(part))
    assert wire.written == []
    table.streams.flush()
    assert wire.written == [b"\x40\x00\x00\x01a\0\0\0\x40\x00\x00\x04abcd"]
    table.streams.send(five_tuple(9), memoryview(b"nobody"))
    table.streams.flush()


def test_over_tls_each_message_has_a_record_and_all_leave_at_once() -> None:
    table = Table()
    wire = table.connect(1, Transport.TLS)
    messages = [b"\x40\x00\x00\x01a\0\0\0", b"\x00\x01\x00\x04" + bytes(20), b"\x7f\xff\x00\x00"]
    table.streams.send(five_tuple(1, Transport.TLS), memoryview(b"".join(messages)))
    table.streams.flush()
    assert (wire.together, wire.written) == ([messages], [])


def test_a_client_that_does_not_read_loses_what_is_too_much() -> None:
    table = Table()
    stuck = table.connect(1, is_stuck=True)
    for _ in range(20):
        table.streams.send(five_tuple(1), memoryview(bytes(MOST_UNSENT_BYTES // 8)))
        table.streams.flush()
    assert sum(map(len, stuck.written)) == MOST_UNSENT_BYTES
    assert table.streams.counters.dropped == 12
