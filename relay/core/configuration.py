"""What a server needs to know about itself and its place in the network."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from connectivity.endpoint import Endpoint, IPAddress
from connectivity.stun import AddressFamily
from relay.core.credentials import opaque_string
from relay.core.peers import PeerPolicy
from relay.core.quotas import Quotas

STUN_PORT: Final = 3478
LOWEST_RELAYED_PORT: Final = 49_152
HIGHEST_RELAYED_PORT: Final = 65_535
REALM: Final = "firezone"  # Firezone's peers accept no other


@dataclass(frozen=True, slots=True)
class ServerSettings:
    """``public`` maps an IP version to the address that clients and peers see, one or both versions.

    ``policy.own`` holds the public addresses too. ``listen_ports`` are never given away as relayed ones. ``alternate``
    maps an IP version to the server that clients are sent to when no allocation can be given here.

    Raises:
        ValueError: the realm cannot be one (``opaque_string``).
    """

    public: Mapping[int, IPAddress]
    policy: PeerPolicy
    software: str = "postern-relay"
    realm: str = REALM
    listen_ports: frozenset[int] = frozenset({STUN_PORT})
    lowest_port: int = LOWEST_RELAYED_PORT
    highest_port: int = HIGHEST_RELAYED_PORT
    quotas: Quotas = field(default_factory=Quotas)
    alternate: Mapping[int, Endpoint] = field(default_factory=dict)
    is_standalone: bool = False

    def __post_init__(self) -> None:
        opaque_string(self.realm)

    def serves(self, family: AddressFamily) -> bool:
        """Whether relayed addresses of this family can be given."""
        return family.version in self.public
