"""``postern status``: every service of this machine in one view, and in words what could not be asked."""

import asyncio
import json
import os
import re
import socket
from collections.abc import Callable
from contextlib import AsyncExitStack
from errno import EACCES
from ipaddress import ip_address
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from aiohttp import web

from connectivity.clock import SECOND
from connectivity.endpoint import Endpoint
from connectivity.errors import FatalError
from connectivity.io import local_client
from connectivity.io.http import HttpCounters
from connectivity.io.local_socket import LocalServer
from connectivity.io.udp_counters import UdpCounters
from connectivity.settings import LocalSocket
from portal import status as portal_status
from portal.configuration import TokenType
from portal.metrics import collect as portal_metrics
from portal.online import Online
from portal.statistics import LoginResult, Sizes, Statistics
from postern import status
from relay.driver import status as relay_status
from relay.driver.metrics import Sources, collect
from relay.driver.offload import Offload
from relay.driver.streams import StreamCounters
from tests.unit.connectivity.test_io_status_table import document
from tests.unit.relay.playbook import RelayUnderTest

NOW = 1_000 * SECOND


def relay_document() -> dict[str, Any]:
    sources = Sources(Offload("no interface is named"), UdpCounters(), StreamCounters(), 0)
    readiness = {
        "ready": True,
        "draining": False,
        "portal": "none",
        "offload": {"mode": "off", "reason": "no interface is named", "egress": {}},
    }
    allocations = [
        {
            "user": f"user-{number}",
            "client": "192.0.2.1:5000",
            "port": 50_000 + number,
            "transport": "udp",
            "to_peer_bytes": 1000 * number,
            "to_client_bytes": 0,
        }
        for number in range(1, 13)
    ]
    identity = relay_status.Identity(None, ("203.0.113.5",), ("0.0.0.0:3478",), NOW - 90 * SECOND)
    metrics = collect(RelayUnderTest().server.statistics(), sources)
    return relay_status.build(identity, readiness, allocations, metrics, NOW)


def portal_document() -> dict[str, Any]:
    addresses = (ip_address("100.64.0.2"),)
    online = [
        Online(
            TokenType.CLIENT, "c-1", "laptop", "laptop of alice", 1, "alice", addresses, "1.5.4", NOW - 3 * SECOND, 2
        ),
        Online(TokenType.RELAY, "r-1", "", "relay", 1, "", (ip_address("203.0.113.5"),), "", NOW - 9000 * SECOND, 0),
    ]
    statistics = Statistics()
    statistics.logins[TokenType.CLIENT, LoginResult.WRONG_TOKEN] = 7
    metrics = portal_metrics(statistics, Sizes(2, {TokenType.CLIENT: 1}, 1, 5, 0), online, HttpCounters())
    return portal_status.build(Endpoint.parse("0.0.0.0:8081"), online, metrics, NOW - 60 * SECOND, NOW)


def among(folder: Path, documents: dict[str, Any], work: Callable[[], Any]) -> Any:
    """Does ``work`` while services with these documents have sockets of these names in a folder."""

    async def serve() -> Any:
        async with AsyncExitStack() as stack:
            for name, told in documents.items():

                async def answer(_: web.Request, told: Any = told) -> web.Response:
                    return web.json_response(told)

                server = LocalServer("socket", [web.get("/status", answer)])
                stack.push_async_callback(server.close)
                await server.start(LocalSocket(folder / f"{name}.sock", is_demanded=True))
            return await asyncio.to_thread(work)

    return asyncio.run(serve())


def test_all_services_are_in_one_view_that_fits(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    documents = {
        "portal": portal_document(),
        "relay": relay_document(),
        "gateway": document("gateway"),
        "client": document("client", name="a\x1b[31m"),
    }
    documents["relay"]["counters"].update(allocations=1, channels=2_000, streams=1)
    assert among(tmp_path, documents, lambda: status.run(["--folder", str(tmp_path)])) == 0
    said = capsys.readouterr().out
    assert all(len(line) <= 80 and line.isprintable() for line in said.splitlines())
    views = re.split("^─+$", said, flags=re.MULTILINE)
    assert [view.split()[0] for view in views] == ["client", "gateway", "relay", "portal"]
    relay, portal = views[2:]
    assert "relay    203.0.113.5, ready, for 1 min 30 s" in relay
    assert "offload  off: no interface is named" in relay
    assert "1 allocation of 12 users, 2,000 channels, 1 connection" in relay
    assert [f"  user-{number} " in relay for number in range(1, 13)] == [False, False, *[True] * 10]
    assert "on line  1 client, 0 gateways, 1 relay" in portal
    assert re.search(r"^client   laptop  alice  100\.64\.0\.2 +1\.5\.4 +3 s$", portal, re.MULTILINE)
    assert re.search(r"^relay    relay   -      203\.0\.113\.5 +- +2 h$", portal, re.MULTILINE)
    assert "logins.client.wrong_token" in portal


def test_programs_get_all_of_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    documents = {"relay": relay_document(), "client": document("client")}
    among(tmp_path, documents, lambda: status.run(["--json", "--folder", str(tmp_path)]))
    assert json.loads(capsys.readouterr().out) == {
        "services": [documents["client"], documents["relay"]],
        "problems": [],
    }


def test_one_that_is_named_by_its_own_setting_is_asked_too(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("POSTERN_ADMIN_SOCKET", str(tmp_path / "relay.sock"))
    monkeypatch.setenv("POSTERN_STATUS_SOCKET", "off")
    among(tmp_path, {"relay": relay_document()}, lambda: status.run(["--folder", str(tmp_path / "none")]))
    assert capsys.readouterr().out.startswith("relay ")


def test_nobody_there_is_one_line(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as left:
        left.bind(str(tmp_path / "client.sock"))
    with pytest.raises(FatalError, match=f"no service of Postern runs on this machine: nobody answers in {tmp_path}"):
        status.run(["--folder", str(tmp_path)])
    with pytest.raises(FatalError, match="no service"):
        status.run(["--folder", str(tmp_path / "none")])


def test_what_cannot_be_read_is_told_with_its_user_beside_the_others(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Path) -> bool:
        return path.name == "gateway.sock"

    class Guarded(local_client._Connection):
        def connect(self) -> None:
            if refuse(self._path):
                raise PermissionError(EACCES, os.strerror(EACCES))
            super().connect()

    monkeypatch.setattr(local_client, "_Connection", Guarded)
    monkeypatch.setattr(local_client, "pwd", SimpleNamespace(getpwuid=lambda _: SimpleNamespace(pw_name="postern")))
    documents = {"client": document("client"), "gateway": document("gateway"), "other": {"service": "else"}}
    assert among(tmp_path, documents, lambda: status.run(["--folder", str(tmp_path)])) == 1
    views = capsys.readouterr().out.split("─" * 80)
    path = tmp_path / "gateway.sock"
    assert views[0].startswith("client ")
    assert views[1].strip() == f"the socket {path} is for user postern, and this is user postern: Permission denied"
    assert views[2].strip() == f"what answers at {tmp_path / 'other.sock'} is no service of this version"


def test_users_without_a_name_are_told_by_number() -> None:
    assert local_client._user(os.getuid()) == "root" if os.getuid() == 0 else local_client._user(os.getuid())
    assert local_client._user(4_000_000_001) == "4000000001"
