"""The device gets what the core wants, beside the event loop, and never more than the newest of a flood."""

import asyncio
import threading
from collections.abc import Awaitable, Callable
from ipaddress import IPv4Address, IPv6Address, ip_network
from typing import Any

import pytest

from connectivity.errors import FatalError
from connectivity.io import host
from connectivity.io.device import ConfiguredDevice
from connectivity.portal.values import Interface
from connectivity.tunnel import ConfigureTun

ROUTES = tuple(ip_network(f"10.{number}.0.0/16") for number in range(100))


def configuration(number: int) -> ConfigureTun:
    return ConfigureTun(Interface(IPv4Address("100.64.0.1"), IPv6Address("fd00::1")), (ROUTES[number],))


class SlowHost:
    """Takes its time for each change until it is let go on, and may refuse."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.steps: list[Any] = []
        self.go_on = threading.Event()
        self.refusal: OSError | None = None
        monkeypatch.setattr(host, "configure", self._configure)
        monkeypatch.setattr(host, "set_routes", self._set_routes)

    def _configure(self, name: str, *_: object) -> None:
        assert threading.current_thread() is not threading.main_thread()
        assert self.go_on.wait(20)
        self.steps.append(name)
        if self.refusal is not None:
            raise self.refusal

    def _set_routes(self, _: str, routes: Any, previous: Any, __: Any) -> None:
        self.steps.append((tuple(previous), tuple(routes)))


class Service:
    """What is told of a device."""

    def __init__(self) -> None:
        self.told: list[object] = []
        self.device = ConfiguredDevice("tun-test", configured=self._configured, fail=self.told.append)

    async def _configured(self, action: ConfigureTun) -> None:
        assert self.device.configuration == action
        self.told.append(action)


def run(script: Callable[[Service], Awaitable[None]]) -> Service:
    async def steps() -> Service:
        service = Service()
        async with asyncio.timeout(30):
            await script(service)
        return service

    return asyncio.run(steps())


def test_of_a_flood_the_host_gets_the_first_and_the_newest(monkeypatch: pytest.MonkeyPatch) -> None:
    slow = SlowHost(monkeypatch)

    async def script(service: Service) -> None:
        service.device.configure(configuration(0))
        await asyncio.sleep(0)  # the first is on its way
        for number in range(1, 100):
            service.device.configure(configuration(number))
        slow.go_on.set()
        while len(service.told) < 2:  # noqa: ASYNC110  # a thread works on it
            await asyncio.sleep(0.001)
        await service.device.settle()

    service = run(script)
    assert service.told == [configuration(0), configuration(99)]
    assert slow.steps == ["tun-test", ((), ROUTES[:1]), "tun-test", (ROUTES[:1], ROUTES[99:])]


def test_who_settles_waits_for_what_was_begun_and_begins_nothing_more(monkeypatch: pytest.MonkeyPatch) -> None:
    slow = SlowHost(monkeypatch)

    async def script(service: Service) -> None:
        await service.device.settle()  # nothing was asked for
        service.device.configure(configuration(0))
        await asyncio.sleep(0)
        service.device.configure(configuration(1))
        settled = asyncio.ensure_future(service.device.settle())
        await asyncio.sleep(0)
        slow.go_on.set()
        await settled

    assert run(script).told == [configuration(0)]


def test_what_the_host_refuses_is_told_with_its_reason_and_leaves_things_as_they_were(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    slow = SlowHost(monkeypatch)
    slow.go_on.set()
    slow.refusal = PermissionError(1, "Operation not permitted")

    async def script(service: Service) -> None:
        service.device.configure(configuration(0))
        while not service.told:  # noqa: ASYNC110  # a thread works on it
            await asyncio.sleep(0.001)
        assert service.device.configuration is None

    (failure,) = run(script).told
    assert isinstance(failure, FatalError)
    assert str(failure) == "cannot configure tun-test"
    assert failure.__cause__ is slow.refusal
