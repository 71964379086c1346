"""One peer as a data path knows it: its sessions, and the path that its packets take."""

from typing import Final, NamedTuple

from connectivity.clock import Instant
from connectivity.endpoint import Endpoint
from connectivity.ip.flow import ECN_MASK
from connectivity.run import Run, Transmit
from connectivity.turn.channel_data import HEADER_BYTES, frame
from connectivity.wireguard import Transport, Workspace

MAX_DATAGRAM_BYTES: Final = 1316  # an inner packet of 1280, WireGuard's 32, a channel header of 4


class Path(NamedTuple):
    """Where data messages of a peer go, until when that may be relied on without asking the core again."""

    source: Endpoint | None
    destination: Endpoint  # over a relay of ours, the relay
    channel: int | None = None  # the number to send on there
    until: Instant | None = None  # None: until it is told

    def addressed(self, sealed: Run, tos: int) -> Transmit:
        """Sealed messages on their way; over a relay what was left free before each becomes a channel header."""
        source, destination, channel, _ = self
        if channel is not None:
            sealed = frame(sealed, channel)
        return Transmit(source, destination, sealed, tos & ECN_MASK)

    @property
    def headroom(self) -> int:
        """What to leave free before each message."""
        return 0 if self.channel is None else HEADER_BYTES


class Peer(Transport):
    """``index`` are the upper 24 bits of the receiver indices of all its sessions. Changed only by ``DataPath``."""

    __slots__ = ("index", "is_reported", "path", "peer_id")

    def __init__(self, peer_id: str, index: int, workspace: Workspace, now: Instant) -> None:
        super().__init__(workspace, now)
        self.peer_id = peer_id
        self.index = index
        self.path: Path | None = None  # None: the core is asked about each run, and told of each that came
        self.is_reported = False  # among those whose activity the core is going to look at
