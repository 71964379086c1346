"""What the offload asks the kernel about interfaces, routes and neighbours.

pyroute2's blocking sockets run an event loop of their own, which fails inside a running one; every question is
therefore asked from a short-lived thread. A thread has the network namespace of its creator.
"""

import ipaddress
import os
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple, TypeVar

from pyroute2 import IPRoute, NetlinkError

from connectivity.endpoint import IPAddress
from ebpf.layout import NextHop

T = TypeVar("T")

_FAMILY: Final = {4: 2, 6: 10}
# NUD_REACHABLE, STALE, DELAY, PROBE, NOARP, PERMANENT: states with a usable hardware address.
_USABLE_NEIGHBOUR: Final = 0x02 | 0x04 | 0x08 | 0x10 | 0x40 | 0x80


@dataclass(frozen=True, slots=True)
class Interface:
    """A network interface as it is now. ``program_id`` is the XDP program on it, 0 = none."""

    name: str
    index: int
    mac: bytes
    mtu: int
    addresses: tuple[IPAddress, ...]
    program_id: int


@dataclass(frozen=True, slots=True)
class Route:
    """Where packets to a destination go next: out of ``ifindex`` to the neighbour ``gateway``."""

    ifindex: int
    gateway: IPAddress


class KnownHop(NamedTuple):
    """A next hop on a link; ``has_answered`` the kernel, which knows its hardware address."""

    address: IPAddress
    has_answered: bool


def find_interface(name: str) -> Interface | None:
    """The interface, or None if there is no such one."""

    def question(netlink: IPRoute) -> Interface | None:
        index = next(iter(netlink.link_lookup(ifname=name)), None)
        if index is None:
            return None
        try:
            link = next(iter(netlink.get_links(index)))
            addresses = [
                ipaddress.ip_address(message.get_attr("IFA_LOCAL") or message.get_attr("IFA_ADDRESS"))
                for message in netlink.get_addr(index=index)
            ]
        except NetlinkError:  # gone between two questions
            return None
        mac = _mac(link.get_attr("IFLA_ADDRESS") or "00:00:00:00:00:00")
        xdp = link.get_attr("IFLA_XDP")
        program_id = (xdp.get_attr("IFLA_XDP_PROG_ID") if xdp else None) or 0
        return Interface(name, index, mac, link.get_attr("IFLA_MTU") or 1500, tuple(addresses), program_id)

    return _ask(question)


def host_addresses() -> frozenset[IPAddress]:
    """All addresses of this network namespace, on whatever interface."""

    def question(netlink: IPRoute) -> frozenset[IPAddress]:
        texts = [message.get_attr("IFA_LOCAL") or message.get_attr("IFA_ADDRESS") for message in netlink.get_addr()]
        return frozenset(ipaddress.ip_address(text) for text in texts if text)

    return _ask(question)


def is_forwarding(name: str, version: int) -> bool:
    """Whether the kernel forwards packets that arrive on an interface, without which it does not tell next hops."""
    family = "ipv4" if version == 4 else "ipv6"
    try:
        return Path("/proc/sys/net", family, "conf", name, "forwarding").read_text().strip() != "0"
    except FileNotFoundError:  # the family is switched off
        return False


def route_to(destination: IPAddress) -> Route | None:
    """The kernel's route, None if there is none that leaves this host."""

    def question(netlink: IPRoute) -> Route | None:
        try:
            message = next(iter(netlink.route("get", dst=str(destination))))
        except NetlinkError:  # unreachable
            return None
        if message["type"] != 1:  # RTN_UNICAST
            return None
        ifindex, gateway = message.get_attr("RTA_OIF"), message.get_attr("RTA_GATEWAY")
        via = message.get_attr("RTA_VIA")
        if gateway is None and via is not None:
            gateway = via["addr"]
        return Route(ifindex, ipaddress.ip_address(gateway) if gateway else destination)

    return _ask(question)


def neighbours(routes: Iterable[Route]) -> dict[Route, NextHop | None]:
    """The hardware address of each route's gateway, None while it is unresolved; one question for all."""

    def question(netlink: IPRoute) -> dict[Route, NextHop | None]:
        found: dict[Route, NextHop | None] = dict.fromkeys(routes)
        for index, family in {(route.ifindex, _FAMILY[route.gateway.version]) for route in found}:
            try:
                link = next(iter(netlink.get_links(index)))
            except NetlinkError:  # an interface that went away, and its neighbours with it
                continue
            source = link.get_attr("IFLA_ADDRESS")
            mtu = link.get_attr("IFLA_MTU") or 1500
            for message in netlink.neigh("dump", family=family, ifindex=index):
                address, mac = message.get_attr("NDA_DST"), message.get_attr("NDA_LLADDR")
                if not (address and mac and source and message["state"] & _USABLE_NEIGHBOUR):
                    continue
                route = Route(index, ipaddress.ip_address(address))
                if route in found:
                    found[route] = NextHop(index, mtu, _mac(mac), _mac(source))
        return found

    return _ask(question)


def known_next_hops(ifindex: int) -> list[KnownHop]:
    """Routers and neighbours behind an interface: those that have answered first, of these default routers first."""

    def question(netlink: IPRoute) -> list[KnownHop]:
        routers: list[IPAddress] = []
        for version, family in _FAMILY.items():
            for message in netlink.get_routes(family=family, oif=ifindex):
                gateway = message.get_attr("RTA_GATEWAY")
                if gateway and ipaddress.ip_address(gateway).version == version:
                    routers.insert(0 if message["dst_len"] == 0 else len(routers), ipaddress.ip_address(gateway))
        answered: list[IPAddress] = []
        for family in _FAMILY.values():
            for message in netlink.neigh("dump", family=family, ifindex=ifindex):
                address = message.get_attr("NDA_DST")
                if address and message["state"] & _USABLE_NEIGHBOUR & ~0x40:  # NOARP: multicast and the like
                    answered.append(ipaddress.ip_address(address))
        hops = [KnownHop(address, address in answered) for address in dict.fromkeys([*routers, *answered])]
        return sorted(hops, key=lambda hop: not hop.has_answered)

    return _ask(question)


def detach_program(ifindex: int, flags: int) -> None:
    """Take off a program that was attached by netlink, in the mode that ``flags`` names."""
    _ask(
        lambda netlink: netlink.link(
            "set", index=ifindex, IFLA_XDP={"attrs": [("IFLA_XDP_FD", -1), ("IFLA_XDP_FLAGS", flags)]}
        )
    )


def _mac(text: str) -> bytes:
    return bytes.fromhex(text.replace(":", ""))


def _ask(question: Callable[[IPRoute], T]) -> T:
    answers: list[T] = []
    failures: list[BaseException] = []

    def ask() -> None:
        try:
            with IPRoute() as netlink:
                answers.append(question(netlink))
        except NetlinkError as error:  # such as an interface that has gone between two questions
            failures.append(OSError(error.code, os.strerror(error.code)))
        except BaseException as error:  # noqa: BLE001 - handed to the asking thread, which raises it
            failures.append(error)

    thread = threading.Thread(target=ask, name="postern-netlink")
    thread.start()
    thread.join()
    if failures:
        raise failures[0]
    return answers[0]
