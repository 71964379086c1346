"""What the client's core asks of its DNS driver."""

from dataclasses import dataclass
from enum import Enum
from typing import Final

from connectivity.clock import SECOND, Duration
from connectivity.endpoint import Endpoint

QUERY_TIMEOUT: Final[Duration] = 5 * SECOND  # what the driver gives a server; who asked asks again about then


class Transport(Enum):
    """How a query came, and how it goes on."""

    UDP = "udp"
    TCP = "tcp"


@dataclass(frozen=True, slots=True)
class ForwardQuery:
    """Send this query to a server from a socket of its own, and give back the answer or that there is none.

    ``through_tunnel``: the socket is not marked, so that the host's routes lead it into the TUN device. The message has
    an id of its own already; what comes from elsewhere than the server, or with another id, is no answer.
    """

    query_id: int
    server: Endpoint
    message: bytes
    transport: Transport
    through_tunnel: bool


@dataclass(frozen=True, slots=True)
class TcpReply:
    """The answer to a query that came over TCP; None if it was none and is not answered."""

    query_id: int
    message: bytes | None


@dataclass(frozen=True, slots=True)
class FlushNames:
    """Names stand for other addresses now: the host is to forget what it remembers of them."""
