"""The TURN server as a sans-IO core: ``Server`` and what it takes and hands out."""

from relay.core.configuration import ServerSettings
from relay.core.credentials import (
    CombinedCredentials,
    Credential,
    CredentialSource,
    RestCredentials,
    StampSecretCredentials,
    StaticCredentials,
)
from relay.core.data_path import Channel, DataPath
from relay.core.icmp import IcmpError
from relay.core.nonce import NonceMint
from relay.core.outputs import (
    CloseRelayedPort,
    CloseStream,
    FiveTuple,
    InstallChannel,
    NoteChannel,
    OpenRelayedPort,
    Output,
    Relayed,
    RemoveChannel,
    SetBucket,
    ToClient,
    ToPeer,
    Transport,
)
from relay.core.peers import PeerPolicy
from relay.core.quotas import Quotas
from relay.core.server import Server
from relay.core.statistics import Direction, DropReason, Snapshot
from relay.core.view import AllocationView, ChannelView

__all__ = [
    "AllocationView",
    "Channel",
    "ChannelView",
    "CloseRelayedPort",
    "CloseStream",
    "CombinedCredentials",
    "Credential",
    "CredentialSource",
    "DataPath",
    "Direction",
    "DropReason",
    "FiveTuple",
    "IcmpError",
    "InstallChannel",
    "NonceMint",
    "NoteChannel",
    "OpenRelayedPort",
    "Output",
    "PeerPolicy",
    "Quotas",
    "Relayed",
    "RemoveChannel",
    "RestCredentials",
    "Server",
    "ServerSettings",
    "SetBucket",
    "Snapshot",
    "StampSecretCredentials",
    "StaticCredentials",
    "ToClient",
    "ToPeer",
    "Transport",
]
