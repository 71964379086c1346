"""How much of a process HTTP servers may have; for those, too, who must leave them room."""

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Limits:
    """What one server gives to strangers, and how many it may admit.

    Attributes:
        connections: of all strangers; a quarter of the process's descriptors at most.
        per_address: of one IPv4 address or IPv6 /64. An office, a relay or a proxy is one address to us.
        admitted: connections that handlers let in; fewer where descriptors are short.
        seconds: for a whole request, and again for its answer.
    """

    connections: int
    per_address: int
    admitted: int = 0
    seconds: float = 10.0


PROBES: Final = Limits(connections=128, per_address=64)  # health checks, Prometheus, people with curl
OPERATOR: Final = Limits(connections=16, per_address=16)  # a Unix socket that only its owner may open
