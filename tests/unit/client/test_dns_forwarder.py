"""Queries to servers: how each leaves, how each ends, how many there may be. What an answer is: ``dns_exchange``."""

import asyncio
from collections.abc import Callable
from ipaddress import ip_address
from typing import Any

import pytest

from client.dns.actions import ForwardQuery, Transport
from client.dns.system_servers import SystemServer
from client.dns_io import forwarder
from client.dns_io.forwarder import Forwarder
from connectivity.endpoint import Endpoint, IPAddress

SERVER = Endpoint(ip_address("192.0.2.1"), 53)


def query(
    server: Endpoint = SERVER, *, transport: Transport = Transport.UDP, through_tunnel: bool = False
) -> ForwardQuery:
    return ForwardQuery(1, server, b"a query", transport, through_tunnel)


class Stage:
    """A forwarder whose exchanges are played by the test."""

    def __init__(self, exchange: Callable[[], Any]) -> None:
        self.sent: list[tuple[Endpoint, bool, int | None]] = []
        self.answers: list[bytes | None] = []
        self.silent: list[IPAddress] = []
        self.defects: list[Exception] = []
        self._exchange = exchange
        self.forwarder = Forwarder(mark=77, fail=self.defects.append, on_silence=self.silent.append)

    async def exchange(self, query: bytes, server: Endpoint, *, over_tcp: bool, mark: int | None) -> bytes:
        assert query == b"a query"
        self.sent.append((server, over_tcp, mark))
        answer = self._exchange()
        return bytes(await answer if asyncio.isfuture(answer) else answer)

    def ask(self, asked: ForwardQuery) -> None:
        known = len(self.answers)
        self.forwarder.ask(asked, self.answers.append)
        assert len(self.answers) == known  # never within the call


def play(
    monkeypatch: pytest.MonkeyPatch, queries: list[ForwardQuery], exchange: Callable[[], Any], *, end: bool = False
) -> Stage:
    async def work() -> Stage:
        stage = Stage(exchange)
        monkeypatch.setattr(forwarder, "exchange", stage.exchange)
        stage.forwarder.set_zones([SystemServer(ip_address("fe80::1"), "eth0"), SystemServer(ip_address("192.0.2.1"))])
        for one in queries:
            stage.ask(one)
        if end:
            await asyncio.sleep(0)
            await stage.forwarder.give_up()
        while len(stage.answers) < len(queries):  # noqa: ASYNC110  # tasks of this loop answer in its turns
            await asyncio.sleep(0.001)
        return stage

    return asyncio.run(work())


def test_each_leaves_marked_by_its_transport_and_through_the_tunnel_unmarked(monkeypatch: pytest.MonkeyPatch) -> None:
    link_local = Endpoint(ip_address("fe80::1"), 53)
    stage = play(
        monkeypatch,
        [query(), query(transport=Transport.TCP), query(through_tunnel=True), query(link_local)],
        lambda: b"an answer",
    )
    assert stage.sent == [
        (SERVER, False, 77),
        (SERVER, True, 77),
        (SERVER, False, None),
        (Endpoint(ip_address("fe80::1%eth0"), 53), False, 77),
    ]
    assert stage.answers == [b"an answer"] * 4
    assert stage.forwarder.counts == {"answered": 4, "timed_out": 0, "failed": 0, "refused": 0}


def test_a_server_that_cannot_be_asked_and_one_that_is_silent_give_no_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused() -> bytes:
        raise ConnectionRefusedError(111, "Connection refused")

    stage = play(monkeypatch, [query()], refused)
    assert (stage.answers, stage.silent, stage.defects) == ([None], [], [])
    assert stage.forwarder.counts["failed"] == 1
    monkeypatch.setattr(forwarder, "ANSWER_SECONDS", 0.001)
    stage = play(monkeypatch, [query()], lambda: asyncio.get_running_loop().create_future())
    assert (stage.answers, stage.silent, stage.defects) == ([None], [SERVER.ip], [])
    assert stage.forwarder.counts["timed_out"] == 1


def test_our_own_sentinels_are_never_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    ours = [Endpoint(ip_address(text), 53) for text in ("100.100.111.9", "fd00:2021:1111:8000:100:100:111:9")]
    stage = play(monkeypatch, [query(server) for server in ours], lambda: b"")
    assert stage.sent == []
    assert stage.answers == [None, None]


def test_there_are_not_too_many_and_whoever_comes_later_gets_no_answer_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forwarder, "QUERIES_IN_FLIGHT", 3)
    stage = play(monkeypatch, [query()] * 5, lambda: asyncio.get_running_loop().create_future(), end=True)
    assert len(stage.sent) == 3
    assert stage.answers == [None] * 5
    assert stage.silent == [SERVER.ip] * 2
    assert stage.forwarder.counts["refused"] == 2
    assert stage.defects == []


def test_a_defect_ends_the_service(monkeypatch: pytest.MonkeyPatch) -> None:
    stage = play(monkeypatch, [query()], lambda: bytes(-1))
    assert [type(error) for error in stage.defects] == [ValueError]
