"""``postern client status`` and ``log`` ask the one that runs; nothing they were told can act on a terminal."""

import asyncio
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from connectivity.endpoint import Endpoint
from connectivity.errors import FatalError
from connectivity.io import status_view
from connectivity.io.http import HttpServer
from connectivity.io.local_socket import LocalServer
from connectivity.io.status_table import render
from connectivity.settings import LocalSocket, SettingsError
from tests.unit.connectivity.test_io_status_table import document

ODD = "a\x1b[31m\n\u202eb\x7f"


def asked(work: Callable[[Endpoint, Path], None], path: Path, told: dict[str, Any]) -> list[str]:
    """Does ``work`` while a service tells this, by HTTP and at its socket; returns the log filters it was given."""
    filters: list[str] = []

    async def answer(_: web.Request) -> web.Response:
        return web.json_response(told)

    async def serve() -> None:
        http = HttpServer("status", [web.get("/status", answer)])
        local = LocalServer("status socket", [web.get("/status", answer)], filters.append)
        address = await http.listen(Endpoint.parse("127.0.0.1:0"))
        await local.start(LocalSocket(path, is_demanded=True))
        try:
            await asyncio.to_thread(work, address, path)
        finally:
            await local.close()
            await http.close()

    asyncio.run(serve())
    return filters


@pytest.mark.parametrize("service", ["gateway", "client"])
@pytest.mark.parametrize("by_http", [True, False])
def test_json_is_what_the_service_says(
    service: str, by_http: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    told = document(service, name=ODD)

    def ask(address: Endpoint, path: Path) -> None:
        where = ["--status-addr", str(address)] if by_http else ["--status-socket", str(path)]
        assert status_view.run(service, ["status", "--json", *where]) == 0

    asked(ask, tmp_path / "it.sock", told)
    said = capsys.readouterr().out
    assert json.loads(said) == told
    assert all(line.isprintable() and line.isascii() for line in said.splitlines())


def test_people_see_tables(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def ask(_: Endpoint, path: Path) -> None:
        status_view.run("client", ["status", "--status-socket", str(path)])

    asked(ask, tmp_path / "it.sock", document("client", name=ODD))
    said = capsys.readouterr().out
    assert said.startswith("client  a\\x1b[31m\\x0a\\u202eb\\x7f (")
    assert all(line.isprintable() for line in said.splitlines())


class Stopped(Exception):
    """Ctrl-C."""


@pytest.mark.parametrize("as_json", [True, False])
def test_watching_asks_once_a_second_and_outlives_a_restart(as_json: bool, capsys: pytest.CaptureFixture[str]) -> None:
    answers: list[dict[str, Any] | FatalError] = [document("client"), FatalError(f"no client answers {ODD}")]
    waited: list[float] = []

    def ask() -> dict[str, Any]:
        answer = answers[len(waited) % 2]
        if isinstance(answer, FatalError):
            raise answer
        return answer

    def wait(seconds: float) -> None:
        waited.append(seconds)
        if len(waited) == 3:
            raise Stopped

    with pytest.raises(Stopped):
        status_view.watch(ask, as_json=as_json, render=render, wait=wait)
    said = capsys.readouterr().out
    assert waited == [1.0, 1.0, 1.0]
    if as_json:
        first, away, last = map(json.loads, said.splitlines())
        assert first == last == document("client")
        assert away == {"error": f"no client answers {ODD}".replace("\n", " ")}
    else:
        assert said.count("GATEWAY    STATE") == 2
        assert "\nno client answers a\\x1b[31m \\u202eb\\x7f\n\n" in said
    assert "\x1b" not in said  # no screen, no control


def test_a_terminal_is_redrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    def wait(_: float) -> None:
        raise Stopped

    terminal = Terminal()
    monkeypatch.setattr("sys.stdout", terminal)
    with pytest.raises(Stopped):
        status_view.watch(lambda: document("client"), as_json=False, render=render, wait=wait)
    assert terminal.getvalue().startswith("\x1b[Hclient  laptop (d-1)\x1b[K\n")
    assert terminal.getvalue().endswith("\x1b[J")


def test_watching_one_that_never_answered_ends() -> None:
    def ask() -> dict[str, Any]:
        raise FatalError("no client answers")

    with pytest.raises(FatalError, match="no client answers"):
        status_view.watch(ask, as_json=False, render=render)


@pytest.mark.parametrize("told", [document("gateway"), {}, {"ready": True, "connections": []}])
def test_what_is_no_client_is_told_as_that(told: dict[str, Any], tmp_path: Path) -> None:
    def ask(_: Endpoint, path: Path) -> None:
        with pytest.raises(FatalError, match="what answers is no client of this version"):
            status_view.run("client", ["status", "--status-socket", str(path)])

    asked(ask, tmp_path / "it.sock", told)


def test_a_log_filter_goes_to_the_service(tmp_path: Path) -> None:
    def ask(_: Endpoint, path: Path) -> None:
        assert status_view.run("client", ["log", "info,wire=trace", "--status-socket", str(path)]) == 0

    assert asked(ask, tmp_path / "it.sock", {}) == ["info,wire=trace"]


def test_nobody_there_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "client.sock"
    with pytest.raises(FatalError, match=r"no gateway answers at 127\.0\.0\.1:9"):
        status_view.run("gateway", ["status", "--status-addr", "127.0.0.1:9"])
    with pytest.raises(FatalError, match=f"no client answers at {path}"):
        status_view.run("client", ["status", "--status-socket", str(path)])


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (["status", "--status-socket", "off"], "POSTERN_STATUS_SOCKET is off"),
        (["status", "--status-socket", "it.sock"], "expected an absolute path, or off"),
        (["status", "all"], "'all' is not expected here"),
        (["log"], "expected one log filter"),
        (["log", "info", "debug"], "expected one log filter"),
    ],
)
def test_words_that_mean_nothing_are_told(words: list[str], problem: str) -> None:
    with pytest.raises(SettingsError, match=problem):
        status_view.run("client", words)
