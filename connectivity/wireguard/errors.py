"""What can be wrong with a WireGuard message: refusals of handshake messages and reasons for dropped data."""

from enum import Enum


class HandshakeReason(Enum):
    """Why a handshake message was refused; the value is the text that people read."""

    MALFORMED = "not a WireGuard handshake message"
    INVALID_MAC1 = "invalid mac1"
    INVALID_COOKIE = "cookie reply does not decrypt"
    UNDER_LOAD = "too many handshakes, a cookie is required"
    UNKNOWN_INDEX = "no handshake of ours has this index"
    WRONG_PEER = "static key of another peer"
    NOT_AUTHENTIC = "handshake does not decrypt"
    STALE_TIMESTAMP = "timestamp does not increase"
    TUNNEL_EXPIRED = "tunnel is expired"


class HandshakeError(Exception):
    """A handshake message was refused; nothing changed but counters.

    ``reply`` is a cookie reply that may be sent back to the sender of the message, if any.
    """

    def __init__(self, reason: HandshakeReason, *, reply: bytes | None = None) -> None:
        super().__init__(reason.value)
        self.reason = reason
        self.reply = reply


class DropReason(Enum):
    """Why a data message or an IP packet to be sent was dropped."""

    MALFORMED = "malformed"
    UNKNOWN_SESSION = "unknown_session"
    EXPIRED_SESSION = "expired_session"
    NOT_AUTHENTIC = "not_authentic"
    DUPLICATE = "duplicate"
    TOO_OLD = "too_old"
    QUEUE_FULL = "queue_full"
    EXPIRED_TUNNEL = "expired_tunnel"
    NO_PATH = "no_path"
    NO_CHANNEL = "no_channel"
