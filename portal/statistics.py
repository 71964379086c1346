"""What the portal counts, where it happens. Labels are closed sets."""

from collections import Counter
from dataclasses import dataclass, field
from enum import StrEnum

from portal.configuration import TokenType


class LoginResult(StrEnum):
    """What became of a request for a WebSocket."""

    ACCEPTED = "accepted"
    WRONG_TOKEN = "wrong_token"
    MALFORMED = "malformed"  # parameters that cannot be
    BUSY = "busy"  # a table is full, or another relay has the address


class FlowResult(StrEnum):
    """What a client was told that asked for a resource."""

    CREATED = "created"
    NOT_FOUND = "not_found"
    FORBIDDEN = "forbidden"
    OFFLINE = "offline"
    LIMIT_REACHED = "limit_reached"


@dataclass(slots=True)
class Statistics:
    """Counters that only grow."""

    logins: Counter[tuple[TokenType, LoginResult]] = field(default_factory=Counter)
    flows: Counter[FlowResult] = field(default_factory=Counter)
    received: Counter[TokenType] = field(default_factory=Counter)  # frames
    sent: Counter[TokenType] = field(default_factory=Counter)
    cut_off: Counter[TokenType] = field(default_factory=Counter)  # components that flooded


@dataclass(frozen=True, slots=True)
class Sizes:
    """How full the tables are."""

    connections: int
    devices: dict[TokenType, int]
    relays: int
    grants: int
    waiting_flows: int
