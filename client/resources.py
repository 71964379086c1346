"""The client's resources, and the choice of one for a destination or a name.

A CIDR resource is chosen by its longest prefix, a DNS resource by the best of the patterns that match a name, the
Internet resource for what no other includes. Both look-ups go by tables, not through all resources.
"""

from collections.abc import Container, Sequence
from dataclasses import dataclass, field
from enum import Enum
from ipaddress import IPv4Network, IPv6Network
from typing import Final, TypeAlias, TypeVar
from uuid import UUID

from connectivity.dns_pattern import is_pattern, literal_suffix, matches, priority
from connectivity.endpoint import IPAddress
from connectivity.portal.values import Json, MessageError, Network, listing, mapping, network, text
from connectivity.ranges import PRIVATE, covers, is_of_the_internet

EVERYTHING: Final[tuple[Network, ...]] = (IPv4Network("0.0.0.0/0"), IPv6Network("::/0"))
INTERNET_NAME: Final = "Internet Resource"


class IpStack(Enum):
    """Which addresses a DNS resource has."""

    DUAL = "dual"
    IPV4_ONLY = "ipv4_only"
    IPV6_ONLY = "ipv6_only"

    def has(self, version: int) -> bool:
        """Whether names of the resource have addresses of this IP version."""
        return self is IpStack.DUAL or (self is IpStack.IPV4_ONLY) == (version == 4)


@dataclass(frozen=True, slots=True)
class Site:
    """Where gateways stand that reach a resource."""

    site_id: str
    name: str


@dataclass(frozen=True, slots=True)
class CidrResource:
    """A network behind the gateways of its sites."""

    resource_id: str
    name: str
    network: Network
    sites: tuple[Site, ...]

    kind = "cidr"

    @property
    def address(self) -> str:
        """What people know it by."""
        return str(self.network)


@dataclass(frozen=True, slots=True)
class DnsResource:
    """Names behind the gateways of its sites, which resolve them."""

    resource_id: str
    name: str
    pattern: str
    ip_stack: IpStack
    sites: tuple[Site, ...]

    kind = "dns"

    @property
    def address(self) -> str:
        """What people know it by."""
        return self.pattern


@dataclass(frozen=True, slots=True)
class InternetResource:
    """All that is no other resource."""

    resource_id: str
    name: str
    sites: tuple[Site, ...]

    kind = "internet"
    address = ""


Resource: TypeAlias = CidrResource | DnsResource | InternetResource
Routed = TypeVar("Routed", CidrResource, InternetResource)


def is_same_target(one: Resource, other: Resource) -> bool:
    """Whether flows to the one may go on when it becomes the other: kind, address and addresses of names are equal."""
    match one, other:
        case CidrResource(), CidrResource():
            return one.network == other.network
        case DnsResource(), DnsResource():
            return one.pattern == other.pattern and one.ip_stack is other.ip_stack
        case _:
            return isinstance(one, InternetResource) and isinstance(other, InternetResource)


def parse_resource(payload: Json) -> Resource | None:
    """A resource as the portal sends it; None for kinds that this client does not know.

    Raises:
        MessageError: ``type`` is missing, or a field of a known kind is bad.
    """
    match text(payload, "type"):
        case "cidr":
            return CidrResource(
                text(payload, "id"), text(payload, "name"), network(payload, "address"), _sites(payload)
            )
        case "dns":
            pattern = text(payload, "address")
            if not is_pattern(pattern):
                raise MessageError(f"address: expected a name or a pattern of names, got {pattern!r}")
            return DnsResource(_uuid(payload), text(payload, "name"), pattern, _ip_stack(payload), _sites(payload))
        case "internet":
            name = payload.get("name")
            shown = name if isinstance(name, str) else INTERNET_NAME
            return InternetResource(text(payload, "id"), shown, _sites(payload))
        case _:
            return None


def parse_resources(payload: Json) -> tuple[list[Resource], list[str]]:
    """The resource list of an ``init``: what could be read, and why the others could not."""
    found: list[Resource] = []
    problems: list[str] = []
    for entry in listing(payload, "resources", optional=True):
        resource_payload = mapping(entry, "resources")
        kind = text(resource_payload, "type")
        try:
            resource = parse_resource(resource_payload)
        except MessageError as error:
            problems.append(str(error))
            continue
        if resource is None:
            problems.append(f"resources of type {kind!r} are not served")
        else:
            found.append(resource)
    return found, problems


@dataclass(slots=True)
class _Index:
    """Look-up tables over all resources."""

    # By IP version: the prefix lengths that occur, longest first, each with the resources by the bits of their prefix.
    networks: dict[int, dict[int, dict[int, list[CidrResource]]]] = field(default_factory=lambda: {4: {}, 6: {}})
    patterns: dict[str, list[DnsResource]] = field(default_factory=dict)  # by the literal labels at their end
    internet: list[InternetResource] = field(default_factory=list)


