"""The gateway without IO: who may send what, and which client an answer belongs to.

Decisions are made once per flow and remembered until something that they rest on changes. The gateway never starts a
WireGuard session: packets for a client without a path are dropped.
"""

import logging
from collections.abc import Callable
from enum import StrEnum
from itertools import takewhile
from typing import ClassVar, Final

from connectivity import p2p
from connectivity.clock import SECOND, Instant, WallTime
from connectivity.data_path import DataPath
from connectivity.endpoint import IPAddress
from connectivity.ip import icmp, packet
from connectivity.ip.flow import Flow, PacketRun
from connectivity.ip.packet import Packet
from connectivity.milestones import ResourceAnswered
from connectivity.node import Node
from connectivity.portal import values
from connectivity.portal.values import Interface, Json, MessageError, listing, mapping, name_for_people, text
from connectivity.status import RoleStatus
from connectivity.tunnel import RoleTunnel, SendToPortal, TunnelCore, is_echo, is_icmp_error
from connectivity.verdict import HOLD, Answer, Drop, Forward, Verdict
from connectivity.wireguard import KeyPair
from gateway.names import Names
from gateway.peers import ClientPeer, Shared
from gateway.reasons import GatewayDrop
from gateway.resources import Resource, parse_resource

log = logging.getLogger("gateway")

EXPIRY_INTERVAL: Final = SECOND


# What a client is told about its own packets; of what else is dropped, it hears nothing.
_ANSWERS: Final[dict[StrEnum, Callable[[Packet], bytes | None]]] = {
    GatewayDrop.SPOOFED: icmp.prohibited,
    GatewayDrop.FILTERED: icmp.prohibited,
    GatewayDrop.NAME_UNREACHABLE: icmp.unreachable,
}


class GatewayCore(TunnelCore):
    """The tunnel of a gateway, in the role ``GatewayRole``."""

    def __init__(
        self, *, keys: KeyPair, rng: Callable[[int], bytes], now: Instant, data_path: DataPath | None = None
    ) -> None:
        tunnel = RoleTunnel(Node(keys=keys, controlling=False, rng=rng, data_path=data_path))
        self.role = GatewayRole(tunnel, now)
        super().__init__(tunnel, self.role)

    def handle_resolution(self, domain: str, addresses: tuple[IPAddress, ...] | None, now: Instant) -> None:
        """The answer to a ``ResolveDomain``: all addresses of the name, or None if it could not be had."""
        self.role.names.handle_resolution(domain, addresses, now)

    def may_ask(self, address: IPAddress, name: str) -> bool:
        """Whether a client of this address may ask the site's DNS for the name."""
        return self.role.may_ask(address, name)


