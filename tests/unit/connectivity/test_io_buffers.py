"""Socket buffers as operators meet them: when the kernel's limits are raised, and which sizes the log tells."""

import asyncio
import logging
import os
import socket
from collections.abc import Callable
from typing import Any, cast

import pytest

import client.command
import gateway.settings
from connectivity.errors import FatalError
from connectivity.io import buffers, service
from connectivity.io.service import Role, run_tunnel
from connectivity.io.tunnel_settings import TunnelSettings

LIMIT = 212_992  # what Linux allows unless told otherwise


class LimitedSocket:
    """A kernel that grants what is asked for up to a limit, twice, and lets only the privileged past it."""

    def __init__(self, *, privileged: bool) -> None:
        self._privileged = privileged
        self._granted: dict[int, int] = {}

    def getsockname(self) -> tuple[str, int]:
        return "0.0.0.0", 52625

    def setsockopt(self, _: int, option: int, value: int) -> None:
        forced = {buffers.SO_SNDBUFFORCE: socket.SO_SNDBUF, buffers.SO_RCVBUFFORCE: socket.SO_RCVBUF}
        if option in forced and not self._privileged:
            raise PermissionError(1, "Operation not permitted")
        self._granted[forced.get(option, option)] = 2 * (value if option in forced else min(value, LIMIT))

    def getsockopt(self, _: int, option: int) -> int:
        return self._granted[option]


def settings_of(role: str, monkeypatch: pytest.MonkeyPatch, **environment: str) -> TunnelSettings:
    for name in list(os.environ):
        if name.startswith(("FIREZONE_", "POSTERN_")):
            monkeypatch.delenv(name)
    for name, value in {"FIREZONE_TOKEN": "a-token", "POSTERN_STATUS_SOCKET": "off", **environment}.items():
        monkeypatch.setenv(name, value)
    read: Callable[[list[str]], Any] = {
        "gateway": gateway.settings.read_settings,
        "client": client.command.read_settings,
    }[role]
    return cast(TunnelSettings, read([]).tunnel)


@pytest.mark.parametrize(
    ("role", "environment", "raised"),
    [
        ("gateway", {}, True),
        ("gateway", {"FIREZONE_NO_INC_BUF": "true"}, False),
        ("gateway", {"FIREZONE_NO_INC_BUF": "false"}, True),
        ("client", {}, False),  # as Firezone's headless client: only on demand
        ("client", {"FIREZONE_INC_BUF": "true"}, True),
        ("client", {"FIREZONE_INC_BUF": "true", "FIREZONE_NO_INC_BUF": "true"}, False),
    ],
)
def test_limits_are_raised_before_sockets_are_bound_unless_the_operator_forbids_it(
    monkeypatch: pytest.MonkeyPatch, role: str, environment: dict[str, str], raised: bool
) -> None:
    steps: list[str] = []

    def stop(**_: object) -> None:
        steps.append("bound")
        raise FatalError("far enough")

    monkeypatch.setattr(service, "raise_limits", lambda: steps.append("raised"))
    monkeypatch.setattr(service, "bind_sockets", stop)
    unused = cast(Any, lambda *_: None)
    settings = settings_of(role, monkeypatch, **environment)
    with pytest.raises(FatalError, match="far enough"):
        asyncio.run(run_tunnel(settings, Role(role, unused, unused, "cid", None)))
    assert steps == (["raised", "bound"] if raised else ["bound"])


@pytest.mark.parametrize(("privileged", "send", "receive"), [(True, 16 << 20, 128 << 20), (False, LIMIT, LIMIT)])
def test_the_log_tells_what_was_asked_for_and_what_was_granted(
    caplog: pytest.LogCaptureFixture, privileged: bool, send: int, receive: int
) -> None:
    with caplog.at_level(logging.DEBUG, "connectivity.io"):
        buffers.size_buffers(
            cast(socket.socket, LimitedSocket(privileged=privileged)),
            buffers.SEND_BUFFER_BYTES,
            buffers.RECEIVE_BUFFER_BYTES,
        )
    (record,) = caplog.records
    assert (record.levelname, cast(Any, record).fields) == (
        "DEBUG" if privileged else "INFO",  # less than wanted is news
        {
            "port": 52625,
            "requested_send_buffer": 16 << 20,
            "send_buffer": send,
            "requested_receive_buffer": 128 << 20,
            "receive_buffer": receive,
        },
    )


def test_the_operator_may_size_them(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = {"FIREZONE_UDP_SEND_BUFFER_SIZE": "1000000", "FIREZONE_UDP_RECV_BUFFER_SIZE": "2000000"}
    settings = settings_of("client", monkeypatch, **sizes)
    assert (settings.send_buffer_bytes, settings.receive_buffer_bytes) == (1_000_000, 2_000_000)
    asked: dict[str, object] = {}

    def stop(**wanted: object) -> None:
        asked.update(wanted)
        raise FatalError("far enough")

    monkeypatch.setattr(service, "bind_sockets", stop)
    unused = cast(Any, lambda *_: None)
    with pytest.raises(FatalError, match="far enough"):
        asyncio.run(run_tunnel(settings, Role("client", unused, unused, "gid", None)))
    assert (asked["send_buffer_bytes"], asked["receive_buffer_bytes"]) == (1_000_000, 2_000_000)
