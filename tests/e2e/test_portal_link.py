"""The portal link over real sockets on the loopback: the request it sends, when it comes back and when it gives up."""

import asyncio
import json
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from connectivity.clock import SECOND
from connectivity.io.portal import Disconnected, PortalEvent, PortalLink, read_system_info
from connectivity.phoenix import Joined, MessageReceived, PortalFatal, PortalLogin, gateway_login, user_agent
from connectivity.phoenix.failure import Transient, remedy
from tests.unit.relay.test_relay_config_file import make_certificate

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
OK: dict[str, Any] = {"status": "ok", "response": {}}


def test_upgrade_request_has_exactly_these_headers() -> None:
    async def scenario() -> None:
        head: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

        async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            received = await reader.readuntil(b"\r\n\r\n")
            if not head.done():
                head.set_result(received)
            writer.write(b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\n\r\n")
            await writer.drain()
            writer.close()

        server = await asyncio.start_server(answer, "127.0.0.1", 0)
        async with server:
            with pytest.raises(PortalFatal, match="401 Unauthorized"):
                await PortalLink(login(server.sockets[0].getsockname()[1]), "gateway").run()
        request, *lines = (await head).decode().split("\r\n")
        headers = dict(line.split(": ", 1) for line in lines if line)
        assert request.startswith("GET /gateway/websocket?token=good&external_id=id&name=gw&public_key=AQEB")
        assert len(headers.pop("Sec-WebSocket-Key")) == 24
        assert headers == {
            "Host": "127.0.0.1",
            "Connection": "Upgrade",
            "Upgrade": "websocket",
            "Sec-WebSocket-Version": "13",
            "User-Agent": "Debian/12.0.0 gateway/1.4.17",
        }

    asyncio.run(scenario())


def test_joins_talks_and_closes_in_good_form() -> None:
    async def scenario() -> None:
        portal = Portal()
        async with portal.serve() as port, running(PortalLink(login(port), "gateway")) as (link, events):
            link.send("flow_authorized", {"ref": "1"})
            assert await anext(events) == Joined()
            assert await anext(events) == MessageReceived("init", {"connection": 1})
            assert (await portal.received.get())["event"] == "phx_join"
            assert await portal.received.get() == {
                "topic": "gateway",
                "event": "flow_authorized",
                "payload": {"ref": "1"},
                "ref": 1,
            }
            await link.close()
            assert [event async for event in events] == []
            assert await portal.close_codes.get() == 1000

    asyncio.run(scenario())


def test_what_the_portal_says_waits_until_somebody_hears_it() -> None:
    async def scenario() -> None:
        portal, heard = Portal(), asyncio.Queue[PortalEvent]()
        async with portal.serve() as port:
            link = PortalLink(login(port), "gateway", is_heard=False)
            running = asyncio.ensure_future(link.run())
            assert (await portal.received.get())["event"] == "phx_join"
            link.hear(heard.put_nowait)
            assert [await heard.get(), await heard.get()] == [Joined(), MessageReceived("init", {"connection": 1})]
            await link.close()
            await running

    asyncio.run(scenario())


def test_a_link_that_nobody_hears_closes_in_good_form() -> None:
    async def scenario() -> None:
        portal = Portal()
        async with portal.serve() as port:
            link = PortalLink(login(port), "gateway", is_heard=False)
            running = asyncio.ensure_future(link.run())
            await portal.received.get()
            await link.close()
            await running
            assert await portal.close_codes.get() == 1000

    asyncio.run(scenario())


def test_what_is_to_be_sent_ends_the_rest_between_attempts(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        portal = Portal()
        async with portal.serve() as port, running(PortalLink(login(port), "gateway")) as (link, events):
            assert isinstance(await anext(events), Joined)
            await anext(events)
            monkeypatch.setattr(link._backoff, "next_delay", lambda _: 3_600 * SECOND)
            portal.drop()
            assert isinstance(await anext(events), Disconnected)
            link.send("create_flow", {"resource_id": "r"})
            assert isinstance(await anext(events), Joined)
            await link.close()

    asyncio.run(scenario())


def test_dials_again_when_the_connection_breaks() -> None:
    async def scenario() -> None:
        portal = Portal()
        async with portal.serve() as port, running(PortalLink(login(port), "gateway")) as (link, events):
            assert isinstance(await anext(events), Joined)
            await anext(events)
            portal.drop()
            lost = await anext(events)
            assert isinstance(lost, Disconnected)
            assert lost.retry_in_ns == 0
            assert isinstance(await anext(events), Joined)
            assert await anext(events) == MessageReceived("init", {"connection": 2})
            await link.close()

    asyncio.run(scenario())


def test_reconnect_uses_the_new_key() -> None:
    async def scenario() -> None:
        portal = Portal()
        async with portal.serve() as port, running(PortalLink(login(port), "gateway")) as (link, events):
            await anext(events)
            await anext(events)
            link.reconnect(login(port).with_public_key(bytes([9]) * 32))
            assert isinstance(await anext(events), Joined)
            assert await anext(events) == MessageReceived("init", {"connection": 2})
            assert portal.keys == [
                "AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE=",
                "CQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQk=",
            ]
            await link.close()

    asyncio.run(scenario())


def test_what_is_said_after_reconnecting_is_said_under_the_new_key_only() -> None:
    async def scenario() -> None:
        portal = Portal()
        async with portal.serve() as port, running(PortalLink(login(port), "gateway")) as (link, events):
            await anext(events)
            await anext(events)
            link.send("create_flow", {"resource_id": "before"})
            link.reconnect(login(port).with_public_key(bytes([9]) * 32))
            assert not link.joined
            link.send("create_flow", {"resource_id": "after"})
            assert isinstance(await anext(events), Joined)
            said = [await portal.received.get() for _ in range(3)]
            assert [message["event"] for message in said] == ["phx_join", "phx_join", "create_flow"]
            assert said[-1]["payload"] == {"resource_id": "after"}
            assert [str(address) for address in link.addresses()] == ["127.0.0.1"]
            await link.close()

    asyncio.run(scenario())


def test_pings_and_odd_frames_do_no_harm() -> None:
    async def scenario() -> None:
        portal = Portal(noise=True)
        async with portal.serve() as port, running(PortalLink(login(port), "gateway")) as (link, events):
            assert isinstance(await anext(events), Joined)
            assert await anext(events) == MessageReceived("init", {"connection": 1})
            await link.close()

    asyncio.run(scenario())


@pytest.mark.parametrize("status", [302, 429, 500, 503])
def test_gives_up_when_the_partition_lasts_too_long(status: int) -> None:
    async def scenario() -> None:
        async def refuse(_request: web.Request) -> web.Response:
            return web.Response(status=status, headers={"Location": "/elsewhere"})

        async with listening(refuse) as port:
            with pytest.raises(PortalFatal, match=f"Giving up on the portal: .*{status}"):
                await PortalLink(login(port), "gateway", max_partition_seconds=0.1).run()

    asyncio.run(scenario())


def test_after_close_nothing_is_told_of_an_attempt_that_ends_meanwhile(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")

    async def scenario() -> None:
        told: list[PortalEvent] = []
        link = PortalLink(login(9), "gateway", on_event=told.append)

        async def fail_while_closing() -> Transient:
            closing = asyncio.ensure_future(link.close())
            await asyncio.sleep(0)
            assert not closing.done()
            return Transient("too late to matter")

        monkeypatch.setattr(link, "_attempt", fail_while_closing)
        await link.run()
        assert told == []
        assert [record.getMessage() for record in caplog.records] == []

    asyncio.run(scenario())


def test_host_that_does_not_resolve() -> None:
    bad = gateway_login(
        "ws://name.invalid", token="t", device_id="id", name="gw", public_key=bytes(32), user_agent="gateway/1.4.17"
    )
    with pytest.raises(PortalFatal, match=r"Failed to resolve portal host 'name\.invalid'"):
        asyncio.run(PortalLink(bad, "gateway").run())


def test_callback_instead_of_the_iterator() -> None:
    async def scenario() -> None:
        seen: list[PortalEvent] = []
        enough = asyncio.Event()

        def note(event: PortalEvent) -> None:
            seen.append(event)
            if len(seen) == 2:
                enough.set()

        async with Portal().serve() as port, asyncio.TaskGroup() as group:
            link = PortalLink(login(port), "gateway", mark=0xFD002021, on_event=note)
            group.create_task(link.run())
            await enough.wait()
            await link.close()
        assert [type(event) for event in seen] == [Joined, MessageReceived]

    asyncio.run(scenario())


def test_user_agent_of_this_machine() -> None:
    assert " gateway/1.4.17 (" in user_agent("gateway", read_system_info())


class Portal:
    """Accepts everybody, confirms joins and sends an ``init`` with the number of the connection."""

    def __init__(self, *, noise: bool = False) -> None:
        self.received: asyncio.Queue[Any] = asyncio.Queue()
        self.close_codes: asyncio.Queue[int | None] = asyncio.Queue()
        self.keys: list[str] = []
        self._noise = noise
        self._request: web.Request | None = None

    @asynccontextmanager
    async def serve(self) -> AsyncIterator[int]:
        async with listening(self._handle) as port:
            yield port

    def drop(self) -> None:
        assert self._request is not None
        assert self._request.transport is not None
        self._request.transport.close()

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        self._request = request
        self.keys.append(request.query["public_key"])
        number = len(self.keys)
        websocket = web.WebSocketResponse(compress=False)
        await websocket.prepare(request)
        assert "Sec-WebSocket-Extensions" not in request.headers
        async for frame in websocket:
            message = json.loads(frame.data)
            self.received.put_nowait(message)
            if message["event"] != "phx_join":
                continue
            if self._noise:
                await websocket.ping()
                await websocket.send_str("")
                await websocket.send_bytes(b"\xff\xfe")
                await websocket.send_str('{"topic":')
            reply = {"topic": "gateway", "event": "phx_reply", "payload": OK, "ref": message["ref"]}
            await websocket.send_bytes(json.dumps(reply).encode())
            push = {"topic": "gateway", "event": "init", "payload": {"connection": number}, "ref": None}
            await websocket.send_str(json.dumps(push))
        self.close_codes.put_nowait(websocket.close_code)
        return websocket


@asynccontextmanager
async def listening(handler: Handler) -> AsyncIterator[int]:
    application = web.Application()
    application.router.add_get("/gateway/websocket", handler)
    runner = web.AppRunner(application, access_log=None, shutdown_timeout=1.0)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield runner.addresses[0][1]
    finally:
        await runner.cleanup()


@asynccontextmanager
async def running(link: PortalLink) -> AsyncIterator[tuple[PortalLink, AsyncIterator[PortalEvent]]]:
    async with asyncio.timeout(60), asyncio.TaskGroup() as group:
        group.create_task(link.run())
        yield link, link.events()


def login(port: int) -> PortalLogin:
    return gateway_login(
        f"ws://127.0.0.1:{port}",
        token="good",
        device_id="id",
        name="gw",
        public_key=bytes([1]) * 32,
        user_agent="Debian/12.0.0 gateway/1.4.17",
    )


@pytest.mark.parametrize(
    ("scheme", "expected"),
    [("ws", "if it speaks TLS there: https://"), ("wss", "it speaks no TLS there: http://")],
)
def test_a_mix_up_of_http_and_https_is_told_once_with_what_to_do(
    scheme: str, expected: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario() -> None:
        async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.read(100)
            writer.write(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")
            writer.close()

        make_certificate(tmp_path, "portal.example.org", [])
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(tmp_path / "cert.pem", tmp_path / "key.pem")
        server = await asyncio.start_server(answer, "127.0.0.1", 0, ssl=context if scheme == "ws" else None)
        async with server:
            link = PortalLink(replace(login(server.sockets[0].getsockname()[1]), scheme=scheme), "gateway")
            async with running(link) as (_, events):
                for _ in range(3):
                    assert isinstance(await anext(events), Disconnected)
                await link.close()

    with caplog.at_level("INFO", logger="connectivity.phoenix"):
        asyncio.run(scenario())
    told = [record for record in caplog.records if record.getMessage() == "Portal is away"]
    assert [record.levelname for record in told] == ["WARNING", "INFO", "INFO"]
    assert getattr(told[0], "fields")["remedy"].startswith(expected)  # noqa: B009


def test_an_answer_of_400_without_tls_may_be_that_of_a_server_of_tls() -> None:
    assert "https://" in remedy("ws", "Failed to establish WebSocket connection: 400 Bad Request")
    assert "https://" not in remedy("wss", "Failed to establish WebSocket connection: 400 Bad Request")
