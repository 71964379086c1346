"""The gateway without IO: who may send what, and which client an answer belongs to.

Decisions are made once per flow and remembered until something that they rest on changes. The gateway never starts a
WireGuard session: packets for a client without a path are dropped.
"""

import logging
from collections import deque
from collections.abc import Callable, Iterator
from typing import Final

from connectivity import p2p
from connectivity.clock import SECOND, Instant, WallTime, earliest
from connectivity.endpoint import IPAddress
from connectivity.ip import icmp, packet
from connectivity.ip.flow import ECN_CE, ECN_MASK, Flow, FlowKey, PacketRun, mark_congestion, split_flows
from connectivity.ip.packet import IpError
from connectivity.node import (
    CandidatesAdded,
    CandidatesRemoved,
    ConnectionClosed,
    ConnectionEstablished,
    ConnectionFailed,
    Node,
    NoRelaysError,
    Statistics,
    UnknownConnectionError,
)
from connectivity.portal import values
from connectivity.portal.values import Interface, Json, MessageError, listing, mapping, text
from connectivity.run import Received, Run, Transmit
from connectivity.tunnel import (
    PEERS_IPV4,
    PEERS_IPV6,
    Action,
    ConfigureTun,
    ConnectionStatus,
    ReconnectPortal,
    SendToPortal,
)
from connectivity.wireguard import KeyPair
from gateway.peers import ClientPeer, Verdict, parse_resource

log = logging.getLogger("gateway")

EXPIRY_INTERVAL: Final = SECOND
_ICMP: Final = frozenset({1, 58})
_CACHED_FLOWS: Final = 65536


