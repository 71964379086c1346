"""The addresses of this host, so that clients cannot reach its own services through it, and its address families."""

import dataclasses
import logging
from ipaddress import ip_address

from pyroute2 import IPRoute

from connectivity.endpoint import IPAddress
from connectivity.errors import FatalError
from connectivity.io import families
from relay.configuration import Configuration

_log = logging.getLogger("relay")


def without_absent_families(configuration: Configuration) -> Configuration:
    """What this host can serve of it. A family that it does not have is said and left out, everywhere.

    Raises:
        FatalError: nothing is left.
    """
    named = {*configuration.public, *(endpoint.ip.version for endpoint in configuration.listen)}
    absent = {version: reason for version in sorted(named) if (reason := families.absence(version)) is not None}
    if not absent:
        return configuration
    for version, reason in absent.items():
        _log.warning("Not serving an address family", extra={"fields": {"version": version, "reason": reason}})
    left = dataclasses.replace(
        configuration,
        public={version: ip for version, ip in configuration.public.items() if version not in absent},
        listen=tuple(endpoint for endpoint in configuration.listen if endpoint.ip.version not in absent),
        tls_listen=tuple(endpoint for endpoint in configuration.tls_listen if endpoint.ip.version not in absent),
        alternate={version: to for version, to in configuration.alternate.items() if version not in absent},
        internal=tuple(ip for ip in configuration.internal if ip.version not in absent),
    )
    if not left.public or not left.listen:
        raise FatalError(f"no address family to serve: {'; '.join(absent.values())}")
    return left


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
