"""The client's part of a tunnel: which gateway a flow goes through, and how to get there.

A packet whose resource has no gateway waits while the portal is asked for a flow; one to a name waits on until the
gateway translates its proxy addresses. Losing a gateway (goodbye, ICE or WireGuard time-out) forgets everything that
went through it, so that the next packet asks again and may find another gateway.
"""

import logging
from collections.abc import Callable
from enum import StrEnum
from typing import ClassVar, Final

from client.device import DeviceWishes
from client.dns.actions import FlushNames
from client.dns.records import DnsRecords, Record
from client.dns.service import DnsService
from client.dns.translations import NameTranslations
from client.drops import ClientDrop
from client.flow_created import FlowCreated, parse_flow_created
from client.flow_requests import NAME_FAILED_INTERVAL, FlowRequests
from client.gateways import Gateway
from client.resources import DnsResource, Resource, is_same_target, parse_resource, parse_resources
from client.sites import Sites, established, shown
from client.targets import Targets
from client.waiting import WaitingPackets
from connectivity import p2p
from connectivity.clock import Instant, WallTime, earliest
from connectivity.endpoint import IPAddress
from connectivity.ip import packet
from connectivity.ip.flow import Flow, PacketRun
from connectivity.milestones import ResourceAnswered, ResourceWanted
from connectivity.portal import values
from connectivity.portal.values import Json, MessageError, mapping, text
from connectivity.role import PEERS_IPV4, PEERS_IPV6, RoleTunnel, SendToPortal, TunnelDrop
from connectivity.run import Run
from connectivity.status import RoleStatus
from connectivity.tunnel import quoted_error
from connectivity.verdict import HOLD, Drop, Forward, Verdict

log = logging.getLogger("client")

ASKED_AFTER_RESET: Final = 16  # resources at once, what a portal takes of a client in a second; others ask by packets


