"""The gateways in use: which resource goes through which, and whose tunnel address is whose."""

from dataclasses import dataclass, field
from typing import Final

from connectivity.endpoint import IPAddress
from connectivity.portal.values import Interface

REMEMBERED_GATEWAYS: Final = 100  # as many as a portal is told of


@dataclass(slots=True)
class Gateway:
    """A gateway in use: its own tunnel addresses, its site, and the resources reached through it."""

    gateway_id: str
    interface: Interface
    site_id: str
    name: str = ""  # for people; empty where the portal does not say
    resource_ids: set[str] = field(default_factory=set)

    def address(self, version: int) -> IPAddress:
        """Its own address of this IP version."""
        return self.interface.ipv4 if version == 4 else self.interface.ipv6


class Gateways:
    """The gateways in use, by each way to look one up."""

    def __init__(self) -> None:
        self._gateways: dict[str, Gateway] = {}
        self._by_resource: dict[str, Gateway] = {}
        self._by_address: dict[IPAddress, Gateway] = {}
        self._used: dict[str, None] = {}

    @property
    def connected_resources(self) -> dict[str, Gateway]:
        """The resources that have a gateway."""
        return self._by_resource

    def used(self) -> list[str]:
        """All that were in use since the last reset, as the portal is told."""
        return sorted(self._used)

    def get(self, gateway_id: str) -> Gateway | None:
        """The gateway of this id."""
        return self._gateways.get(gateway_id)

    def all(self) -> list[Gateway]:
        """All in use."""
        return list(self._gateways.values())

    def at(self, address: IPAddress) -> Gateway | None:
        """Whose tunnel address this is."""
        return self._by_address.get(address)

    def of(self, resource_id: str) -> Gateway | None:
        """The gateway that a resource goes through."""
        return self._by_resource.get(resource_id)

    def is_through(self, resource_id: str, gateway_id: str) -> bool:
        """Whether a resource goes through this gateway."""
        gateway = self._by_resource.get(resource_id)
        return gateway is not None and gateway.gateway_id == gateway_id

    def use(self, gateway_id: str, interface: Interface, site_id: str, resource_id: str, *, name: str = "") -> Gateway:
        """Let a resource go through a gateway."""
        gateway = self._gateways.get(gateway_id)
        if gateway is None:
            gateway = self._gateways[gateway_id] = Gateway(gateway_id, interface, site_id)
        self._release_addresses(gateway)
        gateway.interface, gateway.site_id, gateway.name = interface, site_id, name
        self._by_address[interface.ipv4] = self._by_address[interface.ipv6] = gateway
        gateway.resource_ids.add(resource_id)
        self._by_resource[resource_id] = gateway
        self._used.pop(gateway_id, None)
        self._used[gateway_id] = None
        while len(self._used) > REMEMBERED_GATEWAYS:
            del self._used[next(iter(self._used))]
        return gateway

    def release(self, resource_id: str) -> Gateway | None:
        """Let a resource go through no gateway; returns the one that it went through."""
        gateway = self._by_resource.pop(resource_id, None)
        if gateway is not None:
            gateway.resource_ids.discard(resource_id)
        return gateway

    def remove(self, gateway_id: str) -> None:
        """A gateway is gone, and with it the way to its resources."""
        gateway = self._gateways.pop(gateway_id, None)
        if gateway is None:
            return
        self._release_addresses(gateway)
        for resource_id in gateway.resource_ids:
            del self._by_resource[resource_id]

    def clear(self) -> None:
        """None was ever used."""
        self._gateways.clear()
        self._by_resource.clear()
        self._by_address.clear()
        self._used.clear()

    def _release_addresses(self, gateway: Gateway) -> None:
        for address in (gateway.interface.ipv4, gateway.interface.ipv6):
            if self._by_address.get(address) is gateway:
                del self._by_address[address]
