"""The handshake rate limiter of a node, shared by its tunnels (WireGuard paper, section 5.3).

Counts initiations and responses with a right mac1. Above ``LIMIT`` within a second, only senders with a cookie for
their IP address are let through; the others get a cookie reply. Windows are opened by the first message after a quiet
second, so that the limiter needs no timer.
"""

from collections.abc import Callable
from typing import Final

from connectivity.clock import SECOND, Duration, Instant
from connectivity.endpoint import IPAddress
from connectivity.wireguard.cookie import Verifier

LIMIT: Final = 100  # messages
WINDOW: Final[Duration] = SECOND


class RateLimiter:
    """One per node, made for the node's public key; replace it together with the key."""

    def __init__(self, public_key: bytes, rng: Callable[[int], bytes], *, limit: int = LIMIT) -> None:
        self._verifier = Verifier(public_key, rng)
        self._limit = limit
        self._count = 0
        self._window_ends_at: Instant = 0
        self._charged: bytes | None = None

    def admit(self, message: bytes, source_ip: IPAddress, now: Instant) -> bytes | None:
        """Check and count a message of type 1 or 2.

        Returns:
            None if it may be handled, else the cookie reply to send instead.

        Raises:
            HandshakeError: mac1 is not right.
        """
        charged, self._charged = self._charged, None
        if charged is not None and charged == message:
            return None
        self._verifier.check_mac1(message)
        if now >= self._window_ends_at:
            self._count = 0
            self._window_ends_at = now + WINDOW
        self._count += 1
        if self._count <= self._limit or self._verifier.has_mac2(message, source_ip, now):
            return None
        return self._verifier.reply(message, source_ip, now)

    def admit_once(self, message: bytes, source_ip: IPAddress, now: Instant) -> bytes | None:
        """``admit`` ahead of the tunnel: the tunnel's own ``admit`` of this message, if it is the next, is free."""
        reply = self.admit(message, source_ip, now)
        if reply is None:
            self._charged = message
        return reply