class ClientRole:
    """Which gateway a flow goes through."""

    peer: ClassVar[str] = "gateway"
    peer_field: ClassVar[str] = "gid"
    expects_strays: ClassVar[bool] = True
    reasons: ClassVar[type[StrEnum]] = ClientDrop

    def __init__(self, tunnel: RoleTunnel, records: DnsRecords, rng: Callable[[int], bytes]) -> None:
        self._tunnel = tunnel
        self._targets = Targets(records)
        self.resources = self._targets.resources
        self.gateways = self._targets.gateways
        self.sites = Sites()
        self.dns = DnsService(tunnel, self.resources, records, self, rng)
        self._requests = FlowRequests()
        self._waiting = WaitingPackets()
        self._names = NameTranslations(tunnel)
        self.device = DeviceWishes(tunnel, self.resources, self.dns)

    # Traffic -------------------------------------------------------------------------------------------------------

    def judge_outbound(self, packets: PacketRun, now: Instant) -> Verdict:
        """Through the gateway of the resource; while it has none, the packets wait and the portal is asked."""
        flow = Flow.from_key(packets.flow)
        destination = flow.destination
        verdict = self.dns.judge(packets, flow, now)
        if verdict is not None:
            return verdict
        if destination in PEERS_IPV4 or destination in PEERS_IPV6:
            owner = self.gateways.at(destination)
            if owner is None:
                return Drop(ClientDrop.NO_GATEWAY)
            return Forward(owner.gateway_id, rests_on=(("gateway", owner.gateway_id),))
        resource, record = self._targets.of(destination)
        if resource is None:
            return Drop(ClientDrop.NO_RESOURCE)
        gateway = self._connected_gateway(resource.resource_id)
        if gateway is None:
            dropped = self._waiting.push(resource.resource_id, packets.run, packets.tos, now)
            self._tunnel.drops[TunnelDrop.QUEUE_FULL] += dropped
            self._ask(resource.resource_id, now)
            return HOLD
        if record is not None and isinstance(resource, DnsResource):
            addresses = record.by(resource.ip_stack)
            if self._names.keep(gateway.gateway_id, record, addresses, packets.run, packets.tos, now):
                return HOLD
        rests_on = (("gateway", gateway.gateway_id), ("resource", resource.resource_id))
        return Forward(gateway.gateway_id, rests_on=rests_on)

    def judge_inbound(self, peer_id: str, packets: PacketRun, now: Instant) -> Verdict:
        """A gateway may send from its own addresses and from the resources that are reached through it.

        So may routers on the way to a resource, if it is an error about a packet of ours that they got.
        """
        source = Flow.from_key(packets.flow).source
        gateway = self.gateways.get(peer_id)
        if gateway is not None:
            if source in {gateway.interface.ipv4, gateway.interface.ipv6}:
                return Forward(peer_id, rests_on=(("gateway", peer_id),))
            resource_id = self._targets.served_by(gateway, source)
            if resource_id is not None:
                self._look_for_refusal(gateway, packets, now)
                if self._tunnel.unanswered.take(peer_id, resource_id):
                    self._tunnel.tell(ResourceAnswered(peer_id, resource_id))
                return Forward(peer_id, rests_on=(("gateway", peer_id), ("resource", resource_id)))
            if self._targets.concerns(gateway, quoted_error(packets), self._tunnel.interface):
                return Forward(peer_id)
        log.debug("Dropping a packet", extra={"fields": {"gid": peer_id, "source": source}})
        return Drop(ClientDrop.NOT_OF_GATEWAY)

    def handle_control(self, peer_id: str, event: p2p.AssignedIps | p2p.DomainStatus, now: Instant) -> None:
        """A gateway's word about a name."""
        if isinstance(event, p2p.DomainStatus):
            self._names.handle_status(peer_id, event, now)
            resource_id = str(event.resource)  # which may be what the gateway does not know; it does not say
            if not event.active and self.gateways.is_through(resource_id, peer_id):
                self._request(resource_id, self._requests.ask_again(resource_id, now, NAME_FAILED_INTERVAL))
        else:
            log.debug("Ignoring control message", extra={"fields": {"gid": peer_id, "type": type(event).__name__}})

    def _look_for_refusal(self, gateway: Gateway, packets: PacketRun, now: Instant) -> None:
        """If a gateway refuses what it should let through, it may have lost what the portal said: ask again."""
        resource, record = self._targets.refused_by(gateway, quoted_error(packets))
        if record is not None:
            self._names.refused(gateway.gateway_id, record)
        if resource is not None:
            self._request(resource.resource_id, self._requests.ask_again(resource.resource_id, now))

    # Requests to the portal ----------------------------------------------------------------------------------------

    def _connected_gateway(self, resource_id: str) -> Gateway | None:
        gateway = self.gateways.of(resource_id)
        return gateway if gateway is not None and self._tunnel.node.has_connection(gateway.gateway_id) else None

    def _request(self, resource_id: str, is_due: bool) -> None:
        if is_due:
            payload = {"resource_id": resource_id, "connected_gateway_ids": self.gateways.used()}
            self._tunnel.act(SendToPortal("create_flow", payload))

    def _ask(self, resource_id: str, now: Instant) -> None:
        """Ask for a gateway, if that is due."""
        is_due = self._requests.ask(resource_id, now)
        if is_due:
            self._tunnel.tell(ResourceWanted(resource_id))
        self._request(resource_id, is_due)

    def _waits(self, resource_id: str) -> bool:
        return resource_id in self._waiting or self.dns.waits_for(resource_id)

    def _give_up(self, resource_id: str, now: Instant) -> None:
        """No gateway comes: what waits is dropped, and who asked for a name is told."""
        self._tunnel.drops[ClientDrop.UNREACHABLE] += len(self._waiting.take(resource_id))
        self.dns.no_gateway_comes(resource_id, now)

    # What DNS asks -------------------------------------------------------------------------------------------------

    def gateway_address(self, resource_id: str, version: int, now: Instant) -> IPAddress | None:
        """The own address of the gateway of a resource; None if it has none yet, and then the portal is asked."""
        gateway = self._connected_gateway(resource_id)
        if gateway is None:
            self._ask(resource_id, now)
            return None
        return gateway.address(version)

    def is_in_tunnel(self, address: IPAddress) -> bool:
        """Whether a resource includes a server's address."""
        return self._targets.is_in_tunnel(address)

    def name_was_asked(self, record: Record, now: Instant) -> None:
        """The gateway, if there is one, resolves the name anew."""
        resource = self.resources.get(record.resource_id)
        gateway = self._connected_gateway(record.resource_id)
        if gateway is not None and isinstance(resource, DnsResource):
            self._names.refresh(gateway.gateway_id, record, record.by(resource.ip_stack), now)

    # Portal --------------------------------------------------------------------------------------------------------

    def handle_message(self, event: str, payload: object, now: Instant, wall_now: WallTime) -> None:
        """A message of the portal for clients."""
        match event:
            case "init":
                self._handle_init(mapping(payload), now)
            case "config_changed":
                self.device.take(mapping(payload))
                self.device.configure()
            case "resource_created_or_updated":
                self._handle_resource(mapping(payload), now)
                self.device.configure()
            case "resource_deleted":
                if not isinstance(payload, str):
                    raise MessageError("resource_deleted: expected an id")
                self._remove_resource(payload, now)
                self.device.configure()
            case "flow_created":
                self._handle_flow_created(mapping(payload), now, wall_now)
            case "flow_creation_failed":
                self._handle_flow_failed(mapping(payload), now)
            case _:
                raise MessageError(f"unknown event {event!r}")

    def _handle_init(self, message: Json, now: Instant) -> None:
        resources, problems = parse_resources(message)
        servers = values.relays(message)
        self.device.take(message)
        for problem in problems:
            log.warning("Skipping resource", extra={"fields": {"reason": problem}})
        listed = {resource.resource_id for resource in resources}
        for resource_id in self.resources.ids():
            if resource_id not in listed:
                self._remove_resource(resource_id, now)
        for resource in resources:
            self._put_resource(resource, now)
        self.device.configure()
        self._tunnel.node.update_relays((), servers, now)

    def _handle_resource(self, message: Json, now: Instant) -> None:
        resource = parse_resource(message)
        if resource is not None:
            self._put_resource(resource, now)
            return
        log.warning("Skipping resource", extra={"fields": {"reason": f"type {message.get('type')!r}"}})
        self._remove_resource(text(message, "id"), now)  # what it may have been before, it is no more

    def _put_resource(self, resource: Resource, now: Instant) -> None:
        """Add or refresh one; a known resource that is to be reached otherwise starts anew."""
        held = self.resources.get(resource.resource_id)
        if held is not None and not is_same_target(held, resource):
            self._remove_resource(resource.resource_id, now)
        if resource.resource_id not in self.resources:  # flows of those that it overlaps may be its from now on
            for other_id in self.resources.overlapping(resource):
                self._tunnel.flows.forget(("resource", other_id))
        if isinstance(resource, DnsResource) and resource != held:
            self._flush_names()
        self.resources.put(resource)

    def _remove_resource(self, resource_id: str, now: Instant) -> None:
        """Forget a resource; its names keep their addresses."""
        if isinstance(self.resources.get(resource_id), DnsResource):
            self._names.forget(resource_id=resource_id)
            self._flush_names()
        self.resources.remove(resource_id)
        self._give_up(resource_id, now)
        self._requests.forget(resource_id)
        self._withdraw(resource_id, now)

    def _flush_names(self) -> None:
        """What the host remembers of names may be wrong now."""
        if FlushNames() not in self._tunnel.actions:
            self._tunnel.act(FlushNames())

    def _withdraw(self, resource_id: str, now: Instant) -> None:
        """Reach a resource through no gateway any more; who has none left gets a goodbye."""
        self._tunnel.flows.forget(("resource", resource_id))
        gateway = self.gateways.release(resource_id)
        if gateway is not None and not gateway.resource_ids:
            self._tunnel.dismiss(gateway.gateway_id, now)
            self.forget_peer(gateway.gateway_id)

    def _handle_flow_created(self, message: Json, now: Instant, wall_now: WallTime) -> None:
        flow = parse_flow_created(message)
        resource_id, gateway_id = flow.resource_id, flow.gateway_id
        if resource_id not in self.resources:
            log.warning("Flow for an unknown resource", extra={"fields": {"rid": resource_id}})
            return
        if not self._requests.is_open(resource_id):
            return
        is_new = self._tunnel.node.upsert(  # without a relay packets wait: with relays known, the next one asks again
            gateway_id,
            public_key=flow.public_key,
            preshared_key=flow.preshared_key,
            local=flow.local,
            remote=flow.remote,
            now=now,
            wall_now=wall_now,
        )
        if is_new:  # another process may be there, which knows no names
            self._names.forget(gateway_id=gateway_id)
            self._tunnel.flows.forget(("gateway", gateway_id))
        self._requests.created(resource_id)
        self.sites.found(flow.site_id)
        self._use_gateway(flow, now)
        self._tunnel.granted(gateway_id, flow.public_key, resource_id)
        self._resume(resource_id, gateway_id, now)

    def _use_gateway(self, flow: FlowCreated, now: Instant) -> None:
        """Reach a resource through this gateway, whichever it was before."""
        resource_id, gateway_id = flow.resource_id, flow.gateway_id
        before = self.gateways.of(resource_id)
        if before is not None and before.gateway_id != gateway_id:
            if isinstance(self.resources.get(resource_id), DnsResource):
                self._names.forget(resource_id=resource_id)
            self._withdraw(resource_id, now)
        if (known := self.gateways.get(gateway_id)) is not None and known.interface != flow.interface:
            self._tunnel.flows.forget(("gateway", gateway_id))
        self.gateways.use(gateway_id, flow.interface, flow.site_id, resource_id, name=flow.gateway_name)

    def _resume(self, resource_id: str, gateway_id: str, now: Instant) -> None:
        """What waited for a gateway goes on; packets to names wait until it translates them."""
        resource = self.resources.get(resource_id)
        if isinstance(resource, DnsResource):
            self._names.renew(gateway_id, resource_id, now)
        for waiting, tos in self._waiting.take(resource_id):
            record = self._targets.records.at(packet.parse(waiting).destination)
            if record is not None and isinstance(resource, DnsResource):
                addresses = record.by(resource.ip_stack)
                if self._names.keep(gateway_id, record, addresses, Run.single(waiting), tos, now):
                    continue
            self._tunnel.send(gateway_id, waiting, tos, now)
        self.dns.gateway_came(resource_id, now)

    def _handle_flow_failed(self, message: Json, now: Instant) -> None:
        resource_id, reason = text(message, "resource_id"), text(message, "reason")
        fields: dict[str, object] = {"rid": resource_id, "reason": reason}
        if message.get("violated_properties"):
            fields["violated"] = message["violated_properties"]
        log.info("The portal created no flow", extra={"fields": fields})
        resource = self.resources.get(resource_id)
        if resource is None or reason != "offline":
            return
        self.sites.offline(resource.sites, now)
        gateway = self.gateways.of(resource_id)
        if gateway is not None and gateway.gateway_id not in established(self._tunnel.node.connections()):
            self._withdraw(resource_id, now)  # one that is connected may only have lost the portal
        if not self._waits(resource_id) or not self._requests.offline(resource_id, now):
            self._give_up(resource_id, now)

    # Gateways that are gone ----------------------------------------------------------------------------------------

    def forget_peer(self, peer_id: str) -> None:
        """Whatever went through it asks again."""
        self.gateways.remove(peer_id)
        self._names.forget(gateway_id=peer_id)
        self._tunnel.flows.forget(("gateway", peer_id))

    def peer_failed(self, peer_id: str) -> None:
        """The connection to a gateway was lost: as if it had said goodbye."""
        self.forget_peer(peer_id)

    def peer_silent(self, peer_id: str, now: Instant) -> None:
        """Ask for what is reached through it, beside what there is: who began anew has another key."""
        gateway = self.gateways.get(peer_id)
        for resource_id in [] if gateway is None else sorted(gateway.resource_ids)[:ASKED_AFTER_RESET]:
            self._request(resource_id, self._requests.ask_again(resource_id, now))

    def peer_name(self, peer_id: str) -> str:
        """What the portal calls a gateway."""
        gateway = self.gateways.get(peer_id)
        return "" if gateway is None else gateway.name

    def reset(self, now: Instant) -> None:
        """Forget the gateways, and ask at once for what was in use: something may come from there before we send.

        What waits for a gateway waits on, and is asked for anew, too: no answer will come for the old key.
        """
        states = {connection.peer_id: connection.state for connection in self._tunnel.node.connections()}
        in_use = sorted(self.gateways.all(), key=lambda gateway: states.get(gateway.gateway_id) != "connected")
        wanted = [resource_id for gateway in in_use for resource_id in sorted(gateway.resource_ids)]
        for gateway in in_use:
            self.forget_peer(gateway.gateway_id)
        self.gateways.clear()
        self._requests.clear()
        self.dns.reset(now)
        for resource_id in [*dict.fromkeys([*self._waiting.resources(), *wanted])][:ASKED_AFTER_RESET]:
            self._request(resource_id, self._requests.ask(resource_id, now))

    # Time and output -----------------------------------------------------------------------------------------------

    @property
    def waiting_packets(self) -> int:
        """How many packets wait for a gateway, or for one to translate a name."""
        return len(self._waiting) + len(self._names)

    def status(self) -> RoleStatus:
        """The resources, each with the gateway that its packets go to."""
        resources = tuple(shown(self.resources, self.gateways, self.sites, self._tunnel.node.connections()))
        return RoleStatus(resources, names={gateway.gateway_id: gateway.name for gateway in self.gateways.all()})

    def handle_timeout(self, now: Instant, _wall_now: WallTime) -> None:
        """Ask again for what waits, and give up what has waited too long."""
        for resource_id in self._requests.take_due(now):
            if self._waits(resource_id):
                self._request(resource_id, self._requests.ask(resource_id, now))
        self._tunnel.drops[ClientDrop.UNREACHABLE] += self._waiting.take_overdue(now)
        self.sites.handle_timeout(now)
        self._names.handle_timeout(now)
        self.dns.handle_timeout(now)

    def poll_timeout(self) -> Instant | None:
        """The next of these."""
        parts = (self._requests, self._waiting, self._names, self.dns, self.sites)
        return earliest(*(part.poll_timeout() for part in parts))
