"""What client and gateway have in common: a node, the portal's words about its peers, and the actions they ask for."""

import logging
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, Final, TypeAlias

from connectivity import p2p
from connectivity.clock import Instant, WallTime
from connectivity.endpoint import Endpoint, IPAddress
from connectivity.ice.policy import TUNNEL_IPV4, TUNNEL_IPV6
from connectivity.ip import icmp, packet
from connectivity.ip.checksum import PROTOCOL_ICMP, PROTOCOL_ICMPV6
from connectivity.ip.flow import ECN_CE, ECN_MASK, FlowKey, PacketRun, mark_congestion, split_flows
from connectivity.ip.packet import IpError
from connectivity.node import (
    CandidatesAdded,
    CandidatesRemoved,
    ConnectionClosed,
    ConnectionEstablished,
    ConnectionFailed,
    ConnectionStatus,
    Node,
    NoRelaysError,
    Statistics,
    UnknownConnectionError,
)
from connectivity.portal import values
from connectivity.portal.values import Interface, Network, mapping, text
from connectivity.ranges import excluded
from connectivity.run import Received, Transmit
from connectivity.wireguard import KeyPair

log = logging.getLogger("connectivity.tunnel")

PEERS_IPV4: Final = TUNNEL_IPV4
PEERS_IPV6: Final = TUNNEL_IPV6
_CACHED_FLOWS: Final = 65536
_ICMP: Final = frozenset({PROTOCOL_ICMP, PROTOCOL_ICMPV6})


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


def is_icmp_error(packets: PacketRun) -> bool:
    """Whether this is an ICMP error, which is always a run of one."""
    return packets.flow[1] in _ICMP and icmp.is_error(packet.parse(packets.run.data))


def _is_one_flow(key: FlowKey) -> bool:
    """Whether what is decided of one packet holds for all of this key, which all ICMP but echoes shares."""
    return key[1] not in _ICMP or any(key[-4:])


def is_echo(packets: PacketRun) -> bool:
    """Whether this is an ICMP echo request or reply."""
    return packets.flow[1] in _ICMP and packet.parse(packets.run.data).is_echo


