"""The host's DNS is kept as it is wanted: the newest only, looked after, and put back in the end."""

import asyncio
from collections.abc import Callable, Coroutine
from ipaddress import ip_address
from typing import Any

import pytest

from client.dns.system_servers import SystemServer
from client.system_dns import keeper
from client.system_dns.control import DnsControlError, Found, Wanted
from client.system_dns.keeper import SystemDnsKeeper

SERVERS = (SystemServer(ip_address("192.0.2.1")),)


def wanted(number: int) -> Wanted:
    return Wanted((ip_address("100.100.111.0") + number,))


class Fake:
    """A mode that does nothing but note it; each step waits for a permit if there is a gate."""

    def __init__(self) -> None:
        self.found = Found(SERVERS)
        self.steps: list[object] = []
        self.broken = False
        self.gate: asyncio.Semaphore | None = None

    async def start(self) -> None:
        self.steps.append("start")

    async def look(self) -> Found:
        return self.found

    async def apply(self, wanted: Wanted) -> None:
        self.steps.append(wanted)
        if self.gate is not None:
            await self.gate.acquire()
        if self.broken:
            raise DnsControlError("etc-resolv-conf", "it is broken", "mend it")
        self.steps.append("done")

    async def flush(self) -> None:
        self.steps.append("flush")

    async def close(self) -> None:
        self.steps.append("close")


class Stage:
    """A keeper of a fake, and what it told."""

    def __init__(self) -> None:
        self.dns = Fake()
        self.told: list[tuple[SystemServer, ...]] = []
        self.failures: list[Exception] = []
        self.placed = 0
        self.keeper = SystemDnsKeeper(self.dns, told=self.told.append, in_place=self._placed, fail=self.failures.append)

    def _placed(self) -> None:
        self.placed += 1

    async def until(self, condition: Callable[[], bool]) -> None:
        while not condition():  # noqa: ASYNC110  # what is waited for is done by tasks of this loop, in its turns
            await asyncio.sleep(0)


def serve(
    work: Callable[[Stage], Coroutine[Any, Any, None]], monkeypatch: pytest.MonkeyPatch, poll: float = 60
) -> Stage:
    monkeypatch.setattr(keeper, "POLL_SECONDS", poll)

    async def run() -> Stage:
        stage = Stage()
        await stage.keeper.start()
        running = asyncio.ensure_future(stage.keeper.run())
        try:
            async with asyncio.timeout(20):
                await work(stage)
        finally:
            running.cancel()
            await asyncio.wait([running])
        return stage

    return asyncio.run(run())


def test_of_a_flood_of_updates_the_one_that_runs_and_the_last_are_carried_out(monkeypatch: pytest.MonkeyPatch) -> None:
    async def work(stage: Stage) -> None:
        stage.dns.gate = asyncio.Semaphore(0)
        stage.keeper.want(wanted(1))
        await stage.until(lambda: wanted(1) in stage.dns.steps)
        for number in range(2, 200):
            stage.keeper.want(wanted(number))
            stage.keeper.flush()
        stage.dns.gate.release()
        stage.dns.gate.release()
        await stage.until(lambda: "flush" in stage.dns.steps)
        await stage.keeper.close()

    stage = serve(work, monkeypatch)
    assert stage.dns.steps == ["start", wanted(1), "done", wanted(199), "done", "flush", "close"]
    assert stage.placed == 2
    assert stage.failures == []


def test_the_core_hears_of_servers_at_the_start_and_when_they_change(monkeypatch: pytest.MonkeyPatch) -> None:
    other = (SystemServer(ip_address("192.0.2.2")),)

    async def work(stage: Stage) -> None:
        assert stage.told == [SERVERS]
        stage.dns.found = Found(other)
        await stage.until(lambda: len(stage.told) > 1)

    assert serve(work, monkeypatch, poll=0.001).told == [SERVERS, other]


def test_what_somebody_took_away_is_put_there_again(monkeypatch: pytest.MonkeyPatch) -> None:
    async def work(stage: Stage) -> None:
        stage.keeper.want(wanted(1))
        await stage.until(lambda: stage.placed == 1)
        stage.dns.found = Found(SERVERS, is_in_place=False)
        await stage.until(lambda: stage.placed == 2)
        stage.dns.found = Found(SERVERS)

    stage = serve(work, monkeypatch, poll=0.001)
    assert stage.dns.steps[:5] == ["start", wanted(1), "done", wanted(1), "done"]


def test_a_host_that_never_asked_us_ends_the_service_and_a_later_failure_is_tried_again(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def broken(stage: Stage) -> None:
        stage.dns.broken = True
        stage.keeper.want(wanted(1))
        await stage.until(lambda: bool(stage.failures))

    stage = serve(broken, monkeypatch)
    assert [str(error) for error in stage.failures] == ["FIREZONE_DNS_CONTROL=etc-resolv-conf: it is broken: mend it"]

    async def breaks_later(stage: Stage) -> None:
        stage.keeper.want(wanted(1))
        await stage.until(lambda: stage.placed == 1)
        stage.dns.broken = True
        stage.keeper.want(wanted(2))
        await stage.until(lambda: stage.dns.steps.count(wanted(2)) > 3)
        stage.dns.broken = False
        await stage.until(lambda: stage.placed == 2)

    stage = serve(breaks_later, monkeypatch, poll=0.001)
    assert stage.failures == []
    assert [record.message for record in caplog.records].count("Cannot control the host's DNS, trying again") == 1


def test_the_end_waits_for_the_turn_that_runs_and_no_other_follows(monkeypatch: pytest.MonkeyPatch) -> None:
    async def work(stage: Stage) -> None:
        stage.dns.gate = asyncio.Semaphore(0)
        stage.keeper.want(wanted(1))
        await stage.until(lambda: wanted(1) in stage.dns.steps)
        stage.keeper.want(wanted(2))
        closing = asyncio.ensure_future(stage.keeper.close())
        await asyncio.sleep(0)
        stage.dns.gate.release()
        stage.dns.gate.release()
        await closing
        for _ in range(10):
            await asyncio.sleep(0)

    assert serve(work, monkeypatch).dns.steps == ["start", wanted(1), "done", "close"]
