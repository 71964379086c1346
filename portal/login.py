"""Reads the query parameters and the User-Agent of an upgrade request; refuses with the status that components expect.

401 means a token problem, 422 anything else that is wrong. The token may also come in an ``X-Authorization`` header,
as later components send it.
"""

import base64
import binascii
import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv6Address
from typing import Final, TypeAlias, TypeVar

from connectivity.endpoint import IPAddress
from portal import announcements
from portal.configuration import Configuration, Token, TokenType

Version: TypeAlias = tuple[int, int, int]

COMPONENT_WORDS: Final = (
    "gateway",
    "headless-client",
    "gui-client",
    "apple-client",
    "android-client",
    "relay",
    "connlib",
)
DEFAULT_RELAY_PORT: Final = 3478
LONGEST_NAME: Final = 255
PUBLIC_KEY_TEXT_LENGTH: Final = 44

_VERSION: Final = re.compile(r"(\d{1,5})\.(\d{1,5})(?:\.(\d{1,5}))?(?:[-+].*)?")
_BEARER: Final = "Bearer "

A = TypeVar("A", IPv4Address, IPv6Address)


@dataclass(frozen=True, slots=True)
class Refusal:
    """The HTTP answer instead of an upgrade."""

    status: int
    text: str
    retry_after: int | None = None  # seconds


@dataclass(frozen=True, slots=True)
class DeviceLogin:
    """A client or a gateway that may connect."""

    token: Token
    external_id: str = field(repr=False)
    name: str
    public_key: str
    version: Version

    @property
    def owner(self) -> str:
        """The actor of a client, the site of a gateway."""
        return self.token.actor if self.token.type is TokenType.CLIENT else self.token.site_id


@dataclass(frozen=True, slots=True)
class RelayLogin:
    """A relay that may connect."""

    token: Token
    name: str
    ipv4: IPv4Address | None
    ipv6: IPv6Address | None
    port: int

    @property
    def addresses(self) -> tuple[IPAddress, ...]:
        """What it has of the two."""
        return tuple(address for address in (self.ipv4, self.ipv6) if address is not None)


class TokenTable:
    """Finds tokens by digest, so that the time a look-up takes says nothing about the text."""

    def __init__(self, configuration: Configuration) -> None:
        self._by_digest = {_digest(text): token for token in configuration.tokens for text in token.texts}

    def find(self, text: str, kind: TokenType, wall_seconds: int) -> Token | None:
        """The valid token of that text and type."""
        token = self._by_digest.get(_digest(text))
        if token is None or token.type is not kind or token.expires_at <= wall_seconds:
            return None
        return token.opened_by(text)


def authenticate(
    tokens: TokenTable, kind: TokenType, parameters: Mapping[str, str], headers: Mapping[str, str], wall_seconds: int
) -> DeviceLogin | RelayLogin | Refusal:
    """Decide about an upgrade request."""
    bearer = headers.get("X-Authorization", "")
    text = bearer.removeprefix(_BEARER) if bearer.startswith(_BEARER) else parameters.get("token", "")
    if not text:
        return Refusal(401, "Missing token")
    token = tokens.find(text, kind, wall_seconds)
    if token is None:
        return Refusal(401, "Invalid token")
    reader = _Reader(parameters)
    version = reader.version(headers.get("User-Agent", ""))
    login = reader.relay(token) if kind is TokenType.RELAY else reader.device(token, version)
    if reader.problems:
        return Refusal(422, f"Invalid or missing connection parameters: {'; '.join(reader.problems)}")
    return login


class _Reader:
    def __init__(self, parameters: Mapping[str, str]) -> None:
        self._parameters = parameters
        self.problems: list[str] = []

    def device(self, token: Token, version: Version) -> DeviceLogin:
        return DeviceLogin(token, self._text("external_id"), self._text("name"), self._public_key(), version)

    def relay(self, token: Token) -> RelayLogin:
        ipv4 = self._address("ipv4", IPv4Address)
        ipv6 = self._address("ipv6", IPv6Address)
        if ipv4 is None and ipv6 is None:
            self.problems.append("ipv4 or ipv6 is required")
        name = self._parameters.get("name", "")
        if len(name) > LONGEST_NAME:
            self.problems.append("name is too long")
        port = self._port()
        for found in (ipv4, ipv6):
            if found is not None and port:
                self._check(found, port)
        return RelayLogin(token, name, ipv4, ipv6, port)

    def version(self, user_agent: str) -> Version:
        for word in user_agent.split(" "):
            component, separator, text = word.partition("/")
            if separator and component in COMPONENT_WORDS:
                found = _VERSION.fullmatch(text)
                if found is not None:
                    return int(found[1]), int(found[2]), int(found[3] or 0)
                break
        self.problems.append("user agent has no known component and version")
        return (0, 0, 0)

    def _text(self, name: str) -> str:
        value = self._parameters.get(name, "")
        if not 0 < len(value) <= LONGEST_NAME:
            self.problems.append(f"{name} must have 1 to {LONGEST_NAME} characters")
        return value

    def _public_key(self) -> str:
        value = self._parameters.get("public_key", "")
        try:
            decoded = base64.b64decode(value, validate=True)
        except (binascii.Error, ValueError):
            decoded = b""
        if len(value) != PUBLIC_KEY_TEXT_LENGTH or len(decoded) != 32:
            self.problems.append("public_key must be 32 bytes in base64")
        return value

    def _address(self, name: str, kind: type[A]) -> A | None:
        value = self._parameters.get(name, "")
        if not value:
            return None
        try:
            return kind(value)
        except ValueError:
            self.problems.append(f"{name} is not an address")
            return None

    def _port(self) -> int:
        try:
            return announcements.parse_port(self._parameters.get("port", str(DEFAULT_RELAY_PORT)))
        except ValueError as error:
            self.problems.append(str(error))
            return 0

    def _check(self, ip: IPAddress, port: int) -> None:
        try:
            announcements.check(ip, port)
        except ValueError as error:
            self.problems.append(f"ipv{ip.version} {error}")


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()
