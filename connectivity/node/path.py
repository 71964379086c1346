"""The path that ICE nominated, as the node sends on it."""

from dataclasses import dataclass
from enum import Enum
from typing import Final

from connectivity.clock import SECOND, Duration, Instant
from connectivity.data_path import Path
from connectivity.endpoint import Endpoint
from connectivity.node.relays import RelaySet

CHANNEL_LEASE: Final[Duration] = SECOND  # how long a data path uses a relay's channel without asking again


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

    @property
    def initial_path(self) -> Path:
        """What a data path may use before something was sent: over a relay it has to ask first."""
        return Path(self.source, self.destination, until=0 if self.is_relayed else None)

    def __str__(self) -> str:
        origin = f"relay: {self.relay_id}" if self.is_relayed else f"source: {self.source}"
        return f"{self.kind.value} {{ {origin}, dest: {self.destination} }}"


def classify(source: Endpoint, destination: Endpoint, relay_id: str | None, *, to_relay: bool) -> PeerSocket:
    """The path between these two; ``relay_id`` is that of ours, ``to_relay`` says whether the peer has one."""
    kinds = {
        (False, False): PathKind.PEER_TO_PEER,
        (False, True): PathKind.PEER_TO_RELAY,
        (True, False): PathKind.RELAY_TO_PEER,
        (True, True): PathKind.RELAY_TO_RELAY,
    }
    return PeerSocket(kinds[relay_id is not None, to_relay], source, destination, relay_id)


def path_of(socket: PeerSocket, relays: RelaySet, now: Instant) -> Path | None:
    """How data leaves now, and for how long that holds; None without a channel, which is asked for."""
    if socket.relay_id is None:
        return Path(socket.source, socket.destination)
    allocation = relays.get(socket.relay_id)
    channel = None if allocation is None else allocation.send_channel(socket.destination, now)
    if allocation is None or channel is None:
        return None
    number, server = channel
    return Path(None, server, number, min(allocation.channel_lasts_until(number, now), now + CHANNEL_LEASE))
