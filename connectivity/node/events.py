"""What a node tells the role above it."""

from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

from connectivity.clock import Instant
from connectivity.run import Run


class Opened(NamedTuple):
    """Decrypted packets of one peer; the run is borrowed, its rows are not yet checked as IP packets."""

    connection_id: str
    run: Run
    tos: int


@dataclass(frozen=True, slots=True)
class CandidatesAdded:
    """Local candidates to signal to the peer, in order of falling priority."""

    connection_id: str
    candidates: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class CandidatesRemoved:
    """Local candidates that the peer must stop using."""

    connection_id: str
    candidates: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ConnectionEstablished:
    """The first WireGuard handshake of this connection completed."""

    connection_id: str


@dataclass(frozen=True, slots=True)
class ConnectionFailed:
    """The connection is gone without a word from the peer; ``reason`` is for logs."""

    connection_id: str
    reason: str


@dataclass(frozen=True, slots=True)
class ConnectionSilent:
    """The peer answers neither data nor checks, and may be another one by now; the connection goes on."""

    connection_id: str
    at: Instant


@dataclass(frozen=True, slots=True)
class ConnectionClosed:
    """This side closed the connection."""

    connection_id: str


Event: TypeAlias = (
    CandidatesAdded | CandidatesRemoved | ConnectionEstablished | ConnectionFailed | ConnectionSilent | ConnectionClosed
)