class GatewayRole:
    """Which client may reach what."""

    peer: ClassVar[str] = "client"
    peer_field: ClassVar[str] = "cid"
    expects_strays: ClassVar[bool] = False
    reasons: ClassVar[type[StrEnum]] = GatewayDrop

    def __init__(self, tunnel: RoleTunnel, now: Instant) -> None:
        self._tunnel = tunnel
        self._clients: dict[str, ClientPeer] = {}
        self._shared = Shared(passes=lambda client_id, flow: tunnel.flows.get((client_id, flow.key)) is not None)
        self.names = Names(tunnel, self._clients.get)
        self._by_address: dict[IPAddress, ClientPeer] = {}
        self._expiry_due = now + EXPIRY_INTERVAL

    def may_ask(self, address: IPAddress, name: str) -> bool:
        """Whether the name is one of a resource that was granted to the client of this address."""
        client = self._by_address.get(address)
        return client is not None and client.may_ask_for(name)

    # Traffic -------------------------------------------------------------------------------------------------------

    def judge_outbound(self, packets: PacketRun, now: Instant) -> Verdict:
        """To the client that has the address, if it is from a resource of its or about one of its flows."""
        flow = Flow.from_key(packets.flow)
        client, interface = self._by_address.get(flow.destination), self._tunnel.interface
        if client is None or interface is None:
            return Drop(GatewayDrop.NO_CLIENT)
        if is_icmp_error(packets):
            error = icmp.read_error(packet.parse(packets.run.data))
            translated = client.translated_error(error)
            if isinstance(translated, bytes):
                self._tunnel.send(client.client_id, translated, packets.tos, now)
                return HOLD
            verdict = translated or client.judge_error(error, interface)
        else:
            verdict = client.judge_incoming(flow, interface, is_echo=is_echo(packets))
        if isinstance(verdict, Drop):
            fields = {"cid": client.client_id, "protocol": flow.protocol, "reason": verdict.reason}
            log.debug("Filtered a packet", extra={"fields": fields})
        elif self._tunnel.unanswered:
            self._note_answer(client, verdict)
        return verdict

    def judge_inbound(self, peer_id: str, packets: PacketRun, now: Instant) -> Verdict:
        """What a client may not send is answered with ICMP, as long as it is not too much."""
        client, interface = self._clients.get(peer_id), self._tunnel.interface
        if client is None or interface is None:
            return Drop(GatewayDrop.UNAUTHORIZED)
        verdict = client.judge_outgoing(Flow.from_key(packets.flow), interface, now, is_echo=is_echo(packets))
        if isinstance(verdict, Forward):
            return verdict
        log.debug("Refused a packet", extra={"fields": {"cid": peer_id, "reason": verdict.reason}})
        answer = _ANSWERS.get(verdict.reason)
        if answer is None:
            return verdict
        answered = takewhile(lambda _: client.refusals.take(1, now), packets.run.segments())
        answers = (answer(packet.parse(segment)) for segment in answered)
        return Answer(tuple(built for built in answers if built is not None), verdict.reason)

    def handle_control(self, peer_id: str, event: p2p.AssignedIps | p2p.DomainStatus, now: Instant) -> None:
        """A client sets up a name; what only gateways say means nothing here."""
        client = self._clients.get(peer_id)
        if client is not None and isinstance(event, p2p.AssignedIps):
            self.names.handle_assigned(client, event, now)

    # Portal --------------------------------------------------------------------------------------------------------

    def handle_message(self, event: str, payload: object, now: Instant, wall_now: WallTime) -> None:
        """A message of the portal for gateways."""
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
                self._handle_resource_updated(parse_resource(message))
            case _:
                raise MessageError(f"unknown event {event!r}")

    def _handle_init(self, message: Json, now: Instant) -> None:
        interface = values.interface(message)
        servers = values.relays(message)
        granted: dict[str, dict[str, int]] = {}
        for entry in listing(message, "authorizations", optional=True):
            row = mapping(entry, "authorizations")
            expires_at = values.timestamp(row, "expires_at")
            if expires_at is not None:
                granted.setdefault(text(row, "client_id"), {})[text(row, "resource_id")] = expires_at
        self._take_interface(interface)
        self._tunnel.node.update_relays((), servers, now)
        for client in list(self._clients.values()):  # whoever is not listed has lost everything
            allowed = granted.get(client.client_id, {})
            for resource_id in client.resource_ids():
                if resource_id in allowed:
                    client.extend(resource_id, allowed[resource_id])
                else:
                    self._revoke(client, resource_id, now)
            self._dismiss_if_empty(client, now)
        self._tunnel.configure(())

    def _take_interface(self, interface: Interface) -> None:
        """Our own addresses: whatever any client sends to them, or they to it, is judged by them."""
        if interface != self._tunnel.interface:
            self._tunnel.interface = interface
            self._tunnel.flows.clear()

    def _handle_authorize_flow(self, message: Json, now: Instant, wall_now: WallTime) -> None:
        reference = text(message, "ref")
        resource = parse_resource(mapping(message.get("resource"), "resource"))
        peer = mapping(message.get("client"), "client")
        client_id = text(peer, "id")
        addresses = values.addresses(peer, "ipv4", "ipv6")
        expires_at = values.timestamp(message, "expires_at", nullable=True)
        public_key = values.key(peer, "public_key")
        self._tunnel.node.upsert(
            client_id,
            public_key=public_key,
            preshared_key=values.key(peer, "preshared_key"),
            local=values.credentials(message, "gateway_ice_credentials"),
            remote=values.credentials(message, "client_ice_credentials"),
            now=now,
            wall_now=wall_now,
        )
        client = self._clients.get(client_id)
        if client is None:
            client = self._clients[client_id] = ClientPeer(client_id, addresses, self._shared, now)
        client.name = name_for_people(peer, "name")
        client.actor = name_for_people(mapping(message.get("subject") or {}, "subject"), "actor_name")
        if client.take_key(public_key, now):
            self._tunnel.flows.forget(client.tag)
            log.info("Client has a new key and asks for its resources again", extra={"fields": {"cid": client_id}})
        if client.addresses != addresses:
            self._release_addresses(client)
            self._tunnel.flows.forget(client.tag)
            client.addresses = addresses
        for address in (addresses.ipv4, addresses.ipv6):
            holder = self._by_address.get(address, client)
            if holder is not client:
                self._tunnel.flows.forget(holder.tag)
            self._by_address[address] = client
        client.grant(resource, expires_at, now)
        self._tunnel.granted(client_id, public_key, resource.resource_id)
        self._tunnel.flows.forget(client.grant_tag(resource.resource_id))
        fields = {"cid": client_id, "rid": resource.resource_id, "expires_at": expires_at}
        log.info("Allowing access to resource", extra={"fields": fields})
        self._tunnel.act(SendToPortal("flow_authorized", {"ref": reference}))

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
        if client is not None and self._revoke(client, resource_id, now):
            log.info("Access revoked", extra={"fields": {"cid": client_id, "rid": resource_id}})
            self._dismiss_if_empty(client, now)

    def _handle_resource_updated(self, resource: Resource) -> None:
        for client in self._clients.values():
            held = client.resource(resource.resource_id)
            if client.update(resource):
                self._tunnel.flows.forget(client.grant_tag(resource.resource_id))
            elif held is not None:
                fields = {"cid": client.client_id, "rid": resource.resource_id}
                log.warning("An update cannot make a resource of another kind", extra={"fields": fields})

    # Clients that are gone -----------------------------------------------------------------------------------------

    def forget_peer(self, peer_id: str) -> None:
        """Its authorizations end with it."""
        client = self._clients.pop(peer_id, None)
        if client is not None:
            self._release_addresses(client)
            self._tunnel.flows.forget(client.tag)
            client.close()

    def peer_name(self, peer_id: str) -> str:
        """What the portal calls a client, or whose it is."""
        client = self._clients.get(peer_id)
        return "" if client is None else client.name or client.actor

    def peer_silent(self, peer_id: str, _now: Instant) -> None:
        """It is for clients to ask for another connection."""

    def reset(self, _now: Instant) -> None:
        """Clients' authorizations outlive their connections, and ours are the portal's to say anew."""

    def peer_failed(self, peer_id: str) -> None:
        """The client's authorizations outlive its connection."""

    # Time ----------------------------------------------------------------------------------------------------------

    @property
    def waiting_packets(self) -> int:
        """A gateway keeps nothing for later."""
        return 0

    def status(self) -> RoleStatus:
        """The clients, also those without a connection just now."""
        names = {client.client_id: client.name or client.actor for client in self._clients.values()}
        return RoleStatus(clients=tuple(client.status() for client in self._clients.values()), names=names)

    def handle_timeout(self, now: Instant, wall_now: WallTime) -> None:
        """Authorizations, sessions and look-ups are looked at once a second."""
        if now < self._expiry_due:
            return
        self._expiry_due = now + EXPIRY_INTERVAL
        self.names.handle_timeout(now)
        for client in list(self._clients.values()):
            for resource_id in client.expire(wall_now, now):
                log.info("Access expired", extra={"fields": {"cid": client.client_id, "rid": resource_id}})
                self._tunnel.flows.forget(client.grant_tag(resource_id))
            if not client.nat.is_idle:
                for session in client.nat.sweep(now):
                    self._tunnel.flows.forget(session)
            self._dismiss_if_empty(client, now)

    def poll_timeout(self) -> Instant | None:
        """The next deadline."""
        return self._expiry_due if self._clients or len(self.names) else None

    # Private -------------------------------------------------------------------------------------------------------

    def _note_answer(self, client: ClientPeer, verdict: Forward) -> None:
        """A resource speaks to a client, perhaps for the first time."""
        for resource_id in client.resource_ids():
            spoke = client.grant_tag(resource_id) in verdict.rests_on
            if spoke and self._tunnel.unanswered.take(client.client_id, resource_id):
                self._tunnel.tell(ResourceAnswered(client.client_id, resource_id))

    def _dismiss_if_empty(self, client: ClientPeer, now: Instant) -> None:
        if client.is_empty:
            self._tunnel.dismiss(client.client_id, now)
            self.forget_peer(client.client_id)

    def _revoke(self, client: ClientPeer, resource_id: str, now: Instant) -> bool:
        """Take one authorization away, with all that flows by it; False if there was none."""
        revoked = client.revoke(resource_id, now)
        self._tunnel.flows.forget(client.grant_tag(resource_id))
        return revoked

    def _release_addresses(self, client: ClientPeer) -> None:
        for address in (client.addresses.ipv4, client.addresses.ipv6):
            if self._by_address.get(address) is client:
                del self._by_address[address]
