"""Whatever a component sends, and in whatever order components come and go, the server answers, refuses or hangs up."""

import json
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from connectivity.clock import SECOND
from portal.configuration import TokenType
from portal.login import Refusal

EVENTS = [
    "phx_join",
    "phx_reply",
    "heartbeat",
    "create_flow",
    "flow_authorized",
    "broadcast_ice_candidates",
    "broadcast_invalidated_ice_candidates",
]
KEYS = ["resource_id", "connected_gateway_ids", "ref", "gateway_ids", "client_ids", "candidates", "stamp_secret"]
TEXTS = st.text(st.characters(), max_size=5)  # lone surrogates too
SCALARS = st.none() | st.booleans() | st.integers(-5, 5) | st.floats(allow_nan=False) | TEXTS
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=2)
)
PAYLOADS = VALUES | st.dictionaries(st.sampled_from(KEYS), VALUES, max_size=4)
MESSAGES = st.fixed_dictionaries(
    {
        "topic": st.sampled_from(["client", "gateway", "relay", "phoenix", "other"]),
        "event": st.sampled_from(EVENTS) | st.text(max_size=4),
        "payload": PAYLOADS,
        "ref": st.integers(0, 9) | st.none(),
    }
)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 2), MESSAGES), max_size=12))
def test_any_messages(make_world: Any, script: list[tuple[int, Any]]) -> None:
    world = make_world()
    components = [world.client(), world.gateway(), world.relay()]
    for number, message in script:
        components[number].send_text(json.dumps(message))
    world.pass_time(2)  # each output was JSON, or the fixture would have failed to read it


@settings(max_examples=30, deadline=None)
@given(st.text() | st.binary().map(lambda data: data.decode("utf-8", "replace")))
def test_any_text(make_world: Any, text: str) -> None:
    make_world().client().send_text(text)


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(TokenType),
    st.dictionaries(
        st.sampled_from(["token", "external_id", "name", "public_key", "ipv4", "ipv6", "port"]), st.text(max_size=50)
    ),
    st.text(max_size=50),
)
def test_any_parameters(make_world: Any, kind: TokenType, parameters: dict[str, str], agent: str) -> None:
    world = make_world()
    valid = {"client": "c1", "gateway": "g1", "relay": "r1"}[kind]
    for token in (parameters.get("token", ""), valid):
        login = world.ask(kind, {**parameters, "token": token}, agent)
        assert not isinstance(login, Refusal) or login.status in (401, 422)


ACTIONS = st.sampled_from(["client", "gateway", "relay", "leave", "ask", "wait", "remove", "restore"])


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(ACTIONS, st.integers(0, 7)), max_size=25))
def test_any_order(make_world: Any, script: list[tuple[str, int]]) -> None:
    """A client always knows exactly the resources that its policies give it, and gateways only hear of those."""
    world = make_world()
    policy, original = "  - {resource: lan, groups: [staff]}\n", world.content
    alive: list[Any] = []
    for action, number in script:
        if action in ("client", "gateway", "relay"):
            extra = {"address": f"192.0.2.{number}"} if action == "relay" else {"external_id": str(number)}
            alive.append(getattr(world, action)(**extra))
        elif action == "leave" and alive:
            alive.pop(number % len(alive)).leave()
        elif action == "ask" and alive:
            asker = alive[number % len(alive)]
            payload = {"resource_id": world.resource("lan"), "connected_gateway_ids": []}
            asker.send("create_flow", payload)
        elif action == "wait":
            world.pass_time(number)
        elif action in ("remove", "restore"):
            world.content = original.replace(policy, "") if action == "remove" else original
            world.apply()
        alive = [component for component in alive if not component.closed]
    assert world.core.poll_timeout() <= world.now + SECOND
    wanted = {world.resource("wiki")} | ({world.resource("lan")} if policy in world.content else set())
    for component in alive:
        if component.session.topic == "client":
            assert known_resources(component) == wanted


def known_resources(client: Any) -> set[str]:
    """What a client believes after all it was told."""
    known: set[str] = set()
    for message in client.inbox:
        payload = message["payload"]
        match message["event"]:
            case "init":
                known = {resource["id"] for resource in payload["resources"]}
            case "resource_created_or_updated":
                known.add(payload["id"])
            case "resource_deleted":
                known.remove(payload)
            case _:
                continue
    return known
