"""The gateway without IO: who may send what, and which client an answer belongs to.

Decisions are made once per flow and remembered until something that they rest on changes. The gateway never starts a
WireGuard session: packets for a client without a path are dropped.
"""

import logging
from collections.abc import Callable
from typing import Final

from connectivity.clock import SECOND, Instant, WallTime, earliest
from connectivity.endpoint import IPAddress
from connectivity.ip import icmp, packet
from connectivity.ip.flow import Flow, PacketRun
from connectivity.portal import values
from connectivity.portal.values import Json, MessageError, listing, mapping, text
from connectivity.tunnel import SendToPortal, TunnelCore, is_echo, is_icmp_error
from connectivity.wireguard import KeyPair
from gateway.peers import ClientPeer, Verdict, parse_resource

log = logging.getLogger("gateway")

EXPIRY_INTERVAL: Final = SECOND


class GatewayCore(TunnelCore):
    """One gateway."""

    peer = "client"
    peer_field = "cid"

    def __init__(self, *, keys: KeyPair, rng: Callable[[int], bytes], now: Instant) -> None:
        super().__init__(keys=keys, controlling=False, rng=rng)
        self._clients: dict[str, ClientPeer] = {}
        self._by_address: dict[IPAddress, ClientPeer] = {}
        self._expiry_due = now + EXPIRY_INTERVAL

    # Traffic -------------------------------------------------------------------------------------------------------

    def _route(self, packets: PacketRun, _now: Instant) -> str | None:
        flow = Flow.from_key(packets.flow)
        client = self._by_address.get(flow.destination)
        if client is None or self._interface is None:
            return None
        if is_icmp_error(packets):
            verdict = client.judge_error(icmp.read_error(packet.parse(packets.run.data)), self._interface)
        else:
            verdict = client.judge_incoming(flow, self._interface, is_echo=is_echo(packets))
        if verdict is not Verdict.PASS:
            log.debug("Filtered a packet", extra={"fields": {"cid": client.client_id, "protocol": flow.protocol}})
            return None
        return client.client_id

    def _may_pass(self, peer_id: str, packets: PacketRun, now: Instant) -> bool:
        client = self._clients.get(peer_id)
        if client is None or self._interface is None:
            return False
        verdict = client.judge_outgoing(Flow.from_key(packets.flow), self._interface, is_echo=is_echo(packets))
        if verdict is Verdict.PASS:
            return True
        log.debug("Refused a packet", extra={"fields": {"cid": peer_id, "verdict": verdict.name.lower()}})
        for segment in packets.run.segments():
            answer = icmp.prohibited(packet.parse(segment))
            if answer is not None:
                self._node.send(peer_id, answer, 0, now)
        return False

    # Portal --------------------------------------------------------------------------------------------------------

    def _handle_message(self, event: str, payload: object, now: Instant, wall_now: WallTime) -> None:
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
        self._configure(())

    def _handle_authorize_flow(self, message: Json, now: Instant, wall_now: WallTime) -> None:
        reference = text(message, "ref")
        resource = parse_resource(mapping(message.get("resource"), "resource"))
        peer = mapping(message.get("client"), "client")
        client_id = text(peer, "id")
        addresses = values.addresses(peer, "ipv4", "ipv6")
        expires_at = values.timestamp(message, "expires_at", nullable=True)
        public_key = values.key(peer, "public_key")
        self._node.upsert(
            client_id,
            public_key=public_key,
            preshared_key=values.key(peer, "preshared_key"),
            local=values.credentials(message, "gateway_ice_credentials"),
            remote=values.credentials(message, "client_ice_credentials"),
            now=now,
            wall_now=wall_now,
        )
        client = self._clients.setdefault(client_id, ClientPeer(client_id, addresses))
        if client.take_key(public_key):
            log.info("Client has a new key and asks for its resources again", extra={"fields": {"cid": client_id}})
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

    # Time ----------------------------------------------------------------------------------------------------------

    def handle_timeout(self, now: Instant, wall_now: WallTime) -> None:
        """Run what is due; authorizations are looked at once a second."""
        if now >= self._expiry_due:
            self._expiry_due = now + EXPIRY_INTERVAL
            for client in list(self._clients.values()):
                for resource_id in client.expire(wall_now):
                    log.info("Access expired", extra={"fields": {"cid": client.client_id, "rid": resource_id}})
                    self._forget_flows()
                self._dismiss_if_empty(client, now)
        super().handle_timeout(now, wall_now)

    def poll_timeout(self) -> Instant | None:
        """The next deadline."""
        return earliest(super().poll_timeout(), self._expiry_due if self._clients else None)

    # Private -------------------------------------------------------------------------------------------------------

    def _dismiss_if_empty(self, client: ClientPeer, now: Instant) -> None:
        if client.is_empty:
            self._dismiss(client.client_id, now)

    def _forget(self, peer_id: str) -> None:
        client = self._clients.pop(peer_id, None)
        if client is not None:
            self._release_addresses(client)
        self._forget_flows()

    def _release_addresses(self, client: ClientPeer) -> None:
        for address in (client.addresses.ipv4, client.addresses.ipv6):
            if self._by_address.get(address) is client:
                del self._by_address[address]

    def _handle_failure(self, peer_id: str) -> None:
        """The client's authorizations outlive its connection."""
