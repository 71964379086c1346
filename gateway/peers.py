"""Clients as the gateway knows them: addresses, authorized resources, names, and the decision for a flow.

This state survives the loss of a connection; only goodbye, the loss of the last resource or shutdown removes it.

What the client sends to a network is judged by the filters of all resources that include the address, what it sends to
a name's proxy address by those of the name's resource alone, and goes through its NAT. Verdicts rest on the client, on
the grants that allow them, and on the session.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Final

from connectivity.budget import Budget, Rate
from connectivity.clock import SECOND, Instant, WallTime
from connectivity.endpoint import IPAddress
from connectivity.ip import icmp
from connectivity.ip.flow import Flow
from connectivity.ip.icmp import IcmpError
from connectivity.ip.protocols import ICMP_PROTOCOLS, PROTOCOL_TCP, PROTOCOL_UDP
from connectivity.portal.values import Interface
from connectivity.ranges import is_proxy
from connectivity.status import ClientStatus, GrantStatus
from connectivity.verdict import Drop, Forward, Translation
from gateway.filters import union
from gateway.nat import Binding, Capacity, Key, NatTable, is_translatable, peer_port
from gateway.reasons import GatewayDrop
from gateway.resolutions import LOOKUPS
from gateway.resources import CidrResource, DnsResource, Resource, is_same_target, shown, with_filters
from gateway.translations import NameCapacity, Translations

SITE_DNS_PORT: Final = 53535
# Refused packets that a client is told of by ICMP; each costs several times what a packet that passes costs.
REFUSALS: Final = Rate(100, 100)


@dataclass(frozen=True, slots=True)
class Shared:
    """What all clients of a gateway have in common."""

    sessions: Capacity = field(default_factory=Capacity)
    names: NameCapacity = field(default_factory=NameCapacity)
    passes: Callable[[str, Flow], bool] = lambda _client_id, _flow: False  # whether a flow of a client is remembered


RENEWAL_NS: Final = 15 * SECOND  # a client asks for what it uses at once, and by a packet for the rest


@dataclass(slots=True)
class _Grant:
    resource: Resource
    expires_at: int | None  # unix seconds; None never


class ClientPeer:
    """One client of a gateway: its addresses, grants, names and translations."""

    def __init__(self, client_id: str, addresses: Interface, shared: Shared, now: Instant) -> None:
        self.client_id = client_id
        self.addresses = addresses
        self.name = self.actor = ""  # for people; empty where the portal does not say
        self.nat = NatTable(shared.sessions)
        self.names = Translations(shared.names)
        self.lookups = Budget(LOOKUPS, now)
        self.refusals = Budget(REFUSALS, now)
        self._passes = shared.passes
        self._public_key = b""
        self._grants: dict[str, _Grant] = {}
        self._former: dict[str, Resource] = {}  # what the key before had, whose sessions wait for it to be given again
        self._former_until: Instant = 0
        self._behind_names: dict[IPAddress, list[Resource]] = {}  # of hosts that are granted as networks as well

    # Grants --------------------------------------------------------------------------------------------------------

    @property
    def is_empty(self) -> bool:
        """Whether no authorization is left."""
        return not self._grants

    def resource_ids(self) -> list[str]:
        """The resources granted now."""
        return list(self._grants)

    def resource(self, resource_id: str) -> Resource | None:
        """A resource that is granted now."""
        grant = self._grants.get(resource_id)
        return None if grant is None else grant.resource

    def may_ask_for(self, name: str) -> bool:
        """Whether a granted resource has the name."""
        resources = (grant.resource for grant in self._grants.values())
        return any(isinstance(resource, DnsResource) and resource.names(name) for resource in resources)

    def status(self) -> ClientStatus:
        """What it may reach, and until when."""
        grants = tuple(
            GrantStatus(resource_id, *shown(grant.resource), grant.expires_at, grant.resource.name)
            for resource_id, grant in self._grants.items()
        )
        return ClientStatus(self.client_id, (self.addresses.ipv4, self.addresses.ipv6), grants, self.name, self.actor)

    def take_key(self, public_key: bytes, now: Instant) -> bool:
        """Take over a WireGuard key; True if that ended authorizations, which were the portal's word about another key.

        What is given to the new one goes on where it was, translations and sessions included; until then it carries
        nothing, and what is not given again for a while is forgotten.
        """
        changed, self._public_key = public_key != self._public_key, public_key
        if not changed or not self._grants:
            return False
        self._former |= {resource_id: grant.resource for resource_id, grant in self._grants.items()}
        self._former_until = now + RENEWAL_NS
        self._grants.clear()
        self._compile()
        return True

    def grant(self, resource: Resource, expires_at: int | None, now: Instant) -> None:
        """Authorize, or take over new filters and a new expiry."""
        held = self._former.pop(resource.resource_id, None) or self.resource(resource.resource_id)
        if held is not None and not is_same_target(held, resource):
            self._end(resource.resource_id, now)
        self._grants[resource.resource_id] = _Grant(resource, expires_at)
        self._compile()

    def extend(self, resource_id: str, expires_at: int) -> bool:
        """Replace the expiry; False if the resource is not granted."""
        grant = self._grants.get(resource_id)
        if grant is None:
            return False
        grant.expires_at = expires_at
        return True

    def update(self, resource: Resource) -> bool:
        """Take over the filters of a granted resource, and nothing else; False if it is none, or of another kind."""
        grant = self._grants.get(resource.resource_id)
        updated = None if grant is None else with_filters(grant.resource, resource)
        if grant is None or updated is None:
            return False
        grant.resource = updated
        self._compile()
        return True

    def revoke(self, resource_id: str, now: Instant) -> bool:
        """Take one authorization away, and what rests on it; False if there was none."""
        if self._former.pop(resource_id, None) is not None:
            self._end(resource_id, now)
        if self._grants.pop(resource_id, None) is None:
            return False
        self._end(resource_id, now)
        self._compile()
        return True

    def expire(self, wall_now: WallTime, now: Instant) -> list[str]:
        """Take away what has run out; returns those ids."""
        seconds = wall_now // SECOND
        expired = [
            resource_id
            for resource_id, grant in self._grants.items()
            if grant.expires_at is not None and grant.expires_at <= seconds
        ]
        for resource_id in expired:
            self.revoke(resource_id, now)
        if self._former and now >= self._former_until:
            for resource_id in self._former:
                self._end(resource_id, now)
            self._former.clear()
        return expired

    # Names ---------------------------------------------------------------------------------------------------------

    def assign(self, resource_id: str, domain: str, proxies: Iterable[IPAddress], real: Iterable[IPAddress]) -> bool:
        """Let proxy addresses stand for a name; whether that is news."""
        changed = self.names.assign(resource_id, domain, proxies, real)
        if changed:
            self._compile()
        return changed

    def reset_names(self) -> None:
        """Forget all proxy addresses and sessions."""
        self.names.clear()
        self.nat.clear()
        self._compile()

    def close(self) -> None:
        """Give back what is shared with other clients."""
        self.names.clear()
        self.nat.clear()

    # Flows ---------------------------------------------------------------------------------------------------------

    def judge_outgoing(self, flow: Flow, own: Interface, now: Instant, *, is_echo: bool) -> Forward | Drop:
        """A flow from the client: its source must be the client, its destination a resource or the gateway itself."""
        if flow.source not in {self.addresses.ipv4, self.addresses.ipv6}:
            return Drop(GatewayDrop.SPOOFED)
        if is_proxy(flow.destination):
            return self._judge_name(flow, now, is_echo=is_echo)
        if flow.destination in {own.ipv4, own.ipv6}:
            served = _is_served(flow.protocol, flow.destination_port, is_echo=is_echo)
            return self._forward() if served else Drop(GatewayDrop.FILTERED)
        granting = self._granting(flow.destination, flow.protocol, flow.destination_port)
        if not granting:
            return Drop(GatewayDrop.FILTERED)
        if is_translatable(flow.protocol, is_echo=is_echo):
            key = Key(flow.protocol, flow.source_port, flow.destination)
            if self.nat.outside(key) is not None or self.nat.inside(key) is not None:  # a session with a name has it
                return self._translate(key, flow, flow.destination, granting[0], now)
            self.nat.release(key)
        return self._forward(None, *map(self.grant_tag, granting))

    def judge_incoming(self, flow: Flow, own: Interface, *, is_echo: bool) -> Forward | Drop:
        """A flow to the client: an answer of a resource or of the gateway itself.

        Whether it answers anything is the kernel's to know, which sees both ways (``gateway.rules``).
        """
        if flow.source in {own.ipv4, own.ipv6}:
            served = _is_served(flow.protocol, flow.source_port, is_echo=is_echo)
            return self._forward() if served else Drop(GatewayDrop.FILTERED_REPLY)
        if is_translatable(flow.protocol, is_echo=is_echo):
            key = Key(flow.protocol, flow.destination_port, flow.source)
            binding = self.nat.outside(key)
            if binding is not None:
                return self._judge_translated(binding, flow)
            if self.nat.is_expired(key):
                return Drop(GatewayDrop.NAT_EXPIRED)
        granting = self._granting(flow.source, flow.protocol, flow.source_port)
        if not granting:
            return Drop(GatewayDrop.FILTERED_REPLY)
        return self._forward(None, *map(self.grant_tag, granting))

    def judge_error(self, error: IcmpError | None, own: Interface) -> Forward | Drop:
        """An ICMP error to the client, whoever sent it: it must be about a flow that the client may have.

        One about a session with a name is ``translated_error``'s.
        """
        if error is None or error.source not in {self.addresses.ipv4, self.addresses.ipv6}:
            return Drop(GatewayDrop.FILTERED_REPLY)
        is_echo = error.protocol in ICMP_PROTOCOLS  # no other ICMP can be quoted
        if error.destination in {own.ipv4, own.ipv6}:
            served = _is_served(error.protocol, error.destination_port, is_echo=is_echo)
            return self._forward() if served else Drop(GatewayDrop.FILTERED_REPLY)
        if not self._granting(error.destination, error.protocol, error.destination_port):
            return Drop(GatewayDrop.FILTERED_REPLY)
        return self._forward()

    def translated_error(self, error: IcmpError | None) -> bytes | Drop | None:
        """An ICMP error about a session as the client knows that; None if it is about no session."""
        if error is None or error.source not in {self.addresses.ipv4, self.addresses.ipv6}:
            return None
        key = Key(error.protocol, error.source_port, error.destination)
        binding = self.nat.outside(key)
        if binding is not None and peer_port(error.protocol, error.destination_port) in binding.sessions:
            inside = binding.inside
            return icmp.translate_error(
                error, inside.address, error.source, quoted_destination=inside.address, quoted_source_port=inside.port
            )
        is_late = binding is not None or self.nat.is_expired(key)
        return Drop(GatewayDrop.NAT_EXPIRED) if is_late else None

    def grant_tag(self, resource_id: str) -> tuple[str, str, str]:
        """What verdicts rest on that a grant allows."""
        return "grant", self.client_id, resource_id

    @property
    def tag(self) -> tuple[str, str]:
        """What all verdicts about the client's flows rest on."""
        return "client", self.client_id

    # Private -------------------------------------------------------------------------------------------------------

    def _judge_name(self, flow: Flow, now: Instant, *, is_echo: bool) -> Forward | Drop:
        """A flow to a proxy address. An open binding keeps its resource and its real address."""
        target = self.names.get(flow.destination)
        inside = Key(flow.protocol, flow.source_port, flow.destination)
        translatable = is_translatable(flow.protocol, is_echo=is_echo)
        binding = self.nat.inside(inside) if translatable else None
        real: IPAddress | None
        if binding is not None:
            resource_id, real = binding.resource_id, binding.outside.address
        elif target is not None:
            resource_id, real = target.resource_id, target.real
        else:
            return Drop(GatewayDrop.FILTERED)
        resource = self.resource(resource_id)
        if resource is None or not resource.filters.allow(flow.protocol, flow.destination_port):
            return Drop(GatewayDrop.FILTERED)
        if not translatable:
            return Drop(GatewayDrop.UNTRANSLATABLE)
        if real is None:
            return Drop(GatewayDrop.NAME_UNREACHABLE)
        return self._translate(inside, flow, real, resource_id, now)

    def _judge_translated(self, binding: Binding, flow: Flow) -> Forward | Drop:
        """A flow to the client whose outside key is bound."""
        session = binding.sessions.get(peer_port(flow.protocol, flow.source_port))
        if session is None:
            return Drop(GatewayDrop.NAT_EXPIRED)
        address = binding.inside.address
        granting = self._granting(address, flow.protocol, flow.source_port, behind=binding.resource_id)
        if not granting:
            return Drop(GatewayDrop.FILTERED_REPLY)
        return self._forward(session.inbound, session, *map(self.grant_tag, granting))

    def _translate(self, inside: Key, flow: Flow, real: IPAddress, resource_id: str, now: Instant) -> Forward | Drop:
        def is_taken(port: int) -> bool:
            peer = port if flow.protocol in ICMP_PROTOCOLS else flow.destination_port
            return self._passes(
                self.client_id, flow._replace(destination=real, source_port=port, destination_port=peer)
            )

        session = self.nat.open(
            inside, peer_port(flow.protocol, flow.destination_port), real, resource_id, now, is_taken=is_taken
        )
        if isinstance(session, GatewayDrop):
            return Drop(session)
        return self._forward(session.outbound, session, self.grant_tag(resource_id))

    def _forward(self, translation: Translation | None = None, *rests_on: object) -> Forward:
        return Forward(self.client_id, translation, (self.tag, *rests_on))

    def _granting(self, address: IPAddress, protocol: int, port: int, *, behind: str | None = None) -> list[str]:
        """The resources by which an address may be spoken with on a port: those that include it, or the name's."""
        if behind is not None and is_proxy(address):
            resource = self.resource(behind)
            resources = [] if resource is None else [resource]
        else:
            resources = [grant.resource for grant in self._grants.values() if grant.resource.includes(address)]
            if resources:
                resources += self._behind_names.get(address, ())
        allowed = union(resource.filters for resource in resources).allow(protocol, port)
        return [resource.resource_id for resource in resources] if allowed else []

    def _end(self, resource_id: str, now: Instant) -> None:
        self.names.forget_resource(resource_id)
        self.nat.end_resource(resource_id, now)

    def _compile(self) -> None:
        """Hosts that are granted as a network of their own and stand behind a name as well have the filters of both."""
        resources = [grant.resource for grant in self._grants.values()]
        hosts = {
            resource.network.network_address
            for resource in resources
            if isinstance(resource, CidrResource) and resource.network.prefixlen == resource.network.max_prefixlen
        }
        self._behind_names = {}
        for resource in resources if hosts else ():
            if isinstance(resource, DnsResource):
                for address in self.names.real_addresses(resource.resource_id) & hosts:
                    self._behind_names.setdefault(address, []).append(resource)


def _is_served(protocol: int, port: int, *, is_echo: bool) -> bool:
    """The gateway's host serves clients nothing but echo and the site's DNS."""
    return is_echo or (protocol in (PROTOCOL_TCP, PROTOCOL_UDP) and port == SITE_DNS_PORT)
