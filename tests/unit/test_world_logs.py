"""What operators can read in the log of client and gateway: ids, indices, keys; and what is never in it."""

import base64
import heapq
import re
from collections.abc import Iterator
from ipaddress import ip_address
from random import Random
from typing import Any

import pytest

from connectivity.clock import SECOND
from connectivity.endpoint import Endpoint
from connectivity.errors import chain
from connectivity.io.logs import TRACE
from connectivity.node import Node, Opened
from connectivity.run import Received, Run
from connectivity.wireguard import KeyPair, RateLimiter, Tunnel
from tests.unit.test_world import answer, question
from tests.unit.world import World

IDS = ("cid", "gid", "rid")
CALM = (
    "client",
    "gateway",
    "connectivity.node",
    "connectivity.turn.allocation",
    "connectivity.ice.agent",
    "connectivity.wireguard",
)


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> Iterator[pytest.LogCaptureFixture]:
    """Every line, of all levels."""
    with caplog.at_level(TRACE):
        yield caplog


def fields_of(record: Any) -> dict[str, object]:
    return dict(getattr(record, "fields", {}))


def test_every_line_about_a_connection_a_resource_or_a_relay_names_it(log: pytest.LogCaptureFixture) -> None:
    world = World(direct=False)
    world.start()
    world.send_from_client(question())
    world.advance(30 * SECOND)
    world.relay_alive = False
    world.advance(200 * SECOND)
    ours = [record for record in log.records if record.name in CALM]
    assert {record.name for record in ours} == {*CALM} - {"client"}
    assert [record.getMessage() for record in ours if not {*map(fields_of(record).get, IDS)} - {None, ""}] == []
    by_phrase = {record.getMessage(): record for record in ours}
    granted = fields_of(by_phrase["Allowing access to resource"])
    assert (granted["cid"], granted["rid"]) == ("c-1", "r-1")
    assert fields_of(by_phrase["Added new relay"])["rid"] == "relay-1"
    failed = [record for record in ours if record.getMessage() == "Connection failed"]
    assert {(record.levelname, fields_of(record)["cid"], fields_of(record)["reason"]) for record in failed} == {
        ("INFO", "g-1", "ICE timed out"),
        ("INFO", "c-1", "ICE timed out"),
    }


def test_relay_transactions_have_a_target_of_their_own_below_info(log: pytest.LogCaptureFixture) -> None:
    world = World()
    world.start()
    told = [record for record in log.records if record.name.startswith("wire.turn")]
    assert {record.levelname for record in told} == {"DEBUG"}
    assert {"Allocate", "Binding"} <= {fields_of(record)["method"] for record in told}


def test_traffic_is_not_logged_at_any_level(log: pytest.LogCaptureFixture) -> None:
    world = World(direct=False)
    world.start()
    world.send_from_client(question())
    world.advance(SECOND)
    world.send_from_gateway(answer())
    world.advance(SECOND)
    log.clear()
    for _ in range(50):
        world.send_from_client(question())
        world.send_from_gateway(answer())
    heard = len(world.host_received["gateway"])
    while world._wire:
        world._deliver(*heapq.heappop(world._wire)[2:])
    assert len(world.host_received["gateway"]) == heard + 50
    assert [record.getMessage() for record in log.records] == []


def test_a_new_connection_shows_its_index_as_connection_and_session(log: pytest.LogCaptureFixture) -> None:
    world = World()
    world.start()
    world.send_from_client(question())
    world.advance(SECOND)
    created = [fields_of(record) for record in log.records if record.getMessage() == "Created new connection"]
    assert [fields["cid"] for fields in created] == ["c-1", "g-1"]
    assert all(re.fullmatch(r"\(\d{1,8}\|0\)", str(fields["index"])) for fields in created)


def test_errors_name_unknown_keys_as_decimals_and_unknown_connections_by_their_24_bits() -> None:
    random = Random(1)
    keys, stranger = KeyPair.generate(random.randbytes), KeyPair.from_private(bytes(31) + b"\x40")
    node = Node(keys=keys, controlling=False, rng=random.randbytes)
    tunnel = Tunnel(
        keys=stranger,
        peer_public_key=keys.public,
        preshared_key=bytes(32),
        connection_index=1,
        limiter=RateLimiter(stranger.public, random.randbytes),
        rng=random.randbytes,
        now=0,
    )
    tunnel.initiate(0, 0)
    initiation = tunnel.poll_transmit()
    assert initiation is not None
    data = b"\x04\0\0\0" + (0x010203 << 8 | 5).to_bytes(4, "little") + bytes(24)
    response = b"\x02\0\0\0" + bytes(4) + (0x010204 << 8).to_bytes(4, "little") + bytes(80)
    errors: list[Exception] = []
    opened: list[Opened] = []
    remote, local = Endpoint(ip_address("192.0.2.1"), 1), Endpoint(ip_address("192.0.2.2"), 2)
    for datagram in (initiation.message, data, response):
        node.open(Received(local, remote, Run.single(bytearray(datagram))), 0, 0, opened.append, errors)
    assert not opened
    assert [chain(error) for error in errors] == [
        f"no connection for key {int.from_bytes(stranger.public, 'big')}",
        "no connection for index 66051",
        "no connection for index 66052",
    ]


def test_secrets_are_not_logged(log: pytest.LogCaptureFixture) -> None:
    world = World(direct=False)
    world.start()
    world.send_from_client(question())
    world.advance(400 * SECOND)
    flow = world.flow(world.ends["client"], world.ends["gateway"])
    secrets = [
        flow["preshared_key"],
        base64.b64encode(world.client_keys.private).decode(),
        world.client_keys.private.hex(),
        world.relays(world.client_keys)[0]["password"],
        world.stamp_secret,
        *(flow[f"{role}_ice_credentials"]["password"] for role in ("client", "gateway")),
    ]
    text = "\n".join(f"{record.getMessage()} {fields_of(record)}" for record in log.records)
    assert len(text) > 10_000
    assert [secret for secret in secrets if secret in text] == []
