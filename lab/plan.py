"""The topology as data: who sits where, with which addresses, routes and rules. Pure; ``lab.network`` builds it.

::

    user ─ client ─[client-nat]─┐                       ┌─[gateway-nat]─ gateway ─ resource
     10.77.0.0/24  172.30.0.0/24 └──── internet bridge ──┘  172.31.0.0/24   172.20.0.0/24
                                  203.0.113.0/24 │ │
                                             relay portal

Every box is a network namespace. The user sends through the client into the tunnel and is masqueraded to the
client's tunnel address, so that the sockets of a measuring program are not counted as the client's own; its name
server is the client, all others' is the Internet's. The links behave like a wire between NICs, see ``switches``.
"""

from dataclasses import dataclass, field
from enum import StrEnum
from ipaddress import IPv4Interface, IPv6Interface
from typing import Final

from lab.rules import client_rules, gateway_router_rules, router_rules

TUN_NAME: Final = "tun-firezone"
# The tunnel's inner MTU: the user's link has it too, so that nothing behind the client learns it from ICMP errors.
TUN_MTU: Final = 1280
PORTAL_PORT: Final = 8081
APP_NAME: Final = "app.internal"  # the resource's, in the DNS of the lab's Internet and as a DNS resource of the portal
# Where the client answers DNS queries: it has one such address for each name server of its host, counted from here.
SENTINEL: Final = "100.100.111.1"
RELAY_LIMIT: Final = 50
CLIENT_LIMIT: Final = 50
GATEWAY_LIMIT: Final = 50
STACK_ROLES: Final = ("client", "gateway", "relay", "portal")


class Nat(StrEnum):
    """What a router does to IPv4; IPv6 is routed by all of them, behind a stateful filter at ``SYMMETRIC``."""

    NONE = "none"
    FULL_CONE = "full-cone"
    SYMMETRIC = "symmetric"


class Underlay(StrEnum):
    """The families between the boxes; the tunnel itself always carries both."""

    IPV4 = "ipv4"
    DUAL = "dual"


@dataclass(frozen=True, slots=True)
class LabSettings:
    """One lab. The routers drop what the ends send each other in a family that may not be ``direct``.

    Further clients than the first share its router, each in a network of its own, and are their own users. Further
    gateways do so too, each with a link of its own to the resource.
    """

    client_nat: Nat = Nat.NONE
    gateway_nat: Nat = Nat.NONE
    underlay: Underlay = Underlay.IPV4
    direct_ipv4: bool = True
    direct_ipv6: bool = True
    relay_count: int = 1
    client_count: int = 1
    gateway_count: int = 1

    def __post_init__(self) -> None:
        if not 1 <= self.relay_count <= RELAY_LIMIT:
            raise ValueError(f"expected 1 to {RELAY_LIMIT} relays, not {self.relay_count}")
        if not 1 <= self.client_count <= CLIENT_LIMIT:
            raise ValueError(f"expected 1 to {CLIENT_LIMIT} clients, not {self.client_count}")
        if self.client_count > 1 and self.client_nat is Nat.FULL_CONE:
            raise ValueError("a full-cone NAT forwards to one client, not to several")
        if not 1 <= self.gateway_count <= GATEWAY_LIMIT:
            raise ValueError(f"expected 1 to {GATEWAY_LIMIT} gateways, not {self.gateway_count}")
        if self.gateway_count > 1 and self.gateway_nat is Nat.FULL_CONE:
            raise ValueError("a full-cone NAT forwards to one gateway, not to several")


@dataclass(frozen=True, slots=True)
class Site:
    """One machine's address in both families, with the length of its network's prefix."""

    ipv4: IPv4Interface
    ipv6: IPv6Interface

    @classmethod
    def of(cls, ipv4: str, ipv6: str) -> "Site":
        return cls(IPv4Interface(ipv4), IPv6Interface(ipv6))

    @property
    def address(self) -> str:
        return str(self.ipv4.ip)

    @property
    def address6(self) -> str:
        return str(self.ipv6.ip)

    @property
    def network(self) -> str:
        return str(self.ipv4.network)

    @property
    def network6(self) -> str:
        return str(self.ipv6.network)


