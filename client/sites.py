"""What is known of sites and resources: online, offline, or unknown (gateway and client facts §9.7)."""

from collections.abc import Iterable, Iterator
from enum import StrEnum
from typing import Final

from client.gateways import Gateways
from client.resources import Resource, ResourceTable, Site
from connectivity.clock import SECOND, Instant
from connectivity.node import ConnectionStatus
from connectivity.status import ResourceStatus

OFFLINE_COUNTS_FOR: Final = 300 * SECOND  # afterwards nobody knows
_ESTABLISHED: Final = frozenset({"connected", "idle"})


class SiteState(StrEnum):
    """Of a site, and of a resource by its sites."""

    UNKNOWN = "unknown"
    ONLINE = "online"
    OFFLINE = "offline"


class Sites:
    """Sites that were said to be offline, for as long as that counts."""

    def __init__(self) -> None:
        self._offline: dict[str, Instant] = {}  # until when

    def offline(self, sites: Iterable[Site], now: Instant) -> None:
        """The portal knows no gateway of these that is online."""
        for site in sites:
            self._offline.pop(site.site_id, None)
            self._offline[site.site_id] = now + OFFLINE_COUNTS_FOR

    def found(self, site_id: str) -> None:
        """The portal has named a gateway of this one."""
        self._offline.pop(site_id, None)

    def state(self, resource: Resource, connected: frozenset[str]) -> SiteState:
        """Online if any of a resource's sites is, offline if all are, else unknown.

        Args:
            connected: the sites to whose gateways a connection is established.
        """
        sites = {site.site_id for site in resource.sites}
        if sites & connected:
            return SiteState.ONLINE
        return SiteState.OFFLINE if sites and sites <= self._offline.keys() else SiteState.UNKNOWN

    def handle_timeout(self, now: Instant) -> None:
        """What was said long ago counts no more."""
        for site_id in [site_id for site_id, until in self._offline.items() if until <= now]:
            del self._offline[site_id]

    def poll_timeout(self) -> Instant | None:
        """When the first of them counts no more: they are in the order in which they were said."""
        return next(iter(self._offline.values()), None)


def established(connections: Iterable[ConnectionStatus]) -> frozenset[str]:
    """The gateways to which there is a path."""
    return frozenset(row.peer_id for row in connections if row.state in _ESTABLISHED)


def shown(
    resources: ResourceTable, gateways: Gateways, sites: Sites, connections: Iterable[ConnectionStatus]
) -> Iterator[ResourceStatus]:
    """The resources as people ask about them, each with the gateway that its packets go to."""
    through = established(connections)
    connected = frozenset(one.site_id for one in gateways.all() if one.gateway_id in through)
    for one in resources.all():
        gateway, state = gateways.of(one.resource_id), sites.state(one, connected)
        gateway_id, name = (None, "") if gateway is None else (gateway.gateway_id, gateway.name)
        yield ResourceStatus(one.resource_id, one.name, one.kind, one.address, state.value, gateway_id, name)
