"""The Noise handshake IKpsk2 with 25519, ChaChaPoly and BLAKE2s (Noise specification, revision 34).

::

    <- s
    -> e, es, s, ss, payload
    <- e, ee, se, psk, payload

Knows nothing of WireGuard but the name: prologue and payloads are arguments, so that public Noise vectors drive it.
Every key of this pattern encrypts exactly one message before it is replaced, hence all handshake nonces are zero. With
a psk modifier each ephemeral key is mixed into the chaining key as well as into the hash (Noise, section 9.2).
"""

import hmac
from hashlib import blake2s
from typing import Final, NamedTuple

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from connectivity.key_pair import KeyPair

PROTOCOL_NAME: Final = b"Noise_IKpsk2_25519_ChaChaPoly_BLAKE2s"
_ZERO_NONCE: Final = bytes(12)


class NoiseError(Exception):
    """A handshake message does not authenticate, or holds an unusable key."""


class TransportKeys(NamedTuple):
    """The two keys that a finished handshake leaves, from this side's point of view."""

    send: bytes
    receive: bytes

    def __repr__(self) -> str:
        return "TransportKeys(...)"


class FirstMessage(NamedTuple):
    """``e, es, s, ss, payload``."""

    ephemeral: bytes
    encrypted_static: bytes
    encrypted_payload: bytes


class SecondMessage(NamedTuple):
    """``e, ee, se, psk, payload``."""

    ephemeral: bytes
    encrypted_payload: bytes


class Initiator:
    """The side that speaks first; ``write`` once, then ``read`` the answer."""

    def __init__(
        self, *, static: KeyPair, ephemeral: KeyPair, remote_static: bytes, preshared_key: bytes, prologue: bytes
    ) -> None:
        self._static = static
        self._ephemeral = ephemeral
        self._remote_static = remote_static
        self._preshared_key = preshared_key
        self._state = _SymmetricState(prologue, responder_static=remote_static)

    def write(self, payload: bytes) -> FirstMessage:
        """The first message.

        Raises:
            NoiseError: the remote static key is unusable.
        """
        state = self._state
        state.mix_ephemeral(self._ephemeral.public)
        state.mix_key(_exchange(self._ephemeral, self._remote_static))
        encrypted_static = state.encrypt(self._static.public)
        state.mix_key(_exchange(self._static, self._remote_static))
        return FirstMessage(self._ephemeral.public, encrypted_static, state.encrypt(payload))

    def read(self, message: SecondMessage) -> tuple[bytes, TransportKeys]:
        """The payload of the second message and the transport keys. May be tried again after a failure.

        Raises:
            NoiseError: the message does not authenticate.
        """
        state = self._state.copy()
        state.mix_ephemeral(message.ephemeral)
        state.mix_key(_exchange(self._ephemeral, message.ephemeral))
        state.mix_key(_exchange(self._static, message.ephemeral))
        state.mix_key_and_hash(self._preshared_key)
        payload = state.decrypt(message.encrypted_payload)
        mine, theirs = state.split()
        self._state = state
        return payload, TransportKeys(send=mine, receive=theirs)

    @property
    def handshake_hash(self) -> bytes:
        """The hash of the transcript so far."""
        return self._state.hash


class Responder:
    """The side that answers: ``read_static``, ``read_payload``, then ``write``."""

    def __init__(self, *, static: KeyPair, prologue: bytes) -> None:
        self._static = static
        self._state = _SymmetricState(prologue, responder_static=static.public)
        self._remote_ephemeral = b""
        self._remote_static = b""

    def read_static(self, ephemeral: bytes, encrypted_static: bytes) -> bytes:
        """The initiator's static key: who this is, before it has proved that it owns the key.

        Raises:
            NoiseError: the key does not decrypt with ours.
        """
        self._remote_ephemeral = ephemeral
        self._state.mix_ephemeral(ephemeral)
        self._state.mix_key(_exchange(self._static, ephemeral))
        self._remote_static = self._state.decrypt(encrypted_static)
        return self._remote_static

    def read_payload(self, encrypted_payload: bytes) -> bytes:
        """The payload of the first message, which also proves the static key.

        Raises:
            NoiseError: it does not authenticate.
        """
        self._state.mix_key(_exchange(self._static, self._remote_static))
        return self._state.decrypt(encrypted_payload)

    def write(self, *, ephemeral: KeyPair, preshared_key: bytes, payload: bytes) -> tuple[SecondMessage, TransportKeys]:
        """The second message and the transport keys."""
        state = self._state
        state.mix_ephemeral(ephemeral.public)
        state.mix_key(_exchange(ephemeral, self._remote_ephemeral))
        state.mix_key(_exchange(ephemeral, self._remote_static))
        state.mix_key_and_hash(preshared_key)
        message = SecondMessage(ephemeral.public, state.encrypt(payload))
        theirs, mine = state.split()
        return message, TransportKeys(send=mine, receive=theirs)

    @property
    def handshake_hash(self) -> bytes:
        """The hash of the transcript so far."""
        return self._state.hash


class _SymmetricState:
    """Chaining key, transcript hash and current key (Noise, section 5.2)."""

    __slots__ = ("chaining_key", "hash", "key")

    def __init__(self, prologue: bytes, *, responder_static: bytes) -> None:
        self.chaining_key = blake2s(PROTOCOL_NAME).digest()
        self.hash = self.chaining_key
        self.key = b""
        self.mix_hash(prologue)
        self.mix_hash(responder_static)

    def copy(self) -> "_SymmetricState":
        twin = _SymmetricState.__new__(_SymmetricState)
        twin.chaining_key, twin.hash, twin.key = self.chaining_key, self.hash, self.key
        return twin

    def mix_hash(self, data: bytes) -> None:
        self.hash = blake2s(self.hash + data).digest()

    def mix_key(self, material: bytes) -> None:
        self.chaining_key, self.key = _derive(self.chaining_key, material, 2)

    def mix_ephemeral(self, public: bytes) -> None:
        self.mix_hash(public)
        self.mix_key(public)

    def mix_key_and_hash(self, material: bytes) -> None:
        self.chaining_key, digest, self.key = _derive(self.chaining_key, material, 3)
        self.mix_hash(digest)

    def encrypt(self, plaintext: bytes) -> bytes:
        ciphertext = ChaCha20Poly1305(self.key).encrypt(_ZERO_NONCE, plaintext, self.hash)
        self.mix_hash(ciphertext)
        return ciphertext

    def decrypt(self, ciphertext: bytes) -> bytes:
        try:
            plaintext = ChaCha20Poly1305(self.key).decrypt(_ZERO_NONCE, ciphertext, self.hash)
        except InvalidTag as error:
            raise NoiseError("message does not authenticate") from error
        self.mix_hash(ciphertext)
        return plaintext

    def split(self) -> tuple[bytes, bytes]:
        first, second = _derive(self.chaining_key, b"", 2)
        return first, second


def _derive(chaining_key: bytes, material: bytes, count: int) -> list[bytes]:
    """HKDF with HMAC-BLAKE2s and no info (Noise, section 4.3)."""
    secret = _hmac(chaining_key, material)
    outputs: list[bytes] = []
    previous = b""
    for number in range(1, count + 1):
        previous = _hmac(secret, previous + bytes((number,)))
        outputs.append(previous)
    return outputs


def _hmac(key: bytes, message: bytes) -> bytes:
    return hmac.new(key, message, blake2s).digest()


def _exchange(own: KeyPair, public: bytes) -> bytes:
    try:
        return own.exchange(public)
    except ValueError as error:
        raise NoiseError("unusable public key") from error
