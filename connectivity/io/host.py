"""What the host must know about the TUN device: addresses, routes, and the rule that sends traffic into it.

Routes live in a table of their own. One rule per family leads everything there that does *not* carry our sockets' mark,
so the tunnel's own datagrams never enter the tunnel (gateway and client facts §4.3, §4.4). All functions are
idempotent: what is already as wanted is left alone, what is already gone is fine.

pyroute2 runs an event loop inside; a short-lived thread keeps it apart from the caller's (threads inherit the network
namespace of their creator).
"""

import errno
import logging
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from pathlib import Path
from typing import Any, Final, TypeAlias, TypeVar

from pyroute2 import IPRoute, NetlinkError

from connectivity.endpoint import IPAddress
from connectivity.errors import chain
from connectivity.io import families
from connectivity.io.privileges import privileged
from connectivity.ip.packet import MAX_PACKET_BYTES

Network: TypeAlias = IPv4Network | IPv6Network
T = TypeVar("T")

ROUTE_TABLE: Final = 0x2021FD00
SOCKET_MARK: Final = 0xFD002021
TRANSMIT_QUEUE_PACKETS: Final = 10_000
# A host that forwards gets merged packets of up to 64 KiB from its other devices; a device that took less would have
# the kernel cut them up in software. A host that only sends better makes super-packets that fit one UDP send:
# 48 segments of 1228 bytes become 48 datagrams of 1316.
FORWARDING_GSO_BYTES: Final = 65536
SENDING_GSO_BYTES: Final = 60000

# linux/fib_rules.h, linux/rtnetlink.h
FIB_RULE_INVERT: Final = 0x2
RTPROT_KERNEL: Final = 2
RTPROT_STATIC: Final = 4
RT_SCOPE_UNIVERSE: Final = 0
RTN_THROW: Final = 9
# Directly before the main table's rule (32766), where the kernel would have put it.
RULE_PRIORITY: Final = 32765

_FORWARDING: Final = Path("/proc/sys/net/ipv4/ip_forward")
# The route is there, it or its device is gone, or the kernel has no such family.
_HARMLESS: Final = frozenset({errno.EEXIST, errno.ESRCH, errno.ENOENT, errno.EOPNOTSUPP, errno.EAFNOSUPPORT})

_log = logging.getLogger(__name__)


def configure(name: str, ipv4: IPv4Address | None, ipv6: IPv6Address | None, *, mtu: int = MAX_PACKET_BYTES) -> None:
    """Give the device exactly these addresses (as /32 and /128), bring it up, and lead traffic to its routes.

    A family that the host, or the device, does not have is left out with a warning.

    Raises:
        OSError: the device does not exist, or no family could be set up.
    """
    _run(_configure, name, [address for address in (ipv4, ipv6) if address is not None], mtu)


def set_routes(
    name: str, routes: Iterable[Network], previous: Iterable[Network] = (), excluded: Iterable[Network] = ()
) -> None:
    """Make ``routes`` lead to the device; those of ``previous`` that are no longer among them go away.

    What is ``excluded`` goes where the host's other tables lead it, though it lies in a route.

    Raises:
        OSError: the device does not exist, or a route was refused.
    """
    wanted = list(dict.fromkeys(routes))
    obsolete = [network for network in dict.fromkeys(previous) if network not in set(wanted)]
    _run(_set_routes, name, wanted, obsolete, list(excluded))


def remove_policy_routing() -> None:
    """Take the rules away; routes and addresses go with the device."""
    _run(_remove_rules)


def try_out(name: str, addresses: Iterable[IPAddress], routes: Iterable[Network]) -> dict[int, OSError]:
    """Give a device addresses and routes as ``configure`` and ``set_routes`` do, without a rule: no traffic follows.

    Returns:
        By IP version, why this family was refused.

    Raises:
        OSError: as those two.
    """
    refused: dict[int, OSError] = {}

    def work(ip: Any) -> None:
        index = _index(ip, name)
        refused.update(_set_addresses(ip, name, index, list(addresses)))
        ip.link("set", index=index, state="up")
        _set_routes(ip, name, list(routes), [], None)

    _run(work)
    return refused


def _configure(ip: Any, name: str, addresses: list[IPAddress], mtu: int) -> None:
    index = _index(ip, name)
    ip.link("set", index=index, mtu=mtu)
    gso = FORWARDING_GSO_BYTES if _forwards() else SENDING_GSO_BYTES
    for setting in ({"txqlen": TRANSMIT_QUEUE_PACKETS}, {"gso_max_size": gso}):
        try:
            ip.link("set", index=index, **setting)
        except NetlinkError as error:
            _log.warning("Cannot tune the device", extra={"fields": {"name": name, **setting, "error": chain(error)}})
    _keep_only(ip, index, addresses)
    refused = _set_addresses(ip, name, index, addresses)
    for version, problem in refused.items():
        fields = {"name": name, "version": version, "error": chain(problem)}
        _log.warning("Cannot set the address of this family", extra={"fields": fields})
    accepted = [address.version for address in addresses if address.version not in refused]
    if refused and not accepted:
        raise next(iter(refused.values()))
    ip.link("set", index=index, state="up")
    for version in accepted:
        _tolerant(ip.rule, "add", _rule(families.FAMILIES[version]))


