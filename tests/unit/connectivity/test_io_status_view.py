"""``postern gateway status`` asks the one that runs; nothing it was told can act on a terminal."""

import asyncio
import json

import pytest
from aiohttp import web

from connectivity.endpoint import Endpoint
from connectivity.errors import FatalError
from connectivity.io import status_view
from connectivity.io.http import HttpServer
from connectivity.settings import SettingsError


@pytest.mark.parametrize("service", ["gateway", "client"])
def test_what_the_service_says_is_printed(service: str, capsys: pytest.CaptureFixture[str]) -> None:
    told = {"ready": True, "connections": [{"cid": "a\x1b[31m\n\u202eb", "path": "PeerToPeer"}]}

    async def answer(_: web.Request) -> web.Response:
        return web.json_response(told)

    async def ask() -> None:
        server = HttpServer("status", [web.get("/status", answer)])
        address = await server.listen(Endpoint.parse("127.0.0.1:0"))
        try:
            await asyncio.to_thread(status_view.run, service, ["--status-addr", str(address)])
        finally:
            await server.close()

    asyncio.run(ask())
    said = capsys.readouterr().out
    assert json.loads(said) == told
    assert said.isascii()
    assert "\x1b" not in said


def test_nobody_there_and_no_address_are_one_line() -> None:
    with pytest.raises(FatalError, match=r"no gateway answers at 127\.0\.0\.1:9"):
        status_view.run("gateway", ["--status-addr", "127.0.0.1:9"])
    with pytest.raises(SettingsError, match=r"POSTERN_STATUS_ADDR .* is not set"):
        status_view.run("client", [])
