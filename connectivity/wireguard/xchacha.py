"""XChaCha20-Poly1305 (draft-irtf-cfrg-xchacha-03), which only cookie replies use.

The sub-key function HChaCha20 is in no Python library that we depend on; the cipher itself is ChaCha20-Poly1305 with
the sub-key. Plain integer arithmetic: some 100 microseconds a call, and calls are limited by the handshake rate limit.
The key is derived from a public key, so its timing tells an observer nothing that is not public.
"""

from struct import Struct
from typing import Final

from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

NONCE_BYTES: Final = 24

_MASK: Final = 0xFFFFFFFF
_SIXTEEN_WORDS = Struct("<16I")
_EIGHT_WORDS = Struct("<8I")
_CONSTANT: Final = b"expand 32-byte k"
_COLUMNS_AND_DIAGONALS: Final = (
    *((i, i + 4, i + 8, i + 12) for i in range(4)),
    *((i, (i + 1) % 4 + 4, (i + 2) % 4 + 8, (i + 3) % 4 + 12) for i in range(4)),
)


def encrypt(key: bytes, nonce: bytes, plaintext: bytes, associated: bytes) -> bytes:
    """Ciphertext and tag; ``key`` has 32 bytes, ``nonce`` 24."""
    return _cipher(key, nonce).encrypt(_short_nonce(nonce), plaintext, associated)


def decrypt(key: bytes, nonce: bytes, ciphertext: bytes, associated: bytes) -> bytes:
    """The plaintext.

    Raises:
        cryptography.exceptions.InvalidTag: not authentic.
    """
    return _cipher(key, nonce).decrypt(_short_nonce(nonce), ciphertext, associated)


def hchacha20(key: bytes, nonce: bytes) -> bytes:
    """The 32-byte sub-key of a 32-byte key and a 16-byte nonce (section 2.2)."""
    words = list(_SIXTEEN_WORDS.unpack(_CONSTANT + key + nonce))
    for _ in range(10):
        for a, b, c, d in _COLUMNS_AND_DIAGONALS:
            _quarter_round(words, a, b, c, d)
    return _EIGHT_WORDS.pack(*words[:4], *words[12:])


def _cipher(key: bytes, nonce: bytes) -> ChaCha20Poly1305:
    return ChaCha20Poly1305(hchacha20(key, nonce[:16]))


def _short_nonce(nonce: bytes) -> bytes:
    return bytes(4) + nonce[16:]


def _quarter_round(words: list[int], a: int, b: int, c: int, d: int) -> None:
    """RFC 8439, section 2.1."""
    for left, right, target, bits in ((a, b, d, 16), (c, d, b, 12), (a, b, d, 8), (c, d, b, 7)):
        words[left] = (words[left] + words[right]) & _MASK
        mixed = words[target] ^ words[left]
        words[target] = (mixed << bits | mixed >> (32 - bits)) & _MASK
