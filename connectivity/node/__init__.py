"""The node joins ICE, WireGuard and TURN: peers over connections, each on its best path."""

from connectivity.data_path import Opened
from connectivity.node.errors import NodeError, NoRelaysError, StrayDatagramError, UnknownConnectionError, datagrams_of
from connectivity.node.events import (
    CandidatesAdded,
    CandidatesRemoved,
    ConnectionClosed,
    ConnectionEstablished,
    ConnectionFailed,
    ConnectionSilent,
    Event,
    PathChanged,
)
from connectivity.node.node import Node
from connectivity.node.path import PathKind, PeerSocket
from connectivity.node.relays import RelayServer
from connectivity.node.statistics import ConnectionStatus, Statistics

__all__ = [
    "CandidatesAdded",
    "CandidatesRemoved",
    "ConnectionClosed",
    "ConnectionEstablished",
    "ConnectionFailed",
    "ConnectionSilent",
    "ConnectionStatus",
    "Event",
    "NoRelaysError",
    "Node",
    "NodeError",
    "Opened",
    "PathChanged",
    "PathKind",
    "PeerSocket",
    "RelayServer",
    "Statistics",
    "StrayDatagramError",
    "UnknownConnectionError",
    "datagrams_of",
]
