"""The path that ICE nominated, as the node sends on it."""

from dataclasses import dataclass
from enum import Enum

from connectivity.endpoint import Endpoint


class PathKind(Enum):
    """Who sends and who receives: the peers themselves or a relayed address of theirs."""

    PEER_TO_PEER = "PeerToPeer"
    PEER_TO_RELAY = "PeerToRelay"
    RELAY_TO_PEER = "RelayToPeer"
    RELAY_TO_RELAY = "RelayToRelay"


@dataclass(frozen=True, slots=True)
class PeerSocket:
    """``relay_id`` names our relay when ``source`` is a relayed address of ours: data then leaves as channel data."""

    kind: PathKind
    source: Endpoint
    destination: Endpoint
    relay_id: str | None

    @property
    def is_relayed(self) -> bool:
        """Whether data leaves through our own relay."""
        return self.relay_id is not None

    def __str__(self) -> str:
        origin = f"relay: {self.relay_id}" if self.is_relayed else f"source: {self.source}"
        return f"{self.kind.value} {{ {origin}, dest: {self.destination} }}"
