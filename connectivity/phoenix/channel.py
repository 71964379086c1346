"""The component's side of one Phoenix v1 channel, without IO.

Not here: dialling, TLS and frames (connectivity/io/portal.py), and what an application event means.

Invariants: while a join is unconfirmed, no application message and no heartbeat leaves; refs count up from 0 over all
messages and all connections; at most ``QUEUE_LIMIT`` messages wait, they survive a lost connection, and one more drops
them all first; nothing a peer sends raises.

    state         input                               next
    OFFLINE       handle_connected                    JOINING, phx_join is sent
    JOINING       ok reply to that ref                JOINED, the queue drains
    JOINING       error reply to that ref and topic   FAILED (fatal)
    JOINING       5 s pass                            OFFLINE, Lost
    JOINED        error reply "unmatched topic"       JOINING, phx_join is sent again
    JOINED        phx_close, heartbeats unanswered    OFFLINE, Lost
    JOINED        disconnect token_expired            FAILED (fatal)
    any but FAILED handle_disconnected                OFFLINE
"""

import logging
from collections import deque
from dataclasses import dataclass
from enum import Enum, auto
from typing import Final, TypeAlias

from connectivity.clock import SECOND, Instant, earliest
from connectivity.phoenix import message as frames
from connectivity.phoenix.message import Json, Message, MessageError

JOIN_TIMEOUT_NS: Final = 5 * SECOND
HEARTBEAT_INTERVAL_NS: Final = 30 * SECOND  # of sending silence
QUEUE_LIMIT: Final = 32
UNANSWERED_HEARTBEATS_LIMIT: Final = 3  # one more falling due means that nobody listens

TOKEN_EXPIRED: Final = "token_expired"

_logger = logging.getLogger("connectivity.phoenix")


@dataclass(frozen=True, slots=True)
class Joined:
    """The portal confirmed the topic; ``init`` follows."""


@dataclass(frozen=True, slots=True)
class MessageReceived:
    """An application event. ``payload`` is JSON and stays out of ``repr``."""

    event: str
    payload: Json

    def __repr__(self) -> str:
        return f"MessageReceived({self.event!r})"


@dataclass(frozen=True, slots=True)
class Lost:
    """This connection is useless: close it and dial again."""

    reason: str


@dataclass(frozen=True, slots=True)
class LoginFailed:
    """The portal refuses us for good. ``is_authentication`` when it is about the token."""

    reason: str
    is_authentication: bool


ChannelEvent: TypeAlias = Joined | MessageReceived | Lost | LoginFailed


class ChannelState(Enum):
    """See the table above."""

    OFFLINE = auto()
    JOINING = auto()
    JOINED = auto()
    FAILED = auto()


