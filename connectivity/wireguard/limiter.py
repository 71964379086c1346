"""The handshake rate limiter of a node, shared by its tunnels (WireGuard paper, section 5.3).

Messages with a right mac1 fall into three classes, each with a budget of its own, so that a flood of one leaves room
for the others:

* from an address that ICE has proven to be a peer's (port included: clients behind one relay or NAT stay apart);
* with a cookie for the sender's IP address: as many for one address, and in all;
* from anybody else: ``LIMIT`` in all.

Whoever is over budget is sent a cookie, which costs the most here, so these are few: per second, and per network. What
is beyond that is dropped before any cryptography. Windows of a second are opened by the first message after a quiet
second, so that the limiter needs no timer; every table lives for one window and holds what was let through in it.
"""

from collections import Counter
from collections.abc import Callable
from typing import Final

from connectivity.clock import SECOND, Duration, Instant
from connectivity.endpoint import Endpoint, IPAddress, source_of
from connectivity.wireguard.cookie import Verifier
from connectivity.wireguard.errors import HandshakeError, HandshakeReason
from connectivity.wireguard.messages import MAC_BYTES

LIMIT: Final = 100  # messages
WINDOW: Final[Duration] = SECOND
# A peer begins a session every two minutes, and repeats a lost message after five seconds.
KNOWN_LIMIT: Final = 10
PROVEN_LIMIT: Final = 100
PROVEN_ADDRESS_LIMIT: Final = 10
# A reply costs 0.1 ms of pure Python: these take half a percent of a core.
REPLY_LIMIT: Final = 50
REPLY_NETWORK_LIMIT: Final = 5
_NETWORK_BYTES: Final = {4: 3, 6: 7}  # /24, /56: of what many addresses are given to one customer
_NO_MAC2: Final = bytes(MAC_BYTES)


class RateLimiter:
    """One per node, made for the node's public key; replace it together with the key."""

    def __init__(self, public_key: bytes, rng: Callable[[int], bytes], *, limit: int = LIMIT) -> None:
        self._verifier = Verifier(public_key, rng)
        self._limit = limit
        self._window_ends_at: Instant = 0
        self._charged: bytes | None = None
        self._open_window(0)

    def is_shut(self, message: bytes | memoryview, source_ip: IPAddress, now: Instant) -> bool:
        """Whether a stranger's message would only be dropped: nothing is left in this second, and it has no cookie."""
        return (
            now < self._window_ends_at
            and self._count >= self._limit
            and message[-MAC_BYTES:] == _NO_MAC2
            and not self._has_reply(source_ip)
        )

    def admit(
        self, message: bytes, source_ip: IPAddress, now: Instant, *, known: Endpoint | None = None
    ) -> bytes | None:
        """Check and count a message of type 1 or 2; ``known`` is its source if ICE has proven that to be a peer's.

        Returns:
            None if it may be handled, else the cookie reply to send instead.

        Raises:
            HandshakeError: mac1 is not right, or nothing can be done about it in this second.
        """
        charged, self._charged = self._charged, None
        if charged is not None and charged == message:
            return None
        return self._judge(message, source_ip, now, known)

    def admit_once(
        self, message: bytes, source_ip: IPAddress, now: Instant, *, known: Endpoint | None = None
    ) -> bytes | None:
        """``admit`` ahead of the tunnel: the tunnel's own ``admit`` of this message, if it is the next, is free."""
        self._charged = None  # for nobody but the tunnel, or who repeats a message would not be counted
        reply = self._judge(message, source_ip, now, known)
        if reply is None:
            self._charged = message
        return reply

    def _judge(self, message: bytes, source_ip: IPAddress, now: Instant, known: Endpoint | None) -> bytes | None:
        if now >= self._window_ends_at:
            self._open_window(now + WINDOW)
        is_full = known is None and self._count >= self._limit and not self._has_reply(source_ip)
        if is_full and not self._has_cookie(message, source_ip, now):
            raise HandshakeError(HandshakeReason.UNDER_LOAD)
        self._verifier.check_mac1(message)
        if known is not None and self._known[known] < KNOWN_LIMIT:
            self._known[known] += 1
            return None
        if known is None and self._count < self._limit:
            self._count += 1
            return None
        if not self._has_cookie(message, source_ip, now):
            return self._reply(message, source_ip, now)
        self._admit_proven(source_ip)
        return None

    def _open_window(self, ends_at: Instant) -> None:
        self._window_ends_at = ends_at
        self._count = self._reply_count = self._proven_count = 0
        self._known: Counter[Endpoint] = Counter()
        self._proven: Counter[bytes] = Counter()
        self._replies: Counter[bytes] = Counter()

    def _has_reply(self, source_ip: IPAddress) -> bool:
        """Whether a cookie may be sent there in this second."""
        if self._reply_count >= REPLY_LIMIT:
            return False
        return self._replies.get(_network(source_ip), 0) < REPLY_NETWORK_LIMIT

    def _has_cookie(self, message: bytes, source_ip: IPAddress, now: Instant) -> bool:
        return message[-MAC_BYTES:] != _NO_MAC2 and self._verifier.has_mac2(message, source_ip, now)

    def _admit_proven(self, source_ip: IPAddress) -> None:
        """Raises HandshakeError if this address, or all of them, have had enough."""
        address = source_of(source_ip)
        if self._proven_count >= PROVEN_LIMIT or self._proven[address] >= PROVEN_ADDRESS_LIMIT:
            raise HandshakeError(HandshakeReason.UNDER_LOAD)
        self._proven_count += 1
        self._proven[address] += 1

    def _reply(self, message: bytes, source_ip: IPAddress, now: Instant) -> bytes:
        """Raises HandshakeError if this network, or all of them, have got enough."""
        if not self._has_reply(source_ip):
            raise HandshakeError(HandshakeReason.UNDER_LOAD)
        self._reply_count += 1
        self._replies[_network(source_ip)] += 1
        return self._verifier.reply(message, source_ip, now)


def _network(source_ip: IPAddress) -> bytes:
    return source_ip.packed[: _NETWORK_BYTES[source_ip.version]]
