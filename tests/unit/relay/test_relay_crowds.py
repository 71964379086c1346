"""Many connections of one address, and proxies that say for whom they connect."""

import asyncio
import logging
import socket
import ssl
from collections.abc import Callable
from ipaddress import ip_address, ip_network
from typing import Any
from unittest.mock import MagicMock

import pytest

from connectivity.clock import SECOND
from connectivity.endpoint import Endpoint, IPAddress
from relay.core import FiveTuple, Transport
from relay.driver import crowds, streams
from relay.driver.crowds import Crowd, CrowdLog
from relay.driver.streams import Stream, Streams
from tests.unit.relay.test_relay_proxy_protocol import CLIENT4, PROXY4, SIGNATURE, header
from tests.unit.relay.test_relay_streams_driver import Wire

PROXY = ip_address("198.51.100.2")
SERVER = Endpoint.parse("198.51.100.1:3478")
OWN = SIGNATURE + b"\x20\x00\x00\x00"


class Arrivals:
    """A listener to which connections come that carry these bytes, and an event loop that begins them all."""

    def __init__(self, *contents: bytes, source: IPAddress = PROXY) -> None:
        self.contents = {MagicMock(spec=socket.socket): bytearray(content) for content in contents}
        self.asked: list[IPAddress] = []
        self.begun: list[Stream] = []
        self.loop = MagicMock(spec=asyncio.AbstractEventLoop)
        self.loop.sock_recv = self._receive
        self.loop.connect_accepted_socket = self._connect
        self.listener = MagicMock(spec=socket.socket)
        waiting = [(accepted, (str(source), 5000 + number)) for number, accepted in enumerate(self.contents)]
        self.listener.accept.side_effect = [*waiting, BlockingIOError]

    async def accepted(
        self, monkeypatch: pytest.MonkeyPatch, *, trusted: str = "198.51.100.0/24", admits: Callable[..., bool] = bool
    ) -> Streams:
        """All of them, begun or closed."""
        monkeypatch.setattr(socket, "create_server", lambda *_, **__: self.listener)

        def asked(source: IPAddress) -> bool:
            self.asked.append(source)
            return admits(source)

        found = Streams(
            self.loop,
            on_data=lambda *_: None,
            on_closed=lambda _: None,
            has_allocation=lambda _: False,
            admits=asked,
        )
        found.trusted_proxies = (ip_network(trusted),)
        found.listen([SERVER], Transport.TLS)
        found.use_certificate(MagicMock(spec=ssl.SSLContext))
        found.start()
        _, accept, *arguments = self.loop.add_reader.call_args.args
        accept(*arguments)
        begun = asyncio.all_tasks() - {asyncio.current_task()}
        if begun:
            await asyncio.wait(begun)
        return found

    def closed(self) -> list[bool]:
        return [accepted.close.called for accepted in self.contents]

    async def _receive(self, accepted: Any, size: int) -> bytes:
        """In pieces, as networks like to have it."""
        content = self.contents[accepted]
        piece, content[:] = bytes(content[: min(size, 7)]), content[min(size, 7) :]
        return piece

    async def _connect(self, factory: Callable[[], Stream], accepted: Any, **_: Any) -> None:
        stream = factory()
        self.begun.append(stream)
        wire = Wire(5000 + [*self.contents].index(accepted))
        wire.stream = stream
        stream.connection_made(wire)


def five_tuple(client: Endpoint) -> FiveTuple:
    return FiveTuple(client, SERVER, Transport.TLS)


def test_a_trusted_proxy_s_connection_is_its_client_s(monkeypatch: pytest.MonkeyPatch) -> None:
    arrivals = Arrivals(header(CLIENT4, PROXY4) + b"\x16\x03 client hello", OWN)
    found = asyncio.run(arrivals.accepted(monkeypatch))
    assert [stream.five_tuple for stream in arrivals.begun] == [
        five_tuple(CLIENT4),
        five_tuple(Endpoint(PROXY, 5001)),
    ]
    assert bytes(next(iter(arrivals.contents.values()))) == b"\x16\x03 client hello", "no byte more is taken"
    assert arrivals.asked == [CLIENT4.ip], "the proxy has no limit, its clients have"
    assert len(found) == 2


def test_nobody_else_s_header_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    arrivals = Arrivals(header(CLIENT4, PROXY4))
    asyncio.run(arrivals.accepted(monkeypatch, trusted="203.0.113.0/24"))
    assert [stream.five_tuple for stream in arrivals.begun] == [five_tuple(Endpoint(PROXY, 5000))]
    assert bytes(next(iter(arrivals.contents.values()))) == header(CLIENT4, PROXY4)


@pytest.mark.parametrize("content", [b"", SIGNATURE, b"\x16\x03\x01 no header at all", header(CLIENT4, PROXY4)[:-1]])
def test_a_trusted_proxy_without_a_header_is_not_served_and_told_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, content: bytes
) -> None:
    arrivals = Arrivals(content, content)
    found = asyncio.run(arrivals.accepted(monkeypatch))
    assert (arrivals.closed(), arrivals.begun) == ([True] * 2, [])
    assert (found.counters.bad_proxy_headers, len(found)) == (2, 0)
    told = [vars(record)["fields"]["source"] for record in caplog.records if record.levelno == logging.WARNING]
    assert told == ([PROXY] if content else []), "who only looks whether we are there is not told of"


