"""Signing in and out within one program: the stream of events, its end after the goodbye, and what lasts longer."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Self

import pytest

from client.core import ClientCore
from client.resources import DnsResource, IpStack
from client.session import Configured, Device, ResourcesChanged, Session, SessionEvent
from connectivity.io import host, service
from connectivity.io.extension import NoExtension
from connectivity.io.tun import Tun
from connectivity.io.tunnel import TunnelDriver
from connectivity.phoenix.channel import Joined, MessageReceived
from connectivity.phoenix.failure import PortalFatal
from connectivity.phoenix.login import PortalLogin
from tests.unit.connectivity.test_io_buffers import settings_of
from tests.unit.connectivity.test_io_tunnel import BusyTun

RESOURCE = {
    "type": "cidr",
    "id": "r-1",
    "name": "lan",
    "address": "10.20.0.0/24",
    "gateway_groups": [{"id": "s", "name": "s"}],
}
INTERFACE = {"ipv4": "100.64.0.2", "ipv6": "fd00:2021:1111::2", "upstream_dns": []}
INIT = {
    "interface": INTERFACE,
    "resources": [RESOURCE],
    "relays": [],
}


class Portal:
    """What becomes of the links to it, in order, and of everything else that a session does."""

    def __init__(self) -> None:
        self.steps: list[str] = []
        self.logins: list[PortalLogin] = []
        self.refusal: PortalFatal | None = None
        self.and_then: Callable[[], None] = lambda: None
        self.say: Callable[[str, object], None] = lambda _event, _payload: None

    def link(self, login: PortalLogin, _topic: str, **wanted: Any) -> "Link":
        self.logins.append(login)
        return Link(self, wanted["on_event"])


class Link:
    """Joins, and has sent an ``init`` at once."""

    joined = True

    def __init__(self, portal: Portal, on_event: Callable[[object], None]) -> None:
        self._portal = portal
        self._on_event = on_event
        self._end = asyncio.Event()
        portal.say = lambda event, payload: on_event(MessageReceived(event, payload))

    async def run(self) -> None:
        self._on_event(Joined())
        self._portal.say("init", INIT)
        self._portal.and_then()
        if self._portal.refusal is not None:
            raise self._portal.refusal
        await self._end.wait()

    async def close(self) -> None:
        self._portal.steps.append("portal left")
        self._end.set()

    def send(self, event: str, payload: object) -> None:
        """Nobody listens."""


class Staying:
    """A network that stays the same; the program's signals are its own."""

    def __init__(self, **_: object) -> None:
        pass

    def start(self, *, by_hand: bool) -> None:
        assert not by_hand

    async def close(self) -> None:
        pass


class Interface(BusyTun):
    """A TUN device without packets."""

    name = "tun-test"

    def __init__(self, steps: list[str]) -> None:
        super().__init__(0)
        self._steps = steps

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._steps.append("device gone")
        self.ready.close()


@pytest.fixture
def portal(monkeypatch: pytest.MonkeyPatch) -> Portal:
    portal = Portal()
    goodbye = TunnelDriver.say_goodbye

    async def say_goodbye(driver: TunnelDriver) -> None:
        await asyncio.sleep(0)  # as a full socket makes it wait
        await goodbye(driver)
        portal.steps.append("goodbye")

    monkeypatch.setattr(TunnelDriver, "say_goodbye", say_goodbye)
    monkeypatch.setattr(service, "bind_sockets", lambda **_: {})
    monkeypatch.setattr(service, "PortalLink", portal.link)
    monkeypatch.setattr(Tun, "create", lambda *_, **__: Interface(portal.steps))
    monkeypatch.setattr("connectivity.io.roam.Roaming", Staying)
    monkeypatch.setattr("client.session.make_extension", lambda *_: NoExtension())
    for name in ("configure", "set_routes", "remove_policy_routing"):
        monkeypatch.setattr(host, name, lambda *_: None)
    return portal


