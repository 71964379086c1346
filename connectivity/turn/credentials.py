"""TURN credentials that a relay checks without storing any.

The portal makes them from a secret that it shares with one relay process, the relay makes them again from the username:

    salt      base64(SHA-256(text of the device's WireGuard public key))
    username  <expiry, seconds since the epoch>:<salt>
    password  base64(SHA-256(<expiry>:<stamp secret>:<salt>))

Base64 is the standard alphabet without padding. The stamp secret enters as text, whatever it looks like. They are used
as long-term credentials (RFC 8489 §9.2) in the realm ``firezone``.
"""

import hashlib
from base64 import b64encode
from typing import Final, NamedTuple

from connectivity.stun.integrity import long_term_key

REALM: Final = "firezone"
_LARGEST_EXPIRY: Final = (1 << 64) - 1
_LONGEST_EXPIRY: Final = 20  # digits of the largest 64-bit number


class Claims(NamedTuple):
    """What a username says. Nothing is proven until a message verifies with the key made from it."""

    expiry: int
    salt: str

    def is_expired(self, wall_seconds: int) -> bool:
        """Whether the credential ended before ``wall_seconds`` (seconds since the epoch)."""
        return self.expiry < wall_seconds

    def key(self, stamp_secret: str) -> bytes:
        """The long-term key of the one who was given this username."""
        return long_term_key(username(self.expiry, self.salt), REALM, password(self.expiry, stamp_secret, self.salt))


def salt(public_key_text: str) -> str:
    """The salt of a device; ``public_key_text`` is the base64 text exactly as the device announced it."""
    return _digest(public_key_text)


def username(expiry: int, salt: str) -> str:
    """The username that ends at ``expiry``, seconds since the epoch."""
    return f"{expiry}:{salt}"


def password(expiry: int, stamp_secret: str, salt: str) -> str:
    """The password that belongs to ``username(expiry, salt)``."""
    return _digest(f"{expiry}:{stamp_secret}:{salt}")


def parse_username(text: str) -> Claims | None:
    """Split a username; None if it is not exactly ``<64-bit decimal>:<salt>`` as ``username`` writes it."""
    digits, separator, rest = text.partition(":")
    if not separator or ":" in rest or not (digits.isascii() and digits.isdecimal()) or len(digits) > _LONGEST_EXPIRY:
        return None
    expiry = int(digits)
    # A leading zero would make one credential go by several names.
    if expiry > _LARGEST_EXPIRY or str(expiry) != digits:
        return None
    return Claims(expiry, rest)


def _digest(text: str) -> str:
    return b64encode(hashlib.sha256(text.encode()).digest()).decode().rstrip("=")
