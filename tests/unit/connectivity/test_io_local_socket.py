"""A service's socket for people of its host: who may open it, what becomes of old ones, what is said of failures."""

import asyncio
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import pytest
from aiohttp import web

from connectivity.errors import FatalError, chain
from connectivity.io.local_client import LocalService
from connectivity.io.local_socket import LocalServer
from connectivity.settings import LocalSocket, local_socket

T = TypeVar("T")


async def told(_: web.Request) -> web.Response:
    return web.json_response({"said": "so"})


def served(path: Path, work: Callable[[LocalService], T], *, demanded: bool = True) -> T:
    """What ``work`` returns while a service serves there."""

    async def run() -> T:
        filters: list[str] = []

        def set_filter(text: str) -> None:
            if text == "loud":
                raise ValueError("no such level")
            filters.append(text)

        server = LocalServer("status socket", [web.get("/status", told)], set_filter)
        await server.start(LocalSocket(path, is_demanded=demanded))
        try:
            return await asyncio.to_thread(work, LocalService("client", "status socket", path))
        finally:
            await server.close()

    return asyncio.run(run())


def left_behind(path: Path) -> None:
    """As a run that was killed leaves it."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as dead:
        dead.bind(str(path))


def test_only_its_owner_may_open_it_and_it_goes_with_the_service(tmp_path: Path) -> None:
    path = tmp_path / "client.sock"
    before = os.umask(0)
    try:
        mode = served(path, lambda _: path.stat().st_mode)
    finally:
        os.umask(before)
    assert mode & 0o777 == 0o600
    assert not path.exists()


def test_it_answers_with_json_and_takes_a_filter(tmp_path: Path) -> None:
    def ask(service: LocalService) -> None:
        assert service.ask("GET", "/status") == {"said": "so"}
        assert service.ask("PUT", "/log-level", "debug") is None
        with pytest.raises(FatalError, match="no such level"):
            service.ask("PUT", "/log-level", "loud")

    served(tmp_path / "client.sock", ask)


def test_one_that_a_killed_run_left_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "client.sock"
    left_behind(path)
    assert served(path, lambda service: service.ask("GET", "/status")) == {"said": "so"}


def test_one_that_is_served_is_refused_in_words_and_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "client.sock"

    def second(service: LocalService) -> None:
        with pytest.raises(FatalError) as refused:
            served(path, lambda _: None)
        assert chain(refused.value) == f"cannot serve the status socket {path}: another process serves it"
        served(path, lambda _: None, demanded=False)  # a default that cannot be had is a line in the log
        assert service.ask("GET", "/status") == {"said": "so"}

    served(path, second)


def test_what_is_no_socket_is_nobodys_to_remove(tmp_path: Path) -> None:
    path = tmp_path / "client.sock"
    path.write_text("precious")
    with pytest.raises(FatalError):
        served(path, lambda _: None)
    assert path.read_text() == "precious"


def test_nobody_there_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "client.sock"
    service = LocalService("client", "status socket", path)
    with pytest.raises(FatalError, match=f"no client answers at {path}"):
        service.ask("GET", "/status")
    left_behind(path)
    with pytest.raises(FatalError, match=f"no client answers at {path}"):
        service.ask("GET", "/status")


def test_the_setting_is_a_path_or_off() -> None:
    assert local_socket("off") == LocalSocket(None)
    assert local_socket("/x/y") == LocalSocket(Path("/x/y"), is_demanded=True)
    with pytest.raises(ValueError, match="absolute path, or off"):
        local_socket("y")
