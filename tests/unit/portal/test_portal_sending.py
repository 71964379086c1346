"""Peers that do not read what they asked for: messages and bytes are bounded, the loss is one line."""

import asyncio
import json
from typing import Any, cast

import pytest
from aiohttp import web

from connectivity.phoenix.message import LONGEST_TOPIC, MOST_REF
from portal import connection
from portal.configuration import TokenType
from portal.connection import SEND_QUEUE_LIMIT, UNJOINED_UNSENT_BYTES, UNSENT_BYTES, Backlog, Connection
from tests.unit.portal.conftest import World

KIB = 1024


class Transport:
    """A peer that leaves unread what it was sent."""

    def __init__(self) -> None:
        self.unread = 0
        self.is_aborted = self.is_closed = False

    def get_write_buffer_size(self) -> int:
        return self.unread

    def abort(self) -> None:
        self.is_aborted = True

    def close(self) -> None:
        self.is_closed = True


class WebSocket:
    def __init__(self, transport: Transport) -> None:
        self.sent: list[str] = []
        self._transport = transport

    async def send_str(self, text: str) -> None:
        self.sent.append(text)
        self._transport.unread += len(text)


class WayOut:
    """A connection of a relay to a portal, with a peer that does not read."""

    def __init__(self, world: World, *, is_joined: bool, backlog: Backlog | None = None) -> None:
        self.transport = Transport()
        self.websocket = WebSocket(self.transport)
        component = world.connect(TokenType.RELAY, "r1", ipv4="192.0.2.1")
        component.session.joined = is_joined
        self.connection = Connection(
            component.session,
            cast(web.WebSocketResponse, self.websocket),
            cast(web.Request, None),
            cast(asyncio.Transport, self.transport),
            backlog or Backlog(),
        )

    def fill(self, size: int) -> int:
        """Send messages of this size until it is cut off; how many bytes were taken."""
        taken = 0
        while not self.transport.is_aborted:
            self.connection.put("x" * size)
            taken += 0 if self.transport.is_aborted else size
        return taken


@pytest.mark.parametrize(("is_joined", "limit"), [(True, UNSENT_BYTES), (False, UNJOINED_UNSENT_BYTES)])
def test_bytes_that_are_not_read_are_bounded(
    world: World, caplog: pytest.LogCaptureFixture, is_joined: bool, limit: int
) -> None:
    out = WayOut(world, is_joined=is_joined)
    assert limit < out.fill(5 * KIB) <= limit + 5 * KIB
    out.connection.put("more")
    out.connection.put(None)
    assert [record.message for record in caplog.records] == ["Dropping a connection that does not read"]


def test_what_the_transport_holds_counts(world: World) -> None:
    out = WayOut(world, is_joined=True)
    out.transport.unread = UNSENT_BYTES + 1
    out.connection.put("x")
    assert out.transport.is_aborted


def test_one_message_of_any_size_is_sent_to_who_reads(world: World) -> None:
    out = WayOut(world, is_joined=True)
    out.connection.put("x" * 3 * UNSENT_BYTES)
    assert not out.transport.is_aborted


def test_messages_are_bounded_however_short(world: World) -> None:
    out = WayOut(world, is_joined=True)
    assert out.fill(1) == SEND_QUEUE_LIMIT


def test_where_all_have_too_much_together_who_has_most_pays(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "TOTAL_UNSENT_BYTES", 100 * KIB)
    backlog = Backlog()
    slow, _, modest = outs = [WayOut(world, is_joined=True, backlog=backlog) for _ in range(3)]
    for out, count in zip(outs, (9, 10, 1), strict=True):
        for _ in range(count):
            out.connection.put("x" * 5 * KIB)
    assert backlog.bytes == 100 * KIB
    modest.connection.put("x" * 20 * KIB)
    assert [out.transport.is_aborted for out in outs] == [False, True, False], "more than any unjoined one may have"
    assert backlog.bytes == (45 + 25) * KIB
    slow.fill(5 * KIB)
    assert backlog.bytes == 25 * KIB
    for out in outs:
        out.connection.forget()
        out.connection.forget()
    assert backlog.bytes == 0


def test_what_was_sent_no_longer_waits(world: World) -> None:
    async def scenario() -> None:
        out = WayOut(world, is_joined=True)
        for text in ("one", "two", None):
            out.connection.put(text)
        assert out.connection.unsent_bytes == 6
        await out.connection.send_all()
        assert out.websocket.sent == ["one", "two"]
        assert (out.connection.queued_bytes, out.transport.is_closed) == (0, True)

    asyncio.run(scenario())


@pytest.mark.parametrize("key", ["topic", "ref"])
def test_what_a_reply_repeats_is_bounded(world: World, key: str) -> None:
    longest: dict[str, Any] = {"topic": "t" * LONGEST_TOPIC, "event": "e", "payload": {}, "ref": MOST_REF}
    relay = world.connect(TokenType.RELAY, "r1", ipv4="192.0.2.1")
    relay.send_text(json.dumps(longest))
    assert relay.events() == ["phx_reply"]
    relay.send_text(json.dumps({**longest, key: longest[key] + (1 if key == "ref" else "t")}))
    assert (relay.closed, relay.events()) == (True, [])


def test_what_others_say_is_dropped_before_who_listens(world: World, caplog: pytest.LogCaptureFixture) -> None:
    out = WayOut(world, is_joined=True)
    for _ in range(10_000):
        out.connection.put("x", is_droppable=True)
    assert out.connection.queue.qsize() == SEND_QUEUE_LIMIT // 2
    out.connection.put("what must arrive")
    assert not out.transport.is_aborted
    assert {record.message for record in caplog.records} == {
        "Dropped messages of others for a connection that is behind"
    }


def test_what_others_say_is_dropped_by_its_bytes_too(world: World) -> None:
    out = WayOut(world, is_joined=True)
    for _ in range(10_000):
        out.connection.put("x" * 64 * KIB, is_droppable=True)
    assert UNSENT_BYTES // 2 <= out.connection.unsent_bytes < UNSENT_BYTES // 2 + 64 * KIB
    out.connection.put("what must arrive")
    assert not out.transport.is_aborted


def test_only_what_others_cause_may_be_dropped(world: World) -> None:
    gateway, client = world.gateway(), world.client()
    client.send("create_flow", {"resource_id": world.resource("lan"), "connected_gateway_ids": []})
    client.send("broadcast_ice_candidates", {"gateway_ids": [gateway.id], "candidates": ["candidate:1"]})
    assert world.droppable == {"authorize_flow", "ice_candidates"}
