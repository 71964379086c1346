"""ICE for one UDP component between two full agents that trickle their candidates (RFC 8445, RFC 8838)."""

from connectivity.ice.agent import Agent
from connectivity.ice.candidate import (
    Candidate,
    CandidateKind,
    is_valid_address,
    parse,
    signalling_order,
)
from connectivity.ice.credentials import IceCredentials
from connectivity.ice.events import AgentState, Event, Nominated, StateChanged

__all__ = [
    "Agent",
    "AgentState",
    "Candidate",
    "CandidateKind",
    "Event",
    "IceCredentials",
    "Nominated",
    "StateChanged",
    "is_valid_address",
    "parse",
    "signalling_order",
]
