"""What a component says about itself when it connects: URL, query and User-Agent.

The portal tells components apart by the User-Agent's ``<component>/<version>`` word and devices by ``external_id``.
``PortalLogin`` is complete and immutable; a client that roams makes a new one with another public key. The token is in
the URL, so neither ``repr`` nor a log line may show that.
"""

import base64
import hashlib
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from ipaddress import IPv4Address, IPv6Address
from typing import Final
from urllib.parse import quote_plus, urlsplit

# Portals accept a pair of client and gateway by version, so ours present themselves as the releases whose protocol
# they speak.
COMPONENT_VERSIONS: Final = {"gateway": "1.4.17", "headless-client": "1.5.4", "relay": "0.1.0"}

DEFAULT_API_URL: Final = "wss://api.firezone.dev"
DEFAULT_PORTAL_PORT: Final = 443  # for every scheme, plain ws too

_SCHEMES: Final = {"http": "ws", "ws": "ws", "https": "wss", "wss": "wss"}
_MEANINGLESS_SERIAL: Final = "123456789"  # some boards ship with this as their serial number


@dataclass(frozen=True, slots=True)
class SystemInfo:
    """What the User-Agent says about the machine; an empty field is left out or called ``Unknown``."""

    os_name: str = ""
    os_version: str = ""
    architecture: str = ""
    kernel_release: str = ""


@dataclass(frozen=True, slots=True)
class PortalLogin:
    """Where to connect and what to send on the upgrade."""

    scheme: str
    host: str
    port: int
    path: str
    parameters: tuple[tuple[str, str], ...]
    user_agent: str
    public_key: bytes | None = None

    @property
    def target(self) -> str:
        """Path and query as they go into the request line."""
        pairs = list(self.parameters)
        if self.public_key is not None:
            pairs.append(("public_key", base64.b64encode(self.public_key).decode()))
        return f"{self.path}?" + "&".join(f"{_form(name)}={_form(value)}" for name, value in pairs)

    @property
    def url(self) -> str:
        """The whole URL with an explicit port. It holds the token."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}:{self.port}{self.target}"

    def with_public_key(self, public_key: bytes) -> "PortalLogin":
        """The login of the same device with another key, after a reset."""
        return replace(self, public_key=public_key)

    def __repr__(self) -> str:
        return f"PortalLogin({self.scheme}://{self.host}:{self.port}{self.path})"


def client_login(
    api_url: str,
    *,
    token: str,
    device_id: str,
    name: str,
    public_key: bytes,
    user_agent: str,
    hardware: Mapping[str, str] | None = None,
) -> PortalLogin:
    """The login of a client; ``hardware`` may hold ``device_serial`` and ``device_uuid``.

    Raises:
        ValueError: ``api_url`` is unusable.
    """
    parameters = [("token", token), ("external_id", external_id(device_id)), ("name", name)]
    known = hardware or {}
    if known.get("device_serial", _MEANINGLESS_SERIAL) != _MEANINGLESS_SERIAL:
        parameters.append(("device_serial", known["device_serial"]))
    if known.get("device_uuid"):
        parameters.append(("device_uuid", known["device_uuid"]))
    return _login(api_url, "client", parameters, user_agent, public_key)


def gateway_login(
    api_url: str, *, token: str, device_id: str, name: str, public_key: bytes, user_agent: str
) -> PortalLogin:
    """The login of a gateway.

    Raises:
        ValueError: ``api_url`` is unusable.
    """
    parameters = [("token", token), ("external_id", external_id(device_id)), ("name", name)]
    return _login(api_url, "gateway", parameters, user_agent, public_key)


def relay_login(
    api_url: str,
    *,
    token: str,
    user_agent: str,
    ipv4: IPv4Address | None = None,
    ipv6: IPv6Address | None = None,
    port: int = 3478,
    name: str | None = None,
) -> PortalLogin:
    """The login of a relay; the portal wants at least one of the two addresses.

    Raises:
        ValueError: ``api_url`` is unusable.
    """
    parameters = [("token", token)]
    if name:
        parameters.append(("name", name))
    if ipv4 is not None:
        parameters.append(("ipv4", str(ipv4)))
    if ipv6 is not None:
        parameters.append(("ipv6", str(ipv6)))
    parameters.append(("port", str(port)))
    return _login(api_url, "relay", parameters, user_agent, None)


def parse_api_url(text: str) -> str:
    """A parser for settings: returns the text as it is when it can be an API URL.

    Raises:
        ValueError: what was expected.
    """
    _split_api_url(text)
    return text


def external_id(device_id: str) -> str:
    """A UUID becomes the hex SHA-256 of its exact text; any other id is sent as it is."""
    try:
        uuid.UUID(device_id)
    except ValueError:
        return device_id
    return hashlib.sha256(device_id.encode()).hexdigest()


def user_agent(component: str, system: SystemInfo, version: str | None = None) -> str:
    """``<os>/<version> <component>/<version> (<architecture>; <kernel release>)`` without non-ASCII characters."""
    words = [
        f"{system.os_name or 'Unknown'}/{system.os_version or 'Unknown'}",
        f"{component}/{version or COMPONENT_VERSIONS[component]}",
    ]
    machine = "; ".join(part for part in (system.architecture, system.kernel_release) if part)
    if machine:
        words.append(f"({machine})")
    return " ".join(words).encode("ascii", "ignore").decode()


def three_number_version(text: str) -> str:
    """``22.04`` → ``22.4.0``, ``12`` → ``12.0.0``; text without a leading number stays as it is."""
    numbers: list[str] = []
    for part in text.split(".")[:3]:
        if not (part.isascii() and part.isdecimal()):
            break
        numbers.append(str(int(part)))
    return ".".join([*numbers, "0", "0"][:3]) if numbers else text


def _login(
    api_url: str, component: str, parameters: Sequence[tuple[str, str]], agent: str, public_key: bytes | None
) -> PortalLogin:
    scheme, host, port, path = _split_api_url(api_url)
    base = path.removesuffix("/")
    return PortalLogin(scheme, host, port, f"{base}/{component}/websocket", tuple(parameters), agent, public_key)


def _split_api_url(text: str) -> tuple[str, str, int, str]:
    expectation = "expected a URL such as wss://api.example.com, with scheme ws, wss, http or https"
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError:
        raise ValueError(expectation) from None
    if parts.scheme.lower() not in _SCHEMES or not parts.hostname:
        raise ValueError(expectation)
    return _SCHEMES[parts.scheme.lower()], parts.hostname, port or DEFAULT_PORTAL_PORT, parts.path


def _form(text: str) -> str:
    """``application/x-www-form-urlencoded`` as the WHATWG URL standard has it, which differs from Python in * and ~."""
    return quote_plus(text, safe="*").replace("~", "%7E")
