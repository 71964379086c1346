"""Clients and gateways of a siege as the portal sees them: a WebSocket each, without a tunnel behind it."""

import asyncio
import base64
import os
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final, Self

import aiohttp

from bench.siege_stage import PORTAL_AT
from connectivity.phoenix.login import SystemInfo, client_login, gateway_login, user_agent
from connectivity.phoenix.message import JOIN_EVENT, Message, MessageError, decode, encode

_PATIENCE_SECONDS: Final = 5.0
_URL: Final = f"ws://{PORTAL_AT}"


class Device:
    """One WebSocket. ``events`` are those that came, but replies; ``is_open`` until the portal ends it."""

    def __init__(self, kind: str, websocket: aiohttp.ClientWebSocketResponse, *, confirms: bool) -> None:
        self.kind = kind
        self.websocket = websocket
        self.events: asyncio.Queue[Message] = asyncio.Queue()
        self.is_open = True
        self.resources: dict[str, str] = {}  # a client's: ids by name
        self._confirms = confirms
        self._count = 0

    async def send(self, event: str, payload: Any) -> bool:
        """False when the portal has ended the connection, or reads no more."""
        self._count += 1
        text = encode(Message(self.kind, event, payload, self._count))
        return await send_text(self.websocket, text)

    async def wait(self, *events: str, seconds: float = _PATIENCE_SECONDS) -> Message | None:
        """The next of these events; None if none comes in time."""
        try:
            async with asyncio.timeout(seconds):
                while (message := await self.events.get()).event not in events:
                    pass
        except TimeoutError:
            return None
        return message

    async def flow(self, resource: str) -> tuple[float | None, dict[str, Any]]:
        """Ask for a resource: ms until the flow is there, None if it is refused or does not come; and its payload."""
        while not self.events.empty():
            self.events.get_nowait()
        started = time.monotonic()
        await self.send("create_flow", {"resource_id": resource, "connected_gateway_ids": []})
        message = await self.wait("flow_created", "flow_creation_failed")
        if message is None or message.event != "flow_created":
            return None, {}
        return (time.monotonic() - started) * 1000, message.payload

    async def read(self) -> None:
        """Take what comes, until the end; a gateway that confirms lets everybody in."""
        async for frame in self.websocket:
            if frame.type is not aiohttp.WSMsgType.TEXT:
                continue
            try:
                message = decode(frame.data)
            except MessageError:
                continue
            if message.event == "authorize_flow" and self._confirms:
                await self.send("flow_authorized", {"ref": message.payload["ref"]})
            elif message.event != "phx_reply":
                self.events.put_nowait(message)
        self.is_open = False


class Crowd:
    """Opens devices from chosen addresses of the namespace that this process is in."""

    def __init__(self) -> None:
        self._sessions: dict[str, aiohttp.ClientSession] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    @classmethod
    @asynccontextmanager
    async def open(cls) -> AsyncIterator[Self]:
        """A crowd; left, all have gone."""
        crowd = cls()
        try:
            yield crowd
        finally:
            for task in crowd._tasks:
                task.cancel()
            await asyncio.gather(*crowd._tasks, return_exceptions=True)
            for session in crowd._sessions.values():
                await session.close()

    def session(self, source: str) -> aiohttp.ClientSession:
        """HTTP from an address."""
        if source not in self._sessions:
            connector = aiohttp.TCPConnector(local_addr=(source, 0), limit=0, force_close=True)
            self._sessions[source] = aiohttp.ClientSession(connector=connector)
        return self._sessions[source]

    async def connect(self, kind: str, token: str, name: str, source: str) -> aiohttp.ClientWebSocketResponse:
        """A WebSocket that has not joined.

        Raises:
            aiohttp.ClientError: it was refused.
        """
        login = {"client": client_login, "gateway": gateway_login}[kind]
        component = {"client": "headless-client", "gateway": "gateway"}[kind]
        agent = user_agent(component, SystemInfo())
        made = login(_URL, token=token, device_id=name, name=name, public_key=os.urandom(32), user_agent=agent)
        from_there = self.session(source)
        return await from_there.ws_connect(made.url, headers={"User-Agent": agent}, max_msg_size=0)

    async def join(self, kind: str, token: str, name: str, source: str, *, confirms: bool = True) -> Device:
        """A device that has joined, and reads.

        Raises:
            aiohttp.ClientError: it was refused.
        """
        device = Device(kind, await self.connect(kind, token, name, source), confirms=confirms)
        task = asyncio.get_running_loop().create_task(device.read())
        self._tasks.add(task)
        await device.send(JOIN_EVENT, {})
        init = await device.wait("init")
        listed = init.payload.get("resources", []) if init is not None else []
        device.resources = {one["name"]: one["id"] for one in listed}
        return device

    async def gateway_key(self, token: str, resource: str, source: str) -> bytes:
        """The public key of the gateway that lets a client of this token in; empty if none does."""
        device = await self.join("client", token, "siege", source)
        _, flow = await device.flow(device.resources[resource])
        return base64.b64decode(flow.get("gateway_public_key", ""))


async def send_text(websocket: aiohttp.ClientWebSocketResponse, text: str) -> bool:
    """Send; False when the other side has ended the connection, or takes nothing any more."""
    try:
        async with asyncio.timeout(_PATIENCE_SECONDS):
            await websocket.send_str(text)
    except (ConnectionError, RuntimeError, aiohttp.ClientError, TimeoutError):
        return False
    return not websocket.closed
