"""What ought to be allowed: resources, policies and their history, kept apart from the portal that is told of them."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from ipaddress import ip_address, ip_network
from types import MappingProxyType
from typing import Final

from connectivity.clock import SECOND, Instant
from connectivity.endpoint import Endpoint, IPAddress
from portal.configuration import (
    NEVER,
    Configuration,
    DnsSettings,
    Filter,
    Policy,
    Resource,
    ResourceType,
    Site,
    Token,
    TokenType,
)
from portal.derivation import named_id
from tests.simulation.machines import token_of
from tests.simulation.network import EPOCH
from tests.simulation.traffic import Kind

SITES: Final = ("office", "lab")
_NO_INTERNET: Final = tuple(map(ip_network, ("10.0.0.0/8", "100.64.0.0/10", "192.168.0.0/16", "fc00::/7")))
EXPIRY_SLACK: Final = 1_100_000_000  # a gateway looks once a second
SETTLED: Final = 3 * SECOND  # after a change, or before and after a grant's end: who hears the portal knows
SECRET: Final = "the secret of a simulated portal"


@dataclass(frozen=True, slots=True)
class Ware:
    """A resource in the model: ``open`` lists what its filters let through, None is everything.

    ``address`` is a network or a pattern of names; of the Internet, any host of it.
    """

    name: str
    address: str
    site: str
    open: tuple[tuple[str, int, int], ...] | None = None  # protocol, first port, last port
    type: ResourceType = ResourceType.CIDR

    @property
    def resource_id(self) -> str:
        """Its id at the portal."""
        return named_id("resource", self.name)

    def covers(self, address: IPAddress) -> bool:
        """Whether the address is in it; what names stand for is in no network."""
        match self.type:
            case ResourceType.DNS:
                return False
            case ResourceType.INTERNET:
                return not any(address in network for network in _NO_INTERNET)
            case _:
                return address in ip_network(self.address)

    def lets(self, kind: Kind, port: int) -> bool:
        """Whether its filters let this through."""
        if self.open is None:
            return True
        return any(
            protocol == kind and (kind is Kind.ICMP or first <= port <= last) for protocol, first, last in self.open
        )

    def host(self, number: int) -> IPAddress:
        """One of its hosts."""
        return ip_address(int(ip_network(self.address).network_address) + number)


@dataclass(frozen=True, slots=True)
class Wish:
    """What a client wants to send through a gateway of a site: to an address, or to a name of a resource."""

    client: str
    site: str
    address: IPAddress
    kind: Kind
    port: int
    named: str | None = None

    def is_for(self, ware: Ware) -> bool:
        """Whether this resource lets it through."""
        is_there = ware.covers(self.address) if self.named is None else ware.name == self.named
        return is_there and ware.lets(self.kind, self.port)


@dataclass(frozen=True, slots=True)
class Page:
    """All that was true from ``since`` on. Grants are (client, resource name) with their end, in seconds."""

    since: Instant
    wares: MappingProxyType[str, Ware]
    grants: MappingProxyType[tuple[str, str], int]
    dns: DnsSettings

    def grants_of(self, client: str, now: Instant, slack: int = 0) -> Iterator[Ware]:
        """The resources that a client may use, with the slack of clocks."""
        for (who, name), end in self.grants.items():
            if who == client and name in self.wares and (end == NEVER or EPOCH + now < end * SECOND + slack):
                yield self.wares[name]

    def allows(self, wish: "Wish", now: Instant) -> bool:
        """Whether the client may send this through a gateway of the site, with the slack of its clock."""
        return any(
            ware.site == wish.site and wish.is_for(ware) for ware in self.grants_of(wish.client, now, EXPIRY_SLACK)
        )


class Book:
    """The pages, newest last."""

    def __init__(self, wares: Iterable[Ware], clients: Iterable[str], now: Instant) -> None:
        self.clients = tuple(clients)
        held = {ware.name: ware for ware in wares}
        grants = {(client, name): NEVER for client in self.clients for name in held}
        self.pages = [Page(now, MappingProxyType(held), MappingProxyType(grants), DnsSettings())]
        self.secret = SECRET
        self._first = held
        self.token_ends = dict.fromkeys(self.clients, NEVER)

    @property
    def page(self) -> Page:
        """What is true now."""
        return self.pages[-1]

    def ware(self, name: str) -> Ware:
        """A resource as it is now, or was at first."""
        return self.page.wares.get(name) or self._first[name]

    def put(self, ware: Ware, now: Instant) -> None:
        """A resource is this now."""
        self._turn(now, wares={**self.page.wares, ware.name: ware})

    def change(self, name: str, *, is_filtered: bool, is_elsewhere: bool, now: Instant) -> None:
        """A resource is as it was first, but for its filters and its network."""
        ware = self._first[name]
        if is_filtered:
            ware = replace(ware, open=(("udp", 53, 60), ("tcp", 80, 80)))
        if is_elsewhere:
            ware = replace(ware, address=_other_address(ware))
        self.put(ware, now)

    def remove(self, name: str, now: Instant) -> None:
        """A resource is no more."""
        self._turn(now, wares={known: ware for known, ware in self.page.wares.items() if known != name})

    def grant(self, client: str, name: str, end: int, now: Instant) -> None:
        """A client may use a resource until then."""
        self._turn(now, grants={**self.page.grants, (client, name): end})

    def revoke(self, client: str, name: str, now: Instant) -> None:
        """A client may not use a resource any more."""
        self._turn(now, grants={pair: end for pair, end in self.page.grants.items() if pair != (client, name)})

    def may_use(self, client: str, name: str, now: Instant, margin: int = 0) -> bool:
        """Whether the resource is there and the client's grant lasts for ``margin`` seconds more."""
        end = self.page.grants.get((client, name))
        return name in self.page.wares and end is not None and end > (EPOCH + now) // SECOND + margin

    def serve_names(self, dns: DnsSettings, now: Instant) -> None:
        """Clients resolve names like this now."""
        self._turn(now, dns=dns)

    def allowed_since(self, since: Instant, wish: Wish, now: Instant) -> bool:
        """Whether any page in force since then allows it: somebody who heard nothing newer may let it pass."""
        return any(page.allows(wish, now) for page in self._in_force_since(since))

    def held_since(self, since: Instant, client: str, name: str, site: str, now: Instant) -> bool:
        """Whether any page in force since then gives a client a resource of a site."""
        return any(
            (ware.name, ware.site) == (name, site)
            for page in self._in_force_since(since)
            for ware in page.grants_of(client, now, EXPIRY_SLACK)
        )

    def is_settled(self, client: str, now: Instant) -> bool:
        """Whether everybody who hears the portal knows what is true for a client, and it is not about to change."""
        ends = [end for (who, _), end in self.page.grants.items() if who == client and end != NEVER]
        near = any(abs(end * SECOND - EPOCH - now) < SETTLED for end in ends)
        return now - self.page.since > SETTLED and not near

    def configuration(self) -> Configuration:
        """The portal's file."""
        sites = tuple(Site(named_id("site", name), name) for name in SITES)
        site_ids = {site.name: site.id for site in sites}
        resources = tuple(
            Resource(
                ware.resource_id,
                ware.name,
                ware.type,
                "" if ware.type is ResourceType.INTERNET else ware.address,
                (site_ids[ware.site],),
                tuple(
                    Filter(protocol, None if protocol == "icmp" else (first, last))
                    for protocol, first, last in ware.open or ()
                ),
            )
            for ware in self.page.wares.values()
        )
        policies = tuple(
            Policy(named_id("resource", name), frozenset(), frozenset({client}), frozenset(), end)
            for (client, name), end in self.page.grants.items()
            if name in self.page.wares
        )
        tokens = [
            Token(client, TokenType.CLIENT, (token_of(client),), actor=client, expires_at=self.token_ends[client])
            for client in self.clients
        ]
        tokens += [Token(name, TokenType.GATEWAY, (token_of(name),), site_id=site_ids[name]) for name in SITES]
        tokens.append(Token("relay", TokenType.RELAY, (token_of("relay"),)))
        return Configuration(
            Endpoint.parse("192.0.2.1:8080"),
            sites,
            resources,
            policies,
            tuple(tokens),
            self.page.dns,
            secret=self.secret,
        )

    def _in_force_since(self, since: Instant) -> Iterator[Page]:
        for page, next_ in zip(self.pages, (*self.pages[1:], None), strict=True):
            if next_ is None or next_.since >= since:
                yield page

    def _turn(
        self,
        now: Instant,
        wares: dict[str, Ware] | None = None,
        grants: dict[tuple[str, str], int] | None = None,
        dns: DnsSettings | None = None,
    ) -> None:
        page = replace(self.page, since=now)
        if wares is not None:
            page = replace(page, wares=MappingProxyType(wares))
        if grants is not None:
            page = replace(page, grants=MappingProxyType(grants))
        if dns is not None:
            page = replace(page, dns=dns)
        self.pages.append(page)


def _other_address(ware: Ware) -> str:
    """The network beside it, or a pattern that has the same names and more."""
    match ware.type:
        case ResourceType.DNS:
            return f"**.{ware.address.removeprefix('*.')}"
        case ResourceType.INTERNET:
            return ware.address
        case _:
            known = ip_network(ware.address)
            return f"{known.network_address + known.num_addresses}/{known.prefixlen}"