def _set_addresses(ip: Any, name: str, index: int, addresses: list[IPAddress]) -> dict[int, OSError]:
    """Returns by IP version what was refused: a family that is absent in words, all else as the kernel says it."""
    refused: dict[int, OSError] = {}
    for address in addresses:
        family = families.FAMILIES[address.version]
        try:
            ip.addr("replace", index=index, family=family, address=str(address), prefixlen=address.max_prefixlen)
        except NetlinkError as error:
            refused[address.version] = problem = OSError(error.code, chain(error))
            if families.is_absent(problem, address.version, device=name):
                reason = families.absence(address.version, device=name) or chain(error)
                refused[address.version] = OSError(errno.EAFNOSUPPORT, reason)
    return refused


def _set_routes(
    ip: Any, name: str, wanted: list[Network], obsolete: list[Network], excluded: list[Network] | None
) -> None:
    """Set the routes; those of a family that the device does not have are left out: ``configure`` has said so."""
    index = _index(ip, name)
    absent: set[int] = set()  # versions
    for command, networks in (("del", obsolete), ("add", wanted)):
        for network in networks:
            if network.version in absent:
                continue
            route: dict[str, Any] = {
                "family": families.FAMILIES[network.version],
                "dst": str(network.network_address),
                "dst_len": network.prefixlen,
                "oif": index,
                "table": ROUTE_TABLE,
                "scope": RT_SCOPE_UNIVERSE,
                "proto": RTPROT_STATIC,
            }
            try:
                _tolerant(ip.route, command, route)
            except NetlinkError as error:
                if not families.is_absent(OSError(error.code, chain(error)), network.version, device=name):
                    raise
                absent.add(network.version)
    if excluded is not None:  # these belong to no device: who only tries out leaves those of others
        _exclude(ip, [network for network in excluded if network.version not in absent])


def _exclude(ip: Any, networks: list[Network]) -> None:
    """Make just these routes of our table "throw"; they belong to no device, so a run that was killed left its own."""
    for network in networks:
        _tolerant(ip.route, "add", _throw(network))
    for version, family in families.FAMILIES.items():
        for message in list(ip.get_routes(family=family, table=ROUTE_TABLE)):
            destination, length = message.get_attr("RTA_DST"), message["dst_len"]
            if message["type"] != RTN_THROW or destination is None:
                continue
            network = ip_network((destination, length))
            if network.version == version and network not in networks:
                _tolerant(ip.route, "del", _throw(network))


def _throw(network: Network) -> dict[str, Any]:
    return {
        "family": families.FAMILIES[network.version],
        "dst": str(network.network_address),
        "dst_len": network.prefixlen,
        "table": ROUTE_TABLE,
        "type": "throw",
        "proto": RTPROT_STATIC,
    }


def _remove_rules(ip: Any) -> None:
    _exclude(ip, [])
    for family in families.FAMILIES.values():
        _tolerant(ip.rule, "del", _rule(family))


def _rule(family: int) -> dict[str, Any]:
    return {
        "family": family,
        "fwmark": SOCKET_MARK,
        "flags": FIB_RULE_INVERT,
        "table": ROUTE_TABLE,
        "priority": RULE_PRIORITY,
        "protocol": RTPROT_KERNEL,
    }


def _keep_only(ip: Any, index: int, wanted: list[IPAddress]) -> None:
    """Delete the device's other addresses; one that stays keeps its routes."""
    for message in list(ip.get_addr(index=index)):
        address = ip_address(message.get("address"))
        if address not in wanted or message["prefixlen"] != address.max_prefixlen:
            arguments = {"index": index, "address": str(address), "prefixlen": message["prefixlen"]}
            ip.addr("del", family=message["family"], **arguments)


def _tolerant(action: Callable[..., object], command: str, arguments: dict[str, Any]) -> None:
    try:
        action(command, **arguments)
    except NetlinkError as error:
        if error.code not in _HARMLESS:
            raise


def _index(ip: Any, name: str) -> int:
    found: list[int] = ip.link_lookup(ifname=name)
    if not found:
        raise NetlinkError(errno.ENODEV, f"no device {name}")
    return found[0]


def _forwards() -> bool:
    try:
        return _FORWARDING.read_text(encoding="ascii").strip() != "0"
    except OSError:
        return False  # no /proc: assume a host, not a router


def _run(action: Callable[..., None], *arguments: object) -> None:
    def work() -> None:
        with IPRoute() as ip:
            action(ip, *arguments)

    step = privileged("setting up addresses, routes and rules", "CAP_NET_ADMIN")
    with step, ThreadPoolExecutor(max_workers=1, thread_name_prefix="netlink") as executor:
        try:
            executor.submit(work).result()
        except NetlinkError as error:
            raise OSError(error.code, chain(error)) from error
