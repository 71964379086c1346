"""The client's resources and the choice of one for a destination."""

from dataclasses import dataclass

from connectivity.endpoint import IPAddress
from connectivity.portal.values import Json, MessageError, Network, listing, mapping, network, text
from connectivity.ranges import covers


@dataclass(frozen=True, slots=True)
class CidrResource:
    """A network behind the gateways of its sites."""

    resource_id: str
    name: str
    network: Network
    site_ids: tuple[str, ...]


def parse_resource(payload: Json) -> CidrResource | None:
    """A resource as the portal sends it; None for kinds that this client does not serve.

    Raises:
        MessageError: ``type`` is missing, or a CIDR resource has bad fields.
    """
    if text(payload, "type") != "cidr":
        return None
    groups = payload.get("gateway_groups", payload.get("sites"))
    if not isinstance(groups, list):
        raise MessageError("gateway_groups: expected a list")
    return CidrResource(
        resource_id=text(payload, "id"),
        name=text(payload, "name"),
        network=network(payload, "address"),
        site_ids=tuple(text(mapping(group, "gateway_groups"), "id") for group in groups),
    )


def parse_resources(payload: Json) -> tuple[list[CidrResource], list[str]]:
    """The resource list of an ``init``: what could be read, and why the others could not."""
    found: list[CidrResource] = []
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


class ResourceTable:
    """All resources by id, and the longest-prefix choice among them."""

    def __init__(self) -> None:
        self._resources: dict[str, CidrResource] = {}

    def __contains__(self, resource_id: str) -> bool:
        return resource_id in self._resources

    def get(self, resource_id: str) -> CidrResource | None:
        """The resource of this id."""
        return self._resources.get(resource_id)

    def ids(self) -> list[str]:
        """All ids."""
        return list(self._resources)

    def all(self) -> list[CidrResource]:
        """All of them, in the order in which they came."""
        return list(self._resources.values())

    def put(self, resource: CidrResource) -> None:
        """Add or replace one."""
        self._resources[resource.resource_id] = resource

    def remove(self, resource_id: str) -> None:
        """Take one out, if it is there."""
        self._resources.pop(resource_id, None)

    def networks(self) -> tuple[Network, ...]:
        """Every network once, in a stable order: what the host routes into the tunnel."""
        networks = {resource.network for resource in self._resources.values()}
        return tuple(sorted(networks, key=lambda net: (net.version, int(net.network_address), net.prefixlen)))

    def overlapping(self, network: Network) -> list[CidrResource]:
        """The resources that have addresses in common with a network."""
        return [resource for resource in self._resources.values() if _overlap(resource.network, network)]

    def choose(self, destination: IPAddress, connected: frozenset[str]) -> CidrResource | None:
        """Longest prefix; of two equal networks the one already connected, else the one with the higher id."""
        matching = [resource for resource in self._resources.values() if covers(resource.network, destination)]
        return max(
            matching,
            key=lambda resource: (resource.network.prefixlen, resource.resource_id in connected, resource.resource_id),
            default=None,
        )


def _overlap(one: Network, other: Network) -> bool:
    return one.version == other.version and one.overlaps(other)
