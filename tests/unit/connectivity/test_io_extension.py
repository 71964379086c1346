"""What a role adds to the service: when it is called, and that none of its failures hides what ended the service."""

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Mapping
from ipaddress import IPv4Address, IPv6Address
from typing import Any, Self, cast

import pytest

from connectivity.errors import FatalError
from connectivity.io import extension, host, service
from connectivity.io.extension import ExtensionHost, Tasks
from connectivity.io.service import Role, run_tunnel
from connectivity.io.tun import Tun
from connectivity.io.tunnel_settings import TunnelSettings
from connectivity.io.udp_options import SOCKET_MARK
from connectivity.phoenix.login import PortalLogin, gateway_login
from connectivity.portal import values
from connectivity.tunnel import ConfigureTun, SendToPortal
from connectivity.wireguard import KeyPair
from tests.unit.connectivity.test_io_buffers import settings_of
from tests.unit.connectivity.test_io_tunnel import BusyTun, RecordingCore

INTERFACE = values.Interface(IPv4Address("100.64.0.1"), IPv6Address("fd00:2021:1111::1"))


class Device(BusyTun):
    """A TUN device without packets."""

    name = "tun-test"

    def __init__(self, steps: list[str]) -> None:
        super().__init__(0)
        self._steps = steps

    def __enter__(self) -> Self:
        return self

    def hold(self) -> None:
        assert self._steps == [], "nothing has begun yet"

    def release(self) -> bool:
        self._steps.append("released")
        return True

    def __exit__(self, *_: object) -> None:
        self._steps.append("device closed")
        self.ready.close()


class Core(RecordingCore):
    """Asks for what a test puts into ``actions``."""

    def __init__(self, steps: list[str]) -> None:
        super().__init__()
        self.steps = steps
        self.actions: deque[object] = deque()

    def poll_action(self) -> Any:
        return self.actions.popleft() if self.actions else None

    def listen(self, _: object) -> None:
        return None

    def statistics(self) -> None:
        return None

    def close(self, now: int) -> None:
        del now
        self.steps.append("goodbye")

    def leave_relays(self, now: int) -> None:
        del now
        self.steps.append("relays left")

    def handle_resolution(self, name: str) -> None:
        self.steps.append(f"core has {name}")
        self.actions.append("asked for" if name == "an answer" else "nobody's")

    def handle_defect(self) -> None:
        raise RuntimeError("a defect")


class Recording:
    """An extension that writes down what it is asked, and starts a script with the host it is given."""

    def __init__(
        self, host: ExtensionHost, steps: list[str], script: Callable[[ExtensionHost, "Recording"], object]
    ) -> None:
        self.host = host
        self.steps = steps
        self._script = script
        self.fails_at: set[str] = set()
        self.then: Callable[[], object] = lambda: None  # once the device is configured

    async def start(self) -> None:
        self._step("start")
        asyncio.get_running_loop().call_soon(self._script, self.host, self)

    def act(self, action: object) -> bool:
        if action == "asked for":
            self._step("act")
            return True
        return False

    async def configured(self, configuration: ConfigureTun) -> None:
        assert configuration.interface == INTERFACE
        self._step("configured")
        asyncio.get_running_loop().call_soon(self.then)

    async def reset(self) -> None:
        self._step("reset")

    async def close(self) -> None:
        self._step("close")

    def counters(self) -> Mapping[str, Mapping[str, int]]:
        return {}

    def _step(self, name: str) -> None:
        self.steps.append(name)
        if name in self.fails_at:
            raise OSError(5, f"{name} failed")


class Link:
    """A portal link that says nothing."""

    joined = True

    def __init__(self, *_: object, **__: object) -> None:
        self._end = asyncio.Event()
        self.sent: list[str] = []

    async def run(self) -> None:
        await self._end.wait()

    async def close(self) -> None:
        self._end.set()

    def send(self, event: str, payload: object) -> None:
        del payload
        self.sent.append(event)


def serve(
    monkeypatch: pytest.MonkeyPatch, script: Callable[[ExtensionHost, Recording], object], *, fails_at: str = ""
) -> list[str]:
    """One run of the service, until the script ends it with ``FatalError("the end")``; what happened, in order."""
    steps: list[str] = []
    core = Core(steps)

    def make_extension(given: ExtensionHost) -> Recording:
        assert (cast(Any, given.core), given.mark, given.device) == (core, SOCKET_MARK, "tun-test")
        made = Recording(given, steps, script)
        made.fails_at = {fails_at}
        return made

    monkeypatch.setattr(service, "bind_sockets", lambda **_: {})
    monkeypatch.setattr(service, "PortalLink", Link)
    monkeypatch.setattr(Tun, "create", lambda *_, **__: Device(steps))
    monkeypatch.setattr(host, "configure", lambda *_: steps.append("addresses"))
    monkeypatch.setattr(host, "set_routes", lambda *_: None)
    monkeypatch.setattr(host, "remove_policy_routing", lambda: None)
    role = Role("gateway", lambda *_: cast(Any, core), login, "cid", None, make_extension=make_extension)
    try:
        asyncio.run(run_tunnel(settings_of("gateway", monkeypatch), role))
    except (FatalError, RuntimeError, AssertionError, OSError) as error:
        steps.append(str(error))
    return steps


