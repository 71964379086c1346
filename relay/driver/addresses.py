"""The addresses of this host, so that clients cannot reach its own services through the relay."""

from ipaddress import ip_address

from pyroute2 import IPRoute

from connectivity.endpoint import IPAddress
from relay.configuration import Configuration


def always_own_addresses(configuration: Configuration) -> frozenset[IPAddress]:
    """What is ours by the configuration, whether this host has it or a NAT in front of it."""
    return frozenset({*configuration.public.values(), *configuration.internal})


def host_addresses() -> frozenset[IPAddress]:
    """All addresses on all interfaces of this network namespace, now. Not to be called inside a running event loop."""
    found: set[IPAddress] = set()
    with IPRoute() as netlink:
        for message in netlink.get_addr():
            text = message.get_attr("IFA_LOCAL") or message.get_attr("IFA_ADDRESS")
            if text:
                found.add(ip_address(text))
    return frozenset(found)
