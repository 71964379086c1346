"""What a node tells whoever exports metrics, and people who ask about its connections."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from connectivity.clock import Duration, Instant
from connectivity.ice.policy import CandidateRefusal
from connectivity.node.path import PeerSocket
from connectivity.wireguard import DropReason, HandshakeReason


@dataclass(frozen=True, slots=True)
class Statistics:
    """``drops`` and what else is counted only ever grow, also when the connections that it was about are gone."""

    waiting_packets: int
    drops: Mapping[DropReason, int]
    candidates_refused: Mapping[CandidateRefusal, int] = field(default_factory=dict)
    handshakes_refused: Mapping[HandshakeReason, int] = field(default_factory=dict)
    flow_drops: Mapping[StrEnum, int] = field(default_factory=dict)  # every reason of the role and of its tunnel
    sent_bytes: int = 0
    received_bytes: int = 0


@dataclass(frozen=True, slots=True)
class ConnectionStatus:
    """One connection as people ask about it; what is counted begins with it.

    Attributes:
        state: in lower case.
        socket: its path, if there is one.
        round_trip: of the last check of this path that was answered.
        handshake_at: when the last WireGuard handshake completed.
    """

    peer_id: str
    state: str
    socket: PeerSocket | None
    round_trip: Duration | None
    sent_bytes: int
    received_bytes: int
    handshake_at: Instant | None
