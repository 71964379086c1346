"""What a relay tells the offload, and the one error that the offload raises."""

from dataclasses import dataclass
from ipaddress import IPv6Address
from typing import Final, Literal

from connectivity.clock import Instant
from connectivity.endpoint import Endpoint, IPAddress

FIRST_CHANNEL: Final = 0x4000
LAST_CHANNEL: Final = 0x7FFF
# Channel numbers and relayed ports share one field of the flow key: the ranges must not meet.
FIRST_RELAYED_PORT: Final = 0x8000
MAX_INTERFACES: Final = 8  # include/abi.h


class OffloadError(Exception):
    """Loading or attaching failed: one line, the cause chained."""


@dataclass(frozen=True, slots=True)
class OffloadSettings:
    """Where and how to offload.

    ``internal`` are the relay's addresses behind a 1:1 NAT; a family without one uses those of the interfaces.
    ``public`` are what clients and peers see. ``capacity`` is the number of channel bindings that always fit.
    """

    interfaces: tuple[str, ...]
    mode: Literal["auto", "native", "generic"] = "auto"
    listen_ports: tuple[int, ...] = (3478,)
    public: tuple[IPAddress, ...] = ()
    internal: tuple[IPAddress, ...] = ()
    generic_from_peer: bool = False
    capacity: int = 65536


@dataclass(frozen=True, slots=True)
class ChannelFlow:
    """A live channel binding: what ``client`` sends in ``channel`` goes from ``relayed_port`` to ``peer``, and back.

    ``local`` is the relay's address that the client talks to. Without it, answers leave from the address that the peer
    sent to, or from the relay's own one where the families differ: right unless a relay has several per family.
    ``listen_port`` is its port. ``bucket`` is the token bucket of the client's user, 0 none.
    """

    client: Endpoint
    channel: int
    peer: Endpoint
    relayed_port: int
    expires_at: Instant
    local: IPAddress | None = None
    bucket: int = 0
    listen_port: int = 3478

    def __post_init__(self) -> None:
        if not FIRST_CHANNEL <= self.channel <= LAST_CHANNEL:
            raise ValueError(f"channel {self.channel:#06x} is outside 0x4000 to 0x7FFF")
        if not FIRST_RELAYED_PORT <= self.relayed_port <= 0xFFFF:
            raise ValueError(f"relayed port {self.relayed_port} is below 32768: it cannot be offloaded")
        if self.local is not None and isinstance(self.local, IPv6Address) != (self.client.ip.version == 6):
            raise ValueError("the local address and the client's differ in family")