def test_a_header_that_does_not_come_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "_HANDSHAKE_SECONDS", 0)
    arrivals = Arrivals(b"")
    arrivals.loop.sock_recv = lambda *_: asyncio.get_running_loop().create_future()
    found = asyncio.run(arrivals.accepted(monkeypatch))
    assert (arrivals.closed(), found.counters.bad_proxy_headers) == ([True], 1)


def test_clients_of_a_proxy_are_limited_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    other = Endpoint.parse("203.0.113.6:1")
    arrivals = Arrivals(header(CLIENT4, PROXY4), header(other, PROXY4))
    found = asyncio.run(arrivals.accepted(monkeypatch, admits=lambda source: source == other.ip))
    assert arrivals.closed() == [True, False]
    assert [stream.five_tuple for stream in arrivals.begun] == [five_tuple(other)]
    assert found.counters.refused == 1


def test_a_client_that_has_a_connection_keeps_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever else names the same client gets none."""
    arrivals = Arrivals(header(CLIENT4, PROXY4), header(CLIENT4, PROXY4))
    found = asyncio.run(arrivals.accepted(monkeypatch))
    first, second = arrivals.begun
    assert (first.five_tuple, second.five_tuple) == (five_tuple(CLIENT4), None)
    assert (len(found), found.counters.refused) == (1, 1)


def test_who_is_refused_is_told_once_with_the_remedy(caplog: pytest.LogCaptureFixture) -> None:
    log, now = CrowdLog(), 10**12
    sources = [ip_address(text) for text in ("203.0.113.5", "203.0.113.5", "2001:db8::1", "2001:db8::2", "203.0.113.6")]
    for source in sources:
        log.refused(source, now)
    told = [vars(record)["fields"] for record in caplog.records]
    assert [fields["source"] for fields in told] == [sources[0], sources[2], sources[4]], "a /64 is one"
    assert all("connections_per_second_per_source" in fields["remedy"] for fields in told)
    assert all("trusted_proxies" in fields["remedy"] for fields in told)
    assert {record.levelno for record in caplog.records} == {logging.WARNING}
    log.refused(sources[0], now + 3601 * SECOND)
    assert len(caplog.records) == 4
    for number in range(1000):
        log.refused(ip_address(0x0A00_0000 + number), now + 3601 * SECOND)
    assert len(caplog.records) == 3 + crowds._MOST_TOLD + 1
    assert caplog.records[-1].message == "More such addresses than are named within an hour"


def test_a_refused_connection_is_told(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    arrivals = Arrivals(b"", b"", b"")
    found = asyncio.run(arrivals.accepted(monkeypatch, trusted="203.0.113.0/24", admits=lambda _: False))
    assert (arrivals.closed(), found.counters.refused) == ([True] * 3, 3)
    assert [vars(record)["fields"]["source"] for record in caplog.records if record.levelno == logging.WARNING] == [
        PROXY
    ]


def test_the_source_that_has_most_connections_makes_room_first() -> None:
    few, many = ip_address("203.0.113.1"), ip_address("203.0.113.2")
    crowd: Crowd[str] = Crowd()
    for key, ip in {"a": few, "b": many, "c": many, "d": few, "e": many}.items():
        crowd.add(key, ip)
    assert [crowd.pop_of_largest() for _ in range(5)] == ["b", "a", "c", "d", "e"]
    assert (len(crowd), crowd._of_source) == (0, {})
    for number in range(1, 4):
        crowd.add(f"host {number}", ip_address(f"2001:db8::{number}"))
    crowd.add("other", few)
    assert crowd.pop_of_largest() == "host 1", "a /64 is one"


def test_a_connection_counts_for_the_address_that_it_turns_out_to_be_for() -> None:
    crowd: Crowd[str] = Crowd()
    for key in ("a", "b"):
        crowd.add(key, ip_address("203.0.113.1"))
    crowd.add("c", ip_address("203.0.113.2"))
    crowd.add("a", ip_address("203.0.113.2"))
    crowd.discard("unknown")
    assert (crowd.pop_of_largest(), list(crowd)) == ("c", ["b", "a"])


def test_one_address_does_not_push_out_another_s_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "MOST_WITHOUT_ALLOCATION", 3)
    found = asyncio.run(Arrivals().accepted(monkeypatch))
    few, many = Endpoint.parse("203.0.113.1:1"), Endpoint.parse("203.0.113.2:1")
    for client in (few, *(many._replace(port=port) for port in range(1, 6))):
        wire = Wire(5000)
        wire.stream = Stream(found, Transport.TLS, client)
        wire.stream.connection_made(wire)
    assert [each.client for each in found._streams] == [few, many._replace(port=4), many._replace(port=5)]
    assert found.counters.refused == 3
