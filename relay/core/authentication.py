"""Who sent a request: long-term credentials (RFC 8489 §9.2.4), in the order of the standard.

What the server can do besides RFC 5389 stands in front of each nonce, as a cookie and 24 bits (§9.2). A nonce without
the cookie of this server is not one of its nonces, so nobody on the way can talk client and server down to less.

Under a portal's stamp secret Firezone's peers decide, who know MD5 keys only (``CredentialSource.signs_unverified``):

- No cookie, no PASSWORD-ALGORITHMS.
- A request with credentials but no NONCE gets 401, not 400: they start like that.
- Answers are signed whenever the request's USERNAME allows deriving the key, refusals included: they ignore unsigned
  ones. Elsewhere a refusal to somebody unknown is never signed, and is the same for users that exist and that do not.

For everybody, a nonce that is not ours, not this client's, or stale gets 438 and never 401: a peer whose nonce is
answered by 401 takes its credentials for wrong.
"""

import hmac
from base64 import b64encode
from dataclasses import dataclass
from typing import Final, Protocol

from connectivity.clock import Instant, WallTime
from connectivity.endpoint import Endpoint
from connectivity.stun import (
    Attribute,
    ErrorCode,
    Message,
    Nonce,
    PasswordAlgorithm,
    PasswordAlgorithms,
    Realm,
    Userhash,
    Username,
    long_term_key,
    long_term_key_sha256,
)
from relay.core.credentials import Credential, CredentialSource, opaque_string
from relay.core.refusal import Refusal
from relay.core.requests.request import names_firezone
from relay.core.signature import Signature
from relay.core.statistics import CredentialRefusal

_COOKIE: Final = "obMatJos2"
MILLISECONDS: Final = 10**11  # as seconds the year 5138; as milliseconds of Unix time 1973
# §18.1. Bit 0 is the rightmost one (erratum 6290, and the example of B.1).
_HAS_PASSWORD_ALGORITHMS: Final = 1 << 0
_HAS_USERNAME_ANONYMITY: Final = 1 << 1
_MD5: Final = PasswordAlgorithm(1)
_SHA256: Final = PasswordAlgorithm(2)
_OFFERED: Final = PasswordAlgorithms((_SHA256, _MD5))
# Stands in for a user that does not exist, so that looking costs the same.
_NOBODY: Final = Credential("", "", None, "")


class NonceSource(Protocol):
    """Makes and checks nonces."""

    def mint(self, client: Endpoint, now: Instant) -> str:
        """A fresh nonce."""

    def is_valid(self, nonce: str, client: Endpoint, now: Instant) -> bool:
        """Whether a nonce may be used."""


@dataclass(frozen=True, slots=True)
class User:
    """An authenticated sender. ``name`` is whom quotas count, ``signature`` is for the answers."""

    username: str
    name: str
    signature: Signature

    def __repr__(self) -> str:
        return "User(hidden)"


