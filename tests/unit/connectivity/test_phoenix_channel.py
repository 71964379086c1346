"""The channel's state machine: joins, refs, queue, heartbeats, and what a portal may send."""

import json
import logging
from typing import Any

import pytest

from connectivity.clock import SECOND
from connectivity.phoenix.channel import (
    ChannelState,
    Joined,
    LoginFailed,
    Lost,
    MessageReceived,
    PhoenixChannel,
)

NOW = 1_000 * SECOND
# As the protocol has them, not as the module does.
HEARTBEAT_INTERVAL_NS = 30 * SECOND
JOIN_TIMEOUT_NS = 5 * SECOND
QUEUE_LIMIT = 32
OK: dict[str, Any] = {"status": "ok", "response": {}}


def test_join_is_sent_first_and_carries_null() -> None:
    channel = connected()
    assert channel.poll_transmit(NOW) == '{"topic":"client","event":"phx_join","payload":null,"ref":0}'


def test_messages_wait_for_the_join_and_keep_their_order() -> None:
    channel = connected()
    channel.send("a", {})
    channel.send("b", {})
    assert [frame["event"] for frame in sent(channel)] == ["phx_join"]
    receive(channel, "phx_reply", OK, ref=0)
    assert channel.poll_event() == Joined()
    assert [(frame["event"], frame["ref"]) for frame in sent(channel)] == [("a", 1), ("b", 2)]


def test_refs_go_on_over_connections() -> None:
    channel = joined()
    channel.send("a", {})
    sent(channel)
    channel.handle_disconnected()
    channel.handle_connected(NOW)
    assert [frame["ref"] for frame in sent(channel)] == [2]


def test_queue_survives_a_lost_connection() -> None:
    channel = joined()
    channel.handle_disconnected()
    channel.send("a", {})
    channel.handle_connected(NOW)
    sent(channel)
    receive(channel, "phx_reply", OK, ref=1)
    assert [frame["event"] for frame in sent(channel)] == ["a"]


def test_message_33_drops_the_32_before_it() -> None:
    channel = connected()
    sent(channel)
    for number in range(QUEUE_LIMIT + 1):
        channel.send("a", number)
    receive(channel, "phx_reply", OK, ref=0)
    assert [frame["payload"] for frame in sent(channel)] == [QUEUE_LIMIT]


def test_exact_duplicate_is_queued_once() -> None:
    channel = connected()
    sent(channel)
    channel.send("a", {"x": 1})
    channel.send("a", {"x": 1})
    receive(channel, "phx_reply", OK, ref=0)
    assert len(sent(channel)) == 1


def test_join_without_answer_is_given_up_after_5_seconds() -> None:
    channel = connected()
    sent(channel)
    assert channel.poll_timeout() == NOW + JOIN_TIMEOUT_NS
    channel.handle_timeout(NOW + JOIN_TIMEOUT_NS - 1)
    assert channel.poll_event() is None
    channel.handle_timeout(NOW + JOIN_TIMEOUT_NS)
    assert isinstance(channel.poll_event(), Lost)
    assert channel.poll_timeout() is None


@pytest.mark.parametrize(
    "payload",
    [
        pytest.param({"status": "ok", "response": None}, id="null response"),
        pytest.param({"status": "ok", "response": {"a": 1}}, id="filled response"),
        pytest.param({"status": "ok"}, id="no response"),
        pytest.param({"status": "error", "response": {}}, id="error without reason"),
        pytest.param([], id="no object"),
    ],
)
def test_reply_of_another_shape_does_not_confirm(payload: object) -> None:
    channel = connected()
    sent(channel)
    receive(channel, "phx_reply", payload, ref=0)
    assert channel.state is ChannelState.JOINING
    assert channel.poll_event() is None


@pytest.mark.parametrize("ref", ["0", 0.5, -1, True, [0]])
def test_ref_must_be_an_unsigned_integer(ref: object, caplog: pytest.LogCaptureFixture) -> None:
    channel = connected()
    sent(channel)
    with caplog.at_level(logging.WARNING):
        receive(channel, "phx_reply", OK, ref=ref)
    assert channel.state is ChannelState.JOINING
    assert "Failed to deserialize message" in caplog.text


def test_topic_of_an_ok_reply_does_not_matter() -> None:
    channel = connected()
    sent(channel)
    receive(channel, "phx_reply", OK, ref=0, topic="other")
    assert channel.poll_event() == Joined()


def test_refused_join_is_fatal() -> None:
    channel = connected()
    sent(channel)
    receive(channel, "phx_reply", {"status": "error", "response": {"reason": "invalid_version"}}, ref=0)
    event = channel.poll_event()
    assert isinstance(event, LoginFailed)
    assert "invalid_version" in event.reason
    channel.handle_connected(NOW)
    assert channel.poll_transmit(NOW) is None


