"""What a node tells whoever exports metrics."""

from collections.abc import Mapping
from dataclasses import dataclass

from connectivity.wireguard import DropReason


@dataclass(frozen=True, slots=True)
class Statistics:
    """``drops`` only ever grow, also when the connections that dropped are gone."""

    waiting_packets: int
    drops: Mapping[DropReason, int]
