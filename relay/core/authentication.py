"""Who sent a request: long-term credentials (RFC 8489 §9.2.4) with Firezone's deviations.

- A request with credentials but no NONCE gets 401, not 400: Firezone's peers start like that.
- A nonce that is not ours, not this client's, or stale gets 438 and never 401: a peer whose nonce is answered by 401
  takes its credentials for wrong.
- Answers are signed whenever the request's USERNAME allows deriving the key, refusals included: Firezone's peers ignore
  unsigned ones.
"""

from dataclasses import dataclass
from typing import Protocol

from connectivity.clock import Instant, WallTime
from connectivity.endpoint import Endpoint
from connectivity.stun import ErrorCode, Message, Nonce, Realm, Username, long_term_key
from relay.core.credentials import Credential, CredentialSource
from relay.core.refusal import Refusal


class NonceSource(Protocol):
    """Makes and checks nonces."""

    def mint(self, client: Endpoint, now: Instant) -> str:
        """A fresh nonce."""

    def is_valid(self, nonce: str, client: Endpoint, now: Instant) -> bool:
        """Whether a nonce may be used."""


@dataclass(frozen=True, slots=True)
class User:
    """An authenticated sender; ``key`` signs the answers."""

    username: str
    key: bytes

    def __repr__(self) -> str:
        return "User(hidden)"


class Authenticator:
    """Checks requests of one realm."""

    def __init__(self, *, realm: str, source: CredentialSource, nonces: NonceSource) -> None:
        self._realm = realm
        self._source = source
        self._nonces = nonces

    def key_of(self, username: str | None) -> bytes | None:
        """The key that signs answers to this username; None if it cannot be derived."""
        credential = None if username is None else next(iter(self._source.lookup(username)), None)
        return None if credential is None else self._key(credential)

    def authenticate(self, message: Message, client: Endpoint, now: Instant, wall_now: WallTime) -> User | Refusal:
        """The sender of a request, or how to refuse it."""
        username, nonce = message.get(Username), message.get(Nonce)
        credential = None if username is None else next(iter(self._source.lookup(username.value)), None)
        key = None if credential is None else self._key(credential)
        if not message.has_integrity:
            return self._challenge(ErrorCode.UNAUTHENTICATED, key, client, now)
        if username is None or message.get(Realm) is None:
            return Refusal(ErrorCode.BAD_REQUEST, key=key)
        if nonce is None:
            return self._challenge(ErrorCode.UNAUTHENTICATED, key, client, now)
        if not self._nonces.is_valid(nonce.value, client, now):
            return self._challenge(ErrorCode.STALE_NONCE, key, client, now)
        if credential is None or key is None or credential.is_expired(wall_now):
            return self._challenge(ErrorCode.UNAUTHENTICATED, key, client, now)
        if not message.verify_integrity(key):
            return self._challenge(ErrorCode.UNAUTHENTICATED, key, client, now)
        return User(username.value, key)

    def _key(self, credential: Credential) -> bytes:
        return long_term_key(credential.username, self._realm, credential.password)

    def _challenge(self, code: ErrorCode, key: bytes | None, client: Endpoint, now: Instant) -> Refusal:
        return Refusal(code, (Realm(self._realm), Nonce(self._nonces.mint(client, now))), key)
