"""Where WireGuard's handshake messages come in: who is let through, and to which connection.

What a flood of initiations may cost is decided here, before anything else is done about them; data of sessions never
comes this way. A source from which a peer has answered ICE has a budget of its own (see ``wireguard.limiter``).
"""

from collections import Counter
from typing import Final

from connectivity.clock import Instant, WallTime
from connectivity.endpoint import Endpoint
from connectivity.node.connection import Connection
from connectivity.node.connections import ConnectionTable
from connectivity.node.errors import NodeError, StrayDatagramError, UnknownConnectionError
from connectivity.stun import HEADER_BYTES as STUN_HEADER_BYTES
from connectivity.wireguard import (
    INITIATION,
    HandshakeError,
    HandshakeReason,
    KeyPair,
    RateLimiter,
    format_key,
    message_type,
    peek_initiator,
    receiver_index,
)

_INITIATION_BYTE: Final = bytes((INITIATION,))
_HANDSHAKE_ZEROS: Final = bytes(3)  # behind the type; STUN has its length there, which is never 0 for these


def is_handshake_shaped(data: memoryview) -> bool:
    """Whether this cannot be STUN although it begins with the same byte."""
    return data[1:4] == _HANDSHAKE_ZEROS and len(data) > STUN_HEADER_BYTES


class Handshakes:
    """Admits the handshake messages for one key of a node; counts what it refuses, by reason."""

    def __init__(
        self, keys: KeyPair, limiter: RateLimiter, connections: ConnectionTable, refused: Counter[HandshakeReason]
    ) -> None:
        self._keys = keys
        self._limiter = limiter
        self._connections = connections
        self.refused = refused

    def is_flood(self, remote: Endpoint, data: memoryview, now: Instant) -> bool:
        """Whether this is one initiation of strangers too many; then it was counted, and nothing is to be done."""
        if (
            data[:1] != _INITIATION_BYTE
            or not self._limiter.is_shut(data, remote.ip, now)
            or self._known(remote) is not None
        ):
            return False
        self.refused[HandshakeReason.UNDER_LOAD] += 1
        return True

    def handle(self, remote: Endpoint, data: memoryview, now: Instant, wall_now: WallTime) -> None:
        """A message of type 1, 2 or 3.

        Raises:
            NodeError: it is none, is for nobody, or its connection refuses it.
            HandshakeError: it is from nobody who knows our key, or under load; may come with a cookie.
        """
        kind = message_type(data)
        if kind is None:
            raise StrayDatagramError("not a WireGuard packet: from={} length={}", remote, len(data))
        known = self._known(remote)
        connection = self._initiator(remote, data, now, known) if kind == INITIATION else self._receiver(data)
        try:
            completed = connection.tunnel.handle_handshake(data, remote.ip, now, wall_now, known=known)
        except HandshakeError as error:
            self.refused[error.reason] += 1
            raise NodeError("{} length={}: handshake packet: {}", connection.named, len(data), error) from error
        if completed:
            connection.handshake_completed()
        connection.drain_tunnel(now)

    def _known(self, remote: Endpoint) -> Endpoint | None:
        return remote if self._connections.has_heard_from(remote) else None

    def _initiator(self, remote: Endpoint, data: memoryview, now: Instant, known: Endpoint | None) -> Connection:
        try:
            key = peek_initiator(self._keys, data, limiter=self._limiter, source_ip=remote.ip, now=now, known=known)
        except HandshakeError as error:
            self.refused[error.reason] += 1
            raise
        connection = self._connections.of_key(key)
        if connection is None:
            raise UnknownConnectionError("no connection for key {}", format_key(key))
        return connection

    def _receiver(self, data: memoryview) -> Connection:
        index = receiver_index(data)
        connection = self._connections.at_index(index)
        if connection is None:
            raise UnknownConnectionError("no connection for index {}", index >> 8)
        return connection
