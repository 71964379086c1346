"""Resources as the portal sends them to gateways: what each includes, and what it lets through."""

from dataclasses import dataclass, field, replace
from typing import TypeAlias

from connectivity.dns_pattern import is_pattern, matches
from connectivity.endpoint import IPAddress
from connectivity.portal.values import Json, MessageError, Network, listing, name_for_people, network, text
from connectivity.ranges import covers, is_of_the_internet
from gateway.filters import Filters, parse_filters


@dataclass(frozen=True, slots=True)
class CidrResource:
    """A network."""

    resource_id: str
    network: Network
    filters: Filters
    name: str = field(default="", compare=False)

    def includes(self, address: IPAddress) -> bool:
        """Whether clients may reach this address as such."""
        return covers(self.network, address)


@dataclass(frozen=True, slots=True)
class DnsResource:
    """Names, reached by proxy addresses only."""

    resource_id: str
    pattern: str
    filters: Filters
    name: str = field(default="", compare=False)

    def includes(self, _address: IPAddress) -> bool:
        """No address as such."""
        return False

    def names(self, domain: str) -> bool:
        """Whether the name is one of the resource's."""
        return matches(self.pattern, domain)


@dataclass(frozen=True, slots=True)
class InternetResource:
    """Everything that is nobody's private network."""

    resource_id: str
    filters: Filters  # a portal may send some, upstream's does not
    name: str = field(default="", compare=False)

    def includes(self, address: IPAddress) -> bool:
        """Whether clients may reach this address as such."""
        return is_of_the_internet(address)


Resource: TypeAlias = CidrResource | DnsResource | InternetResource


def shown(resource: Resource) -> tuple[str, str]:
    """Kind and address, as people read them."""
    match resource:
        case CidrResource():
            return "cidr", str(resource.network)
        case DnsResource():
            return "dns", resource.pattern
        case InternetResource():
            return "internet", ""


def parse_resource(payload: Json) -> Resource:
    """Read a resource.

    Raises:
        MessageError: bad fields, or a kind that nobody knows.
    """
    kind, resource_id, name = text(payload, "type"), text(payload, "id"), name_for_people(payload, "name")
    match kind:
        case "cidr":
            filters = parse_filters(listing(payload, "filters"))
            return CidrResource(resource_id, network(payload, "address"), filters, name)
        case "dns":
            pattern = text(payload, "address")
            if not is_pattern(pattern):
                raise MessageError(f"address: expected a pattern of names, got {pattern!r}")
            return DnsResource(resource_id, pattern, parse_filters(listing(payload, "filters")), name)
        case "internet":
            return InternetResource(resource_id, parse_filters(listing(payload, "filters", optional=True)), name)
        case _:
            raise MessageError(f"resources of type {kind!r} are not served")


def is_same_target(held: Resource, update: Resource) -> bool:
    """Whether two differ in nothing but filters."""
    return with_filters(held, update) == update


def with_filters(held: Resource, update: Resource) -> Resource | None:
    """A resource with the filters of its update; None if the update is of another kind."""
    return replace(held, filters=update.filters) if type(held) is type(update) else None