class PhoenixChannel:
    """One topic over as many connections as it takes."""

    def __init__(self, topic: str, join_payload: Json, now: Instant) -> None:
        self.state = ChannelState.OFFLINE
        self._topic = topic
        self._join_payload = join_payload
        self._next_ref = 0
        self._joins: dict[int, Instant] = {}  # ref -> when to give up
        self._unsent_join = False
        self._queue: deque[tuple[str, Json]] = deque()
        self._heartbeat_due = False
        self._last_sent_at = now
        self._unanswered_heartbeats = 0
        self._events: deque[ChannelEvent] = deque()

    def handle_connected(self, now: Instant) -> None:
        """A WebSocket is open: join."""
        if self.state is ChannelState.FAILED:
            return
        self._go_offline()
        self._last_sent_at = now
        self._start_join()

    def handle_disconnected(self) -> None:
        """The WebSocket is gone; queued messages wait for the next one."""
        if self.state is not ChannelState.FAILED:
            self._go_offline()

    def handle_text(self, text: str) -> None:
        """A text frame, or a binary one that holds UTF-8."""
        if self.state in (ChannelState.OFFLINE, ChannelState.FAILED):
            return
        self._unanswered_heartbeats = 0
        try:
            self._dispatch(frames.decode(text))
        except MessageError as error:
            _logger.warning("Failed to deserialize message", extra={"fields": {"error": str(error)}})

    def send(self, event: str, payload: Json) -> None:
        """Queue an application message; an exact duplicate of a waiting one is not queued twice."""
        if (event, payload) in self._queue:
            return
        if len(self._queue) >= QUEUE_LIMIT:
            _logger.warning("Dropping all queued messages", extra={"fields": {"count": len(self._queue)}})
            self._queue.clear()
        self._queue.append((event, payload))

    def clear_queue(self) -> None:
        """Forget what waits: it belongs to a session that is over."""
        self._queue.clear()

    def poll_transmit(self, now: Instant) -> str | None:
        """The next frame to send, joins first."""
        if self._unsent_join:
            self._unsent_join = False
            return self._frame(self._topic, frames.JOIN_EVENT, self._join_payload, now, joins=True)
        if self.state is not ChannelState.JOINED:
            return None
        if self._heartbeat_due:
            self._heartbeat_due = False
            self._unanswered_heartbeats += 1
            return self._frame(frames.SYSTEM_TOPIC, frames.HEARTBEAT_EVENT, {}, now)
        if self._queue:
            event, payload = self._queue.popleft()
            return self._frame(self._topic, event, payload, now)
        return None

    def poll_event(self) -> ChannelEvent | None:
        """The next thing that the owner must know."""
        return self._events.popleft() if self._events else None

    def poll_timeout(self) -> Instant | None:
        """When ``handle_timeout`` wants to be called."""
        if self.state is ChannelState.JOINING:
            return earliest(*self._joins.values())
        if self.state is ChannelState.JOINED and not self._heartbeat_due:
            return self._last_sent_at + HEARTBEAT_INTERVAL_NS
        return None

    def handle_timeout(self, now: Instant) -> None:
        """Join and heartbeat timers."""
        deadline = self.poll_timeout()
        if deadline is None or now < deadline:
            return
        if self.state is ChannelState.JOINING:
            self._lose("room join timed out")
        elif self._unanswered_heartbeats >= UNANSWERED_HEARTBEATS_LIMIT:
            self._lose("heartbeats are not answered")
        else:
            self._heartbeat_due = True

    def _dispatch(self, message: Message) -> None:
        match message.event:
            case frames.REPLY_EVENT:
                self._handle_reply(message)
            case frames.ERROR_EVENT:
                _require_empty(message)
                _logger.debug("Channel process crashed", extra={"fields": {"topic": message.topic}})
            case frames.CLOSE_EVENT:
                _require_empty(message)
                self._lose("the portal closed the channel")
            case frames.DISCONNECT_EVENT:
                payload = message.payload
                if not isinstance(payload, dict) or payload.get("reason") != TOKEN_EXPIRED:
                    raise MessageError("disconnect without a known reason")
                self._fail("the token expired", is_authentication=True)
            case _:
                self._events.append(MessageReceived(message.event, message.payload))

    def _handle_reply(self, message: Message) -> None:
        reply = frames.parse_reply(message.payload)
        is_join = message.ref in self._joins
        if reply.reason is None:
            if message.ref is not None and is_join:
                self._confirm(message.ref)
        elif is_join and message.topic == self._topic:
            self._fail(f"login failed: {reply.reason}", is_authentication=False)
        elif reply.reason == frames.UNMATCHED_TOPIC and message.topic == self._topic:
            if self.state is ChannelState.JOINED:
                _logger.debug("The portal lost the topic, joining again", extra={"fields": {"topic": self._topic}})
                self._start_join()
        elif reply.reason == frames.INVALID_REF:  # whoever asked through the portal has asked again, or is gone
            _logger.debug("The portal waits for this answer no more")
        elif reply.reason == "disabled":
            _logger.debug("The portal says that we are disabled")
        else:
            _logger.warning("The portal refused a message", extra={"fields": {"reason": reply.reason}})

    def _confirm(self, ref: int) -> None:
        del self._joins[ref]
        if self._joins or self.state is not ChannelState.JOINING:
            return
        self.state = ChannelState.JOINED
        self._events.append(Joined())

    def _start_join(self) -> None:
        self.state = ChannelState.JOINING
        self._unsent_join = True

    def _lose(self, reason: str) -> None:
        self._go_offline()
        self._events.append(Lost(reason))

    def _fail(self, reason: str, *, is_authentication: bool) -> None:
        self._go_offline()
        self.state = ChannelState.FAILED
        self._events.append(LoginFailed(reason, is_authentication))

    def _go_offline(self) -> None:
        self.state = ChannelState.OFFLINE
        self._joins.clear()
        self._unsent_join = False
        self._heartbeat_due = False
        self._unanswered_heartbeats = 0

    def _frame(self, topic: str, event: str, payload: Json, now: Instant, joins: bool = False) -> str:
        ref = self._next_ref
        self._next_ref += 1
        self._last_sent_at = now
        if joins:
            self._joins[ref] = now + JOIN_TIMEOUT_NS
        return frames.encode(Message(topic, event, payload, ref))


def _require_empty(message: Message) -> None:
    if message.payload != {}:
        raise MessageError(f"{message.event} with a payload")
