"""Somebody with credentials from the portal who asks one relay for allocations, from a namespace of its own."""

import asyncio
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

from connectivity.endpoint import Endpoint
from connectivity.io.portal import PortalLink
from connectivity.phoenix import MessageReceived, client_login
from connectivity.run import Run, Transmit
from connectivity.stun import long_term_key
from relay.core import Output, Relayed, ToClient
from tests.netns.plain_pair import entered
from tests.unit.relay.playbook import Client, RelayUnderTest

_SECONDS: Final = 5


class Newcomer(Client):
    """A TURN client behind a real socket."""

    def __init__(self, opened: socket.socket, server: Endpoint, username: str, password: str) -> None:
        host, port = opened.getsockname()
        super().__init__(RelayUnderTest(), f"{host}:{port}")
        self.username = username
        self.key = long_term_key(username, "firezone", password)
        self._socket = opened
        self._server = server

    def send(self, data: bytes | Run, *, tos: int = 0) -> list[Relayed | Output]:
        assert isinstance(data, bytes)
        assert tos == 0
        self._socket.sendto(data, (str(self._server.ip), self._server.port))
        answer = self._socket.recv(1500)
        return [ToClient(Transmit(None, self.endpoint, Run.single(answer)))]


@contextmanager
def newcomers(namespace: str, address: str, url: str, token: str, count: int) -> Iterator[list[Newcomer]]:
    """So many, each from a port of its own, for the one relay that the portal names now."""
    with entered(namespace):
        relay = asyncio.run(_first_relay(url, token))
        sockets = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(count)]
    try:
        for opened in sockets:
            opened.settimeout(_SECONDS)
            opened.bind((address, 0))
        server = Endpoint.parse(relay["addr"])
        yield [Newcomer(opened, server, relay["username"], relay["password"]) for opened in sockets]
    finally:
        for opened in sockets:
            opened.close()


async def _first_relay(url: str, token: str) -> Any:
    login = client_login(
        url,
        token=token,
        device_id="newcomer",
        name="newcomer",
        public_key=bytes(32),
        user_agent="headless-client/1.5.4",
    )
    link = PortalLink(login, "client")
    running = asyncio.create_task(link.run())
    try:
        async with asyncio.timeout(_SECONDS):
            async for event in link.events():
                if isinstance(event, MessageReceived):
                    return event.payload["relays"][0]
    finally:
        await link.close()
        await running
    raise AssertionError("the portal named no relay")
