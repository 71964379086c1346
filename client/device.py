"""What the client's device is to be like: its addresses, what leads into it, and who answers names there."""

from typing import Final

from client.dns.portal_values import search_domain, upstream_servers
from client.dns.service import DnsService
from client.resources import ResourceTable
from connectivity.portal import values
from connectivity.portal.values import Json, mapping
from connectivity.ranges import PROXIES_IPV4, PROXIES_IPV6, SENTINELS_IPV4, SENTINELS_IPV6
from connectivity.role import RoleTunnel

_NAMES: Final = (PROXIES_IPV4, PROXIES_IPV6, SENTINELS_IPV4, SENTINELS_IPV6)


class DeviceWishes:
    """Follows the portal's ``interface`` and the resources."""

    def __init__(self, tunnel: RoleTunnel, resources: ResourceTable, dns: DnsService) -> None:
        self._tunnel = tunnel
        self._resources = resources
        self._dns = dns
        self._search_domain: str | None = None

    def take(self, message: Json) -> None:
        """What an ``init`` or ``config_changed`` says of the interface.

        Raises:
            MessageError: it cannot be read; then nothing has changed.
        """
        interface = values.interface(message)
        described = mapping(message.get("interface"), "interface")
        servers, domain = upstream_servers(described), search_domain(described)
        self._tunnel.interface = interface
        self._search_domain = domain
        self._dns.set_upstream(servers)

    def configure(self) -> None:
        """Ask for the device as it is to be."""
        routes = (*self._resources.networks(), *_NAMES)
        self._tunnel.configure(
            routes,
            apart=self._resources.apart(),
            sentinels=self._dns.mapping,
            search_domain=self._search_domain,
        )
