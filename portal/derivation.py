"""Everything that must come out the same after a restart, derived instead of stored.

Ids are UUIDv5 of names. Tunnel addresses, ICE credentials and ``psk_base``, the part of the preshared key that nobody
else can compute, are HMACs under the portal's secret. Credentials rest on both devices' ids and WireGuard keys, so that
every flow between the same two keys reuses one connection. Several fields are joined as JSON, which reads one way only.
Nothing here is kept.
"""

import base64
import hashlib
import hmac
import json
import uuid
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import Final, NamedTuple

DEVICES_IPV4: Final = IPv4Network("100.64.0.0/11")
DEVICES_IPV6: Final = IPv6Network("fd00:2021:1111::/107")
DEVICE_ADDRESSES: Final = DEVICES_IPV4.num_addresses

_NAMESPACE: Final = uuid.UUID("b5f4a6a7-0d0c-5d51-9c0d-6c1f5a0e7d11")


class IceCredentials(NamedTuple):
    """A user fragment and its password."""

    username: str
    password: str

    def __repr__(self) -> str:
        return f"IceCredentials({self.username!r})"


class Party(NamedTuple):
    """One end of a connection: id as lower-case UUID text, WireGuard key as base64 text."""

    id: str
    public_key: str
    psk_base: bytes = b""

    def __repr__(self) -> str:
        return f"Party({self.id!r})"


def named_id(kind: str, name: str) -> str:
    """The id of a thing that has only a name."""
    return str(uuid.uuid5(_NAMESPACE, f"{kind}:{name}"))


def device_id(kind: str, entry: str, external_id: str) -> str:
    """The id of a client or gateway: the device that calls itself ``external_id`` under that entry of the tokens."""
    return str(uuid.uuid5(_NAMESPACE, f"device:{_joined(kind, entry, external_id)}"))


def device_offset(secret: str, device: str) -> int:
    """Where in the device ranges the search for a free address starts: never the first two nor the last address."""
    return 2 + int.from_bytes(_mac(secret, "tunnel address", device)[:8], "big") % (DEVICE_ADDRESSES - 3)


def tunnel_addresses(offset: int) -> tuple[IPv4Address, IPv6Address]:
    """The pair of addresses at one offset."""
    return DEVICES_IPV4[offset], DEVICES_IPV6[offset]


def psk_base(secret: str, device: str) -> bytes:
    """32 bytes that only holders of ``secret`` can compute."""
    return _mac(secret, "psk base", device)


def preshared_key(client: Party, gateway: Party) -> str:
    """The WireGuard preshared key of two devices, as base64 text."""
    salt = f"WG_PSK|C_ID:{client.id}|G_ID:{gateway.id}|C_PK:{client.public_key}|G_PK:{gateway.public_key}"
    key = hashlib.pbkdf2_hmac("sha256", client.psk_base + gateway.psk_base, salt.encode(), 1, 32)
    return base64.b64encode(key).decode()


def ice_credentials(secret: str, client: Party, gateway: Party) -> tuple[IceCredentials, IceCredentials]:
    """The client's and the gateway's credentials, which nobody but the two is told."""
    digest = _mac(secret, "ice credentials", client.id, client.public_key, gateway.id, gateway.public_key)
    text = base64.b32encode(digest).decode().lower().rstrip("=")
    return IceCredentials(text[0:4], text[4:26]), IceCredentials(text[26:30], text[30:52])


def _mac(secret: str, purpose: str, *fields: str) -> bytes:
    return hmac.digest(secret.encode(), _joined(purpose, *fields).encode(), "sha256")


def _joined(*fields: str) -> str:
    return json.dumps(fields)
