"""What is made anew on another network, and in which order."""

import asyncio
import os
import signal
from collections.abc import Awaitable, Callable
from ipaddress import ip_address
from typing import Any, cast

from connectivity.io.network_watch import Found
from connectivity.io.roam import Roaming
from connectivity.roaming import Route
from connectivity.wireguard import KeyPair

PORTAL, RELAY = ip_address("203.0.113.10"), ip_address("203.0.113.101")


class Parts:
    """Everything that a reset touches; writes down what was asked of it."""

    def __init__(self) -> None:
        self.log: list[str] = []
        self.keys: list[bytes] = []
        self.errors: list[Exception] = []
        self.way = Route(ip_address("192.168.1.5"), ip_address("192.168.1.1"), 2)
        self.again = asyncio.Event()
        self.broken = False

    def call(self, function: Callable[..., None], *arguments: object) -> None:
        try:
            function(*arguments)
        except ValueError as error:
            self.fail(error)

    def fail(self, error: Exception) -> None:
        self.errors.append(error)

    def rebind(self, sockets: object) -> None:
        self.log.append(f"rebind {sockets}")

    def reconnect(self, login: str) -> None:
        self.log.append(login)

    def addresses(self) -> list[object]:
        return [PORTAL]

    def relay_addresses(self) -> list[object]:
        return [RELAY]

    def reset(self, keys: KeyPair | None = None, now: int = 0) -> Any:
        """The core's, and the extension's without arguments."""
        if keys is None:
            return self._extension()
        assert now > 0
        self.keys.append(keys.public)
        self.log.append("core")
        return None

    async def _extension(self) -> None:
        self.log.append("extension")
        self.again.set()

    def bind(self) -> dict[int, str]:
        if self.broken:
            raise ValueError("no socket")
        self.log.append("bind")
        return {4: "new"}

    def login(self, keys: KeyPair) -> str:
        assert keys.public == self.keys[-1]
        return "login"


def run(test: Callable[[Roaming, Parts], Awaitable[None]]) -> Parts:
    async def steps() -> Parts:
        parts = Parts()
        anything: Any = parts
        roaming = Roaming(
            core=anything,
            driver=anything,
            link=anything,
            extension=anything,
            make_login=cast(Any, parts.login),
            bind=anything.bind,
        )

        def look(destinations: Any, _mark: int) -> Found:
            return dict.fromkeys(destinations, parts.way), frozenset()

        roaming._watch._look = look
        roaming.start()
        try:
            async with asyncio.timeout(20):
                await test(roaming, parts)
        finally:
            await roaming.close()
        return parts

    before = signal.getsignal(signal.SIGHUP)
    try:
        return asyncio.run(steps())
    finally:
        signal.signal(signal.SIGHUP, before)


def test_by_hand_everything_is_made_anew_in_this_order_and_with_another_key() -> None:
    async def test(_: Roaming, parts: Parts) -> None:
        for _number in range(2):
            parts.again.clear()
            os.kill(os.getpid(), signal.SIGHUP)
            await parts.again.wait()

    parts = run(test)
    # The core's first words wait for the login that they belong to.
    assert parts.log == ["bind", "core", "login", "rebind {4: 'new'}", "extension"] * 2
    assert len(set(parts.keys)) == 2
    assert parts.errors == []


def test_without_sockets_the_service_ends_in_order() -> None:
    async def test(roaming: Roaming, parts: Parts) -> None:
        parts.broken = True
        roaming.reset("test")

    parts = run(test)
    assert [str(error) for error in parts.errors] == ["no socket"]
    assert parts.log == []


def test_a_hangup_that_comes_too_late_changes_nothing() -> None:
    async def test(roaming: Roaming, _: Parts) -> None:
        await roaming.close()
        os.kill(os.getpid(), signal.SIGHUP)
        for _number in range(5):
            await asyncio.sleep(0)

    assert run(test).log == []


def test_another_way_to_portal_or_relay_does_it_without_being_asked() -> None:
    async def test(roaming: Roaming, parts: Parts) -> None:
        watch = roaming._watch
        while not watch._routes.are_of([PORTAL, RELAY]):  # noqa: ASYNC110  # a thread answers, to the watch alone
            await asyncio.sleep(0)
        parts.way = parts.way._replace(link=3)
        watch._kernel_speaks()
        await parts.again.wait()

    assert run(test).log[0] == "bind"
