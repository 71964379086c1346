"""What the portal's words do to a gateway's clients."""

import base64
import random
from typing import Any

from connectivity.clock import SECOND
from connectivity.tunnel import SendToPortal
from connectivity.wireguard import KeyPair
from gateway.core import GatewayCore

NOW = 1_000 * SECOND
WALL = 1_790_000_000 * SECOND
RELAY = {"id": "r", "type": "turn", "addr": "192.0.2.1:3478", "username": "1:x", "password": "p", "expires_at": 1}
INTERFACE = {"ipv4": "100.64.0.1", "ipv6": "fd00:2021:1111::1"}


def test_a_new_key_has_no_authorization_but_those_given_to_it() -> None:
    gateway = make()
    authorize(gateway, "lan", key=1)
    authorize(gateway, "wiki", key=1)
    assert granted(gateway) == ["lan", "wiki"]
    authorize(gateway, "wiki", key=2)
    assert granted(gateway) == ["wiki"]
    authorize(gateway, "lan", key=2)
    assert granted(gateway) == ["wiki", "lan"]


def test_the_same_key_keeps_its_authorizations() -> None:
    gateway = make()
    for resource in ("lan", "wiki", "lan"):
        authorize(gateway, resource, key=1)
    assert granted(gateway) == ["lan", "wiki"]


def test_a_new_key_keeps_the_client_and_its_addresses() -> None:
    gateway = make()
    authorize(gateway, "lan", key=1)
    before = gateway.role._clients["client"]
    authorize(gateway, "lan", key=2)
    assert gateway.role._clients["client"] is before
    assert set(gateway.role._by_address.values()) == {before}


def make() -> GatewayCore:
    rng = random.Random(12)
    gateway = GatewayCore(keys=KeyPair.generate(rng.randbytes), rng=rng.randbytes, now=NOW)
    gateway.handle_portal("init", {"interface": INTERFACE, "relays": [RELAY]}, NOW, WALL)
    return gateway


def authorize(gateway: GatewayCore, resource: str, key: int) -> None:
    credentials = {"username": f"use{key}", "password": "p" * 22}
    network = {"lan": "10.0.0.0/24", "wiki": "10.0.1.0/24"}[resource]
    text = base64.b64encode(bytes([key]) * 32).decode()
    message: dict[str, Any] = {
        "ref": f"{resource}/{key}",
        "resource": {"id": resource, "type": "cidr", "name": resource, "address": network, "filters": []},
        "client": {
            "id": "client",
            "public_key": text,
            "preshared_key": text,
            "ipv4": "100.64.0.2",
            "ipv6": "fd00:2021:1111::2",
        },
        "client_ice_credentials": credentials,
        "gateway_ice_credentials": credentials,
        "expires_at": WALL // SECOND + 3600,
    }
    gateway.handle_portal("authorize_flow", message, NOW, WALL)
    actions = []
    while (action := gateway.poll_action()) is not None:
        actions.append(action)
    assert SendToPortal("flow_authorized", {"ref": f"{resource}/{key}"}) in actions


def granted(gateway: GatewayCore) -> list[str]:
    return gateway.role._clients["client"].resource_ids()
