"""Everything that must come out the same after a restart, derived instead of stored.

Ids are UUIDv5 of names; tunnel addresses a hash of the device id; preshared keys and ICE credentials hashes over both
devices' ids and WireGuard keys, so that every flow between the same two keys reuses one connection. ``psk_base``, the
part of the preshared key that nobody can compute, is an HMAC under the portal's ``secret``, or under the device's token
where the file has no secret. Nothing here is kept.
"""

import base64
import hashlib
import hmac
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


def device_offset(device_id: str) -> int:
    """Where in the device ranges the search for a free address starts: never the first two nor the last address."""
    digest = hashlib.sha256(f"tunnel address:{device_id}".encode()).digest()
    return 2 + int.from_bytes(digest[:8], "big") % (DEVICE_ADDRESSES - 3)


def tunnel_addresses(offset: int) -> tuple[IPv4Address, IPv6Address]:
    """The pair of addresses at one offset."""
    return DEVICES_IPV4[offset], DEVICES_IPV6[offset]


def psk_base(key: str, device_id: str) -> bytes:
    """32 bytes that only holders of ``key`` can compute."""
    return hmac.digest(key.encode(), f"psk base:{device_id}".encode(), "sha256")


def preshared_key(client: Party, gateway: Party) -> str:
    """The WireGuard preshared key of two devices, as base64 text."""
    salt = f"WG_PSK|C_ID:{client.id}|G_ID:{gateway.id}|C_PK:{client.public_key}|G_PK:{gateway.public_key}"
    key = hashlib.pbkdf2_hmac("sha256", client.psk_base + gateway.psk_base, salt.encode(), 1, 32)
    return base64.b64encode(key).decode()


def ice_credentials(client: Party, gateway: Party) -> tuple[IceCredentials, IceCredentials]:
    """The client's and the gateway's credentials."""
    text = f"{client.id}:{client.public_key}:{gateway.id}:{gateway.public_key}"
    digest = base64.b32encode(hashlib.sha256(text.encode()).digest()).decode().lower().rstrip("=")
    return IceCredentials(digest[0:4], digest[4:26]), IceCredentials(digest[26:30], digest[30:52])
