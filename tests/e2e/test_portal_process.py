"""``postern portal`` as a process: WebSockets on the loopback, the file read again, one-line failures, exit codes."""

import asyncio
import os
import re
import signal
import socket
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from connectivity.io.portal import PortalEvent, PortalLink
from connectivity.phoenix import (
    Joined,
    MessageReceived,
    PortalFatal,
    PortalLogin,
    client_login,
    gateway_login,
    relay_login,
)

PROGRAM = [sys.executable, "-c", "import sys; from postern.cli import main; sys.exit(main())", "portal"]
CONTENT = """
listen: 127.0.0.1:0
secret: a-secret-of-the-portal
sites: [{name: hq}]
resources: [{name: lan, type: cidr, address: 10.20.0.0/16, sites: [hq]}]
policies: [{resource: lan, groups: [everyone]}]
tokens:
  - {type: client, name: laptop, token: client-token-long-enough}
  - {type: gateway, site: hq, token: gateway-token-long-enough}
  - {type: relay, token: relay-token-long-enough}
"""


def test_flow_between_three_components(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with portal(tmp_path) as process, components(process.port) as (client, gateway, _):
            lan = (await client.expect("init"))["resources"][0]["id"]
            init = await gateway.expect("init")
            assert init["relays"][0]["addr"] == "192.0.2.1:3478"
            client.link.send("create_flow", {"resource_id": lan, "connected_gateway_ids": []})
            request = await gateway.expect("authorize_flow")
            gateway.link.send("flow_authorized", {"ref": request["ref"]})
            candidates = {"client_ids": [request["client"]["id"]], "candidates": ["candidate:1"]}
            gateway.link.send("broadcast_ice_candidates", candidates)
            created = await client.expect("flow_created")
            assert created["preshared_key"] == request["client"]["preshared_key"]
            assert (await client.expect("ice_candidates"))["gateway_id"] == created["gateway_id"]

    asyncio.run(scenario())


def test_edited_file_takes_effect_on_sighup(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with portal(tmp_path) as process, components(process.port) as (client, gateway, _):
            lan = (await client.expect("init"))["resources"][0]["id"]
            await gateway.expect("init")
            await flow(client, gateway, lan)
            process.write(CONTENT.replace("name: lan", "nmae: lan"))
            process.signal(signal.SIGHUP)
            assert "nmae is not a known key" in await process.wait_line("Kept the old configuration")
            process.write(CONTENT.replace("policies: [{resource: lan, groups: [everyone]}]", ""))
            process.signal(signal.SIGHUP)
            assert "changed=policies 1 → 0, access of laptop to lan taken away" in await process.wait_line("read again")
            assert await client.expect("resource_deleted") == lan
            assert (await gateway.expect("reject_access"))["resource_id"] == lan
            process.write(CONTENT.replace("client-token", "other-token"))
            process.signal(signal.SIGHUP)
            with pytest.raises(PortalFatal, match="401 Unauthorized"):
                await client.finished

    asyncio.run(scenario())


def test_tokens_of_all_kinds_change_while_flows_go_on(tmp_path: Path) -> None:
    """Old and new texts of an entry for a while: whoever has the new one is who it was, and hears nothing."""

    async def scenario() -> None:
        async with portal(tmp_path) as process, components(process.port) as (client, gateway, relay):
            await client.expect("init")
            await gateway.expect("init")
            process.write(re.sub(r"token: (\w+)-token(\S+)}", r"token: [\1-token\2, \1-later-token\2]}", CONTENT))
            process.signal(signal.SIGHUP)
            assert "texts of the token of laptop 1 → 2" in await process.wait_line("read again")
            async with components(process.port, "later-token") as (changed, serving, _):
                lan = (await changed.expect("init"))["resources"][0]["id"]
                await serving.expect("init")
                await flow(changed, serving, lan)
                process.write(CONTENT.replace("-token", "-later-token"))
                process.signal(signal.SIGHUP)
                assert "texts of the token of relay 2 → 1" in await process.wait_line("read again")
                for old, why in ((client, "401 Unauthorized"), (gateway, "401 Unauthorized"), (relay, "expired")):
                    with pytest.raises(PortalFatal, match=why):
                        await old.finished
                await flow(changed, serving, lan)

    asyncio.run(scenario())


def test_health_refusals_and_a_clean_end(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with portal(tmp_path) as process, aiohttp.ClientSession() as session:
            base = f"http://127.0.0.1:{process.port}"
            async with session.get(f"{base}/healthz") as response:
                assert response.status == 200
            for query, status, text in (
                ("", 401, "Missing token"),
                ("?token=wrong", 401, "Invalid token"),
                ("?token=gateway-token-long-enough", 422, "Invalid or missing connection parameters: "),
            ):
                async with session.get(f"{base}/gateway/websocket{query}") as response:
                    assert response.status == status
                    assert (await response.text()).startswith(text)
            process.signal(signal.SIGTERM)
            assert await process.wait_end() == 0

    asyncio.run(scenario())


def test_who_guesses_behind_a_proxy_is_named_and_put_off_alone(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with portal(tmp_path) as process, aiohttp.ClientSession() as session:

            async def guess(told: str) -> int:
                url = f"http://127.0.0.1:{process.port}/client/websocket?token=wrong"
                async with session.get(url, headers={"X-Forwarded-For": told}) as response:
                    return response.status

            assert await guess("192.0.2.1") == 401
            assert "address=127.0.0.1 count=1 " in await process.wait_line("Wrong tokens")  # nobody is trusted yet
            process.write(f"trusted_proxies: [127.0.0.1]\n{CONTENT}")
            process.signal(signal.SIGHUP)
            assert "changed=trusted_proxies changed" in await process.wait_line("read again")
            assert {await guess(f"203.0.113.{number}, 192.0.2.7") for number in range(10)} == {401}
            assert "address=192.0.2.7 count=1 " in await process.wait_line("Wrong tokens")
            assert await guess("192.0.2.7") == 503
            assert await guess("2001:db8::7") == 401
            assert "address=2001:db8::/64 count=1 " in await process.wait_line("Wrong tokens")

    asyncio.run(scenario())


def test_no_extension_is_negotiated_and_no_ping_sent(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with portal(tmp_path) as process, aiohttp.ClientSession() as session:
            url = f"http://127.0.0.1:{process.port}/relay/websocket"
            query = {"token": "relay-token-long-enough", "ipv4": "192.0.2.1", "port": "3478"}
            headers = {"User-Agent": "relay/0.1.0"}
            async with session.ws_connect(url, params=query, headers=headers, compress=15, autoping=False) as websocket:
                assert websocket.compress == 0
                await websocket.send_json({"topic": "phoenix", "event": "heartbeat", "payload": {}, "ref": 3})
                assert await websocket.receive_json() == {
                    "topic": "phoenix",
                    "event": "phx_reply",
                    "payload": {"status": "ok", "response": {}},
                    "ref": 3,
                }

    asyncio.run(scenario())


def test_three_mistakes_are_one_line_and_exit_code_2(tmp_path: Path) -> None:
    faulty = CONTENT.replace("10.20.0.0/16", "10.20.0.1/16").replace("type: relay", "type: rely")
    (tmp_path / "portal.yaml").write_text(faulty.replace("site: hq", "site: hx"))
    code, text = asyncio.run(failing("--config", str(tmp_path / "portal.yaml")))
    assert code == 2
    assert len(text.splitlines()) == 1
    assert "resources[0].address is '10.20.0.1/16'" in text
    assert "tokens[1].site is 'hx'" in text
    assert "tokens[2].type is 'rely'" in text
    assert "long-enough" not in text


def test_without_a_file() -> None:
    code, text = asyncio.run(failing())
    assert code == 2
    assert "POSTERN_PORTAL_CONFIG (or --config) is not set" in text


def test_busy_port_is_one_line_and_exit_code_1(tmp_path: Path) -> None:
    (tmp_path / "portal.yaml").touch(mode=0o600)
    with listener() as port:
        (tmp_path / "portal.yaml").write_text(CONTENT.replace("127.0.0.1:0", f"127.0.0.1:{port}"))
        code, text = asyncio.run(failing("--config", str(tmp_path / "portal.yaml")))
    assert code == 1
    assert text.splitlines() == [f"postern portal: cannot listen on 127.0.0.1:{port}: Address already in use"]


class Process:
    """A portal that listens."""

    def __init__(self, child: asyncio.subprocess.Process, path: Path) -> None:
        self._child = child
        self._path = path
        self.port = 0

    def write(self, content: str) -> None:
        self._path.write_text(content)

    def signal(self, number: int) -> None:
        self._child.send_signal(number)

    async def wait_line(self, text: str) -> str:
        assert self._child.stderr is not None
        while line := (await self._child.stderr.readline()).decode():
            if text in line:
                return line
        raise AssertionError(f"the portal ended without saying {text!r}")

    async def wait_end(self) -> int:
        return await self._child.wait()

    async def stop(self) -> None:
        if self._child.returncode is None:
            self._child.terminate()
        await self._child.communicate()


class Member:
    """A component at the end of a portal link."""

    def __init__(self, link: PortalLink, group: asyncio.TaskGroup) -> None:
        self.link = link
        self.finished: Any = asyncio.get_running_loop().create_future()
        self._events: AsyncIterator[PortalEvent] = link.events()
        group.create_task(self._run())

    async def expect(self, name: str) -> Any:
        """The payload of the next message, which must have that name; joins are passed over."""
        async for event in self._events:
            if isinstance(event, MessageReceived):
                assert event.event == name
                return event.payload
            assert isinstance(event, Joined)
        raise AssertionError(f"the link ended before {name}")

    async def _run(self) -> None:
        try:
            await self.link.run()
        except PortalFatal as error:
            self.finished.set_exception(error)
        else:
            self.finished.cancel()


@asynccontextmanager
async def portal(directory: Path) -> AsyncIterator[Process]:
    path = directory / "portal.yaml"
    path.write_text(CONTENT)
    child = await asyncio.create_subprocess_exec(
        *PROGRAM, env=environment(POSTERN_PORTAL_CONFIG=str(path)), stderr=asyncio.subprocess.PIPE
    )
    process = Process(child, path)
    try:
        async with asyncio.timeout(60):
            found = re.search(r"address=127\.0\.0\.1:(\d+)", await process.wait_line("Portal is listening"))
            assert found is not None
            process.port = int(found[1])
            yield process
    finally:
        await process.stop()


async def flow(client: Member, gateway: Member, resource_id: str) -> None:
    """A flow is what either hears next."""
    client.link.send("create_flow", {"resource_id": resource_id, "connected_gateway_ids": []})
    gateway.link.send("flow_authorized", {"ref": (await gateway.expect("authorize_flow"))["ref"]})
    await client.expect("flow_created")


@asynccontextmanager
async def components(port: int, word: str = "token") -> AsyncIterator[tuple[Member, Member, Member]]:
    """Client, gateway and relay of a portal, each by its token that has the word in it."""
    url = f"ws://127.0.0.1:{port}"
    relay: PortalLogin = relay_login(
        url, token=f"relay-{word}-long-enough", user_agent="relay/0.1.0", ipv4=IPv4Address("192.0.2.1")
    )
    common: dict[str, Any] = {"device_id": "x", "name": "n"}
    client = client_login(
        url, token=f"client-{word}-long-enough", public_key=bytes(32), user_agent="headless-client/1.5.4", **common
    )
    gateway = gateway_login(
        url, token=f"gateway-{word}-long-enough", public_key=bytes(32), user_agent="gateway/1.4.17", **common
    )
    async with asyncio.TaskGroup() as group:
        members = [Member(PortalLink(relay, "relay", {"stamp_secret": "s"}), group)]
        assert await members[0].expect("init") == {}
        members += [Member(PortalLink(client, "client"), group), Member(PortalLink(gateway, "gateway"), group)]
        try:
            yield members[1], members[2], members[0]
        finally:
            for member in members:
                await member.link.close()


async def failing(*arguments: str) -> tuple[int | None, str]:
    """Exit code and stderr of a portal that cannot start."""
    child = await asyncio.create_subprocess_exec(
        *PROGRAM, *arguments, env=environment(), stderr=asyncio.subprocess.PIPE
    )
    _, errors = await child.communicate()
    return child.returncode, errors.decode()


def environment(**extra: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("POSTERN_")}
    return {**kept, "RUST_LOG": "info", **extra}


@contextmanager
def listener() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]