# The rest of the Internet: a default route that swallows, as a far network does, instead of an error at once.
BACKBONE: Final = Site.of("203.0.113.1/24", "2001:db8::1/64")
PORTAL: Final = Site.of("203.0.113.10/24", "2001:db8::10/64")
CLIENT_ROUTER: Final = Site.of("203.0.113.20/24", "2001:db8::20/64")
GATEWAY_ROUTER: Final = Site.of("203.0.113.30/24", "2001:db8::30/64")
CLIENT_INSIDE: Final = Site.of("172.30.0.254/24", "2001:db8:30::fe/64")
CLIENT: Final = Site.of("172.30.0.100/24", "2001:db8:30::100/64")
GATEWAY_INSIDE: Final = Site.of("172.31.0.254/24", "2001:db8:31::fe/64")
GATEWAY: Final = Site.of("172.31.0.100/24", "2001:db8:31::100/64")
GATEWAY_RESOURCES: Final = Site.of("172.20.0.1/24", "2001:db8:20::1/64")
RESOURCE: Final = Site.of("172.20.0.100/24", "2001:db8:20::100/64")
CLIENT_USERS: Final = Site.of("10.77.0.1/24", "2001:db8:77::1/64")
USER: Final = Site.of("10.77.0.100/24", "2001:db8:77::100/64")


def relay_site(number: int) -> Site:
    """The relays count from 1."""
    return Site.of(f"203.0.113.{100 + number}/24", f"2001:db8::{100 + number}/64")


def relay_role(number: int) -> str:
    return "relay" if number == 1 else f"relay-{number}"


def client_site(number: int) -> Site:
    """The clients count from 1."""
    return CLIENT if number == 1 else Site.of(f"172.30.{number}.100/24", f"2001:db8:30:{number}::100/64")


def client_inside(number: int) -> Site:
    """Its router's address on the way to it."""
    return CLIENT_INSIDE if number == 1 else Site.of(f"172.30.{number}.254/24", f"2001:db8:30:{number}::fe/64")


def client_role(number: int) -> str:
    return "client" if number == 1 else f"client-{number}"


def gateway_site(number: int) -> Site:
    """The gateways count from 1."""
    return GATEWAY if number == 1 else Site.of(f"172.31.{number}.100/24", f"2001:db8:31:{number}::100/64")


def gateway_inside(number: int) -> Site:
    """Its router's address on the way to it."""
    return GATEWAY_INSIDE if number == 1 else Site.of(f"172.31.{number}.254/24", f"2001:db8:31:{number}::fe/64")


def gateway_role(number: int) -> str:
    return "gateway" if number == 1 else f"gateway-{number}"


def _resource_link(number: int) -> tuple[Site, Site]:
    """The addresses of a gateway and of the resource on the link between them."""
    if number == 1:
        return GATEWAY_RESOURCES, RESOURCE
    ipv4, ipv6 = f"172.20.{number}", f"2001:db8:20:{number}:"
    return Site.of(f"{ipv4}.1/24", f"{ipv6}:1/64"), Site.of(f"{ipv4}.100/24", f"{ipv6}:100/64")


@dataclass(frozen=True, slots=True)
class Port:
    """One end of a link. On the bridge it has no address of its own."""

    role: str
    interface: str
    site: Site | None = None
    underlay: bool = True
    mtu: int = 1500


@dataclass(frozen=True, slots=True)
class Route:
    role: str
    destination: str
    via: str


@dataclass(frozen=True, slots=True)
class Plan:
    """What ``lab.network`` builds, in this order: namespaces, sysctls, links, switches, routes, rules."""

    underlay: Underlay
    roles: tuple[str, ...]
    links: tuple[tuple[Port, Port], ...]
    routes: tuple[Route, ...]
    rules: dict[str, str] = field(default_factory=dict)
    forwarding: tuple[str, ...] = ()
    # (role, interface, words for ethtool -K)
    switches: tuple[tuple[str, str, str], ...] = ()


