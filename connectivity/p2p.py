"""Control messages between client and gateway, inside the tunnel.

They are IPv6 packets that no host could send: next header 255, from ``::`` to ``::``, hop limit 0. Behind the IPv6
header come one byte of type, seven reserved bytes and a payload of JSON in UTF-8. Delivery is unreliable; messages
are idempotent. They never reach a TUN device, and what a TUN device hands us in this shape was not sent by a peer.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from ipaddress import IPv6Address, ip_address
from typing import Final, TypeAlias
from uuid import UUID

from connectivity.endpoint import IPAddress

IPV6_HEADER_BYTES: Final = 40
CONTROL_HEADER_BYTES: Final = 8
PROXY_IP_COUNTS: Final = (4, 8)  # four IPv4 or four IPv6 addresses per name, or both

_NEXT_HEADER: Final = 0xFF
_ADDRESSES: Final = bytes(32)
_PAYLOAD_START: Final = IPV6_HEADER_BYTES + CONTROL_HEADER_BYTES
_ACTIVE: Final = "Active"
_INACTIVE: Final = "Inactive"


class EventType(IntEnum):
    """The first byte behind the IPv6 header."""

    ASSIGNED_IPS = 0
    DOMAIN_STATUS = 1
    GOODBYE = 2


@dataclass(frozen=True, slots=True)
class AssignedIps:
    """Client to gateway: for this name of a DNS resource the client uses these proxy addresses."""

    resource: UUID
    domain: str
    proxy_ips: tuple[IPAddress, ...]


@dataclass(frozen=True, slots=True)
class DomainStatus:
    """Gateway to client: whether address translation for this name is set up."""

    resource: UUID
    domain: str
    active: bool


@dataclass(frozen=True, slots=True)
class Goodbye:
    """Either way: the sender has forgotten this connection."""


ControlEvent: TypeAlias = AssignedIps | DomainStatus | Goodbye


class ControlError(ValueError):
    """A control packet of an unknown type or with a payload that does not decode."""


def is_control(packet: bytes | bytearray | memoryview) -> bool:
    """Whether an IP packet is a control message, of whatever type."""
    return (
        len(packet) >= _PAYLOAD_START
        and packet[6] == _NEXT_HEADER
        and packet[0] >> 4 == 6
        and packet[8:IPV6_HEADER_BYTES] == _ADDRESSES
        and int.from_bytes(packet[4:6], "big") >= CONTROL_HEADER_BYTES
    )


def build(event: ControlEvent) -> bytes:
    """The IP packet that carries ``event``.

    Raises:
        ValueError: not four or eight proxy addresses.
    """
    match event:
        case AssignedIps(resource, domain, proxy_ips):
            if len(proxy_ips) not in PROXY_IP_COUNTS:
                raise ValueError(f"four or eight proxy addresses are assigned, not {len(proxy_ips)}")
            fields = {"resource": str(resource), "domain": domain, "proxy_ips": [str(ip) for ip in proxy_ips]}
            return _packet(EventType.ASSIGNED_IPS, _json(fields))
        case DomainStatus(resource, domain, active):
            status = _ACTIVE if active else _INACTIVE
            return _packet(
                EventType.DOMAIN_STATUS, _json({"resource": str(resource), "domain": domain, "status": status})
            )
        case Goodbye():
            return _packet(EventType.GOODBYE, b"")


def parse(packet: bytes | bytearray | memoryview) -> ControlEvent:
    """Read a packet for which ``is_control`` holds.

    Raises:
        ControlError: an unknown type, a packet shorter than it says, or a payload that is not what the type demands.
    """
    if not is_control(packet):
        raise ControlError("not a control packet")
    end = IPV6_HEADER_BYTES + int.from_bytes(packet[4:6], "big")
    if end > len(packet):
        raise ControlError("control packet is shorter than its length field says")
    payload = bytes(packet[_PAYLOAD_START:end])
    match packet[IPV6_HEADER_BYTES]:
        case EventType.ASSIGNED_IPS:
            fields = _fields(payload)
            return AssignedIps(_resource(fields), _text(fields, "domain"), _proxy_ips(fields))
        case EventType.DOMAIN_STATUS:
            fields = _fields(payload)
            return DomainStatus(_resource(fields), _text(fields, "domain"), _text(fields, "status") == _ACTIVE)
        case EventType.GOODBYE:
            return Goodbye()
        case unknown:
            raise ControlError(f"unknown control event {unknown}")


def _packet(event_type: EventType, payload: bytes) -> bytes:
    length = (CONTROL_HEADER_BYTES + len(payload)).to_bytes(2, "big")
    header = bytes((0x60, 0, 0, 0)) + length + bytes((_NEXT_HEADER, 0)) + _ADDRESSES
    return header + bytes((event_type, *bytes(7))) + payload


def _json(fields: Mapping[str, str | Sequence[str]]) -> bytes:
    return json.dumps(fields, separators=(",", ":"), ensure_ascii=False).encode()


def _fields(payload: bytes) -> dict[str, object]:
    try:
        fields = json.loads(payload)
    except (ValueError, RecursionError) as error:  # not JSON, not UTF-8; or brackets nested by the hundred
        raise ControlError("control payload is not JSON") from error
    if not isinstance(fields, dict):
        raise ControlError("control payload is not a JSON object")
    return fields


def _text(fields: dict[str, object], name: str) -> str:
    value = fields.get(name)
    if not isinstance(value, str):
        raise ControlError(f"control payload has no text {name!r}")
    if not value.isascii() and any("\ud800" <= character <= "\udfff" for character in value):
        raise ControlError(f"control payload has no valid text {name!r}")  # an unpaired surrogate escape
    return value


def _resource(fields: dict[str, object]) -> UUID:
    try:
        return UUID(_text(fields, "resource"))
    except ValueError as error:
        raise ControlError("control payload names no resource") from error


def _proxy_ips(fields: dict[str, object]) -> tuple[IPAddress, ...]:
    values = fields.get("proxy_ips")
    if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
        raise ControlError("control payload has no list of proxy addresses")
    try:
        ips = tuple(ip_address(value) for value in values)
    except ValueError as error:
        raise ControlError("control payload has a proxy address that is none") from error
    if any(isinstance(ip, IPv6Address) and ip.scope_id is not None for ip in ips):
        raise ControlError("control payload has a proxy address with a zone")
    return ips
