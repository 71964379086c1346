"""What a role decides about a flow: forward, turn round, drop, answer or hold; ``connectivity.flow_table`` keeps it."""

from collections.abc import Hashable
from dataclasses import dataclass
from enum import Enum, StrEnum, auto
from typing import Final, TypeAlias

from connectivity.clock import Instant
from connectivity.endpoint import IPAddress
from connectivity.ip.rewrite import Rewriting

RestsOn: TypeAlias = tuple[Hashable, ...]  # such as ("resource", id): what a decision falls with


class Translation:
    """One direction of an address translation: what ``ip.rewrite`` puts in; None leaves what is there.

    ``last_used`` and ``tcp_flags`` are written by whoever applies it, once per run, and read by whoever times it out.
    What is put in does not change once it was applied.
    """

    __slots__ = ("destination", "destination_port", "last_used", "rewriting", "source", "source_port", "tcp_flags")

    def __init__(
        self,
        *,
        source: IPAddress | None = None,
        destination: IPAddress | None = None,
        source_port: int | None = None,
        destination_port: int | None = None,
    ) -> None:
        self.source = source
        self.destination = destination
        self.source_port = source_port  # of an ICMP echo, either port is the identifier
        self.destination_port = destination_port
        self.last_used: Instant | None = None  # None: nothing has passed yet
        self.tcp_flags = 0  # all that have passed, OR'ed
        self.rewriting: Rewriting | None = None  # of the flow that it was last applied to, by whoever applies it


@dataclass(frozen=True, slots=True)
class Forward:
    """Between the host and this peer; of what comes from a peer, that peer. Remembered."""

    peer_id: str
    translation: Translation | None = None
    rests_on: RestsOn = ()


@dataclass(frozen=True, slots=True)
class Reflect:
    """Translated and back to where it came from. Remembered."""

    translation: Translation
    rests_on: RestsOn = ()


@dataclass(frozen=True, slots=True)
class Drop:
    """No further. Remembered only if it rests on something, with which it falls."""

    reason: StrEnum
    rests_on: RestsOn = ()


@dataclass(frozen=True, slots=True)
class Answer:
    """No further, and these IP packets go back to the sender. Never remembered."""

    packets: tuple[bytes, ...]
    reason: StrEnum


class Hold(Enum):
    """The role has kept the packets itself. Never remembered."""

    HOLD = auto()


HOLD: Final = Hold.HOLD
Verdict: TypeAlias = Forward | Reflect | Drop | Answer | Hold
Lasting: TypeAlias = Forward | Reflect | Drop
