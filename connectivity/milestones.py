"""What a tunnel's core tells of a connection's life, from the first packet that wants a resource to its end.

Plain values for whoever listens (``TunnelCore.listen``): lines for people, spans of a trace. They come a few times in a
connection's life, never for a packet, and in the order of what happened; the listener knows what time it is.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, TypeAlias

from connectivity.clock import Duration

if TYPE_CHECKING:  # who only tells these to others, as a relay does, has no node
    from connectivity.node import PeerSocket

WAITING_FOR_ANSWERS: Final = 4096  # resources of peers at once; what is beyond is not told of


@dataclass(frozen=True, slots=True)
class ResourceWanted:
    """A client's packet waits for a gateway of a resource, and the portal is asked for one."""

    resource_id: str


@dataclass(frozen=True, slots=True)
class ResourceGranted:
    """The portal has named the peer through which, or the client by which, a resource is to be reached."""

    peer_id: str
    public_key: bytes
    resource_id: str


@dataclass(frozen=True, slots=True)
class PathChosen:
    """ICE has found the first path; ``relay_user`` is our name at our relay, if it leads through that."""

    peer_id: str
    path: "PeerSocket"
    relay_user: str | None


@dataclass(frozen=True, slots=True)
class PeerConnected:
    """The first session with a peer is there. ``name`` is for people, empty if the portal told none."""

    peer_id: str
    name: str
    path: "PeerSocket | None"
    round_trip: Duration | None


@dataclass(frozen=True, slots=True)
class PeerMoved:
    """A connected peer is reached by another path now."""

    peer_id: str
    name: str
    path: "PeerSocket | None"
    round_trip: Duration | None


@dataclass(frozen=True, slots=True)
class PeerLeft:
    """A connected peer is gone."""

    peer_id: str
    name: str
    reason: str


@dataclass(frozen=True, slots=True)
class ResourceAnswered:
    """The first answer of a resource that was granted."""

    peer_id: str
    resource_id: str


Milestone: TypeAlias = (
    ResourceWanted | ResourceGranted | PathChosen | PeerConnected | PeerMoved | PeerLeft | ResourceAnswered
)


class Unanswered:
    """The granted resources that have not answered yet."""

    def __init__(self) -> None:
        self._waiting: dict[tuple[str, str], None] = {}

    def __bool__(self) -> bool:
        return bool(self._waiting)

    def add(self, peer_id: str, resource_id: str) -> None:
        """A resource was granted."""
        if len(self._waiting) < WAITING_FOR_ANSWERS:
            self._waiting[peer_id, resource_id] = None

    def take(self, peer_id: str, resource_id: str) -> bool:
        """It has answered; whether this was the first time."""
        return self._waiting.pop((peer_id, resource_id), False) is None

    def forget(self, peer_id: str) -> None:
        """The peer is gone."""
        for key in [key for key in self._waiting if key[0] == peer_id]:
            del self._waiting[key]


def path_words(path: "PeerSocket | None") -> str:
    """A path as people call it."""
    if path is None:
        return "no path"
    kinds: Mapping[bool, str] = {False: "direct", True: "relayed"}
    return f"{kinds[path.kind.value != 'PeerToPeer']} over IPv{path.destination.ip.version}"
