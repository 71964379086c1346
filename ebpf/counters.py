"""What the program has counted, as values: of one channel binding, and of all packets by outcome."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from ebpf.layout import Counter
from ebpf.outcomes import Direction, Outcome


@dataclass(frozen=True, slots=True)
class FlowCounters:
    """What the program forwarded for one binding: as the sender's and as the receiver's between two clients."""

    to_peer: Counter
    to_client: Counter


NOTHING: Final = FlowCounters(Counter(), Counter())


@dataclass(frozen=True, slots=True)
class Counters:
    """What the program did since it was loaded. Bytes are message bytes in ``forwarded``, frame bytes else."""

    forwarded: Mapping[Direction, Counter]
    egress: Mapping[Outcome, Counter]
    passed: Mapping[Outcome, Counter]
    dropped: Mapping[Outcome, Counter]