class Authenticator:
    """Checks requests of one realm."""

    def __init__(self, *, realm: str, source: CredentialSource, nonces: NonceSource) -> None:
        self.in_milliseconds = 0  # names with a time that, as seconds, is thousands of years ahead
        self._nonces = nonces
        self.use(realm, source)

    def use(self, realm: str, source: CredentialSource) -> None:
        """Count these credentials from now on."""
        self._realm = opaque_string(realm)
        self._source = source
        self._prefix = ""
        self._offered: tuple[Attribute, ...] = ()
        if not source.signs_unverified:
            features = _HAS_PASSWORD_ALGORITHMS | (_HAS_USERNAME_ANONYMITY if source.offers_anonymity else 0)
            self._prefix = _COOKIE + b64encode(features.to_bytes(3, "big")).decode()
            self._offered = (_OFFERED,)

    def is_firezone(self, message: Message) -> bool:
        """Whether one of Firezone's peers sent it. They live under a portal; elsewhere nobody is spared anything."""
        return self._source.signs_unverified and names_firezone(message)

    def knows(self, username: str, key: bytes) -> bool:
        """Whether this key is still one of this user's. Of a time-limited name the time does not matter."""
        return any(
            hmac.compare_digest(key, self._key(credential, algorithm))
            for credential in self._source.lookup(username)
            for algorithm in _OFFERED.algorithms
        )

    def is_our_nonce(self, nonce: str, client: Endpoint, now: Instant) -> bool:
        """Whether we gave it to this client, who is no other's forgery then, and it may be used."""
        prefix = self._prefix
        return nonce.startswith(prefix) and self._nonces.is_valid(nonce[len(prefix) :], client, now)

    def signature_for(self, username: str | None) -> Signature | None:
        """What signs a refusal to a request that proves nothing: None where that would tell who exists."""
        if username is None or not self._source.signs_unverified:
            return None
        credential = next(iter(self._source.lookup(username)), None)
        return None if credential is None else Signature(self._key(credential, _MD5))

    def authenticate(
        self, message: Message, client: Endpoint, now: Instant, wall_now: WallTime, *, holder: str | None = None
    ) -> User | Refusal:
        """The sender of a request, or how to refuse it. ``holder``: the username of the allocation that it is about."""
        username, userhash, nonce = message.get(Username), message.get(Userhash), message.get(Nonce)
        realm = message.get(Realm)
        signature = self.signature_for(None if username is None else username.value)
        if not message.has_integrity and not message.has_integrity_sha256:
            return self._challenge(ErrorCode.UNAUTHENTICATED, signature, client, now)
        if (username is None and userhash is None) or realm is None:
            return Refusal(ErrorCode.BAD_REQUEST, signature=signature)
        if nonce is None:
            if not self._source.signs_unverified:
                return Refusal(ErrorCode.BAD_REQUEST)
            return self._challenge(ErrorCode.UNAUTHENTICATED, signature, client, now)
        if not self.is_our_nonce(nonce.value, client, now):
            return self._challenge(ErrorCode.STALE_NONCE, signature, client, now)
        algorithm = self._algorithm(message)
        if algorithm is None:
            return Refusal(ErrorCode.BAD_REQUEST, signature=signature)
        # RFC 8489 §9.2.4 has one answer for all of these, so that nobody learns who exists.
        cause = CredentialRefusal.WRONG_PASSWORD if realm.value == self._realm else CredentialRefusal.WRONG_REALM
        for credential in self._candidates(username, userhash):
            proof = Signature(self._key(credential, algorithm), message.has_integrity_sha256)
            keeps = credential.keeps and credential.username == holder
            is_over = credential.is_expired(wall_now) and not keeps
            if proof.is_of(message) and credential is not _NOBODY and not is_over:
                if credential.expires_at is not None and credential.expires_at >= MILLISECONDS:
                    self.in_milliseconds += 1
                return User(credential.username, credential.user, proof)
            if credential is _NOBODY:
                cause = CredentialRefusal.UNKNOWN_USER
            elif is_over and proof.is_of(message):
                cause = CredentialRefusal.EXPIRED
        return self._challenge(ErrorCode.UNAUTHENTICATED, signature, client, now, cause)

    def _candidates(self, username: Username | None, userhash: Userhash | None) -> tuple[Credential, ...]:
        """Whoever may have sent it; never nobody at all, so that unknown users take their time, too."""
        if username is not None:
            return self._source.lookup(username.value) or (_NOBODY,)
        found = None if userhash is None else self._source.by_userhash(userhash.value, self._realm)
        return (found or _NOBODY,)

    def _algorithm(self, message: Message) -> PasswordAlgorithm | None:
        """What makes the key; None if the client was not offered what it answers."""
        chosen, offered = message.get(PasswordAlgorithm), message.get(PasswordAlgorithms)
        if not self._offered or (chosen is None and offered is None):
            return _MD5
        return chosen if chosen in _OFFERED.algorithms and offered == _OFFERED else None

    def _key(self, credential: Credential, algorithm: PasswordAlgorithm) -> bytes:
        derive = long_term_key_sha256 if algorithm == _SHA256 else long_term_key
        return derive(credential.username, self._realm, credential.password)

    def _challenge(
        self,
        code: ErrorCode,
        signature: Signature | None,
        client: Endpoint,
        now: Instant,
        cause: CredentialRefusal | None = None,
    ) -> Refusal:
        nonce = Nonce(self._prefix + self._nonces.mint(client, now))
        return Refusal(code, (Realm(self._realm), nonce, *self._offered), signature, cause)
