"""What the roles share with the driver that runs them: a core's actions, and the product's tunnel ranges."""

from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network
from typing import Any, Final, Protocol, TypeAlias

from connectivity.clock import Instant, WallTime
from connectivity.ip.flow import PacketRun
from connectivity.node import PeerSocket, Statistics
from connectivity.portal.values import Interface, Network
from connectivity.run import Received, Transmit

PEERS_IPV4: Final = IPv4Network("100.64.0.0/11")
PEERS_IPV6: Final = IPv6Network("fd00:2021:1111::/107")


@dataclass(frozen=True, slots=True)
class SendToPortal:
    """One application message."""

    event: str
    payload: dict[str, Any]


@dataclass(frozen=True, slots=True)
class ConfigureTun:
    """The device's addresses and routes; only the latest counts."""

    interface: Interface
    routes: tuple[Network, ...]


@dataclass(frozen=True, slots=True)
class ReconnectPortal:
    """No relay is known: a new ``init`` is wanted."""


Action: TypeAlias = SendToPortal | ConfigureTun | ReconnectPortal


@dataclass(frozen=True, slots=True)
class ConnectionStatus:
    """One connection as people ask about it."""

    peer_id: str
    state: str
    socket: PeerSocket | None


class TunnelCore(Protocol):
    """A role without IO. Runs and transmits that hot calls hand out are borrowed until the next call."""

    def handle_packets(self, packets: PacketRun, now: Instant, errors: list[Exception]) -> Transmit | None:
        """Packets of one flow that the host sends into the tunnel."""

    def handle_datagrams(
        self, received: Received, now: Instant, wall_now: WallTime, errors: list[Exception]
    ) -> Iterator[PacketRun]:
        """Datagrams from the network; yields what the host is to receive, each borrowed until the next."""

    def handle_portal(self, event: str, payload: object, now: Instant, wall_now: WallTime) -> None:
        """A message of the portal. Raises MessageError if it cannot be read."""

    def handle_timeout(self, now: Instant, wall_now: WallTime) -> None:
        """Run what is due."""

    def poll_timeout(self) -> Instant | None:
        """The next deadline."""

    def poll_transmit(self) -> Transmit | None:
        """The next datagram of the control path."""

    def poll_action(self) -> Action | None:
        """The next thing to do for the core."""

    def close(self, now: Instant) -> None:
        """Say goodbye on every connection; the transmits that are left are the last ones."""

    def connections(self) -> list[ConnectionStatus]:
        """What to show."""

    def statistics(self) -> Statistics:
        """What to count."""
