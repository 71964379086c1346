"""ICE for one UDP component between two full agents that trickle their candidates (RFC 8445, RFC 8838)."""

from connectivity.ice.candidate import (
    Candidate,
    CandidateKind,
    is_valid_address,
    parse,
    signalling_order,
)
from connectivity.ice.credentials import IceCredentials

__all__ = [
    "Candidate",
    "CandidateKind",
    "IceCredentials",
    "is_valid_address",
    "parse",
    "signalling_order",
]
