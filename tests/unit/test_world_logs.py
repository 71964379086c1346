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
from connectivity.io.peer_log import PeerLog
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
    assert {(record.levelname, fields_of(record).get("gid"), fields_of(record).get("cid")) for record in failed} == {
        ("DEBUG", "g-1", None),
        ("DEBUG", None, "c-1"),
    }
    assert {fields_of(record)["reason"] for record in failed} == {"ICE timed out"}


def test_relay_transactions_have_a_target_of_their_own_below_info(log: pytest.LogCaptureFixture) -> None:
    world = World()
    world.start()
    told = [record for record in log.records if record.name.startswith("wire.turn")]
    assert {record.levelname for record in told} == {"DEBUG"}
    assert {"Allocate", "Binding"} <= {fields_of(record)["method"] for record in told}


def people(world: World) -> None:
    """Have both ends tell people, as the services do."""
    world.client.listen(PeerLog("client", "gid").tell)
    world.gateway.listen(PeerLog("gateway", "cid").tell)


def test_people_read_who_connects_and_who_leaves_by_name_and_nothing_of_candidates(
    log: pytest.LogCaptureFixture,
) -> None:
    world = World()
    people(world)
    world.start()
    world.send_from_client(question())
    world.advance(5 * SECOND)
    world.close("client")
    world.advance(SECOND)
    told = [record for record in log.records if record.levelname != "DEBUG" and record.levelno > TRACE]
    lines = [record.getMessage() for record in told if record.name == "connectivity.peers"]
    connected = [line for line in lines if "left" not in line]
    assert len(connected) == 2
    assert all(re.fullmatch(r"client → gateway, direct over IPv[46], \d+ ms", line) for line in connected)
    assert sorted(lines[2:]) == ["client → gateway, left: closed by us", "client → gateway, left: goodbye"]
    ends = [fields_of(record) for record in told if record.name == "connectivity.peers"]
    assert {*map(str, ends)} == {"{'gid': 'g-1'}", "{'cid': 'c-1'}"}
    assert [record.getMessage() for record in told if "candidate" in record.getMessage()] == []


def test_people_read_of_a_relayed_connection_that_fails(log: pytest.LogCaptureFixture) -> None:
    world = World(direct=False)
    people(world)
    world.start()
    world.send_from_client(question())
    world.advance(30 * SECOND)
    world.relay_alive = False
    world.advance(200 * SECOND)
    lines = [record.getMessage() for record in log.records if record.name == "connectivity.peers"]
    assert any(re.search("→ gateway, relayed over IPv4", line) for line in lines)
    assert "client → gateway, left: ICE timed out" in lines


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
    assert [fields.get("cid") or fields.get("gid") for fields in created] == ["c-1", "g-1"]
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
        received = Received(local, remote, Run.single(bytearray(datagram)))
        node.open_others(received, 0, 0, opened.append, errors)
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
