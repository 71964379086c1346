"""The JSON types that client and gateway messages share.

Every reader takes a JSON object and a field name, returns a typed value, and raises ``MessageError`` naming the field.
Unknown fields are ignored: portals grow.
"""

import base64
import binascii
from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_network
from typing import Any, Final, TypeAlias

from connectivity.endpoint import Endpoint
from connectivity.ice import IceCredentials
from connectivity.node.relays import RelayServer

Network: TypeAlias = IPv4Network | IPv6Network
Json: TypeAlias = Mapping[str, Any]

_KEY_BYTES: Final = 32
_LONGEST_NAME: Final = 255
_LONGEST_USERNAME: Final = 127  # RFC 8489 §14.3 allows more, Firezone's relays do not


class MessageError(ValueError):
    """A portal message that does not have the agreed shape."""


@dataclass(frozen=True, slots=True)
class Interface:
    """This device's addresses in the tunnel."""

    ipv4: IPv4Address
    ipv6: IPv6Address


def mapping(payload: Any, name: str = "payload") -> Json:
    """A JSON object."""
    if not isinstance(payload, dict):
        raise MessageError(f"{name}: expected an object")
    return payload


def listing(payload: Json, name: str, *, optional: bool = False) -> list[Any]:
    """A JSON array; absent or null counts as empty where it is optional."""
    value = payload.get(name)
    if value is None and optional:
        return []
    if not isinstance(value, list):
        raise MessageError(f"{name}: expected a list")
    return value


def text(payload: Json, name: str) -> str:
    """A string."""
    value = payload.get(name)
    if not isinstance(value, str):
        raise MessageError(f"{name}: expected a string")
    return value


def name_for_people(payload: Json, name: str) -> str:
    """A name beside an id, which no portal has to send: empty where it is none, or longer than one."""
    value = payload.get(name)
    return value if isinstance(value, str) and len(value) <= _LONGEST_NAME else ""


def timestamp(payload: Json, name: str, *, nullable: bool = False) -> int | None:
    """Unix seconds; the key must be there even when null is allowed."""
    if name not in payload:
        raise MessageError(f"{name}: is missing")
    value = payload[name]
    if value is None and nullable:
        return None
    if not isinstance(value, int) or isinstance(value, bool):
        raise MessageError(f"{name}: expected whole seconds since 1970")
    return value


def key(payload: Json, name: str) -> bytes:
    """32 bytes in padded standard base64."""
    try:
        value = base64.b64decode(text(payload, name), validate=True)
    except (binascii.Error, ValueError) as error:
        raise MessageError(f"{name}: expected base64") from error
    if len(value) != _KEY_BYTES:
        raise MessageError(f"{name}: expected {_KEY_BYTES} bytes, got {len(value)}")
    return value


def network(payload: Json, name: str) -> Network:
    """A CIDR network with zero host bits."""
    value = text(payload, name)
    try:
        return ip_network(value)
    except ValueError as error:
        raise MessageError(f"{name}: expected a network, got {value!r}") from error


def addresses(payload: Json, ipv4: str, ipv6: str) -> Interface:
    """A pair of tunnel addresses."""
    try:
        return Interface(IPv4Address(text(payload, ipv4)), IPv6Address(text(payload, ipv6)))
    except ValueError as error:
        raise MessageError(f"{ipv4} and {ipv6}: expected addresses") from error


def interface(payload: Json, name: str = "interface") -> Interface:
    """The interface object of an ``init``."""
    return addresses(mapping(payload.get(name), name), "ipv4", "ipv6")


def credentials(payload: Json, name: str) -> IceCredentials:
    """A pair of ICE user name fragment and password."""
    value = mapping(payload.get(name), name)
    return IceCredentials(text(value, "username"), text(value, "password"))


def candidates(payload: Json) -> list[str]:
    """Candidate texts; elements that are no strings are skipped one by one."""
    return [value for value in listing(payload, "candidates") if isinstance(value, str)]


def relay_address(value: str) -> Endpoint:
    """Where a relay listens, as ``relays`` and those who announce one read it."""
    try:
        return Endpoint.parse(value)
    except ValueError as error:
        raise MessageError(str(error)) from error


def relays(payload: Json, name: str = "relays", *, optional: bool = True) -> list[RelayServer]:
    """TURN servers; two adjacent entries of one id and different families are one server. STUN entries do not count."""
    servers: list[RelayServer] = []
    for entry in listing(payload, name, optional=optional):
        relay = mapping(entry, name)
        kind = text(relay, "type")
        if kind not in {"turn", "stun"}:
            raise MessageError(f"{name}: unknown relay type {kind!r}")
        try:
            address = relay_address(text(relay, "addr"))
        except MessageError as error:
            raise MessageError(f"{name}: {error}") from error
        if kind == "stun":
            continue
        server = RelayServer(text(relay, "id"), (address,), text(relay, "username"), text(relay, "password"))
        if len(server.username) > _LONGEST_USERNAME:
            continue
        if servers and servers[-1].relay_id == server.relay_id:
            held = servers.pop()
            known = {held_address.ip.version for held_address in held.addresses}
            both = held.addresses if address.ip.version in known else (*held.addresses, address)
            server = RelayServer(server.relay_id, both, server.username, server.password)
        servers.append(server)
    return servers


def relays_presence(payload: Any) -> tuple[list[str], list[RelayServer]]:
    """``relays_presence``: the ids that left and the relays to use from now on."""
    message = mapping(payload)
    gone = [value for value in listing(message, "disconnected_ids") if isinstance(value, str)]
    return gone, relays(message, "connected", optional=False)
