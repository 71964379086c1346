"""What a connection is made of: what it shares with its peer, and what with the other connections of its node."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from connectivity.data_path import DataPath
from connectivity.ice import IceCredentials
from connectivity.node.events import Event
from connectivity.node.relays import RelaySet
from connectivity.run import Transmit
from connectivity.wireguard import KeyPair, RateLimiter, format_key


class Parameters(NamedTuple):
    """What makes two connections to one peer the same one: all four have to be equal."""

    public_key: bytes
    preshared_key: bytes
    local: IceCredentials
    remote: IceCredentials

    def __repr__(self) -> str:
        return f"Parameters({format_key(self.public_key)}, {self.local!r}, {self.remote!r})"


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What all connections of one node share."""

    keys: KeyPair
    controlling: bool
    limiter: RateLimiter
    data_path: DataPath
    relays: RelaySet
    rng: Callable[[int], bytes]
    emit: Callable[[Event], None]
    transmit: Callable[[Transmit], None]
