"""A control server with fake components around it: no socket, no clock."""

import base64
import json
from pathlib import Path
from typing import Any

import pytest

from connectivity.clock import SECOND
from portal import config_file
from portal.configuration import TokenType
from portal.core import ControlServer
from portal.login import DeviceLogin, Refusal, RelayLogin
from portal.session import CloseTransport, SendText, Session

START = 1_000 * SECOND
WALL = 1_790_000_000 * SECOND

BASE = """
secret: a secret of sixteen characters or more
sites: [{name: hq}, {name: branch}]
resources:
  - {name: lan, type: cidr, address: 10.20.0.0/16, sites: [hq], filters: [tcp/80]}
  - {name: wiki, type: dns, address: "*.corp.example", sites: [hq]}
  - {name: net, type: internet, sites: [branch]}
policies:
  - {resource: lan, groups: [staff]}
  - {resource: wiki, actors: [alice]}
tokens:
  - {type: client, name: laptop, actor: alice, groups: [staff], token: c1}
  - {type: client, name: phone, actor: bob, token: c2}
  - {type: gateway, site: hq, token: g1}
  - {type: gateway, site: branch, token: g2}
  - {type: relay, token: r1}
"""

AGENTS = {
    TokenType.CLIENT: "Debian/12.0.0 headless-client/1.5.4",
    TokenType.GATEWAY: "Debian/12.0.0 gateway/1.4.17",
    TokenType.RELAY: "Debian/12.0.0 relay/0.1.0",
}


class Component:
    """One connected component: what it got and whether it was cut off."""

    def __init__(self, world: "World", session: Session) -> None:
        self.world, self.session = world, session
        self.inbox: list[dict[str, Any]] = []
        self.closed = False
        self._ref = 0

    @property
    def id(self) -> str:
        return self.session.party.id

    def send(self, event: str, payload: Any, topic: str | None = None) -> int:
        ref, self._ref = self._ref, self._ref + 1
        message = {"topic": topic or self.session.topic, "event": event, "payload": payload, "ref": ref}
        self.send_text(json.dumps(message))
        return ref

    def send_text(self, text: str) -> None:
        self.world.core.handle_text(self.session, text, self.world.now, self.world.wall)
        self.world.drain()

    def join(self) -> "Component":
        secret = f"secret {self.session.number}"
        self.send("phx_join", {"stamp_secret": secret} if self.session.topic == "relay" else None)
        return self

    def take(self, event: str) -> list[Any]:
        """The payloads of one event, removed from the inbox."""
        found = [message["payload"] for message in self.inbox if message["event"] == event]
        self.inbox = [message for message in self.inbox if message["event"] != event]
        return found

    def take_one(self, event: str) -> Any:
        (payload,) = self.take(event)
        return payload

    def events(self) -> list[str]:
        """The names of all events since the last call."""
        names = [message["event"] for message in self.inbox]
        self.inbox.clear()
        return names

    def leave(self) -> None:
        self.world.core.handle_closed(self.session, self.world.now)
        self.world.drain()


class World:
    """The server under test and its clocks."""

    def __init__(self, content: str = BASE) -> None:
        self.now, self.wall = START, WALL
        self.content = content
        counter = iter(range(1 << 30))

        def rng(size: int) -> bytes:
            return next(counter).to_bytes(size, "big")

        self.core = ControlServer(self.configuration(), rng=rng, now=self.now, wall_now=self.wall)
        self.components: dict[int, Component] = {}
        self.droppable: set[str] = set()  # events that a slow connection may miss

    def configuration(self) -> Any:
        return config_file.parse(self.content, base=Path())

    def apply(self, *replacements: tuple[str, str]) -> None:
        """Edit the file and read it again."""
        for old, new in replacements:
            assert old in self.content
            self.content = self.content.replace(old, new)
        self.core.apply(self.configuration(), self.now, self.wall)
        self.drain()

    def connect(self, kind: TokenType, token: str, *, key: int = 1, external_id: str = "x", **extra: str) -> Component:
        parameters = {"token": token, "external_id": external_id, "name": "n", "public_key": public_key(key), **extra}
        login = self.ask(kind, parameters, extra.get("agent", AGENTS[kind]))
        assert not isinstance(login, Refusal), login
        session = self.core.handle_connected(login, self.now)
        assert session is not None
        self.components[session.number] = Component(self, session)
        return self.components[session.number]

    def ask(
        self, kind: TokenType, parameters: dict[str, str], agent: str, source: str = "192.0.2.200"
    ) -> DeviceLogin | RelayLogin | Refusal:
        """The answer to an upgrade request."""
        return self.core.authenticate(kind, parameters, {"User-Agent": agent}, source, self.now, self.wall)

    def client(self, token: str = "c1", *, key: int = 1, **extra: str) -> Component:
        return self.connect(TokenType.CLIENT, token, key=key, **extra).join()

    def gateway(self, token: str = "g1", *, key: int = 2, **extra: str) -> Component:
        return self.connect(TokenType.GATEWAY, token, key=key, **extra).join()

    def relay(self, address: str = "192.0.2.1", *, ipv6: str = "") -> Component:
        return self.connect(TokenType.RELAY, "r1", ipv4=address, ipv6=ipv6, port="3478").join()

    def resource(self, name: str) -> str:
        return next(str(resource.id) for resource in self.configuration().resources if resource.name == name)

    def pass_time(self, seconds: float) -> None:
        """Both clocks run; timers fire when they are due."""
        end = self.now + int(seconds * SECOND)
        while (deadline := self.core.poll_timeout()) <= end:
            step = max(0, deadline - self.now)
            self.now, self.wall = self.now + step, self.wall + step
            self.core.handle_timeout(self.now, self.wall)
            self.drain()
        self.wall += end - self.now
        self.now = end

    def drain(self) -> None:
        while (output := self.core.poll_output()) is not None:
            component = self.components[output.session.number]
            assert not component.closed
            match output:
                case SendText():
                    message = json.loads(output.text.encode())
                    component.inbox.append(message)
                    if output.is_droppable:
                        self.droppable.add(message["event"])
                case CloseTransport():
                    component.closed = True


def public_key(number: int) -> str:
    return base64.b64encode(bytes([number]) * 32).decode()


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture(scope="session")
def make_world() -> type[World]:
    return World
