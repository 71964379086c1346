"""Phoenix v1 frames: one JSON object ``{"topic", "event", "payload", "ref"}`` per WebSocket text frame.

No ``vsn`` parameter is ever sent on connect, so a Phoenix server speaks version 1 to us: objects, not arrays. Only the
shape is checked here: a ``ref`` is an unsigned integer or null, never a string. Unknown keys are ignored.
"""

import json
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

# A JSON value; what a payload means is for the parser of each event to say.
Json: TypeAlias = Any

JOIN_EVENT: Final = "phx_join"
REPLY_EVENT: Final = "phx_reply"
ERROR_EVENT: Final = "phx_error"
CLOSE_EVENT: Final = "phx_close"
HEARTBEAT_EVENT: Final = "heartbeat"
DISCONNECT_EVENT: Final = "disconnect"
SYSTEM_TOPIC: Final = "phoenix"
UNMATCHED_TOPIC: Final = "unmatched topic"
INVALID_REF: Final = "invalid_ref"


# A reply repeats both, so what a peer can make us send is bounded by what it sends. Real ones are far shorter.
LONGEST_TOPIC: Final = 64
MOST_REF: Final = (1 << 64) - 1


class MessageError(ValueError):
    """A frame that is no Phoenix message; the text says what is wrong with it, never what it holds."""


@dataclass(frozen=True, slots=True)
class Message:
    """One frame. ``payload`` stays out of ``repr``: it may hold keys and passwords."""

    topic: str
    event: str
    payload: Json
    ref: int | None

    def __repr__(self) -> str:
        return f"Message(topic={self.topic!r}, event={self.event!r}, ref={self.ref})"


@dataclass(frozen=True, slots=True)
class Reply:
    """The payload of ``phx_reply``; ``reason`` is None for ``ok`` and the server's word for ``error``."""

    reason: str | None


def encode(message: Message) -> str:
    """The frame's text in ASCII (lone surrogates could not be sent otherwise), all four keys present, no spaces."""
    return json.dumps(
        {"topic": message.topic, "event": message.event, "payload": message.payload, "ref": message.ref},
        separators=(",", ":"),
    )


def decode(text: str) -> Message:
    """Read one frame.

    Raises:
        MessageError: no JSON object, or a key is missing or has the wrong type.
    """
    try:
        value = json.loads(text, parse_constant=_refuse_constant)
    except (ValueError, RecursionError):
        raise MessageError("not a JSON text") from None
    if not isinstance(value, dict):
        raise MessageError("not a JSON object")
    topic, event, ref = value.get("topic"), value.get("event"), value.get("ref")
    if not isinstance(topic, str):
        raise MessageError("topic is not a string")
    if not isinstance(event, str):
        raise MessageError("event is not a string")
    if len(topic) > LONGEST_TOPIC:
        raise MessageError("topic is too long")
    if ref is not None and (not isinstance(ref, int) or isinstance(ref, bool) or not 0 <= ref <= MOST_REF):
        raise MessageError("ref is neither an unsigned integer nor null")
    return Message(topic, event, value.get("payload"), ref)


def parse_reply(payload: Json) -> Reply:
    """Read the payload of ``phx_reply``: ``{"status":"ok","response":{}}`` or an error with its reason.

    Raises:
        MessageError: another shape; an ``ok`` with a filled response too, as it belongs to no request of ours.
    """
    if not isinstance(payload, dict):
        raise MessageError("reply payload is not an object")
    response = payload.get("response")
    match payload.get("status"):
        case "ok" if response == {}:
            return Reply(None)
        case "ok":
            raise MessageError("ok reply without an empty response")
        case "error" if isinstance(response, dict) and isinstance(response.get("reason"), str):
            return Reply(response["reason"])
        case "error":
            raise MessageError("error reply without a reason")
        case _:
            raise MessageError("reply status is neither ok nor error")


def _refuse_constant(name: str) -> Json:
    raise MessageError(f"{name} is no JSON value")
