"""The two MACs of handshake messages and the cookies behind the second (WireGuard paper, sections 5.4.4, 5.4.7).

mac1 is keyed with the receiver's public key: it shows that the sender knows whom it talks to. mac2 is keyed with a
cookie that the receiver handed out and that binds the sender's IP address (not its port). All comparisons take constant
time.
"""

import hmac
from collections.abc import Callable
from hashlib import blake2s
from typing import Final

from cryptography.exceptions import InvalidTag

from connectivity.clock import SECOND, Duration, Instant
from connectivity.endpoint import IPAddress
from connectivity.wireguard import xchacha
from connectivity.wireguard.errors import HandshakeError, HandshakeReason
from connectivity.wireguard.messages import MAC_BYTES, MACS_BYTES, CookieReply, sender_index

LABEL_MAC1: Final = b"mac1----"
LABEL_COOKIE: Final = b"cookie--"
COOKIE_LIFETIME: Final[Duration] = 120 * SECOND  # a received cookie
SECRET_LIFETIME: Final[Duration] = 128 * SECOND  # the secret behind the cookies that we hand out
_NO_MAC2: Final = bytes(MAC_BYTES)


class Stamper:
    """Puts the MACs on messages to one peer, and keeps the cookie that it gave us."""

    def __init__(self, peer_public_key: bytes) -> None:
        self._mac1_key = blake2s(LABEL_MAC1 + peer_public_key).digest()
        self._cookie_key = blake2s(LABEL_COOKIE + peer_public_key).digest()
        self._last: tuple[int, bytes] | None = None  # sender index and mac1 of our last message
        self._cookie = b""
        self._cookie_expires_at: Instant = 0

    def stamp(self, body: bytes, now: Instant) -> bytes:
        """``body`` with mac1, and with mac2 while we hold a cookie."""
        mac1 = _mac(self._mac1_key, body)
        self._last = (sender_index(body), mac1)
        if not self._cookie or now >= self._cookie_expires_at:
            self._cookie = b""
            return body + mac1 + _NO_MAC2
        return body + mac1 + _mac(self._cookie, body + mac1)

    def handle_reply(self, reply: CookieReply, now: Instant) -> None:
        """Keep the cookie for the next messages.

        Raises:
            HandshakeError: it answers none of our messages, or is not authentic.
        """
        if self._last is None or self._last[0] != reply.receiver:
            raise HandshakeError(HandshakeReason.UNKNOWN_INDEX)
        try:
            self._cookie = xchacha.decrypt(self._cookie_key, reply.nonce, reply.encrypted_cookie, self._last[1])
        except InvalidTag as error:
            raise HandshakeError(HandshakeReason.INVALID_COOKIE) from error
        self._cookie_expires_at = now + COOKIE_LIFETIME


class Verifier:
    """Checks the MACs of messages to us and makes cookie replies."""

    def __init__(self, public_key: bytes, rng: Callable[[int], bytes]) -> None:
        self._mac1_key = mac1_key(public_key)
        self._cookie_key = blake2s(LABEL_COOKIE + public_key).digest()
        self._rng = rng
        self._secret = b""
        self._secret_expires_at: Instant = 0

    def check_mac1(self, message: bytes) -> None:
        """Raises HandshakeError if mac1 is not right."""
        check_mac1(self._mac1_key, message)

    def has_mac2(self, message: bytes, source_ip: IPAddress, now: Instant) -> bool:
        """Whether mac2 was made with the cookie that ``source_ip`` has from us now."""
        expected = _mac(self._cookie(source_ip, now), message[:-MAC_BYTES])
        return hmac.compare_digest(expected, message[-MAC_BYTES:])

    def reply(self, message: bytes, source_ip: IPAddress, now: Instant) -> bytes:
        """The cookie reply to a message whose mac1 is right."""
        nonce = self._rng(xchacha.NONCE_BYTES)
        mac1 = message[-MACS_BYTES:-MAC_BYTES]
        encrypted = xchacha.encrypt(self._cookie_key, nonce, self._cookie(source_ip, now), mac1)
        return CookieReply(sender_index(message), nonce, encrypted).encode()

    def _cookie(self, source_ip: IPAddress, now: Instant) -> bytes:
        if not self._secret or now >= self._secret_expires_at:
            self._secret = self._rng(32)
            self._secret_expires_at = now + SECRET_LIFETIME
        return _mac(self._secret, source_ip.packed)


def mac1_key(public_key: bytes) -> bytes:
    """The key of mac1 on messages to the owner of ``public_key``."""
    return blake2s(LABEL_MAC1 + public_key).digest()


def check_mac1(key: bytes, message: bytes) -> None:
    """Raises HandshakeError if mac1 of an initiation or response is not right."""
    expected = _mac(key, message[:-MACS_BYTES])
    if not hmac.compare_digest(expected, message[-MACS_BYTES:-MAC_BYTES]):
        raise HandshakeError(HandshakeReason.INVALID_MAC1)


def _mac(key: bytes, data: bytes) -> bytes:
    return blake2s(data, digest_size=MAC_BYTES, key=key).digest()
