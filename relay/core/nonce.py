"""Nonces that carry their own proof (RFC 8489 §9.2, and RFC 8656 §21 on denial of service).

A nonce is ``<age stamp><MAC over stamp and client address>`` in hexadecimal; the MAC is keyed BLAKE2s (RFC 7693). The
server remembers nothing, so a sender that never authenticates cannot make it grow; a nonce is good for one client
address and one hour, for any number of requests.
"""

import hashlib
import hmac
from typing import Final

from connectivity.clock import SECOND, Duration, Instant
from connectivity.endpoint import Endpoint

# Implementation constants: long enough that a client that refreshes every five minutes rarely meets a 438.
NONCE_LIFETIME: Final[Duration] = 3600 * SECOND
SECRET_BYTES: Final = 32
_STAMP_BYTES: Final = 8
_MAC_BYTES: Final = 16
_TEXT_LENGTH: Final = 2 * (_STAMP_BYTES + _MAC_BYTES)


class NonceMint:
    """Makes and checks nonces with a secret of this process."""

    def __init__(self, secret: bytes) -> None:
        self._secret = secret

    def mint(self, client: Endpoint, now: Instant) -> str:
        """A fresh nonce for this client: 48 characters."""
        stamp = (now // SECOND).to_bytes(_STAMP_BYTES, "big")
        return (stamp + self._mac(stamp, client)).hex()

    def is_valid(self, nonce: str, client: Endpoint, now: Instant) -> bool:
        """Whether we made it for this client and it is not stale."""
        if len(nonce) != _TEXT_LENGTH or not nonce.isascii():
            return False
        try:
            raw = bytes.fromhex(nonce)
        except ValueError:
            return False
        stamp, mac = raw[:_STAMP_BYTES], raw[_STAMP_BYTES:]
        if not hmac.compare_digest(mac, self._mac(stamp, client)):
            return False
        age = now // SECOND - int.from_bytes(stamp, "big")
        return 0 <= age * SECOND <= NONCE_LIFETIME

    def _mac(self, stamp: bytes, client: Endpoint) -> bytes:
        bound = stamp + client.port.to_bytes(2, "big") + client.ip.packed
        return hashlib.blake2s(bound, key=self._secret, digest_size=_MAC_BYTES).digest()
