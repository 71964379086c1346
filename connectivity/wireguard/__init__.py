"""WireGuard in user space, without IO: handshakes, sessions and timers of one peer per ``Tunnel``.

Wire format and cryptography are stock WireGuard (https://www.wireguard.com/papers/wireguard.pdf); timer values and the
absence of padding follow Firezone. Whatever crosses ``Tunnel.seal`` and ``Tunnel.open`` is a run, not a packet.
"""

from connectivity.key_pair import KeyPair, format_key
from connectivity.wireguard.errors import DropReason, HandshakeError, HandshakeReason
from connectivity.wireguard.index import connection_of, format_index
from connectivity.wireguard.limiter import RateLimiter
from connectivity.wireguard.messages import (
    COOKIE_REPLY,
    DATA,
    DATA_OVERHEAD_BYTES,
    INITIATION,
    RESPONSE,
    message_type,
    receiver_index,
)
from connectivity.wireguard.transport import SessionValues, Transport
from connectivity.wireguard.tunnel import Outgoing, Tunnel, peek_initiator
from connectivity.wireguard.workspace import Workspace

__all__ = [
    "COOKIE_REPLY",
    "DATA",
    "DATA_OVERHEAD_BYTES",
    "INITIATION",
    "RESPONSE",
    "DropReason",
    "HandshakeError",
    "HandshakeReason",
    "KeyPair",
    "Outgoing",
    "RateLimiter",
    "SessionValues",
    "Transport",
    "Tunnel",
    "Workspace",
    "connection_of",
    "format_index",
    "format_key",
    "message_type",
    "peek_initiator",
    "receiver_index",
]