class GatewayCore:
    """One gateway; ``TunnelCore`` says how to drive it."""

    def __init__(self, *, keys: KeyPair, rng: Callable[[int], bytes], now: Instant) -> None:
        self._node = Node(keys=keys, controlling=False, rng=rng)
        self._clients: dict[str, ClientPeer] = {}
        self._by_address: dict[IPAddress, ClientPeer] = {}
        self._interface: Interface | None = None
        self._configured: ConfigureTun | None = None
        self._to_client: dict[FlowKey, str] = {}  # flows towards clients that passed, with their client
        self._from_client: set[tuple[str, FlowKey]] = set()  # flows from clients that passed
        self._expiry_due = now + EXPIRY_INTERVAL
        self._actions: deque[Action] = deque()

    # Traffic -------------------------------------------------------------------------------------------------------

    def handle_packets(self, packets: PacketRun, now: Instant, errors: list[Exception]) -> Transmit | None:
        """Packets of one flow from a resource, for a client."""
        client_id = self._to_client.get(packets.flow)
        if client_id is None:
            client_id = self._admit_to_client(packets)
            if client_id is None:
                return None
        try:
            return self._node.seal(client_id, packets.run, packets.tos, now)
        except UnknownConnectionError as error:  # gone, while its access lives on and resources still answer
            errors.append(error)
            return None

    def handle_datagrams(
        self, received: Received, now: Instant, wall_now: WallTime, errors: list[Exception]
    ) -> Iterator[PacketRun]:
        """Datagrams from the network."""
        faulty: list[IpError] = []
        for client_id, run, outer_tos in self._node.open(received, now, wall_now, errors):
            for packets in split_flows(run, faulty):
                if (client_id, packets.flow) in self._from_client or self._admit_from_client(client_id, packets, now):
                    yield mark_congestion(packets) if outer_tos & ECN_MASK == ECN_CE else packets
        errors += faulty
        self._handle_node_events()

    def _admit_to_client(self, packets: PacketRun) -> str | None:
        flow = Flow.from_key(packets.flow)
        client = self._by_address.get(flow.destination)
        if client is None or self._interface is None:
            return None
        is_error = flow.protocol in _ICMP and icmp.is_error(packet.parse(packets.run.data))
        if client.judge_incoming(flow, self._interface, is_icmp_error=is_error) is not Verdict.PASS:
            log.debug("Filtered a packet", extra={"fields": {"cid": client.client_id, "protocol": flow.protocol}})
            return None
        if not is_error:  # an error shares its flow key with other ICMP, which must be judged
            if len(self._to_client) >= _CACHED_FLOWS:
                self._to_client.clear()
            self._to_client[packets.flow] = client.client_id
        return client.client_id

    def _admit_from_client(self, client_id: str, packets: PacketRun, now: Instant) -> bool:
        flow = Flow.from_key(packets.flow)
        if p2p.is_control(packets.run.data):  # always a run of one
            self._handle_control(client_id, packets.run.data)
            return False
        client = self._clients.get(client_id)
        if client is None or self._interface is None:
            return False
        verdict = client.judge_outgoing(flow, self._interface)
        if verdict is Verdict.PASS:
            if len(self._from_client) >= _CACHED_FLOWS:
                self._from_client.clear()
            self._from_client.add((client_id, packets.flow))
            return True
        log.debug("Refused a packet", extra={"fields": {"cid": client_id, "verdict": verdict.name.lower()}})
        for segment in packets.run.segments():
            answer = icmp.prohibited(packet.parse(segment))
            transmit = None if answer is None else self._node.seal(client_id, Run.single(answer), 0, now)
            if transmit is not None:
                self._node.queue(transmit)
        return False

    def _handle_control(self, client_id: str, message: memoryview) -> None:
        try:
            event = p2p.parse(message)
        except p2p.ControlError as error:
            log.debug("Ignoring control message", extra={"fields": {"cid": client_id, "reason": str(error)}})
            return
        if isinstance(event, p2p.Goodbye):
            self._node.remove(client_id, "goodbye")
            self._forget_client(client_id)

    # Portal --------------------------------------------------------------------------------------------------------

    def handle_portal(self, event: str, payload: object, now: Instant, wall_now: WallTime) -> None:
        """A message of the portal; unknown events raise MessageError too."""
        message = mapping(payload)
        match event:
            case "init":
                self._handle_init(message, now)
            case "authorize_flow":
                self._handle_authorize_flow(message, now, wall_now)
            case "access_authorization_expiry_updated":
                self._handle_expiry_updated(message)
            case "reject_access":
                self._handle_reject_access(message, now)
            case "resource_updated":
                resource = parse_resource(message)
                for client in self._clients.values():
                    client.update(resource)
                self._forget_flows()
            case "relays_presence":
                gone, servers = values.relays_presence(message)
                self._node.update_relays(gone, servers, now)
            case "ice_candidates":
                peer_id, candidates = text(message, "client_id"), values.candidates(message)
                self._node.add_remote_candidates(peer_id, candidates, now, wall_now)
            case "invalidate_ice_candidates":
                peer_id, candidates = text(message, "client_id"), values.candidates(message)
                self._node.remove_remote_candidates(peer_id, candidates, now, wall_now)
            case _:
                raise MessageError(f"unknown event {event!r}")
        self._handle_node_events()

    def _handle_init(self, message: Json, now: Instant) -> None:
        interface = values.interface(message)
        servers = values.relays(message)
        granted: dict[str, dict[str, int]] = {}
        for entry in listing(message, "authorizations", optional=True):
            row = mapping(entry, "authorizations")
            expires_at = values.timestamp(row, "expires_at")
            if expires_at is not None:
                granted.setdefault(text(row, "client_id"), {})[text(row, "resource_id")] = expires_at
        self._interface = interface
        self._node.update_relays((), servers, now)
        for client in list(self._clients.values()):  # whoever is not listed has lost everything
            allowed = granted.get(client.client_id, {})
            for resource_id in client.resource_ids():
                if resource_id in allowed:
                    client.extend(resource_id, allowed[resource_id])
                else:
                    client.revoke(resource_id)
            self._dismiss_if_empty(client, now)
        self._forget_flows()
        configuration = ConfigureTun(interface, (PEERS_IPV4, PEERS_IPV6))
        if configuration != self._configured:
            self._configured = configuration
            self._actions.append(configuration)

    def _handle_authorize_flow(self, message: Json, now: Instant, wall_now: WallTime) -> None:
        reference = text(message, "ref")
        resource = parse_resource(mapping(message.get("resource"), "resource"))
        peer = mapping(message.get("client"), "client")
        client_id = text(peer, "id")
        addresses = values.addresses(peer, "ipv4", "ipv6")
        expires_at = values.timestamp(message, "expires_at", nullable=True)
        try:
            self._node.upsert(
                client_id,
                public_key=values.key(peer, "public_key"),
                preshared_key=values.key(peer, "preshared_key"),
                local=values.credentials(message, "gateway_ice_credentials"),
                remote=values.credentials(message, "client_ice_credentials"),
                now=now,
                wall_now=wall_now,
            )
        except NoRelaysError:
            log.info("No relay is known, reconnecting to the portal", extra={"fields": {"cid": client_id}})
            self._actions.append(ReconnectPortal())
            return
        client = self._clients.setdefault(client_id, ClientPeer(client_id, addresses))
        if client.addresses != addresses:
            self._release_addresses(client)
            client.addresses = addresses
        self._by_address[addresses.ipv4] = self._by_address[addresses.ipv6] = client
        client.grant(resource, expires_at)
        self._forget_flows()
        fields = {"cid": client_id, "rid": resource.resource_id, "expires_at": expires_at}
        log.info("Allowing access to resource", extra={"fields": fields})
        self._actions.append(SendToPortal("flow_authorized", {"ref": reference}))

    def _handle_expiry_updated(self, message: Json) -> None:
        client_id, resource_id = text(message, "client_id"), text(message, "resource_id")
        expires_at = values.timestamp(message, "expires_at")
        client = self._clients.get(client_id)
        known = client is not None and expires_at is not None and client.extend(resource_id, expires_at)
        fields = {"cid": client_id, "rid": resource_id, "expires_at": expires_at}
        # Unknown is nothing to worry about: a client that said goodbye is forgotten here before the portal knows.
        phrase = "Updated access expiry" if known else "Expiry of an unknown authorization"
        log.log(logging.INFO if known else logging.DEBUG, phrase, extra={"fields": fields})

    def _handle_reject_access(self, message: Json, now: Instant) -> None:
        client_id, resource_id = text(message, "client_id"), text(message, "resource_id")
        client = self._clients.get(client_id)
        if client is not None and client.revoke(resource_id):
            log.info("Access revoked", extra={"fields": {"cid": client_id, "rid": resource_id}})
            self._forget_flows()
            self._dismiss_if_empty(client, now)

    # Time and output -----------------------------------------------------------------------------------------------

    def handle_timeout(self, now: Instant, wall_now: WallTime) -> None:
        """Run what is due; authorizations are looked at once a second."""
        if now >= self._expiry_due:
            self._expiry_due = now + EXPIRY_INTERVAL
            for client in list(self._clients.values()):
                for resource_id in client.expire(wall_now):
                    log.info("Access expired", extra={"fields": {"cid": client.client_id, "rid": resource_id}})
                    self._forget_flows()
                self._dismiss_if_empty(client, now)
        self._node.handle_timeout(now, wall_now)
        self._handle_node_events()

    def poll_timeout(self) -> Instant | None:
        """The next deadline."""
        return earliest(self._node.poll_timeout(), self._expiry_due if self._clients else None)

    def poll_transmit(self) -> Transmit | None:
        """The next datagram of the control path."""
        return self._node.poll_transmit()

    def poll_action(self) -> Action | None:
        """The next message or device configuration."""
        return self._actions.popleft() if self._actions else None

    def close(self, now: Instant) -> None:
        """Say goodbye to every client."""
        for client_id in list(self._clients):
            self._node.close(client_id, p2p.build(p2p.Goodbye()), now)
            self._forget_client(client_id)

    def connections(self) -> list[ConnectionStatus]:
        """Every connection with its path."""
        return [ConnectionStatus(*row) for row in self._node.paths()]

    def statistics(self) -> Statistics:
        """What to count."""
        return self._node.statistics()

    # Private -------------------------------------------------------------------------------------------------------

    def _handle_node_events(self) -> None:
        while (event := self._node.poll_event()) is not None:
            match event:
                case CandidatesAdded(client_id, candidates):
                    self._signal("broadcast_ice_candidates", client_id, candidates)
                case CandidatesRemoved(client_id, candidates):
                    self._signal("broadcast_invalidated_ice_candidates", client_id, candidates)
                case ConnectionFailed() | ConnectionEstablished() | ConnectionClosed():
                    pass  # the client's authorizations outlive its connection

    def _signal(self, event: str, client_id: str, candidates: tuple[str, ...]) -> None:
        self._actions.append(SendToPortal(event, {"client_ids": [client_id], "candidates": list(candidates)}))

    def _dismiss_if_empty(self, client: ClientPeer, now: Instant) -> None:
        if client.is_empty:
            self._node.close(client.client_id, p2p.build(p2p.Goodbye()), now)
            self._forget_client(client.client_id)

    def _forget_client(self, client_id: str) -> None:
        client = self._clients.pop(client_id, None)
        if client is not None:
            self._release_addresses(client)
        self._forget_flows()

    def _release_addresses(self, client: ClientPeer) -> None:
        for address in (client.addresses.ipv4, client.addresses.ipv6):
            if self._by_address.get(address) is client:
                del self._by_address[address]

    def _forget_flows(self) -> None:
        self._to_client.clear()
        self._from_client.clear()