def run(work: Callable[[Device], Awaitable[None]], monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        await work(Device(settings_of("client", monkeypatch, FIREZONE_ID="this-device")))

    asyncio.run(main())


ALL_GONE = ["goodbye", "portal left", "device gone"]


def test_events_end_only_after_the_goodbye_and_the_host_is_as_it_was(
    portal: Portal, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[SessionEvent] = []

    async def work(device: Device) -> None:
        async with device.sign_in("a-token") as session:
            async for event in session.events():
                seen.append(event)
                if isinstance(event, Configured):
                    session.sign_out()
            assert portal.steps == ALL_GONE
            assert session.has_ended

    run(work, monkeypatch)
    resources, configured = seen
    assert isinstance(resources, ResourcesChanged)
    assert [(row.resource_id, row.state) for row in resources.resources] == [("r-1", "unknown")]
    assert isinstance(configured, Configured)
    assert str(configured.configuration.interface.ipv4) == "100.64.0.2"


def test_a_slow_reader_has_the_latest_of_each_kind_and_nothing_of_what_was_between(
    portal: Portal, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[SessionEvent] = []

    def flood() -> None:
        for number in range(3, 100):
            portal.say("config_changed", {"interface": INTERFACE | {"ipv4": f"100.64.0.{number}"}})
            portal.say("resource_created_or_updated", RESOURCE | {"name": f"lan {number}"})

    async def work(device: Device) -> None:
        portal.and_then = flood
        async with device.sign_in("a-token") as session:
            async for event in session.events():
                seen.append(event)
                if len(seen) == 2:
                    session.sign_out()

    run(work, monkeypatch)
    resources, configured = seen
    assert isinstance(resources, ResourcesChanged)
    assert [row.name for row in resources.resources] == ["lan 99"]
    assert isinstance(configured, Configured)
    assert str(configured.configuration.interface.ipv4) == "100.64.0.99"


def test_signing_in_again_is_the_same_device_with_other_keys(portal: Portal, monkeypatch: pytest.MonkeyPatch) -> None:
    async def work(device: Device) -> None:
        for token in ("a-token", "another"):
            async with device.sign_in(token) as session:
                await configured(session)
                with pytest.raises(RuntimeError, match="one session at a time"):
                    device.sign_in("a third")

    run(work, monkeypatch)
    first, second = (dict(login.parameters) for login in portal.logins)
    assert first["external_id"] == second["external_id"]
    assert (first["token"], second["token"]) == ("a-token", "another")
    assert portal.logins[0].public_key != portal.logins[1].public_key
    assert portal.steps == [*ALL_GONE, *ALL_GONE]


def test_names_have_the_same_addresses_after_signing_in_again(portal: Portal, monkeypatch: pytest.MonkeyPatch) -> None:
    cores: list[ClientCore] = []

    class Core(ClientCore):
        def __init__(self, **wanted: Any) -> None:
            super().__init__(**wanted)
            cores.append(self)

    async def work(device: Device) -> None:
        for name in ("wiki.internal", "git.internal"):
            async with device.sign_in("a-token") as session:
                await configured(session)
                cores[-1].records.assign(name, DnsResource("r-2", "apps", "*.internal", IpStack.DUAL, ()))

    monkeypatch.setattr("client.session.ClientCore", Core)
    run(work, monkeypatch)
    first, second = (core.records for core in cores)
    wiki, git = second.get("wiki.internal", "r-2"), second.get("git.internal", "r-2")
    assert wiki is not None
    assert git is not None
    assert wiki == first.get("wiki.internal", "r-2")
    assert not {*wiki.ipv4, *wiki.ipv6} & {*git.ipv4, *git.ipv6}
    assert portal.steps == [*ALL_GONE, *ALL_GONE]


def test_an_identity_that_cannot_be_kept_lasts_as_long_as_the_device(
    portal: Portal, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = iter(range(10))
    monkeypatch.setattr("client.session.load_or_create", lambda _: f"made-{next(made)}")

    async def main() -> None:
        device = Device(settings_of("client", monkeypatch))
        for _ in range(2):
            async with device.sign_in("a-token") as session:
                await configured(session)

    asyncio.run(main())
    first, second = (dict(login.parameters)["external_id"] for login in portal.logins)
    assert first == second


def test_what_ends_a_session_is_raised_after_its_goodbye(portal: Portal, monkeypatch: pytest.MonkeyPatch) -> None:
    portal.refusal = PortalFatal("Failed to login to portal: 401 Unauthorized")

    async def work(device: Device) -> None:
        async with device.sign_in("a-token") as session:
            with pytest.raises(PortalFatal, match="401"):
                await anext(aiter_all(session))
            assert portal.steps == ["goodbye", "device gone"]

    run(work, monkeypatch)


def test_a_reader_that_is_cancelled_leaves_nothing_behind(portal: Portal, monkeypatch: pytest.MonkeyPatch) -> None:
    async def work(device: Device) -> None:
        async def read() -> None:
            async with device.sign_in("a-token") as session:
                await configured(session)
                reading.set()
                async for _ in session.events():
                    continue

        reading = asyncio.Event()
        task = asyncio.ensure_future(read())
        await reading.wait()
        task.cancel()
        await asyncio.wait({task})
        assert task.cancelled()
        assert portal.steps == ALL_GONE

    run(work, monkeypatch)


def test_a_program_that_ends_meanwhile_has_said_goodbye(portal: Portal, monkeypatch: pytest.MonkeyPatch) -> None:
    async def work(device: Device) -> None:
        await configured(device.sign_in("a-token"))  # and nobody signs out: the loop cancels what is left

    run(work, monkeypatch)
    assert portal.steps == ["goodbye", "device gone"]  # the link was cancelled, too


def test_a_goodbye_that_fails_hides_nothing(
    portal: Portal, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def fails(_: TunnelDriver) -> None:
        raise OSError(5, "no goodbye")

    monkeypatch.setattr(TunnelDriver, "say_goodbye", fails)
    portal.refusal = PortalFatal("refused")

    async def work(device: Device) -> None:
        async with device.sign_in("a-token") as session:
            with pytest.raises(PortalFatal, match="refused"):
                await anext(aiter_all(session))

    run(work, monkeypatch)
    assert "Cannot say goodbye" in caplog.text


async def configured(session: Session) -> None:
    """Reads on until the device has its addresses."""
    async for event in session.events():
        if isinstance(event, Configured):
            return


async def aiter_all(session: Session) -> Any:
    """One value once all events were read."""
    yield [event async for event in session.events()]
