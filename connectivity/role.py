"""What a tunnel's core asks of a role, what a role may do with its tunnel, and the actions that both emit."""

import logging
from collections import Counter, deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, ClassVar, Final, Protocol, TypeAlias

from connectivity import p2p
from connectivity.clock import Instant, WallTime
from connectivity.endpoint import Endpoint, IPAddress
from connectivity.flow_table import FlowTable
from connectivity.fragment_table import FragmentTable
from connectivity.ice.policy import TUNNEL_IPV4, TUNNEL_IPV6
from connectivity.ip.flow import PacketRun
from connectivity.milestones import Milestone, ResourceGranted, Unanswered
from connectivity.node import Node, UnknownConnectionError
from connectivity.portal.values import Interface, Network
from connectivity.ranges import excluded
from connectivity.status import RoleStatus
from connectivity.verdict import Verdict

log = logging.getLogger("connectivity.tunnel")

PEERS_IPV4: Final = TUNNEL_IPV4
PEERS_IPV6: Final = TUNNEL_IPV6
_HOST_PACKETS: Final = 1024  # what waits for the driver, who takes all after each run; a super-packet has fewer


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
    excluded: tuple[Network, ...] = ()  # what lies in a route and is none of the tunnel's
    sentinels: tuple[tuple[IPAddress, Endpoint], ...] = ()  # addresses to ask names at, each with the server behind it
    search_domain: str | None = None


@dataclass(frozen=True, slots=True)
class ReconnectPortal:
    """No relay is known: a new ``init`` is wanted."""


Action: TypeAlias = SendToPortal | ConfigureTun | ReconnectPortal


class TunnelDrop(StrEnum):
    """Why packets go no further, whatever the role."""

    NO_CONNECTION = "no_connection"
    HOST_QUEUE_FULL = "host_queue_full"
    QUEUE_FULL = "queue_full"  # newer packets wait for a peer
    CONTROL_UNREADABLE = "control_unreadable"
    STRAY_DATAGRAM = "stray_datagram"


class TunnelRole(Protocol):
    """What makes a tunnel a client's or a gateway's.

    It is asked once per flow; a lasting answer holds until something that it rests on is forgotten.
    """

    peer: ClassVar[str]  # what the portal calls the other end
    peer_field: ClassVar[str]  # what people read its id under
    expects_strays: ClassVar[bool]  # behind the NATs of laptops, strays of old connections are no news
    reasons: ClassVar[type[StrEnum]]  # of its drops and answers

    @property
    def waiting_packets(self) -> int:
        """How many packets the role holds."""

    def judge_outbound(self, packets: PacketRun, now: Instant) -> Verdict:
        """What becomes of a flow of the host."""

    def judge_inbound(self, peer_id: str, packets: PacketRun, now: Instant) -> Verdict:
        """What becomes of a flow of this peer."""

    def handle_control(self, peer_id: str, event: p2p.AssignedIps | p2p.DomainStatus, now: Instant) -> None:
        """A control message of a peer."""

    def handle_message(self, event: str, payload: object, now: Instant, wall_now: WallTime) -> None:
        """A message of the portal that only this role gets.

        Raises:
            MessageError: it cannot be read, or this role knows no such event.
            NoRelaysError: it asks for a connection, which has to wait for another ``init``.
        """

    def peer_name(self, peer_id: str) -> str:
        """What people call a peer; empty where the portal does not say."""

    def forget_peer(self, peer_id: str) -> None:
        """The peer said goodbye, or got one."""

    def peer_failed(self, peer_id: str) -> None:
        """The connection to a peer was lost without a word."""

    def peer_silent(self, peer_id: str, now: Instant) -> None:
        """A peer answers nothing any more, although its connection has not failed yet: it may be another one now."""

    def reset(self, now: Instant) -> None:
        """All connections are about to go, for we begin anew with another key: forget what rests on them."""

    def handle_timeout(self, now: Instant, wall_now: WallTime) -> None:
        """Run what is due."""

    def poll_timeout(self) -> Instant | None:
        """The next deadline."""

    def status(self) -> RoleStatus:
        """What people ask about, beside the connections."""


class RoleTunnel:
    """The tunnel as its role sees it: the node, the flow table, and the ways out."""

    def __init__(self, node: Node) -> None:
        self.node = node
        self.flows = FlowTable()
        self.fragments = FragmentTable()
        self.interface: Interface | None = None
        self.drops: Counter[StrEnum] = Counter()
        self.actions: deque[object] = deque()
        self.host_packets: deque[bytes] = deque()
        self.tell: Callable[[Milestone], None] = _nobody_listens
        self.unanswered = Unanswered()
        self._configured: ConfigureTun | None = None

    def send(self, peer_id: str, packet: bytes, tos: int, now: Instant) -> None:
        """Send an IP packet to a peer; it waits while the connection is being made."""
        try:
            self.node.send(peer_id, packet, tos, now)
        except UnknownConnectionError:
            self.drops[TunnelDrop.NO_CONNECTION] += 1

    def send_control(self, peer_id: str, event: p2p.ControlEvent, now: Instant) -> None:
        """Send a control message to a peer."""
        self.send(peer_id, p2p.build(event), 0, now)

    def write_to_host(self, packet: bytes) -> None:
        """Give the host an IP packet."""
        if len(self.host_packets) >= _HOST_PACKETS:
            self.drops[TunnelDrop.HOST_QUEUE_FULL] += 1
        else:
            self.host_packets.append(packet)

    def act(self, action: object) -> None:
        """Ask the driver for something; actions other than ``Action`` are the role's extension's."""
        self.actions.append(action)

    def configure(
        self,
        routes: Iterable[Network],
        *,
        apart: tuple[Network, ...] = (),
        sentinels: tuple[tuple[IPAddress, Endpoint], ...] = (),
        search_domain: str | None = None,
    ) -> None:
        """Ask for the device configuration if it differs from the last one.

        Args:
            routes: what leads into the device.
            apart: what of that does not, beside what no wide network includes.
            sentinels: where names are asked for, each with the server behind it.
            search_domain: what the host puts behind names of one label.
        """
        if self.interface is None:
            return
        networks = (*routes, PEERS_IPV4, PEERS_IPV6)
        configuration = ConfigureTun(self.interface, networks, (*excluded(networks), *apart), sentinels, search_domain)
        if configuration != self._configured:
            self._configured = configuration
            for stale in [action for action in self.actions if isinstance(action, ConfigureTun)]:
                self.actions.remove(stale)
            self.actions.append(configuration)

    def granted(self, peer_id: str, public_key: bytes, resource_id: str) -> None:
        """The portal's word about a resource; its first answer is to be told, too."""
        self.unanswered.add(peer_id, resource_id)
        self.tell(ResourceGranted(peer_id, public_key, resource_id))

    def dismiss(self, peer_id: str, now: Instant) -> None:
        """Say goodbye to a peer and forget the connection; the role forgets the peer by itself."""
        self.node.close(peer_id, p2p.build(p2p.Goodbye()), now)


def _nobody_listens(_: Milestone) -> None:
    """Until somebody does."""
