"""When an upsert keeps a connection and when it makes another one: told by the log and by the index."""

import logging
from ipaddress import ip_address
from random import Random
from typing import Any

import pytest

from connectivity.endpoint import Endpoint
from connectivity.ice import IceCredentials
from connectivity.node import Node
from connectivity.node.relays import RelayServer
from connectivity.wireguard import KeyPair

RANDOM = Random(1)
RELAY = RelayServer("relay-1", (Endpoint(ip_address("203.0.113.30"), 3478),), "1:salt", "password")
AGREED: dict[str, Any] = {
    "public_key": KeyPair.generate(RANDOM.randbytes).public,
    "preshared_key": bytes(32),
    "local": IceCredentials("abcd", "a" * 22),
    "remote": IceCredentials("efgh", "b" * 22),
}
OTHERS: dict[str, Any] = {
    "public_key": KeyPair.generate(RANDOM.randbytes).public,
    "preshared_key": bytes(31) + b"\x01",
    "local": IceCredentials("abcd", "x" * 22),
    "remote": IceCredentials("efgi", "b" * 22),
}


@pytest.mark.parametrize("changed", [None, *OTHERS])
def test_all_four_of_keys_and_credentials_must_be_unchanged(
    changed: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    node = Node(keys=KeyPair.generate(RANDOM.randbytes), controlling=True, rng=RANDOM.randbytes)
    node.update_relays((), [RELAY], 0)
    with caplog.at_level(logging.DEBUG, "connectivity.node"):
        node.upsert("g-1", **AGREED, now=0, wall_now=0)
        node.upsert("g-1", **(AGREED if changed is None else AGREED | {changed: OTHERS[changed]}), now=1, wall_now=1)
    phrases = [record.getMessage() for record in caplog.records if record.getMessage().endswith("connection")]
    assert phrases == [
        "Created new connection",
        "Reusing existing connection" if changed is None else "Replaced connection",
    ]
    indices = [fields["index"] for record in caplog.records if "index" in (fields := getattr(record, "fields", {}))]
    assert len(indices) == len(set(indices)) == (1 if changed is None else 2)
    assert len(node.connections()) == 1