class TunnelCore(ABC):
    """A role without IO. Runs and transmits that hot calls hand out are borrowed until the next call.

    A role is asked once per flow (``_route``, ``_may_pass``); the answers hold until ``_forget_flows``.
    """

    peer: ClassVar[str]  # what the portal calls the other end
    peer_field: ClassVar[str]  # what people read its id under

    def __init__(self, *, keys: KeyPair, controlling: bool, rng: Callable[[int], bytes]) -> None:
        self._node = Node(keys=keys, controlling=controlling, rng=rng)
        self._interface: Interface | None = None
        self._configured: ConfigureTun | None = None
        self._outbound: dict[FlowKey, str] = {}  # flows of the host, with their peer
        self._inbound: set[tuple[str, FlowKey]] = set()  # flows of peers that the host may see
        self._actions: deque[Action] = deque()

    # Traffic -------------------------------------------------------------------------------------------------------

    def handle_packets(self, packets: PacketRun, now: Instant, errors: list[Exception]) -> Transmit | None:
        """Packets of one flow that the host sends into the tunnel."""
        peer_id = self._outbound.get(packets.flow)
        if peer_id is None:
            peer_id = self._route(packets, now)
            if peer_id is None:
                return None
            if _is_one_flow(packets.flow):
                if len(self._outbound) >= _CACHED_FLOWS:
                    self._outbound.clear()
                self._outbound[packets.flow] = peer_id
        try:
            return self._node.seal(peer_id, packets.run, packets.tos, now)
        except UnknownConnectionError as error:  # gone, and what was decided about its flows is not
            errors.append(error)
            return None

    def handle_datagrams(
        self, received: Received, now: Instant, wall_now: WallTime, errors: list[Exception]
    ) -> Iterator[PacketRun]:
        """Datagrams from the network; yields what the host is to receive, each borrowed until the next."""
        faulty: list[IpError] = []
        for peer_id, run, outer_tos in self._node.open(received, now, wall_now, errors):
            for packets in split_flows(run, faulty):
                if (peer_id, packets.flow) in self._inbound or self._admit(peer_id, packets, now):
                    yield mark_congestion(packets) if outer_tos & ECN_MASK == ECN_CE else packets
        errors += faulty
        self._handle_node_events()

    def _admit(self, peer_id: str, packets: PacketRun, now: Instant) -> bool:
        """Whether the host may see a peer's packets; control messages are handled here and never pass."""
        if p2p.is_control(packets.run.data):  # always a run of one
            self._handle_control(peer_id, packets.run.data)
            return False
        if not self._may_pass(peer_id, packets, now):
            return False
        if _is_one_flow(packets.flow):
            if len(self._inbound) >= _CACHED_FLOWS:
                self._inbound.clear()
            self._inbound.add((peer_id, packets.flow))
        return True

    def _handle_control(self, peer_id: str, message: memoryview) -> None:
        try:
            event = p2p.parse(message)
        except p2p.ControlError as error:
            log.debug("Ignoring control message", extra={"fields": {self.peer_field: peer_id, "reason": str(error)}})
            return
        if isinstance(event, p2p.Goodbye):
            self._node.remove(peer_id, "goodbye")
            self._forget(peer_id)

    # Portal --------------------------------------------------------------------------------------------------------

    def handle_portal(self, event: str, payload: object, now: Instant, wall_now: WallTime) -> None:
        """A message of the portal.

        Raises:
            MessageError: it cannot be read, or nobody knows such an event.
        """
        match event:
            case "relays_presence":
                gone, servers = values.relays_presence(payload)
                self._node.update_relays(gone, servers, now)
            case "ice_candidates":
                peer_id, candidates = self._candidates(payload)
                self._node.add_remote_candidates(peer_id, candidates, now, wall_now)
            case "invalidate_ice_candidates":
                peer_id, candidates = self._candidates(payload)
                self._node.remove_remote_candidates(peer_id, candidates, now, wall_now)
            case _:
                try:
                    self._handle_message(event, payload, now, wall_now)
                except NoRelaysError as error:
                    log.info("Reconnecting to the portal", extra={"fields": {"event": event, "reason": str(error)}})
                    self._actions.append(ReconnectPortal())
        self._handle_node_events()

    def _candidates(self, payload: object) -> tuple[str, list[str]]:
        message = mapping(payload)
        return text(message, f"{self.peer}_id"), values.candidates(message)

    # Time and output -----------------------------------------------------------------------------------------------

    def handle_timeout(self, now: Instant, wall_now: WallTime) -> None:
        """Run what is due."""
        self._node.handle_timeout(now, wall_now)
        self._handle_node_events()

    def poll_timeout(self) -> Instant | None:
        """The next deadline."""
        return self._node.poll_timeout()

    def poll_transmit(self) -> Transmit | None:
        """The next datagram of the control path."""
        return self._node.poll_transmit()

    def poll_action(self) -> Action | None:
        """The next thing to do for the core."""
        return self._actions.popleft() if self._actions else None

    def close(self, now: Instant) -> None:
        """Say goodbye on every connection; the transmits that are left are the last ones."""
        for connection in self.connections():
            self._dismiss(connection.peer_id, now)

    def connections(self) -> list[ConnectionStatus]:
        """What to show."""
        return self._node.connections()

    def statistics(self) -> Statistics:
        """What to count."""
        return self._node.statistics()

    # What roles differ in ------------------------------------------------------------------------------------------

    @abstractmethod
    def _route(self, packets: PacketRun, now: Instant) -> str | None:
        """The peer for a flow of the host; None if its packets are kept for later or dropped."""

    @abstractmethod
    def _may_pass(self, peer_id: str, packets: PacketRun, now: Instant) -> bool:
        """Whether the host may see a flow of this peer."""

    @abstractmethod
    def _handle_message(self, event: str, payload: object, now: Instant, wall_now: WallTime) -> None:
        """A message that only this role gets.

        Raises:
            MessageError: it cannot be read, or this role knows no such event.
            NoRelaysError: it asks for a connection, which has to wait for another ``init``.
        """

    @abstractmethod
    def _forget(self, peer_id: str) -> None:
        """The peer said goodbye, or got one."""

    @abstractmethod
    def _handle_failure(self, peer_id: str) -> None:
        """The connection to a peer was lost without a word."""

    # What roles do with it -----------------------------------------------------------------------------------------

    def _configure(self, routes: Iterable[Network]) -> None:
        """Emit the device configuration if it differs from the last one."""
        if self._interface is None:
            return
        networks = (*routes, PEERS_IPV4, PEERS_IPV6)
        configuration = ConfigureTun(self._interface, networks, excluded(networks))
        if configuration != self._configured:
            self._configured = configuration
            self._actions = deque(action for action in self._actions if not isinstance(action, ConfigureTun))
            self._actions.append(configuration)

    def _dismiss(self, peer_id: str, now: Instant) -> None:
        """Say goodbye to a peer."""
        self._node.close(peer_id, p2p.build(p2p.Goodbye()), now)
        self._forget(peer_id)

    def _forget_flows(self) -> None:
        """Decide anew about every flow."""
        self._outbound.clear()
        self._inbound.clear()

    # Private -------------------------------------------------------------------------------------------------------

    def _handle_node_events(self) -> None:
        while (event := self._node.poll_event()) is not None:
            match event:
                case CandidatesAdded(peer_id, candidates):
                    self._signal("broadcast_ice_candidates", peer_id, candidates)
                case CandidatesRemoved(peer_id, candidates):
                    self._signal("broadcast_invalidated_ice_candidates", peer_id, candidates)
                case ConnectionFailed(peer_id):
                    self._handle_failure(peer_id)
                case ConnectionEstablished() | ConnectionClosed():
                    pass  # the node has logged it and nothing here depends on it

    def _signal(self, event: str, peer_id: str, candidates: tuple[str, ...]) -> None:
        self._actions.append(SendToPortal(event, {f"{self.peer}_ids": [peer_id], "candidates": list(candidates)}))
