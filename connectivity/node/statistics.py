"""What a node tells whoever exports metrics."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from connectivity.ice.policy import CandidateRefusal
from connectivity.wireguard import DropReason, HandshakeReason


@dataclass(frozen=True, slots=True)
class Statistics:
    """``drops`` and what else is counted only ever grow, also when the connections that it was about are gone."""

    waiting_packets: int
    drops: Mapping[DropReason, int]
    candidates_refused: Mapping[CandidateRefusal, int] = field(default_factory=dict)
    handshakes_refused: Mapping[HandshakeReason, int] = field(default_factory=dict)
