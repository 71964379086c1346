"""Clients as the gateway knows them: addresses, authorized resources, and the decision for a flow.

This state survives the loss of a connection; only goodbye, the loss of the last resource or shutdown removes it.
"""

from dataclasses import dataclass
from enum import Enum, auto
from typing import Final

from connectivity.clock import SECOND, WallTime
from connectivity.ip.checksum import PROTOCOL_ICMP, PROTOCOL_ICMPV6
from connectivity.ip.flow import Flow
from connectivity.ip.icmp import IcmpError
from connectivity.portal.values import Interface, Json, MessageError, Network, listing, network, text
from gateway.filters import TCP, UDP, Filters, effective, parse_filters

SITE_DNS_PORT: Final = 53535
_ICMP: Final = frozenset({PROTOCOL_ICMP, PROTOCOL_ICMPV6})


class Judgement(Enum):
    """Whether a client may have a flow."""

    PASS = auto()
    FILTERED = auto()
    SPOOFED = auto()


@dataclass(frozen=True, slots=True)
class Resource:
    """A CIDR resource as sent to gateways."""

    resource_id: str
    network: Network
    filters: Filters


def parse_resource(payload: Json) -> Resource:
    """Read a resource.

    Raises:
        MessageError: bad fields, or a kind that this gateway does not serve.
    """
    kind = text(payload, "type")
    if kind != "cidr":
        raise MessageError(f"resources of type {kind!r} are not served")
    filters = parse_filters(listing(payload, "filters"))
    return Resource(text(payload, "id"), network(payload, "address"), filters)


@dataclass(slots=True)
class _Grant:
    resource: Resource
    expires_at: int | None  # unix seconds; None never


class ClientPeer:
    """One client."""

    def __init__(self, client_id: str, addresses: Interface) -> None:
        self.client_id = client_id
        self.addresses = addresses
        self._public_key = b""
        self._grants: dict[str, _Grant] = {}
        self._rules: list[tuple[Network, Filters]] = []

    @property
    def is_empty(self) -> bool:
        """Whether no authorization is left."""
        return not self._grants

    def resource_ids(self) -> list[str]:
        """The resources granted now."""
        return list(self._grants)

    def take_key(self, public_key: bytes) -> bool:
        """Take over a WireGuard key; True if that ended authorizations, which were the portal's word about another key.

        Nothing is lost by that: a client with a new key has no flows, and lets nothing in that it did not ask for.
        """
        changed, self._public_key = public_key != self._public_key, public_key
        if not changed or not self._grants:
            return False
        self._grants.clear()
        self._compile()
        return True

    def grant(self, resource: Resource, expires_at: int | None) -> None:
        """Authorize, or take over new filters and a new expiry."""
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
        """Take over the filters of a granted resource; its network stays."""
        grant = self._grants.get(resource.resource_id)
        if grant is None:
            return False
        grant.resource = Resource(resource.resource_id, grant.resource.network, resource.filters)
        self._compile()
        return True

    def revoke(self, resource_id: str) -> bool:
        """Take one authorization away; False if there was none."""
        if self._grants.pop(resource_id, None) is None:
            return False
        self._compile()
        return True

    def expire(self, wall_now: WallTime) -> list[str]:
        """Take away what has run out; returns those ids."""
        seconds = wall_now // SECOND
        expired = [
            resource_id
            for resource_id, grant in self._grants.items()
            if grant.expires_at is not None and grant.expires_at <= seconds
        ]
        for resource_id in expired:
            self.revoke(resource_id)
        return expired

    def judge_outgoing(self, flow: Flow, own: Interface, *, is_echo: bool) -> Judgement:
        """A flow from the client: its source must be the client, its destination a resource or the gateway itself."""
        if flow.source not in {self.addresses.ipv4, self.addresses.ipv6}:
            return Judgement.SPOOFED
        if flow.destination in {own.ipv4, own.ipv6}:
            return self._judge_own(flow.protocol, flow.destination_port, is_echo=is_echo)
        return self._judge(effective(flow.destination, self._rules), flow.protocol, flow.destination_port)

    def judge_incoming(self, flow: Flow, own: Interface, *, is_echo: bool) -> Judgement:
        """A flow to the client: an answer of a resource or of the gateway itself.

        Whether it answers anything is the kernel's to know, which sees both ways (``gateway.rules``).
        """
        if flow.source in {own.ipv4, own.ipv6}:
            return self._judge_own(flow.protocol, flow.source_port, is_echo=is_echo)
        return self._judge(effective(flow.source, self._rules), flow.protocol, flow.source_port)

    def judge_error(self, error: IcmpError | None, own: Interface) -> Judgement:
        """An ICMP error to the client, whoever sent it: it must be about a flow that the client may have."""
        if error is None:
            return Judgement.FILTERED
        quoted = Flow(
            error.source.version,
            error.protocol,
            error.source,
            error.destination,
            error.source_port,
            error.destination_port,
        )
        return self.judge_outgoing(quoted, own, is_echo=error.protocol in _ICMP)  # no other ICMP can be quoted

    def _judge_own(self, protocol: int, port: int, *, is_echo: bool) -> Judgement:
        """The gateway's host serves clients nothing but echo and the site's DNS."""
        return Judgement.PASS if is_echo or (protocol in (TCP, UDP) and port == SITE_DNS_PORT) else Judgement.FILTERED

    def _judge(self, filters: Filters | None, protocol: int, port: int) -> Judgement:
        return Judgement.PASS if filters is not None and filters.allow(protocol, port) else Judgement.FILTERED

    def _compile(self) -> None:
        self._rules = [(grant.resource.network, grant.resource.filters) for grant in self._grants.values()]
