"""Any JSON from a portal: client and gateway take it or refuse it by MessageError, and go on working.

Messages are right ones of which some parts were replaced, so that they get past the first check.
"""

import copy
from ipaddress import ip_address
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from client.dns import datagram
from connectivity.clock import SECOND
from connectivity.endpoint import Endpoint
from connectivity.portal.values import MessageError
from tests.unit.client.dns_bench import query
from tests.unit.test_world import question
from tests.unit.world import World

TEXTS = st.text(st.characters(), max_size=6) | st.sampled_from(["r-1", "g-1", "c-1", "relay-1", "cidr", "dns", "turn"])
SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | TEXTS
ASKER = Endpoint(ip_address("100.64.0.2"), 4000)
SENTINEL = Endpoint(ip_address("100.100.111.1"), 53)
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=2), max_leaves=6
)


def messages(world: World) -> dict[str, dict[str, Any]]:
    """One right message of each kind that each role takes."""
    relays = world.relays(world.client_keys)
    servers = [{"protocol": "ip_port", "address": "192.0.2.53:53"}]
    interface = {"ipv4": "100.64.0.2", "ipv6": "fd00:2021:1111::2", "upstream_dns": servers, "search_domain": "example"}
    resource = {
        "type": "cidr",
        "id": "r-2",
        "name": "more",
        "address": "10.30.0.0/16",
        "gateway_groups": [{"id": "s", "name": "site"}],
        "filters": [{"protocol": "tcp", "port_range_start": 1, "port_range_end": 2}],
    }
    names = resource | {"type": "dns", "id": str(UUID(int=1)), "address": "*.example", "ip_stack": "dual"}
    candidates = {"gateway_id": "g-1", "client_id": "c-1", "candidates": ["candidate:1 1 udp 1 192.0.2.1 1 typ host"]}
    presence = {"disconnected_ids": ["relay-1"], "connected": relays}
    both = {"ice_candidates": candidates, "invalidate_ice_candidates": candidates, "relays_presence": presence}
    return {
        "client": both
        | {
            "init": {"interface": interface, "resources": [resource, names], "relays": relays},
            "config_changed": {"interface": interface},
            "resource_created_or_updated": names,
            "resource_deleted": {"": "r-1"},
            "flow_created": world.flow(world.ends["client"], world.ends["gateway"]),
            "flow_creation_failed": {"resource_id": "r-1", "reason": "offline", "violated_properties": ["x"]},
        },
        "gateway": both
        | {
            "init": world.gateway_init([{"client_id": "c-1", "resource_id": "r-1", "expires_at": 1}]),
            "authorize_flow": world.authorization("c-1/r-1"),
            "access_authorization_expiry_updated": {"client_id": "c-1", "resource_id": "r-1", "expires_at": 1},
            "reject_access": {"client_id": "c-1", "resource_id": "r-1"},
            "resource_updated": resource,
        },
    }


@pytest.mark.parametrize("role", ["client", "gateway"])
@settings(max_examples=50, deadline=None)
@given(data=st.data())
def test_any_message_is_taken_or_refused(role: str, data: st.DataObject) -> None:
    world = World(versions=(4,))
    world.start()
    world.send_from_client(question())
    world.advance(SECOND)
    right = messages(world)[role]
    for _ in range(data.draw(st.integers(1, 4))):
        event = data.draw(st.sampled_from(sorted(right)))
        payload = changed(right[event], data)
        try:
            (world.to_client if role == "client" else world.to_gateway)(event, payload)
        except MessageError:
            continue  # a warning to whoever drives the core
    world.send_from_client(question())
    for name in ("a.example", "example.com"):
        world.send_from_client(datagram.build(ASKER, SENTINEL, query(name)))
    world.advance(5 * SECOND)


def changed(message: Any, data: st.DataObject) -> Any:
    """The message with some of its parts replaced or left out."""
    payload = copy.deepcopy(message)
    for _ in range(data.draw(st.integers(0, 3))):
        path = data.draw(st.sampled_from(list(paths(payload))))
        if not path:
            return data.draw(VALUES)
        parent = payload
        for step in path[:-1]:
            parent = parent[step]
        if data.draw(st.booleans()):
            parent[path[-1]] = data.draw(VALUES)
        else:
            del parent[path[-1]]
    return payload


def paths(value: Any, prefix: tuple[Any, ...] = ()) -> Any:
    """Where each part of a JSON value is."""
    yield prefix
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from paths(inner, (*prefix, name))
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from paths(inner, (*prefix, index))
