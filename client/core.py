"""The client without IO: which gateway a packet goes to, and how to get there.

A packet whose resource has no gateway waits while the portal is asked for a flow. With ``flow_created`` the connection
is set up and the packets go on. Losing a gateway (goodbye, ICE or WireGuard time-out) forgets everything that went
through it, so that the next packet asks again and may find another gateway.
"""

import logging
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Final

from client.pending import PendingFlow
from client.resources import CidrResource, ResourceTable, parse_resource, parse_resources
from connectivity import p2p
from connectivity.clock import Instant, WallTime
from connectivity.endpoint import IPAddress
from connectivity.errors import chain
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
from connectivity.portal.values import Interface, Json, MessageError, mapping, text
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

log = logging.getLogger("client")

REMEMBERED_GATEWAYS: Final = 100
_CACHED_FLOWS: Final = 4096


@dataclass(slots=True)
class _Gateway:
    """A gateway in use: its own tunnel addresses and the resources reached through it."""

    interface: Interface
    resource_ids: set[str] = field(default_factory=set)


class ClientCore:
    """One client; ``TunnelCore`` says how to drive it."""

    def __init__(self, *, keys: KeyPair, rng: Callable[[int], bytes]) -> None:
        self._node = Node(keys=keys, controlling=True, rng=rng)
        self._resources = ResourceTable()
        self._pending: dict[str, PendingFlow] = {}
        self._gateways: dict[str, _Gateway] = {}
        self._used_gateways: dict[str, None] = {}
        self._interface: Interface | None = None
        self._configured: ConfigureTun | None = None
        self._outbound: dict[FlowKey, str] = {}  # flow -> gateway; emptied whenever the choice may change
        self._inbound: set[tuple[str, FlowKey]] = set()  # flows that a gateway was found to be allowed to send
        self._actions: deque[Action] = deque()

    # Traffic -------------------------------------------------------------------------------------------------------

    def handle_packets(self, packets: PacketRun, now: Instant, errors: list[Exception]) -> Transmit | None:
        """Packets of one flow from the host."""
        gateway_id = self._outbound.get(packets.flow)
        if gateway_id is None:
            gateway_id = self._route(packets, now)
            if gateway_id is None:
                return None
            _remember(self._outbound, packets.flow, gateway_id)
        try:
            return self._node.seal(gateway_id, packets.run, packets.tos, now)
        except UnknownConnectionError as error:
            errors.append(error)
            return None

    def handle_datagrams(
        self, received: Received, now: Instant, wall_now: WallTime, errors: list[Exception]
    ) -> Iterator[PacketRun]:
        """Datagrams from the network."""
        faulty: list[IpError] = []
        refused: list[Exception] = []
        for gateway_id, run, outer_tos in self._node.open(received, now, wall_now, refused):
            for packets in split_flows(run, faulty):
                if (gateway_id, packets.flow) in self._inbound or self._accept(gateway_id, packets):
                    yield mark_congestion(packets) if outer_tos & ECN_MASK == ECN_CE else packets
        for error in refused:  # behind the NATs of laptops, strays of old connections are no news
            fields = {"local": received.local, "from": received.remote, "num_bytes": len(received.run.data)}
            log.debug("Cannot decapsulate", extra={"fields": fields | {"error": chain(error)}})
        errors += faulty
        self._handle_node_events()

    def _route(self, packets: PacketRun, now: Instant) -> str | None:
        """The gateway for a flow, or None after its packets were kept for later or dropped."""
        destination = Flow.from_key(packets.flow).destination
        if destination in PEERS_IPV4 or destination in PEERS_IPV6:
            return self._gateway_at(destination)
        resource = self._resources.choose(destination, frozenset(self._resource_gateways()))
        if resource is None:
            return None
        gateway_id = self._resource_gateways().get(resource.resource_id)
        if gateway_id is not None and self._node.has_connection(gateway_id):
            return gateway_id
        pending = self._pending.setdefault(resource.resource_id, PendingFlow())
        pending.push(packets.run, packets.tos)
        if pending.wants_intent(now):
            payload = {
                "resource_id": resource.resource_id,
                "connected_gateway_ids": sorted(self._used_gateways),
            }
            self._actions.append(SendToPortal("create_flow", payload))
        return None

    def _accept(self, gateway_id: str, packets: PacketRun) -> bool:
        """Whether the host may see a gateway's packets; control messages are handled here and never pass."""
        flow = Flow.from_key(packets.flow)
        if p2p.is_control(packets.run.data):  # always a run of one
            self._handle_control(gateway_id, packets.run.data)
            return False
        gateway = self._gateways.get(gateway_id)
        if gateway is None or not self._may_send(gateway, flow.source):
            log.debug("Dropping a packet", extra={"fields": {"gid": gateway_id, "source": flow.source}})
            return False
        if len(self._inbound) >= _CACHED_FLOWS:
            self._inbound.clear()
        self._inbound.add((gateway_id, packets.flow))
        return True

    def _may_send(self, gateway: _Gateway, source: IPAddress) -> bool:
        if source in {gateway.interface.ipv4, gateway.interface.ipv6}:
            return True
        resources = (self._resources.get(resource_id) for resource_id in gateway.resource_ids)
        return any(resource is not None and source in resource.network for resource in resources)

    def _handle_control(self, gateway_id: str, message: memoryview) -> None:
        try:
            event = p2p.parse(message)
        except p2p.ControlError as error:
            log.debug("Ignoring control message", extra={"fields": {"gid": gateway_id, "reason": str(error)}})
            return
        if isinstance(event, p2p.Goodbye):
            self._node.remove(gateway_id, "goodbye")
            self._forget_gateway(gateway_id)

    # Portal --------------------------------------------------------------------------------------------------------

    def handle_portal(self, event: str, payload: object, now: Instant, wall_now: WallTime) -> None:
        """A message of the portal; unknown events raise MessageError too."""
        match event:
            case "init":
                self._handle_init(mapping(payload), now)
            case "config_changed":
                self._interface = values.interface(mapping(payload))
                self._configure()
            case "resource_created_or_updated":
                self._handle_resource(mapping(payload), now)
            case "resource_deleted":
                if not isinstance(payload, str):
                    raise MessageError("resource_deleted: expected an id")
                self._remove_resource(payload, now)
                self._configure()
            case "relays_presence":
                gone, servers = values.relays_presence(payload)
                self._node.update_relays(gone, servers, now)
            case "flow_created":
                self._handle_flow_created(mapping(payload), now, wall_now)
            case "flow_creation_failed":
                self._handle_flow_failed(mapping(payload))
            case "ice_candidates":
                message = mapping(payload)
                peer_id, candidates = text(message, "gateway_id"), values.candidates(message)
                self._node.add_remote_candidates(peer_id, candidates, now, wall_now)
            case "invalidate_ice_candidates":
                message = mapping(payload)
                peer_id, candidates = text(message, "gateway_id"), values.candidates(message)
                self._node.remove_remote_candidates(peer_id, candidates, now, wall_now)
            case _:
                raise MessageError(f"unknown event {event!r}")
        self._handle_node_events()

    def _handle_init(self, message: Json, now: Instant) -> None:
        interface = values.interface(message)
        resources, problems = parse_resources(message)
        servers = values.relays(message)
        for problem in problems:
            log.warning("Skipping resource", extra={"fields": {"reason": problem}})
        self._interface = interface
        listed = {resource.resource_id for resource in resources}
        for resource_id in self._resources.ids():
            if resource_id not in listed:
                self._remove_resource(resource_id, now)
        for resource in resources:
            self._put_resource(resource, now)
        self._outbound.clear()
        self._configure()
        self._node.update_relays((), servers, now)

    def _handle_resource(self, message: Json, now: Instant) -> None:
        resource = parse_resource(message)
        if resource is None:
            log.warning("Skipping resource", extra={"fields": {"reason": f"type {message.get('type')!r}"}})
            self._remove_resource(text(message, "id"), now)  # what it may have been before, it is no more
            self._configure()
            return
        self._put_resource(resource, now)
        self._outbound.clear()
        self._configure()

    def _put_resource(self, resource: CidrResource, now: Instant) -> None:
        """Add or refresh one; a known resource whose network changed starts anew."""
        held = self._resources.get(resource.resource_id)
        if held is not None and held.network != resource.network:
            self._remove_resource(resource.resource_id, now)
        self._resources.put(resource)

    def _remove_resource(self, resource_id: str, now: Instant) -> None:
        """Forget a resource."""
        self._resources.remove(resource_id)
        self._pending.pop(resource_id, None)
        self._withdraw(resource_id, now)

    def _withdraw(self, resource_id: str, now: Instant, *, keep: str | None = None) -> None:
        """Reach a resource through no gateway any more, or only through one; whoever has none left gets a goodbye."""
        self._forget_flows()
        for gateway_id, gateway in list(self._gateways.items()):
            if gateway_id != keep and resource_id in gateway.resource_ids:
                gateway.resource_ids.discard(resource_id)
                if not gateway.resource_ids:
                    self._node.close(gateway_id, p2p.build(p2p.Goodbye()), now)
                    self._forget_gateway(gateway_id)

    def _handle_flow_created(self, message: Json, now: Instant, wall_now: WallTime) -> None:
        resource_id, gateway_id = text(message, "resource_id"), text(message, "gateway_id")
        interface = values.addresses(message, "gateway_ipv4", "gateway_ipv6")
        public_key = values.key(message, "gateway_public_key")
        preshared_key = values.key(message, "preshared_key")
        local = values.credentials(message, "client_ice_credentials")
        remote = values.credentials(message, "gateway_ice_credentials")
        if resource_id not in self._resources:
            log.warning("Flow for an unknown resource", extra={"fields": {"rid": resource_id}})
            return
        pending = self._pending.get(resource_id)
        if pending is None:
            return
        try:
            self._node.upsert(
                gateway_id,
                public_key=public_key,
                preshared_key=preshared_key,
                local=local,
                remote=remote,
                now=now,
                wall_now=wall_now,
            )
        except NoRelaysError:
            log.info("No relay is known, reconnecting to the portal", extra={"fields": {"gid": gateway_id}})
            self._actions.append(ReconnectPortal())
            return  # the packets wait on: with relays known, the next one asks again
        del self._pending[resource_id]
        self._withdraw(resource_id, now, keep=gateway_id)
        gateway = self._gateways.setdefault(gateway_id, _Gateway(interface))
        gateway.interface = interface
        gateway.resource_ids.add(resource_id)
        self._used_gateways.pop(gateway_id, None)
        self._used_gateways[gateway_id] = None
        while len(self._used_gateways) > REMEMBERED_GATEWAYS:
            del self._used_gateways[next(iter(self._used_gateways))]
        for packet, tos in pending.take():
            transmit = self._node.seal(gateway_id, Run.single(packet), tos, now)
            if transmit is not None:
                self._node.queue(transmit)

    def _handle_flow_failed(self, message: Json) -> None:
        resource_id, reason = text(message, "resource_id"), text(message, "reason")
        fields: dict[str, object] = {"rid": resource_id, "reason": reason}
        if message.get("violated_properties"):
            fields["violated"] = message["violated_properties"]
        log.info("The portal created no flow", extra={"fields": fields})
        pending = self._pending.get(resource_id)
        if reason == "offline" and pending is not None:
            pending.take()  # dropped; when it was asked stays known, or each further packet would ask

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
        """The next message or device configuration."""
        return self._actions.popleft() if self._actions else None

    def close(self, now: Instant) -> None:
        """Say goodbye to every gateway."""
        for gateway_id in list(self._gateways):
            self._node.close(gateway_id, p2p.build(p2p.Goodbye()), now)
            self._forget_gateway(gateway_id)

    def connections(self) -> list[ConnectionStatus]:
        """Every connection with its path."""
        return [ConnectionStatus(*row) for row in self._node.paths()]

    def statistics(self) -> Statistics:
        """What to count; packets wait for gateways, too."""
        counted = self._node.statistics()
        pending = sum(len(flow) for flow in self._pending.values())
        return replace(counted, waiting_packets=counted.waiting_packets + pending)

    # Private -------------------------------------------------------------------------------------------------------

    def _handle_node_events(self) -> None:
        while (event := self._node.poll_event()) is not None:
            match event:
                case CandidatesAdded(gateway_id, candidates):
                    self._signal("broadcast_ice_candidates", gateway_id, candidates)
                case CandidatesRemoved(gateway_id, candidates):
                    self._signal("broadcast_invalidated_ice_candidates", gateway_id, candidates)
                case ConnectionFailed(gateway_id):
                    self._forget_gateway(gateway_id)
                case ConnectionEstablished() | ConnectionClosed():
                    pass  # the node has logged it and nothing here depends on it

    def _signal(self, event: str, gateway_id: str, candidates: tuple[str, ...]) -> None:
        self._actions.append(SendToPortal(event, {"gateway_ids": [gateway_id], "candidates": list(candidates)}))

    def _resource_gateways(self) -> dict[str, str]:
        return {rid: gateway_id for gateway_id, gateway in self._gateways.items() for rid in gateway.resource_ids}

    def _gateway_at(self, address: IPAddress) -> str | None:
        for gateway_id, gateway in self._gateways.items():
            if address in {gateway.interface.ipv4, gateway.interface.ipv6}:
                return gateway_id
        return None

    def _forget_gateway(self, gateway_id: str) -> None:
        self._gateways.pop(gateway_id, None)
        self._forget_flows()

    def _forget_flows(self) -> None:
        self._outbound.clear()
        self._inbound.clear()

    def _configure(self) -> None:
        """Emit the device configuration if it differs from the last one."""
        if self._interface is None:
            return
        configuration = ConfigureTun(self._interface, (*self._resources.networks(), PEERS_IPV4, PEERS_IPV6))
        if configuration != self._configured:
            self._configured = configuration
            self._actions = deque(action for action in self._actions if not isinstance(action, ConfigureTun))
            self._actions.append(configuration)


def _remember(cache: dict[FlowKey, str], flow: FlowKey, value: str) -> None:
    if len(cache) >= _CACHED_FLOWS:
        cache.clear()
    cache[flow] = value