def login(settings: TunnelSettings, keys: KeyPair) -> PortalLogin:
    return gateway_login(
        settings.api_url, token="", device_id="d-1", name="", public_key=keys.public, user_agent="test"
    )


def the_end(host: ExtensionHost, _: object) -> None:
    host.fail(FatalError("the end"))


def test_it_starts_first_and_is_closed_before_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    assert serve(monkeypatch, the_end) == ["start", "goodbye", "relays left", "close", "device closed", "the end"]


def test_it_gets_its_actions_and_the_core_what_comes_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    def script(host: ExtensionHost, recording: Recording) -> None:
        host.call(cast(Any, host.core).handle_resolution, "an answer")
        the_end(host, recording)

    steps = serve(monkeypatch, script)
    assert steps == [
        "start",
        "core has an answer",
        "act",
        "goodbye",
        "relays left",
        "close",
        "device closed",
        "the end",
    ]


def test_it_hears_of_the_device_when_that_has_its_addresses(monkeypatch: pytest.MonkeyPatch) -> None:
    def script(host: ExtensionHost, recording: Recording) -> None:
        cast(Core, host.core).actions += [SendToPortal("x", {}), ConfigureTun(INTERFACE, ())]
        host.call(lambda: None)
        recording.then = lambda: the_end(host, recording)

    assert serve(monkeypatch, script)[:5] == ["start", "addresses", "configured", "released", "goodbye"]


def test_a_device_that_the_host_refuses_ends_the_service_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    def script(host: ExtensionHost, recording: Recording) -> None:
        cast(Core, host.core).actions.append(ConfigureTun(INTERFACE, ()))
        recording.fails_at.add("configured")
        host.call(lambda: None)

    told = serve(monkeypatch, script)
    assert told == [
        "start",
        "addresses",
        "configured",
        "goodbye",
        "relays left",
        "close",
        "device closed",
        "[Errno 5] configured failed",
    ]


def test_what_the_core_asks_and_nobody_does_is_a_defect(monkeypatch: pytest.MonkeyPatch) -> None:
    def script(host: ExtensionHost, _: Recording) -> None:
        host.call(cast(Any, host.core).handle_resolution, "what nobody wants")

    assert serve(monkeypatch, script)[-1] == "nobody carries out str"


def test_a_defect_of_the_core_ends_the_service_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    def script(host: ExtensionHost, _: Recording) -> None:
        host.call(cast(Any, host.core).handle_defect)
        host.call(cast(Any, host.core).handle_resolution, "after the end")  # nothing any more

    assert serve(monkeypatch, script) == ["start", "goodbye", "relays left", "close", "device closed", "a defect"]


def test_a_start_that_fails_is_taken_back_and_told(monkeypatch: pytest.MonkeyPatch) -> None:
    assert serve(monkeypatch, the_end, fails_at="start") == [
        "start",
        "close",
        "device closed",
        "[Errno 5] start failed",
    ]


def test_a_close_that_fails_hides_nothing(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "connectivity.io"):
        steps = serve(monkeypatch, the_end, fails_at="close")
    assert steps[-2:] == ["device closed", "the end"]
    (record,) = (record for record in caplog.records if record.name == "connectivity.io")
    assert record.getMessage() == "Cannot take everything back"
    assert cast(Any, record).fields["error"].startswith("close failed")


def test_a_close_that_hangs_is_given_up(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    class Hanging(extension.NoExtension):
        async def close(self) -> None:
            await asyncio.Event().wait()

    monkeypatch.setattr(extension, "CLOSE_SECONDS", 0)
    with caplog.at_level(logging.WARNING, "connectivity.io"):
        asyncio.run(extension.close(Hanging()))
    assert [record.getMessage() for record in caplog.records] == ["Cannot take everything back"]


def test_a_defect_in_a_task_is_told_and_a_cancelled_one_is_none() -> None:
    failures: list[str] = []

    async def fail() -> None:
        raise RuntimeError("a defect")

    async def wait() -> None:
        await asyncio.Event().wait()

    async def steps() -> None:
        told = asyncio.Event()

        def tell(error: Exception) -> None:
            failures.append(str(error))
            told.set()

        tasks = Tasks(tell)
        tasks.start(wait())
        tasks.start(wait())
        tasks.start(fail())
        await told.wait()
        assert len(tasks) == 2
        await tasks.cancel()
        assert len(tasks) == 0

    asyncio.run(steps())
    assert failures == ["a defect"]
