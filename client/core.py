"""The client without IO: which gateway a packet goes to, and how to get there.

A packet whose resource has no gateway waits while the portal is asked for a flow. With ``flow_created`` the connection
is set up and the packets go on. Losing a gateway (goodbye, ICE or WireGuard time-out) forgets everything that went
through it, so that the next packet asks again and may find another gateway.
"""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import ClassVar, Final

from client.pending import PendingFlow
from client.resources import CidrResource, ResourceTable, parse_resource, parse_resources
from connectivity import p2p
from connectivity.clock import Instant, WallTime
from connectivity.endpoint import IPAddress
from connectivity.ip.flow import Flow, PacketRun
from connectivity.node import Node
from connectivity.portal import values
from connectivity.portal.values import Interface, Json, MessageError, mapping, text
from connectivity.ranges import covers
from connectivity.status import ResourceStatus, RoleStatus
from connectivity.tunnel import PEERS_IPV4, PEERS_IPV6, RoleTunnel, SendToPortal, TunnelCore, TunnelDrop
from connectivity.verdict import HOLD, Drop, Forward, Verdict
from connectivity.wireguard import KeyPair

log = logging.getLogger("client")

REMEMBERED_GATEWAYS: Final = 100
ASKED_AFTER_RESET: Final = 16  # resources at once, what a portal takes of a client in a second; others ask by packets


class ClientDrop(StrEnum):
    """Why a packet of the host or of a gateway goes no further."""

    NO_RESOURCE = "no_resource"  # the host sends to what no resource is
    UNREACHABLE = "unreachable"  # packets have waited for a gateway and there is none
    NO_GATEWAY = "no_gateway"  # the host sends to a tunnel address that no gateway in use has
    NOT_OF_GATEWAY = "not_of_gateway"  # a gateway sends from what it does not serve


@dataclass(slots=True)
class _Gateway:
    """A gateway in use: its own tunnel addresses and the resources reached through it."""

    interface: Interface
    resource_ids: set[str] = field(default_factory=set)


class ClientCore(TunnelCore):
    """One client."""

    def __init__(self, *, keys: KeyPair, rng: Callable[[int], bytes]) -> None:
        tunnel = RoleTunnel(Node(keys=keys, controlling=True, rng=rng))
        self.role = ClientRole(tunnel)
        super().__init__(tunnel, self.role)


