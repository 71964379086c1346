"""The client's extension: queries and answers find their way, the host's DNS follows, loops are broken."""

import asyncio
import os
from collections.abc import Callable, Coroutine
from ipaddress import IPv4Address, IPv6Address, ip_address
from random import Random
from typing import Any

import dns.message
import pytest

from client.core import ClientCore
from client.dns.actions import FlushNames, ForwardQuery, TcpReply, Transport
from client.dns.system_servers import SystemServer
from client.dns_io import forwarder
from client.extension import ClientExtension
from client.system_dns.control import Found, Wanted
from connectivity.endpoint import Endpoint, IPAddress
from connectivity.io.extension import ExtensionHost
from connectivity.portal.values import Interface
from connectivity.tunnel import ConfigureTun, ReconnectPortal
from connectivity.wireguard import KeyPair

HERE, DOCKERS, ELSEWHERE = ip_address("127.0.0.1"), ip_address("127.0.0.11"), ip_address("192.0.2.1")
SENTINELS = (ip_address("100.100.111.1"), ip_address("100.100.111.2"))
# Addresses of this host, for the listeners.
OWN = Interface(IPv4Address("127.0.0.1"), IPv6Address("::1"))


class Core(ClientCore):
    """Writes down what it is told."""

    def __init__(self) -> None:
        random = Random(1)
        super().__init__(keys=KeyPair.generate(random.randbytes), rng=random.randbytes)
        self.told: list[tuple[Any, ...]] = []

    def set_system_resolvers(self, servers: tuple[IPAddress, ...], _now: int) -> None:
        self.told.append(("servers", *servers))

    def handle_dns_answer(self, query_id: int, message: bytes | None, _now: int) -> None:
        self.told.append(("answer", query_id, message))

    def serve_dns_over_tcp(self, ports: Any) -> None:
        self.told.append(("ports", sorted(ports)))


class Dns:
    """A mode that does what it is asked."""

    def __init__(self, *servers: IPAddress) -> None:
        self.found = Found(tuple(map(SystemServer, servers)))
        self.steps: list[object] = []

    async def start(self) -> None:
        self.steps.append("start")

    async def look(self) -> Found:
        return self.found

    async def apply(self, wanted: Wanted) -> None:
        self.steps.append(wanted)

    async def flush(self) -> None:
        self.steps.append("flush")

    async def close(self) -> None:
        self.steps.append("close")


class Stage:
    """An extension with these servers on the host; exchanges with servers are played by ``server``."""

    def __init__(self, *servers: IPAddress) -> None:
        self.core = Core()
        self.dns = Dns(*servers)
        self.defects: list[Exception] = []
        self.asked: list[tuple[IPAddress, bytes]] = []
        self.server: Callable[[IPAddress, bytes], bytes | None] = lambda _, query: b"answer to " + query
        host = ExtensionHost(
            self.core, lambda function, *arguments: function(*arguments), self.defects.append, 77, "lo"
        )
        self.extension = ClientExtension(host, self.dns)

    async def exchange(self, query: bytes, server: Endpoint, *, over_tcp: bool, mark: int | None) -> bytes:
        assert not over_tcp
        assert mark == 77
        self.asked.append((server.ip, query))
        answer = self.server(server.ip, query)
        if answer is None:
            raise ConnectionRefusedError
        return answer

    async def configure(self, *servers: IPAddress) -> None:
        mapping = tuple((sentinel, Endpoint(server, 53)) for sentinel, server in zip(SENTINELS, servers, strict=False))
        await self.extension.configured(ConfigureTun(OWN, (), (), mapping, "internal.example"))

    def forward(self, query_id: int, message: bytes, server: IPAddress = ELSEWHERE) -> None:
        query = ForwardQuery(query_id, Endpoint(server, 53), message, Transport.UDP, through_tunnel=False)
        assert self.extension.act(query)

    async def until(self, condition: Callable[[], bool]) -> None:
        while not condition():  # noqa: ASYNC110  # what is waited for is done by tasks of this loop, in its turns
            await asyncio.sleep(0)


def serve(
    monkeypatch: pytest.MonkeyPatch, servers: tuple[IPAddress, ...], work: Callable[[Stage], Coroutine[Any, Any, None]]
) -> Stage:
    async def run() -> Stage:
        stage = Stage(*servers)
        monkeypatch.setattr(forwarder, "exchange", stage.exchange)
        await stage.extension.start()
        try:
            async with asyncio.timeout(20):
                await work(stage)
        finally:
            await stage.extension.close()
        assert stage.defects == []
        return stage

    return asyncio.run(run())


