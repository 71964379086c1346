"""The ends of a world, and what its portal gives two of them for each other."""

import base64
import hashlib
from dataclasses import dataclass
from typing import Any

from connectivity.tunnel import TunnelCore
from connectivity.wireguard import KeyPair


@dataclass(slots=True)
class End:
    """A client or a gateway, as the network and the portal know it."""

    name: str
    device_id: str
    core: TunnelCore
    keys: KeyPair
    addresses: tuple[str, str]
    tunnel: tuple[str, str]

    @property
    def is_client(self) -> bool:
        """Else it is a gateway."""
        return self.device_id.startswith("c")


def ice(client: End, gateway: End) -> dict[str, Any]:
    """The credentials of both, for as long as both keep their keys."""
    seed = hashlib.sha256(client.keys.public + gateway.keys.public).hexdigest()
    return {
        "client_ice_credentials": {"username": seed[:4], "password": seed[4:26]},
        "gateway_ice_credentials": {"username": seed[26:30], "password": seed[30:52]},
    }


def preshared_key(generation: int, client: End, gateway: End) -> str:
    """Another one with each generation."""
    digest = hashlib.sha256(b"%d" % generation + client.keys.public + gateway.keys.public).digest()
    return base64.b64encode(digest).decode()
