"""Where passwords come from: a portal's stamp secret, a shared secret of TURN's REST interface, a list of users.

A source may know several passwords for one username: while a secret is being replaced, both count. Nothing that it
hands out shows a secret in its ``repr``.
"""

import hashlib
import hmac
import unicodedata
from base64 import b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from connectivity.clock import SECOND, WallTime
from connectivity.stun import userhash
from connectivity.turn import credentials

_LONGEST_TIMESTAMP: Final = 20


@dataclass(frozen=True, slots=True)
class Credential:
    """What we know about a username. ``expires_at`` is in Unix seconds; ``user`` is whom quotas count.

    ``keeps`` says that an allocation made in time may be kept beyond it.
    """

    username: str
    password: str
    expires_at: int | None
    user: str
    keeps: bool = False

    def is_expired(self, wall_now: WallTime) -> bool:
        """Whether its time is over."""
        return self.expires_at is not None and self.expires_at * SECOND < wall_now

    def __repr__(self) -> str:
        return "Credential(hidden)"


class CredentialSource(Protocol):
    """``signs_unverified``: answers are signed for whoever names a possible user, because clients need that.

    ``offers_anonymity``: every user can be found by a hash of the name (RFC 8489 §9.2).
    """

    @property
    def signs_unverified(self) -> bool: ...

    @property
    def offers_anonymity(self) -> bool: ...

    def lookup(self, username: str) -> tuple[Credential, ...]:
        """The credentials of a username, the likeliest first; none if no such user can exist."""

    def by_userhash(self, value: bytes, realm: str) -> Credential | None:
        """The credential whose username has this hash."""


class StampSecretCredentials:
    """Credentials that a portal derives from the stamp secret we joined with; nothing is stored per user."""

    signs_unverified: Final = True
    offers_anonymity: Final = False

    def __init__(self, stamp_secret: str) -> None:
        self._stamp_secret = stamp_secret

    def lookup(self, username: str) -> tuple[Credential, ...]:
        """The credential that the portal gave out under this name, if the name has the right form."""
        claims = credentials.parse_username(username)
        if claims is None:
            return ()
        password = credentials.password(claims.expiry, self._stamp_secret, claims.salt)
        return (Credential(username, password, claims.expiry, claims.salt),)

    def by_userhash(self, value: bytes, realm: str) -> None:
        """Nobody: names are not stored."""


class RestCredentials:
    """Time-limited names, ``<Unix seconds>:<user>`` or ``<Unix seconds>``; the password is an HMAC of the name.

    The issuer and we share a secret, and more than one while it is being replaced. The time says until when something
    may be begun: a call may last longer, and applications give no new name to one that goes on.
    """

    signs_unverified: Final = False
    offers_anonymity: Final = False

    def __init__(self, secrets: Sequence[str]) -> None:
        self._secrets = tuple(secret.encode() for secret in secrets)

    def lookup(self, username: str) -> tuple[Credential, ...]:
        """One credential per secret, if the name has the right form."""
        digits, _, user = username.partition(":")
        if not (digits.isascii() and digits.isdecimal()) or len(digits) > _LONGEST_TIMESTAMP:
            return ()
        name = username.encode()
        passwords = (b64encode(hmac.digest(secret, name, hashlib.sha1)).decode() for secret in self._secrets)
        # Without a part after the colon, all that tells users apart is the name.
        return tuple(Credential(username, password, int(digits), user or username, True) for password in passwords)

    def by_userhash(self, value: bytes, realm: str) -> None:
        """Nobody: names are not stored."""


class StaticCredentials:
    """Long-term credentials from a list.

    Raises:
        ValueError: a name or password cannot be one (``opaque_string``); names the user, never the password.
    """

    signs_unverified: Final = False
    offers_anonymity: Final = True

    def __init__(self, users: Mapping[str, str]) -> None:
        self._users = dict(_prepared(username, password) for username, password in users.items())
        self._hashes: tuple[str, dict[bytes, str]] = ("", {})

    def lookup(self, username: str) -> tuple[Credential, ...]:
        """The credential of a listed user."""
        password = self._users.get(username)
        return () if password is None else (Credential(username, password, None, username),)

    def by_userhash(self, value: bytes, realm: str) -> Credential | None:
        """The credential of the listed user whose name has this hash."""
        if self._hashes[0] != realm:
            self._hashes = realm, {userhash(username, realm): username for username in self._users}
        username = self._hashes[1].get(value)
        return None if username is None else Credential(username, self._users[username], None, username)


class CombinedCredentials:
    """Listed users, and time-limited names for everybody else. The latter forbid anonymity."""

    signs_unverified: Final = False
    offers_anonymity: Final = False

    def __init__(self, static: StaticCredentials, rest: RestCredentials) -> None:
        self._static = static
        self._rest = rest

    def lookup(self, username: str) -> tuple[Credential, ...]:
        """The listed user's, else those of a time-limited name."""
        return self._static.lookup(username) or self._rest.lookup(username)

    def by_userhash(self, value: bytes, realm: str) -> Credential | None:
        """A listed user's credential."""
        return self._static.by_userhash(value, realm)


def opaque_string(text: str) -> str:
    """The OpaqueString profile (RFC 8265 §4.2), which RFC 8489 wants for names, realms and passwords.

    Raises:
        ValueError: nothing, or a character that the profile does not allow.
    """
    spaced = "".join(" " if unicodedata.category(character) == "Zs" else character for character in text)
    prepared = unicodedata.normalize("NFC", spaced)
    if not prepared:
        raise ValueError("expected at least one character")
    if not all(unicodedata.category(character)[0] in "LMNPSZ" for character in prepared):
        raise ValueError("expected printable characters only")
    return prepared


def _prepared(username: str, password: str) -> tuple[str, str]:
    try:
        return opaque_string(username), opaque_string(password)
    except ValueError as error:
        raise ValueError(f"user {username!r}: {error} in name and password") from None