def test_the_host_is_put_in_order_before_anything_else_and_at_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    async def work(stage: Stage) -> None:
        assert stage.dns.steps == ["start"]
        assert stage.core.told == [("servers", ELSEWHERE)]
        await stage.configure(ELSEWHERE)
        assert ("ports", [4, 6]) in stage.core.told
        await stage.until(lambda: len(stage.dns.steps) > 1)
        for _ in range(100):
            assert stage.extension.act(FlushNames())
        await stage.until(lambda: "flush" in stage.dns.steps)

    stage = serve(monkeypatch, (ELSEWHERE,), work)
    assert stage.dns.steps == ["start", Wanted(SENTINELS[:1], "internal.example"), "flush", "close"]


def test_queries_go_to_servers_and_answers_to_the_core(monkeypatch: pytest.MonkeyPatch) -> None:
    async def work(stage: Stage) -> None:
        stage.forward(7, b"a query")
        await stage.until(lambda: ("answer", 7, b"answer to a query") in stage.core.told)
        stage.server = lambda *_: None
        stage.forward(8, b"a query")
        await stage.until(lambda: ("answer", 8, None) in stage.core.told)
        assert stage.extension.act(TcpReply(3, b"for nobody"))
        assert not stage.extension.act(ReconnectPortal())

    stage = serve(monkeypatch, (ELSEWHERE,), work)
    assert stage.extension.counters()["dns_queries"] == {"answered": 1, "timed_out": 0, "failed": 1, "refused": 0}
    assert set(stage.extension.counters()["dns_connections"].values()) == {0}


def test_another_network_gives_up_what_was_asked_by_the_one_before(monkeypatch: pytest.MonkeyPatch) -> None:
    async def hang(*_: object, **__: object) -> bytes:
        await asyncio.get_running_loop().create_future()
        return b""

    async def work(stage: Stage) -> None:
        monkeypatch.setattr(forwarder, "exchange", hang)
        stage.forward(7, b"a query")
        await asyncio.sleep(0)
        await stage.extension.reset()
        assert ("answer", 7, None) in stage.core.told

    serve(monkeypatch, (ELSEWHERE,), work)


def test_a_server_of_this_host_that_asks_us_in_turn_is_used_no_more(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    ids = iter(range(100, 200))

    async def work(stage: Stage) -> None:
        def goes_round(server: IPAddress, query: bytes) -> bytes | None:
            if server == HERE:  # it has no server but us
                changed = dns.message.from_wire(query)
                changed.id = 4711
                stage.forward(next(ids), changed.to_wire(), HERE)
            return None

        stage.server = goes_round
        await stage.configure(HERE, ELSEWHERE)
        await stage.until(lambda: ("servers", ELSEWHERE) in stage.core.told)
        await stage.until(lambda: ("answer", 100, None) in stage.core.told)
        assert [server for server, _ in stage.asked] == [HERE]  # what came round was not sent again
        await stage.configure(ELSEWHERE)
        await stage.until(lambda: len(stage.dns.steps) > 2)
        # The host uses others: what was found out counts no more.
        stage.dns.found = Found((SystemServer(HERE), SystemServer(DOCKERS)))
        stage.extension.act(FlushNames())
        await stage.until(lambda: ("servers", HERE, DOCKERS) in stage.core.told)

    serve(monkeypatch, (HERE, ELSEWHERE), work)
    warnings = [record for record in caplog.records if "asks us what we ask it" in record.message]
    assert [record.__dict__["fields"] for record in warnings] == [{"server": HERE}]


def test_a_server_of_this_host_that_does_not_is_asked_on(monkeypatch: pytest.MonkeyPatch) -> None:
    async def work(stage: Stage) -> None:
        await stage.configure(HERE, DOCKERS)
        await stage.until(lambda: len(stage.asked) == 2)
        assert {server for server, _ in stage.asked} == {HERE, DOCKERS}
        stage.forward(7, b"a query", HERE)
        await stage.until(lambda: ("answer", 7, b"answer to a query") in stage.core.told)
        assert [entry for entry in stage.core.told if entry[0] == "servers"] == [("servers", HERE, DOCKERS)]

    serve(monkeypatch, (HERE, DOCKERS), work)


def test_each_run_has_a_name_of_its_own_for_that(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    async def work(stage: Stage) -> None:
        await stage.configure(HERE)
        await stage.until(lambda: len(stage.asked) == 1)
        asked.append(dns.message.from_wire(stage.asked[0][1]).question[0].name)

    for seed in (b"\1", b"\2"):
        monkeypatch.setattr(os, "urandom", lambda count, seed=seed: seed * count)
        serve(monkeypatch, (HERE,), work)
    assert asked[0] != asked[1]
