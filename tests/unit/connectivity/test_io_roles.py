"""What client and gateway tell a portal about themselves before anything else."""

import asyncio
import os
from typing import Any

import pytest

import client.command
import gateway.command
import gateway.serving
from connectivity.io.service import Role
from connectivity.io.tunnel_settings import TunnelSettings
from connectivity.wireguard import KeyPair

KEYS = KeyPair.from_private(bytes(range(32)))


@pytest.mark.parametrize(
    ("command", "path", "component", "peer_field", "patience"),
    [
        (client.command, "/client/websocket", "headless-client/1.", "gid", None),
        (gateway.command, "/gateway/websocket", "gateway/1.", "cid", 900.0),
    ],
)
def test_login_names_component_and_version(
    monkeypatch: pytest.MonkeyPatch, command: Any, path: str, component: str, peer_field: str, patience: float | None
) -> None:
    started: list[tuple[TunnelSettings, Role]] = []

    async def run_tunnel(settings: TunnelSettings, role: Role, **_: object) -> None:
        started.append((settings, role))
        await asyncio.sleep(0)

    for name in [name for name in os.environ if name.startswith(("FIREZONE_", "POSTERN_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("FIREZONE_TOKEN", "a-token")
    monkeypatch.setenv("FIREZONE_ID", "this-device")
    monkeypatch.setenv("HEALTH_CHECK_ADDR", "127.0.0.1:0")
    runner = gateway.serving if command is gateway.command else command
    monkeypatch.setattr(runner, "run_tunnel", run_tunnel)
    monkeypatch.setenv("FIREZONE_API_URL", "ws://127.0.0.1:9")  # where nobody answers
    monkeypatch.setattr(command, "configure_logs", lambda *_: None)
    assert command.run([]) == 0
    assert "FIREZONE_TOKEN" not in os.environ  # no child of ours needs it
    ((settings, role),) = started
    login = role.make_login(settings, KEYS)
    assert any(word.startswith(component) for word in login.user_agent.split(" "))
    assert path in login.url
    assert (role.peer_field, role.max_partition_seconds) == (peer_field, patience)
    assert role.roams is (command is client.command)  # a gateway's peers would have to find it again
