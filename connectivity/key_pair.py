"""X25519 key pairs and how public keys are shown.

Keys are 32 bytes. A private key appears in no ``repr`` and no error text; a public key is shown as one unsigned 256-bit
decimal number, because log and issue trackers group numbers but not hexadecimal text.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey

KEY_BYTES: Final = 32


@dataclass(frozen=True, slots=True, repr=False)
class KeyPair:
    """An X25519 key pair; two pairs are equal when their public keys are."""

    private: bytes = field(compare=False)
    public: bytes
    _engine: X25519PrivateKey = field(compare=False)

    @classmethod
    def generate(cls, rng: Callable[[int], bytes]) -> "KeyPair":
        """A fresh pair from 32 bytes of ``rng``."""
        return cls.from_private(rng(KEY_BYTES))

    @classmethod
    def from_private(cls, private: bytes) -> "KeyPair":
        """The pair of a private key.

        Raises:
            ValueError: ``private`` is not 32 bytes long.
        """
        engine = X25519PrivateKey.from_private_bytes(private)
        return cls(bytes(private), engine.public_key().public_bytes_raw(), engine)

    def exchange(self, public: bytes) -> bytes:
        """The Diffie-Hellman secret shared with the owner of ``public``.

        Raises:
            ValueError: ``public`` is not a usable key (a point of low order gives the all-zero secret).
        """
        return self._engine.exchange(X25519PublicKey.from_public_bytes(public))

    def __repr__(self) -> str:
        return f"KeyPair(public={format_key(self.public)})"


def format_key(public_key: bytes) -> str:
    """A public key as big-endian unsigned 256-bit decimal."""
    return str(int.from_bytes(public_key, "big"))
