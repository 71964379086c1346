"""Builds a plan with pyroute2, and takes it down: namespaces, veth pairs, the bridge, addresses, routes, rules.

Interfaces are born inside their namespaces; nothing of a lab ever shows on the host but the namespaces' names.
"""

import shutil
import subprocess
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Final

from pyroute2 import IPRoute, netns

from lab.errors import LabError
from lab.plan import BACKBONE, Plan, Port, Site, Underlay

_BRIDGE: Final = "internet0"
_HOST_FILES: Final = Path("/etc/netns")
_NODAD: Final = 0x02  # IFA_F_NODAD: an address that is usable at once
# Two pitfalls: duplicate address detection delays, reverse-path filters drop policy-routed answers.
_SYSCTLS: Final = (
    "net.ipv6.conf.all.accept_dad=0",
    "net.ipv6.conf.default.accept_dad=0",
    "net.ipv6.conf.all.accept_ra=0",
    "net.ipv6.conf.default.accept_ra=0",
    "net.ipv4.conf.all.rp_filter=0",
    "net.ipv4.conf.default.rp_filter=0",
    "net.ipv4.conf.all.src_valid_mark=1",
)
_FORWARDING: Final = ("net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1", "net.ipv6.conf.default.forwarding=1")


def build(plan: Plan, names: dict[str, str]) -> None:
    """Build everything; ``names`` maps roles to namespaces. On an error the caller removes what there is."""
    with ExitStack() as stack:
        routes: dict[str, Any] = {}
        for role in plan.roles:
            run_command(["ip", "netns", "add", names[role]])
            # Before any interface exists, so that each is born with these defaults.
            execute(names[role], ["sysctl", "-qw", *_SYSCTLS, *(_FORWARDING if role in plan.forwarding else ())])
            routes[role] = stack.enter_context(_route_socket(names[role]))
            routes[role].link("set", index=1, state="up")
        bridge = _add_bridge(plan, routes["internet"])
        for one, other in plan.links:
            _connect(plan, one, other, routes, names, bridge)
        _set_interfaces(plan, names)
        for route in plan.routes:
            routes[route.role].route("add", dst=route.destination, gateway=route.via)
        for role, rules in plan.rules.items():
            load_rules(names[role], rules)


def set_nameserver(name: str, address: str) -> None:
    """Give a namespace a ``/etc/resolv.conf`` of its own; ``ip netns exec`` puts it in place."""
    directory = _HOST_FILES / name
    directory.mkdir(parents=True)
    (directory / "resolv.conf").write_text(f"nameserver {address}\n", encoding="ascii")


def remove(names: Iterable[str]) -> None:
    """Remove namespaces that exist; their interfaces, rules and routes go with them."""
    existing = set(netns.listnetns())
    for name in names:
        if name in existing:
            netns.remove(name)
        shutil.rmtree(_HOST_FILES / name, ignore_errors=True)


def load_rules(namespace: str, rules: str) -> None:
    execute(namespace, ["nft", "-f", "-"], stdin=rules)


def execute(namespace: str, command: list[str], *, stdin: str | None = None, timeout: float = 60) -> str:
    """Run a command to its end in a namespace and return what it printed.

    Raises:
        LabError: it failed; the line carries what it said.
    """
    return run_command(["ip", "netns", "exec", namespace, *command], stdin=stdin, timeout=timeout)


def run_command(command: list[str], *, stdin: str | None = None, timeout: float = 60) -> str:
    """The same where this process is."""
    shown = " ".join(command)
    try:
        done = subprocess.run(command, input=stdin, capture_output=True, text=True, timeout=timeout, check=False)
    except FileNotFoundError as error:
        raise LabError(f"the command {command[0]} is missing") from error
    except subprocess.TimeoutExpired as error:
        raise LabError(f"{shown} took longer than {timeout:.0f} s") from error
    if done.returncode != 0:
        said = " ".join((done.stderr or done.stdout).split())
        raise LabError(f"{shown} failed with code {done.returncode}: {said}")
    return done.stdout


@contextmanager
def entered(namespace: str) -> Iterator[None]:
    """This process in a network namespace: what it opens belongs there. Not for several threads at a time."""
    netns.pushns(namespace)
    try:
        yield
    finally:
        netns.popns()


def _route_socket(namespace: str) -> IPRoute:
    """A netlink socket of a namespace, opened by stepping in and back.

    ``IPRoute(netns=…)`` forks instead; a signal that reaches the child in a moment of Python makes it run our own
    clean-up with our descriptors.
    """
    with entered(namespace):
        return IPRoute()


def _add_bridge(plan: Plan, internet: Any) -> int:
    internet.link("add", ifname=_BRIDGE, kind="bridge", br_mcast_snooping=0)
    index = int(internet.link_lookup(ifname=_BRIDGE)[0])
    internet.link("set", index=index, state="up")
    _add_addresses(internet, index, BACKBONE, ipv6=plan.underlay is Underlay.DUAL)
    return index


def _connect(plan: Plan, one: Port, other: Port, routes: dict[str, Any], names: dict[str, str], bridge: int) -> None:
    peer = {"ifname": other.interface, "net_ns_fd": names[other.role]}
    routes[one.role].link("add", ifname=one.interface, kind="veth", peer=peer)
    for port in (one, other):
        ip = routes[port.role]
        index = ip.link_lookup(ifname=port.interface)[0]
        extra = {"master": bridge} if port.site is None else {}
        ip.link("set", index=index, mtu=port.mtu, state="up", **extra)
        if port.site is None:
            continue
        _add_addresses(ip, index, port.site, ipv6=plan.underlay is Underlay.DUAL or not port.underlay)


def _add_addresses(ip: Any, index: int, site: Site, *, ipv6: bool) -> None:
    ip.addr("add", index=index, address=site.address, prefixlen=site.ipv4.network.prefixlen)
    if ipv6:
        ip.addr("add", index=index, address=site.address6, prefixlen=site.ipv6.network.prefixlen, flags=_NODAD)


def _set_interfaces(plan: Plan, names: dict[str, str]) -> None:
    """Per interface: IPv6 off where the underlay has none, forwarding where XDP asks the kernel for next hops."""
    settings: dict[str, list[str]] = {}
    for port in (port for link in plan.links for port in link):
        if plan.underlay is Underlay.IPV4 and port.underlay:
            # Else link-local addresses make a family that leads nowhere.
            settings.setdefault(port.role, []).append(f"net.ipv6.conf.{port.interface}.disable_ipv6=1")
        if port.role.startswith("relay"):
            families = ("ipv4",) if plan.underlay is Underlay.IPV4 else ("ipv4", "ipv6")
            settings.setdefault(port.role, []).extend(f"net.{f}.conf.{port.interface}.forwarding=1" for f in families)
    for role, values in settings.items():
        execute(names[role], ["sysctl", "-qw", *values])
    for role, interface, words in plan.switches:
        execute(names[role], ["ethtool", "-K", interface, *words.split()])