class ResourceTable:
    """All resources by id, and the choice among them."""

    def __init__(self) -> None:
        self._resources: dict[str, Resource] = {}
        self._index: _Index | None = None  # None: made anew when it is asked

    def __contains__(self, resource_id: str) -> bool:
        return resource_id in self._resources

    def get(self, resource_id: str) -> Resource | None:
        """The resource of this id."""
        return self._resources.get(resource_id)

    def ids(self) -> list[str]:
        """All ids."""
        return list(self._resources)

    def all(self) -> list[Resource]:
        """All resources as people are shown them: the Internet first, then by name and id."""
        resources = self._resources.values()
        return sorted(resources, key=lambda one: (not isinstance(one, InternetResource), one.name, one.resource_id))

    def put(self, resource: Resource) -> None:
        """Add or replace one."""
        self._resources[resource.resource_id] = resource
        self._index = None

    def remove(self, resource_id: str) -> None:
        """Take one out, if it is there."""
        if self._resources.pop(resource_id, None) is not None:
            self._index = None

    def overlapping(self, resource: Resource) -> list[str]:
        """The ids of others to which packets of this one may go as long as it is not there."""
        if not isinstance(resource, CidrResource):
            return []
        around = (one for one in self._resources.values() if isinstance(one, CidrResource))
        found = [one.resource_id for one in around if _overlaps(one.network, resource.network)]
        return found + [one.resource_id for one in self._indexed().internet]

    def networks(self) -> tuple[Network, ...]:
        """Every network once, in a stable order: what the host routes into the tunnel."""
        networks: set[Network] = {one.network for one in self._resources.values() if isinstance(one, CidrResource)}
        if self._indexed().internet:
            networks |= set(EVERYTHING)
        return tuple(sorted(networks, key=lambda net: (net.version, int(net.network_address), net.prefixlen)))

    def apart(self) -> tuple[Network, ...]:
        """What the Internet is not, and no other resource includes: private networks stay with the host."""
        if not self._indexed().internet:
            return ()
        cidrs = [one.network for one in self._resources.values() if isinstance(one, CidrResource)]
        return tuple(private for private in PRIVATE if not any(_includes(network, private) for network in cidrs))

    def choose(self, destination: IPAddress, connected: Container[str] = ()) -> CidrResource | InternetResource | None:
        """Longest prefix, then the Internet; of two equal ones that already connected, else that of the higher id."""
        index = self._indexed()
        value, bits = int(destination), destination.max_prefixlen
        for length, by_prefix in index.networks[destination.version].items():
            found = by_prefix.get(value >> (bits - length))
            if found is not None and covers(found[0].network, destination):
                return _preferred(found, connected)
        if index.internet and is_of_the_internet(destination):
            return _preferred(index.internet, connected)
        return None

    def match(self, name: str) -> DnsResource | None:
        """The best pattern that matches; of two equal ones that of the higher id, so that a name keeps its addresses.

        Args:
            name: in lower case, without a final dot.
        """
        patterns = self._indexed().patterns
        if not patterns:
            return None
        labels = name.split(".")
        suffixes = [".".join(labels[start:]) for start in range(len(labels) + 1)]
        found = [resource for suffix in suffixes for resource in patterns.get(suffix, ())]
        matching = [resource for resource in found if matches(resource.pattern, name)]
        if not matching:
            return None
        best = min(priority(resource.pattern) for resource in matching)
        return max(
            (resource for resource in matching if priority(resource.pattern) == best),
            key=lambda resource: resource.resource_id,
        )

    def _indexed(self) -> _Index:
        if self._index is None:
            self._index = index = _Index()
            by_length = sorted(
                (one for one in self._resources.values() if isinstance(one, CidrResource)),
                key=lambda one: -one.network.prefixlen,
            )
            for one in by_length:
                length, bits = one.network.prefixlen, one.network.max_prefixlen
                prefixes = index.networks[one.network.version].setdefault(length, {})
                prefixes.setdefault(int(one.network.network_address) >> (bits - length), []).append(one)
            for resource in self._resources.values():
                if isinstance(resource, DnsResource):
                    index.patterns.setdefault(literal_suffix(resource.pattern), []).append(resource)
                elif isinstance(resource, InternetResource):
                    index.internet.append(resource)
        return self._index


def _overlaps(one: Network, other: Network) -> bool:
    return one.version == other.version and one.overlaps(other)


def _includes(outer: Network, inner: Network) -> bool:
    return _overlaps(outer, inner) and outer.prefixlen <= inner.prefixlen


def _preferred(found: Sequence[Routed], connected: Container[str]) -> Routed:
    if len(found) == 1:
        return found[0]
    return max(found, key=lambda resource: (resource.resource_id in connected, resource.resource_id))


def _uuid(payload: Json) -> str:
    """The id of what control messages name, which have room for nothing else."""
    value = text(payload, "id")
    try:
        UUID(value)
    except ValueError as error:
        raise MessageError(f"id: expected a UUID, got {value!r}") from error
    return value


def _sites(payload: Json) -> tuple[Site, ...]:
    groups = payload.get("gateway_groups", payload.get("sites"))
    if not isinstance(groups, list):
        raise MessageError("gateway_groups: expected a list")
    sites = []
    for entry in groups:
        group = mapping(entry, "gateway_groups")
        name = group.get("name")
        sites.append(Site(text(group, "id"), name if isinstance(name, str) else ""))
    return tuple(sites)


def _ip_stack(payload: Json) -> IpStack:
    value = payload.get("ip_stack")
    try:
        return IpStack.DUAL if value is None else IpStack(value)
    except ValueError as error:
        raise MessageError(f"ip_stack: expected dual, ipv4_only or ipv6_only, got {value!r}") from error