class ClientRole:
    """Which gateway a flow goes through."""

    peer: ClassVar[str] = "gateway"
    peer_field: ClassVar[str] = "gid"
    expects_strays: ClassVar[bool] = True
    reasons: ClassVar[type[StrEnum]] = ClientDrop

    def __init__(self, tunnel: RoleTunnel) -> None:
        self._tunnel = tunnel
        self._resources = ResourceTable()
        self._pending: dict[str, PendingFlow] = {}
        self._gateways: dict[str, _Gateway] = {}
        self._used_gateways: dict[str, None] = {}

    # Traffic -------------------------------------------------------------------------------------------------------

    def judge_outbound(self, packets: PacketRun, now: Instant) -> Verdict:
        """Through the gateway of the resource; while it has none, the packets wait and the portal is asked."""
        destination = Flow.from_key(packets.flow).destination
        if destination in PEERS_IPV4 or destination in PEERS_IPV6:
            gateway_id = self._gateway_at(destination)
            if gateway_id is None:
                return Drop(ClientDrop.NO_GATEWAY)
            return Forward(gateway_id, rests_on=(("gateway", gateway_id),))
        resource = self._resources.choose(destination, frozenset(self._resource_gateways()))
        if resource is None:
            return Drop(ClientDrop.NO_RESOURCE)
        resource_id = resource.resource_id
        gateway_id = self._resource_gateways().get(resource_id)
        if gateway_id is not None and self._tunnel.node.has_connection(gateway_id):
            return Forward(gateway_id, rests_on=(("gateway", gateway_id), ("resource", resource_id)))
        pending = self._pending.setdefault(resource_id, PendingFlow())
        self._tunnel.drops[TunnelDrop.QUEUE_FULL] += pending.push(packets.run, packets.tos)
        self._ask(resource_id, pending, now)
        return HOLD

    def _ask(self, resource_id: str, pending: PendingFlow, now: Instant) -> None:
        """Ask the portal for a flow, unless that was done a moment ago."""
        if pending.wants_intent(now):
            payload = {"resource_id": resource_id, "connected_gateway_ids": sorted(self._used_gateways)}
            self._tunnel.act(SendToPortal("create_flow", payload))

    def judge_inbound(self, peer_id: str, packets: PacketRun, _now: Instant) -> Verdict:
        """A gateway may send from its own addresses and from the resources that are reached through it."""
        source = Flow.from_key(packets.flow).source
        gateway = self._gateways.get(peer_id)
        if gateway is not None:
            if source in {gateway.interface.ipv4, gateway.interface.ipv6}:
                return Forward(peer_id, rests_on=(("gateway", peer_id),))
            for resource_id in gateway.resource_ids:
                resource = self._resources.get(resource_id)
                if resource is not None and covers(resource.network, source):
                    return Forward(peer_id, rests_on=(("gateway", peer_id), ("resource", resource_id)))
        log.debug("Dropping a packet", extra={"fields": {"gid": peer_id, "source": source}})
        return Drop(ClientDrop.NOT_OF_GATEWAY)

    def handle_control(self, peer_id: str, event: p2p.AssignedIps | p2p.DomainStatus, _now: Instant) -> None:
        """No names yet."""
        log.debug("Ignoring control message", extra={"fields": {"gid": peer_id, "type": type(event).__name__}})

    # Portal --------------------------------------------------------------------------------------------------------

    def handle_message(self, event: str, payload: object, now: Instant, wall_now: WallTime) -> None:
        """A message of the portal for clients."""
        match event:
            case "init":
                self._handle_init(mapping(payload), now)
            case "config_changed":
                self._tunnel.interface = values.interface(mapping(payload))
                self._tunnel.configure(self._resources.networks())
            case "resource_created_or_updated":
                self._handle_resource(mapping(payload), now)
            case "resource_deleted":
                if not isinstance(payload, str):
                    raise MessageError("resource_deleted: expected an id")
                self._remove_resource(payload, now)
                self._tunnel.configure(self._resources.networks())
            case "flow_created":
                self._handle_flow_created(mapping(payload), now, wall_now)
            case "flow_creation_failed":
                self._handle_flow_failed(mapping(payload))
            case _:
                raise MessageError(f"unknown event {event!r}")

    def _handle_init(self, message: Json, now: Instant) -> None:
        interface = values.interface(message)
        resources, problems = parse_resources(message)
        servers = values.relays(message)
        for problem in problems:
            log.warning("Skipping resource", extra={"fields": {"reason": problem}})
        self._tunnel.interface = interface
        listed = {resource.resource_id for resource in resources}
        for resource_id in self._resources.ids():
            if resource_id not in listed:
                self._remove_resource(resource_id, now)
        for resource in resources:
            self._put_resource(resource, now)
        self._tunnel.configure(self._resources.networks())
        self._tunnel.node.update_relays((), servers, now)

    def _handle_resource(self, message: Json, now: Instant) -> None:
        resource = parse_resource(message)
        if resource is None:
            log.warning("Skipping resource", extra={"fields": {"reason": f"type {message.get('type')!r}"}})
            self._remove_resource(text(message, "id"), now)  # what it may have been before, it is no more
            self._tunnel.configure(self._resources.networks())
            return
        self._put_resource(resource, now)
        self._tunnel.configure(self._resources.networks())

    def _put_resource(self, resource: CidrResource, now: Instant) -> None:
        """Add or refresh one; a known resource whose network changed starts anew."""
        held = self._resources.get(resource.resource_id)
        if held is not None and held.network != resource.network:
            self._remove_resource(resource.resource_id, now)
        if resource.resource_id not in self._resources:  # flows of those that it overlaps may be its from now on
            for other in self._resources.overlapping(resource.network):
                self._tunnel.flows.forget(("resource", other.resource_id))
        self._resources.put(resource)

    def _remove_resource(self, resource_id: str, now: Instant) -> None:
        """Forget a resource."""
        self._resources.remove(resource_id)
        self._discard(self._pending.pop(resource_id, None))
        self._withdraw(resource_id, now)

    def _withdraw(self, resource_id: str, now: Instant, *, keep: str | None = None) -> None:
        """Reach a resource through no gateway any more, or only through one; whoever has none left gets a goodbye."""
        self._tunnel.flows.forget(("resource", resource_id))
        for gateway_id, gateway in list(self._gateways.items()):
            if gateway_id != keep and resource_id in gateway.resource_ids:
                gateway.resource_ids.discard(resource_id)
                if not gateway.resource_ids:
                    self._tunnel.dismiss(gateway_id, now)
                    self.forget_peer(gateway_id)

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
        self._tunnel.node.upsert(  # without a relay the packets wait on: with relays known, the next one asks again
            gateway_id,
            public_key=public_key,
            preshared_key=preshared_key,
            local=local,
            remote=remote,
            now=now,
            wall_now=wall_now,
        )
        del self._pending[resource_id]
        self._withdraw(resource_id, now, keep=gateway_id)
        gateway = self._gateways.setdefault(gateway_id, _Gateway(interface))
        if gateway.interface != interface:
            gateway.interface = interface
            self._tunnel.flows.forget(("gateway", gateway_id))
        gateway.resource_ids.add(resource_id)
        self._used_gateways.pop(gateway_id, None)
        self._used_gateways[gateway_id] = None
        while len(self._used_gateways) > REMEMBERED_GATEWAYS:
            del self._used_gateways[next(iter(self._used_gateways))]
        for packet, tos in pending.take():
            self._tunnel.send(gateway_id, packet, tos, now)

    def _handle_flow_failed(self, message: Json) -> None:
        resource_id, reason = text(message, "resource_id"), text(message, "reason")
        fields: dict[str, object] = {"rid": resource_id, "reason": reason}
        if message.get("violated_properties"):
            fields["violated"] = message["violated_properties"]
        log.info("The portal created no flow", extra={"fields": fields})
        pending = self._pending.get(resource_id)
        if reason == "offline":
            self._discard(pending)  # when it was asked stays known, or each further packet would ask

    def _discard(self, pending: PendingFlow | None) -> None:
        if pending is not None:
            self._tunnel.drops[ClientDrop.UNREACHABLE] += len(pending.take())

    # Gateways that are gone ----------------------------------------------------------------------------------------

    def forget_peer(self, peer_id: str) -> None:
        """Whatever went through it asks again."""
        self._gateways.pop(peer_id, None)
        self._tunnel.flows.forget(("gateway", peer_id))

    def peer_failed(self, peer_id: str) -> None:
        """As if it had said goodbye."""
        self.forget_peer(peer_id)

    def reset(self, now: Instant) -> None:
        """Forget the gateways, and ask at once for what was in use: something may come from there before we send.

        What waits for a gateway waits on, and is asked for anew, too: no answer will come for the old key.
        """
        states = {connection.peer_id: connection.state for connection in self._tunnel.node.connections()}
        in_use = sorted(self._gateways.items(), key=lambda item: states.get(item[0]) != "connected")
        wanted = [resource_id for _, gateway in in_use for resource_id in sorted(gateway.resource_ids)]
        for gateway_id in list(self._gateways):
            self.forget_peer(gateway_id)
        self._used_gateways.clear()
        for pending in self._pending.values():
            pending.forget_intent()
        for resource_id in [*dict.fromkeys([*self._pending, *wanted])][:ASKED_AFTER_RESET]:
            self._ask(resource_id, self._pending.setdefault(resource_id, PendingFlow()), now)

    # Time and output -----------------------------------------------------------------------------------------------

    @property
    def waiting_packets(self) -> int:
        """How many packets wait for a gateway."""
        return sum(len(flow) for flow in self._pending.values())

    def status(self) -> RoleStatus:
        """The resources, each with the gateway that its packets go to."""
        gateways = self._resource_gateways()
        return RoleStatus(resources=tuple(self._resource(each, gateways) for each in self._resources.all()))

    def handle_timeout(self, _now: Instant, _wall_now: WallTime) -> None:
        """Nothing here is due by itself: intents are repeated as packets come."""

    def poll_timeout(self) -> Instant | None:
        """None."""
        return None

    # Private -------------------------------------------------------------------------------------------------------

    def _resource(self, resource: CidrResource, gateways: Mapping[str, str]) -> ResourceStatus:
        gateway_id = gateways.get(resource.resource_id)
        state = "unknown" if gateway_id is None else "online"
        return ResourceStatus(resource.resource_id, resource.name, "cidr", str(resource.network), state, gateway_id)

    def _resource_gateways(self) -> dict[str, str]:
        return {rid: gateway_id for gateway_id, gateway in self._gateways.items() for rid in gateway.resource_ids}

    def _gateway_at(self, address: IPAddress) -> str | None:
        for gateway_id, gateway in self._gateways.items():
            if address in {gateway.interface.ipv4, gateway.interface.ipv6}:
                return gateway_id
        return None