@pytest.mark.parametrize(
    ("reason", "level"), [("invalid_ref", "DEBUG"), ("disabled", "DEBUG"), ("not_found", "WARNING")]
)
def test_only_a_refusal_that_somebody_can_do_something_about_is_a_warning(
    reason: str, level: str, caplog: pytest.LogCaptureFixture
) -> None:
    channel = joined()
    channel.send("flow_authorized", {})
    sent(channel)
    with caplog.at_level(logging.DEBUG, "connectivity.phoenix"):
        receive(channel, "phx_reply", {"status": "error", "response": {"reason": reason}}, ref=1)
    assert [record.levelname for record in caplog.records] == [level]
    assert (channel.state, channel.poll_event()) == (ChannelState.JOINED, None)


def test_token_expired_is_fatal() -> None:
    channel = joined()
    receive(channel, "disconnect", {"reason": "token_expired"})
    event = channel.poll_event()
    assert isinstance(event, LoginFailed)
    assert event.is_authentication


def test_disconnect_for_another_reason_is_ignored() -> None:
    channel = joined()
    receive(channel, "disconnect", {"reason": "maintenance"})
    assert channel.poll_event() is None


def test_close_of_the_channel_loses_the_connection() -> None:
    channel = joined()
    receive(channel, "phx_close", {})
    assert isinstance(channel.poll_event(), Lost)


def test_crash_of_the_channel_is_only_logged() -> None:
    channel = joined()
    receive(channel, "phx_error", {})
    assert channel.poll_event() is None
    assert channel.state is ChannelState.JOINED


def test_unmatched_topic_joins_again_and_holds_messages_back() -> None:
    channel = joined()
    channel.send("a", {})
    sent(channel)
    receive(channel, "phx_reply", {"status": "error", "response": {"reason": "unmatched topic"}}, ref=1)
    channel.send("b", {})
    frames = sent(channel)
    assert [frame["event"] for frame in frames] == ["phx_join"]
    receive(channel, "phx_reply", OK, ref=frames[0]["ref"])
    assert [frame["event"] for frame in sent(channel)] == ["b"]


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"topic":1,"event":"x"}', "\x00"])
def test_unreadable_frame_is_dropped_and_the_connection_kept(text: str) -> None:
    channel = joined()
    channel.handle_text(text)
    assert channel.poll_event() is None
    assert channel.state is ChannelState.JOINED


def test_application_message_is_handed_out_without_showing_its_payload() -> None:
    channel = joined()
    receive(channel, "init", {"token": "hidden"})
    event = channel.poll_event()
    assert event == MessageReceived("init", {"token": "hidden"})
    assert "hidden" not in repr(event)


def test_heartbeat_after_30_seconds_of_sending_silence() -> None:
    channel = joined()
    later = NOW + 10 * SECOND
    channel.send("a", {})
    sent(channel, later)
    assert channel.poll_timeout() == later + HEARTBEAT_INTERVAL_NS
    channel.handle_timeout(later + HEARTBEAT_INTERVAL_NS)
    assert sent(channel, later + HEARTBEAT_INTERVAL_NS) == [
        {"topic": "phoenix", "event": "heartbeat", "payload": {}, "ref": 2}
    ]


def test_fourth_unanswered_heartbeat_is_not_sent_but_ends_the_connection() -> None:
    channel, now = joined(), NOW
    for _ in range(3):
        now += HEARTBEAT_INTERVAL_NS
        channel.handle_timeout(now)
        assert len(sent(channel, now)) == 1
    channel.handle_timeout(now + HEARTBEAT_INTERVAL_NS)
    assert channel.poll_event() == Lost("heartbeats are not answered")


def test_any_frame_counts_as_an_answer() -> None:
    channel, now = joined(), NOW
    for _ in range(10):
        now += HEARTBEAT_INTERVAL_NS
        channel.handle_timeout(now)
        assert len(sent(channel, now)) == 1
        receive(channel, "init", {})
        assert isinstance(channel.poll_event(), MessageReceived)


def connected() -> PhoenixChannel:
    channel = PhoenixChannel("client", None, NOW)
    channel.handle_connected(NOW)
    return channel


def joined() -> PhoenixChannel:
    channel = connected()
    sent(channel)
    receive(channel, "phx_reply", OK, ref=0)
    assert channel.poll_event() == Joined()
    return channel


def sent(channel: PhoenixChannel, now: int = NOW) -> list[dict[str, Any]]:
    frames = []
    while (text := channel.poll_transmit(now)) is not None:
        frames.append(json.loads(text))
    return frames


def receive(channel: PhoenixChannel, event: str, payload: object, *, ref: object = None, topic: str = "client") -> None:
    channel.handle_text(json.dumps({"topic": topic, "event": event, "payload": payload, "ref": ref}))
