"""Who sent a request: long-term credentials (RFC 8489 §9.2.4) with Firezone's deviations.

- A request with credentials but no NONCE gets 401, not 400: Firezone's peers start like that.
- A nonce that is not ours, not this client's, or stale gets 438 and never 401: a peer whose nonce is answered by 401
  takes its credentials for wrong.
- Answers are signed whenever the request's USERNAME allows deriving the key, refusals included: Firezone's peers ignore
  unsigned ones.
"""

from dataclasses import dataclass
from typing import Protocol

from connectivity.clock import SECOND, Instant, WallTime
from connectivity.endpoint import Endpoint
from connectivity.stun import ErrorCode, Message, Nonce, Realm, Username, long_term_key
from connectivity.turn import credentials
from relay.core.refusal import Refusal


@dataclass(frozen=True, slots=True)
class Credential:
    """What we know about a username. ``expires_at`` is in Unix seconds."""

    username: str
    password: str
    expires_at: int

    def __repr__(self) -> str:
        return "Credential(hidden)"


class CredentialSource(Protocol):
    """Where passwords come from."""

    def lookup(self, username: str) -> Credential | None:
        """The credential of a username; None if no such user can exist."""


class StampSecretCredentials:
    """Credentials that a portal derives from the stamp secret we joined with; nothing is stored per user."""

    def __init__(self, stamp_secret: str) -> None:
        self._stamp_secret = stamp_secret

    def lookup(self, username: str) -> Credential | None:
        """The credential that the portal gave out under this name, if the name has the right form."""
        claims = credentials.parse_username(username)
        if claims is None:
            return None
        return Credential(username, credentials.password(claims.expiry, self._stamp_secret, claims.salt), claims.expiry)


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
        credential = None if username is None else self._source.lookup(username)
        return None if credential is None else self._key(credential)

    def authenticate(self, message: Message, client: Endpoint, now: Instant, wall_now: WallTime) -> User | Refusal:
        """The sender of a request, or how to refuse it."""
        username, nonce = message.get(Username), message.get(Nonce)
        credential = None if username is None else self._source.lookup(username.value)
        key = None if credential is None else self._key(credential)
        if not message.has_integrity:
            return self._challenge(ErrorCode.UNAUTHENTICATED, key, client, now)
        if username is None or message.get(Realm) is None:
            return Refusal(ErrorCode.BAD_REQUEST, key=key)
        if nonce is None:
            return self._challenge(ErrorCode.UNAUTHENTICATED, key, client, now)
        if not self._nonces.is_valid(nonce.value, client, now):
            return self._challenge(ErrorCode.STALE_NONCE, key, client, now)
        if credential is None or key is None or credential.expires_at * SECOND < wall_now:
            return self._challenge(ErrorCode.UNAUTHENTICATED, key, client, now)
        if not message.verify_integrity(key):
            return self._challenge(ErrorCode.UNAUTHENTICATED, key, client, now)
        return User(username.value, key)

    def _key(self, credential: Credential) -> bytes:
        return long_term_key(credential.username, self._realm, credential.password)

    def _challenge(self, code: ErrorCode, key: bytes | None, client: Endpoint, now: Instant) -> Refusal:
        return Refusal(code, (Realm(self._realm), Nonce(self._nonces.mint(client, now))), key)
