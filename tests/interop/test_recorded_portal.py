"""What Firezone's programs of 2025 told their control server, told to ours: the same messages, in order and in shape.

The control server of the recording was another one; the programs took what it said. Ids, keys, credentials and
references are ours; compared are the events, their order for each component, and name and type of every field.
"""

from collections import defaultdict
from typing import Any, Final

import pytest

from connectivity.clock import SECOND
from connectivity.phoenix import message as frames
from portal.configuration import TokenType
from tests.interop import recordings
from tests.interop.recordings import Event
from tests.programs import RECORDING_NAMES
from tests.unit.portal.conftest import Component, World

pytestmark = pytest.mark.recordings

NAMES: Final = [name for name in RECORDING_NAMES if name.startswith("2025")]
CONFIGURATION: Final = """
sites: [{name: site, id: d23ef851-61cc-5953-a900-9749bc26818b}]
resources:
  - {name: net, id: 1924b8b7-44b5-5ce2-92b3-cbeace8ef8c7, type: cidr, address: 172.20.0.0/24, sites: [site]}
  - {name: web, id: 9d74490c-787a-59b3-8078-38f5b84b0f06, type: dns, address: web.internal.example, sites: [site]}
policies: [{resource: net, groups: [everyone]}, {resource: web, groups: [everyone]}]
tokens:
  - {type: client, name: cl, actor: alice, token: token-of-a-client}
  - {type: gateway, name: gw, site: site, token: token-of-a-gateway}
  - {type: relay, name: relay, token: token-of-a-relay}
"""
# Whether a relay's end is told apart from its return depends on how long a server waits for it.
PRESENCE: Final = "relays_presence"
# What the recording's server said beyond what programs of 2025 read.
OF_2026: Final = frozenset({"flow_logs_ingest_token"})
# What our portal says beyond theirs, for people: programs of either year read past names that they do not know.
OURS: Final = frozenset({"client.name", "gateway_name", "subject"})
# What is said besides, and may be absent: null is what they read into its place.
OPTIONAL: Final = frozenset({"ip_stack"})


class Replay:
    """Our portal before the recorded components."""

    def __init__(self, name: str) -> None:
        self._world = World(CONFIGURATION)
        self._secrets = [
            frames.decode(conversation.frames[0][1]).payload
            for conversation in recordings.conversations(name)
            if conversation.kind == "relay"
        ]
        self._components: dict[str, Component] = {}
        self._ids: dict[str, str] = {}  # ours by theirs
        self._references: dict[str, str] = {}  # ours by the resource's id, which is what theirs are
        self._at = 0
        self.said: defaultdict[str, list[tuple[str, Any]]] = defaultdict(list)

    def hear(self, event: Event) -> None:
        """What a component did."""
        if self._at:
            self._world.pass_time((event.at - self._at) / SECOND)
        self._at = event.at
        if event.what == "connect":
            self._connect(event)
        elif event.what == "gone":
            self._components.pop(event.kind).leave()
        else:
            payload = dict(event.payload)
            if event.event == "flow_authorized":
                payload["ref"] = self._references[payload["ref"]]
            for field in ("gateway_ids", "client_ids", "connected_gateway_ids"):
                if field in payload:
                    payload[field] = [self._ids[entry] for entry in payload[field]]
            self._components[event.kind].send(event.event, payload)
        self._collect()

    def learn(self, event: Event) -> None:
        """What the recording's server said: the ids that it gave."""
        for kind, field in (("gateway", "gateway_id"), ("client", "client_id")):
            if isinstance(event.payload, dict) and field in event.payload and kind in self._components:
                self._ids[event.payload[field]] = self._components[kind].id
        if event.event == "authorize_flow":
            self._ids[event.payload["client"]["id"]] = self._components["client"].id

    def _connect(self, event: Event) -> None:
        kind = TokenType(event.kind)
        query: dict[str, Any] = {**event.query, "token": f"token-of-a-{event.kind}"}
        component = self._world.connect(kind, query.pop("token"), agent=event.user_agent, **query)
        self._components[event.kind] = component
        component.send(frames.JOIN_EVENT, self._secrets.pop(0) if kind is TokenType.RELAY else None)
        (reply,) = component.take(frames.REPLY_EVENT)
        assert reply == {"status": "ok", "response": {}}

    def _collect(self) -> None:
        for kind, component in self._components.items():
            for message in component.inbox:
                event, payload = message["event"], message["payload"]
                if event == "authorize_flow":
                    self._references[payload["resource"]["id"]] = payload["ref"]
                if event != frames.REPLY_EVENT:
                    self.said[kind].append((event, payload))
            component.inbox.clear()
            assert not component.closed


@pytest.mark.parametrize("name", NAMES)
def test_our_portal_says_what_theirs_did(name: str) -> None:
    replay, theirs = Replay(name), defaultdict(list)
    for event in recordings.portal_events(name):
        if event.what == "to":
            theirs[event.kind].append((event.event, event.payload))
            replay.learn(event)
        else:
            replay.hear(event)
    for kind, expected in theirs.items():
        ours, wanted = _without_presence(replay.said[kind]), _without_presence(expected)
        assert [event for event, _ in ours] == [event for event, _ in wanted]
        for (told, payload), (_, like) in zip(ours, wanted, strict=True):
            assert _shape(payload) == _shape(like), told
        presence, announced = _presence(replay.said[kind]), _presence(expected)
        assert _shape(presence) == _shape(announced)
        assert bool(presence["connected"]) == (kind != "relay")


def _without_presence(said: list[tuple[str, Any]]) -> list[tuple[str, Any]]:
    return [(event, payload) for event, payload in said if event != PRESENCE]


def _presence(said: list[tuple[str, Any]]) -> dict[str, list[Any]]:
    """All that was said about relays that came and went."""
    payloads = [payload for event, payload in said if event == PRESENCE]
    assert all(payload.keys() == {"connected", "disconnected_ids"} for payload in payloads)
    return {name: [entry for one in payloads for entry in one[name]] for name in ("connected", "disconnected_ids")}


def _shape(value: Any, path: str = "") -> Any:
    """Names and types of all fields; of a list, the shapes that occur."""
    match value:
        case dict():
            known = {
                name: _shape(entry, f"{path}{name}.")
                for name, entry in sorted(value.items())
                if name not in OF_2026 and f"{path}{name}" not in OURS
            }
            return {name: entry for name, entry in known.items() if name not in OPTIONAL or entry != "NoneType"}
        case list():
            return sorted({repr(_shape(entry)) for entry in value})
        case _:
            return type(value).__name__