def make_plan(settings: LabSettings) -> Plan:
    """Lay one lab out."""
    relays = [relay_role(number) for number in range(1, settings.relay_count + 1)]
    more = range(2, settings.client_count + 1)
    roles = ("internet", "portal", *relays, "client-nat", "gateway-nat", "client", "gateway", "resource", "user")
    more_gateways = range(2, settings.gateway_count + 1)
    gateways = [gateway_role(number) for number in range(1, settings.gateway_count + 1)]
    roles += (*(client_role(number) for number in more), *gateways[1:])
    on_the_internet = [("portal", "eth0", PORTAL), ("client-nat", "outside", CLIENT_ROUTER)]
    on_the_internet += [("gateway-nat", "outside", GATEWAY_ROUTER)]
    on_the_internet += [(relay, "eth0", relay_site(number)) for number, relay in enumerate(relays, 1)]
    links = [(Port("internet", role), Port(role, interface, site)) for role, interface, site in on_the_internet]
    links += [
        (Port("client-nat", "inside", CLIENT_INSIDE), Port("client", "eth0", CLIENT)),
        (Port("gateway-nat", "inside", GATEWAY_INSIDE), Port("gateway", "eth0", GATEWAY)),
        (_inner("gateway", "eth1", GATEWAY_RESOURCES), _inner("resource", "eth0", RESOURCE)),
        (_inner("client", "users", CLIENT_USERS, TUN_MTU), _inner("user", "eth0", USER, TUN_MTU)),
    ]
    links += [
        (Port("client-nat", f"inside-{n}", client_inside(n)), Port(client_role(n), "eth0", client_site(n)))
        for n in more
    ]
    for number in more_gateways:
        role, (near, far) = gateway_role(number), _resource_link(number)
        router = Port("gateway-nat", f"inside-{number}", gateway_inside(number))
        links.append((router, Port(role, "eth0", gateway_site(number))))
        links.append((_inner(role, "eth1", near), _inner("resource", f"eth{number}", far)))
    clients = [client_site(number) for number in range(1, settings.client_count + 1)]
    sites = [gateway_site(number) for number in range(1, settings.gateway_count + 1)]
    to_gateway, to_client = _blocked(settings, sites, GATEWAY_ROUTER), _blocked(settings, clients, CLIENT_ROUTER)
    rules = {
        "client": client_rules(users="users", tun=TUN_NAME),
        "client-nat": router_rules(settings.client_nat.value, CLIENT_ROUTER.address, CLIENT.address, to_gateway),
        "gateway-nat": router_rules(settings.gateway_nat.value, GATEWAY_ROUTER.address, GATEWAY.address, to_client),
    }
    return Plan(
        settings.underlay,
        roles,
        tuple(links),
        _routes(settings, relays),
        rules,
        forwarding=("client", *gateways, "client-nat", "gateway-nat"),
        switches=_switches(relays),
    )


def masquerading_rules() -> str:
    """What a gateway's host must do where the gateway program leaves it to its surroundings."""
    return gateway_router_rules(tun=TUN_NAME, outside="eth*")


def _blocked(settings: LabSettings, ends: list[Site], router: Site) -> list[str]:
    """Where an end's router lets nothing out to: the other ends, by their own and by their public address."""
    blocked = [] if settings.direct_ipv4 else [*(end.network for end in ends), router.address]
    return blocked if settings.direct_ipv6 else [*blocked, *(end.network6 for end in ends)]


def _inner(role: str, interface: str, site: Site, mtu: int = 1500) -> Port:
    return Port(role, interface, site, underlay=False, mtu=mtu)


def _routes(settings: LabSettings, relays: list[str]) -> tuple[Route, ...]:
    routes = [Route("user", "0.0.0.0/0", CLIENT_USERS.address), Route("user", "::/0", CLIENT_USERS.address6)]
    dual = settings.underlay is Underlay.DUAL
    clients = range(1, settings.client_count + 1)
    ways_out = {client_role(number): client_inside(number) for number in clients}
    gateways = range(1, settings.gateway_count + 1)
    ways_out |= {gateway_role(number): gateway_inside(number) for number in gateways}
    for number in gateways[1:]:
        role, far = gateway_role(number), _resource_link(number)[1]
        routes += [
            Route(role, f"{RESOURCE.address}/32", far.address),
            Route(role, f"{RESOURCE.address6}/128", far.address6),
        ]
    ways_out |= dict.fromkeys(("portal", *relays, "client-nat", "gateway-nat"), BACKBONE)
    for role, via in ways_out.items():
        routes.append(Route(role, "0.0.0.0/0", via.address))
        if dual:
            routes.append(Route(role, "::/0", via.address6))
    for end, router, nat, other in (
        *((client_site(number), CLIENT_ROUTER, settings.client_nat, "gateway-nat") for number in clients),
        *((gateway_site(number), GATEWAY_ROUTER, settings.gateway_nat, "client-nat") for number in gateways),
    ):
        # A network behind a NAT is nobody's business outside; without one it is routed like any other.
        reached_from = ("portal", *relays, other, "internet")  # where the name server is
        if nat is Nat.NONE:
            routes += [Route(role, end.network, router.address) for role in reached_from]
        if dual:
            routes += [Route(role, end.network6, router.address6) for role in reached_from]
    return tuple(routes)


def _switches(relays: list[str]) -> tuple[tuple[str, str, str], ...]:
    """The offload switches that make a veth behave like a wire between NICs, only where a relay's XDP looks on.

    Towards the relay a frame must carry its whole checksum and be one packet: ``tx off`` at the bridge's port makes
    the kernel segment and sum there, as a sending NIC would, while super-packets cross every other link whole. Coming
    off the wire packets are merged: GRO at both ends of that link (it also is what lets a frame redirected by native
    XDP enter the far end), with forwarding of merged UDP, because the sockets are farther on.
    """
    switches = []
    for relay in relays:
        switches.append(("internet", relay, "tx off gro on rx-udp-gro-forwarding on"))
        switches.append((relay, "eth0", "gro on"))
    return tuple(switches)
