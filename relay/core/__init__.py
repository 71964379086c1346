"""The TURN server as a sans-IO core: ``Server`` and what it takes and hands out."""

from relay.core.authentication import Credential, CredentialSource, StampSecretCredentials
from relay.core.configuration import ServerSettings
from relay.core.nonce import NonceMint
from relay.core.outputs import (
    CloseRelayedPort,
    FiveTuple,
    InstallChannel,
    OpenRelayedPort,
    Output,
    Relayed,
    RemoveChannel,
    ToClient,
    ToPeer,
)
from relay.core.peers import PeerPolicy
from relay.core.server import Server
from relay.core.statistics import Direction, DropReason, Snapshot

__all__ = [
    "CloseRelayedPort",
    "Credential",
    "CredentialSource",
    "Direction",
    "DropReason",
    "FiveTuple",
    "InstallChannel",
    "NonceMint",
    "OpenRelayedPort",
    "Output",
    "PeerPolicy",
    "Relayed",
    "RemoveChannel",
    "Server",
    "ServerSettings",
    "Snapshot",
    "StampSecretCredentials",
    "ToClient",
    "ToPeer",
]
