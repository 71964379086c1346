"""Which name server of the site is asked: the fastest, else the next; the file's order where nothing is known."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import dns.message
import dns.rcode
import pytest

from connectivity.clock import SECOND
from connectivity.endpoint import Endpoint
from connectivity.io.dns_exchange import NoAnswerError
from gateway import nameservers
from gateway.nameservers import Nameservers
from gateway.system_names import SystemNames

FIRST, SECOND_ONE, THIRD = (f"192.0.2.{number}" for number in (1, 2, 3))
QUERY = dns.message.make_query("_sip._tcp.app.example.", "SRV", id=0x4242).to_wire()
PROBE_SIZE = len(dns.message.make_query(*nameservers.PROBE).to_wire())


_waited: ContextVar[int] = ContextVar("waited", default=0)  # by this task


class Site:
    """Name servers that take their time; the clock moves by what a task waited for them, for that task."""

    def __init__(self, tmp_path: Path) -> None:
        self.now = 0
        self.delays: dict[str, int] = {FIRST: 30, SECOND_ONE: 20, THIRD: 10}
        self.codes: dict[str, dns.rcode.Rcode] = {}
        self.broken: dict[str, Exception] = {}
        self.asked: list[tuple[str, bool]] = []
        self.probed: list[tuple[str, bool]] = []
        self.ids: list[int] = []
        self.resolv_conf = tmp_path / "resolv.conf"
        self.system = SystemNames(self.resolv_conf, tmp_path / "hosts")
        self.use(FIRST, SECOND_ONE, THIRD)
        self.running: set[asyncio.Task[None]] = set()
        self.servers = Nameservers(self.start, mark=7, system=self.system, clock=lambda: self.now + _waited.get())

    def use(self, *addresses: str) -> None:
        fresh = self.resolv_conf.with_suffix(".new")
        fresh.write_text("".join(f"nameserver {address}\n" for address in addresses))
        fresh.rename(self.resolv_conf)

    def start(self, work: Coroutine[Any, Any, None]) -> None:
        self.running.add(asyncio.get_running_loop().create_task(work))

    async def exchange(self, query: bytes, server: Endpoint, *, over_tcp: bool, mark: int | None) -> bytes:
        assert mark == 7
        host = str(server.ip)
        is_probe = len(query) == PROBE_SIZE
        (self.probed if is_probe else self.asked).append((host, over_tcp))
        if not is_probe:
            self.ids.append(int.from_bytes(query[:2], "big"))
        await asyncio.sleep(0)
        if host in self.broken:
            raise self.broken[host]
        _waited.set(_waited.get() + self.delays[host] * (4 if over_tcp and host == THIRD else 1))
        answer = dns.message.make_response(dns.message.from_wire(query))
        answer.set_rcode(self.codes.get(host, dns.rcode.NOERROR))
        return answer.to_wire()

    async def measure(self, over_tcp: bool = False) -> list[str]:
        """The order, after a measurement if one was due."""
        self.servers.order(over_tcp=over_tcp)
        if self.running:
            await asyncio.wait(self.running)
            self.running.clear()
        return [str(server.ip) for server in self.servers.order(over_tcp=over_tcp)]


Script = Callable[[Site], Awaitable[None]]


@pytest.fixture(name="run")
def _run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Script], Site]:
    def run(script: Script) -> Site:
        async def steps() -> Site:
            site = Site(tmp_path)
            monkeypatch.setattr(nameservers, "exchange", site.exchange)
            async with asyncio.timeout(20):
                await script(site)
            return site

        return asyncio.run(steps())

    return run


def test_the_fastest_comes_first_for_each_transport(run: Callable[[Script], Site]) -> None:
    async def script(site: Site) -> None:
        assert await site.measure() == [THIRD, SECOND_ONE, FIRST]
        assert await site.measure(over_tcp=True) == [SECOND_ONE, FIRST, THIRD]
        assert sorted(site.probed) == sorted((host, tcp) for host in site.delays for tcp in (False, True))

    run(script)


@pytest.mark.parametrize("code", [dns.rcode.REFUSED, dns.rcode.SERVFAIL])
def test_without_a_measurement_the_order_is_the_files(run: Callable[[Script], Site], code: dns.rcode.Rcode) -> None:
    """In a network of its own a name server refuses everything that is not its zone."""

    async def script(site: Site) -> None:
        site.codes = dict.fromkeys(site.delays, code)
        assert await site.measure() == [FIRST, SECOND_ONE, THIRD]
        site.now += 60 * SECOND
        site.codes = {SECOND_ONE: dns.rcode.NXDOMAIN, FIRST: code}
        site.broken = {THIRD: OSError()}
        assert await site.measure() == [SECOND_ONE, FIRST, THIRD]

    run(script)


def test_a_measurement_is_repeated_after_a_minute_of_use_and_old_ones_are_gone(run: Callable[[Script], Site]) -> None:
    async def script(site: Site) -> None:
        await site.measure()
        began = site.now
        site.now = began + 60 * SECOND - 1
        await site.measure()
        assert len(site.probed) == 6
        site.now = began + 60 * SECOND
        site.delays[FIRST] = 1
        assert await site.measure() == [FIRST, THIRD, SECOND_ONE]
        assert len(site.probed) == 12
        site.now += 120 * SECOND
        assert [str(each.ip) for each in site.servers.order(over_tcp=False)] == [FIRST, SECOND_ONE, THIRD]

    run(script)


def test_measurements_of_another_configuration_are_gone(run: Callable[[Script], Site]) -> None:
    async def script(site: Site) -> None:
        await site.measure()
        site.use(FIRST, SECOND_ONE)
        assert [str(each.ip) for each in site.servers.order(over_tcp=False)] == [FIRST, SECOND_ONE]
        site.use(SECOND_ONE, FIRST)  # while that is measured
        site.servers.order(over_tcp=False)
        await asyncio.wait(site.running)
        site.delays = {FIRST: 1, SECOND_ONE: 20}
        assert await site.measure() == [FIRST, SECOND_ONE]

    run(script)


def test_one_server_is_not_measured(run: Callable[[Script], Site]) -> None:
    async def script(site: Site) -> None:
        site.use(FIRST)
        assert await site.measure() == [FIRST]
        assert site.probed == []

    run(script)


@pytest.mark.parametrize("over_tcp", [False, True])
def test_the_answer_has_the_querys_id_and_each_question_its_own(run: Callable[[Script], Site], over_tcp: bool) -> None:
    async def script(site: Site) -> None:
        site.use(FIRST)
        for _ in range(8):
            answer = await site.servers.ask(QUERY, over_tcp=over_tcp)
            assert answer == dns.message.make_response(dns.message.from_wire(QUERY)).to_wire()
        assert site.asked == [(FIRST, over_tcp)] * 8
        assert len(set(site.ids)) > 1

    run(script)


@pytest.mark.parametrize("error", [OSError(), TimeoutError(), NoAnswerError("x")])
def test_the_next_server_is_asked_when_one_fails(run: Callable[[Script], Site], error: Exception) -> None:
    async def script(site: Site) -> None:
        await site.measure()
        site.broken = {THIRD: error, SECOND_ONE: error}
        assert await site.servers.ask(QUERY, over_tcp=False) is not None
        assert site.asked == [(THIRD, False), (SECOND_ONE, False), (FIRST, False)]
        site.broken[FIRST] = error
        assert await site.servers.ask(QUERY, over_tcp=False) is None

    run(script)


def test_without_servers_or_time_there_is_no_answer(
    run: Callable[[Script], Site], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def script(site: Site) -> None:
        site.use()
        assert await site.servers.ask(QUERY, over_tcp=False) is None
        site.use(FIRST)
        monkeypatch.setattr(nameservers, "QUERY_SECONDS", 0)
        assert await site.servers.ask(QUERY, over_tcp=False) is None

    run(script)
