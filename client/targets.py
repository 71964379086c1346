"""Which resource an address belongs to: as the host sends there, and as a gateway sends from there."""

from client.dns.records import DnsRecords, Record
from client.gateways import Gateway, Gateways
from client.resources import CidrResource, DnsResource, InternetResource, Resource, ResourceTable
from connectivity.endpoint import IPAddress
from connectivity.ip import icmp
from connectivity.ip.icmp import IcmpError
from connectivity.portal.values import Interface
from connectivity.ranges import covers, is_of_the_internet, is_proxy


class Targets:
    """Resources, names and gateways together."""

    def __init__(self, records: DnsRecords) -> None:
        self.resources = ResourceTable()
        self.records = records
        self.gateways = Gateways()

    def of(self, destination: IPAddress) -> tuple[Resource | None, Record | None]:
        """The resource of a destination, and the name if it stands for one."""
        if not is_proxy(destination):
            return self.resources.choose(destination, self.gateways.connected_resources), None
        record = self.records.at(destination)
        resource = None if record is None else self.resources.get(record.resource_id)
        return (resource, record) if isinstance(resource, DnsResource) else (None, None)

    def served_by(self, gateway: Gateway, source: IPAddress) -> str | None:
        """The resource through this gateway that an address belongs to; the one that we would choose comes first."""
        chosen, _ = self.of(source)
        if chosen is not None and chosen.resource_id in gateway.resource_ids:
            return chosen.resource_id
        if is_proxy(source):
            return None
        for resource_id in sorted(gateway.resource_ids):
            resource = self.resources.get(resource_id)
            if isinstance(resource, CidrResource) and covers(resource.network, source):
                return resource_id
            if isinstance(resource, InternetResource) and is_of_the_internet(source):
                return resource_id
        return None

    def concerns(self, gateway: Gateway, error: IcmpError | None, own: Interface | None) -> bool:
        """Whether an ICMP error is about a packet of ours to a resource through this gateway."""
        if error is None or own is None or error.source not in {own.ipv4, own.ipv6}:
            return False
        return self.served_by(gateway, error.destination) is not None

    def refused_by(self, gateway: Gateway, error: IcmpError | None) -> tuple[Resource | None, Record | None]:
        """The resource through this gateway, and the name, to which packets are prohibited, as an ICMP error says."""
        if error is None or not icmp.is_prohibition(error):
            return None, None
        resource, record = self.of(error.destination)
        is_through = resource is not None and resource.resource_id in gateway.resource_ids
        return (resource, record) if is_through else (None, None)

    def is_in_tunnel(self, address: IPAddress) -> bool:
        """Whether a resource includes a server's address."""
        return self.resources.choose(address) is not None
