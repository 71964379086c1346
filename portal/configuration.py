"""What the YAML file says, as frozen values. ``config_file`` reads it, ``access`` evaluates it.

Times are whole seconds since the epoch; ids are lower-case UUID text. A configuration is never changed, a reload
replaces it as a whole.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from functools import cached_property
from types import MappingProxyType
from typing import Final

from connectivity.endpoint import Endpoint
from connectivity.ranges import Network

# 2100-01-01, in place of "never" wherever the protocol demands a time.
NEVER: Final = 4_102_444_800

EVERYONE: Final = "everyone"  # the group that each client token is in


class ResourceType(StrEnum):
    """What a resource's address is."""

    CIDR = "cidr"
    IP = "ip"
    DNS = "dns"
    INTERNET = "internet"


class TokenType(StrEnum):
    """Which of the three sockets a token opens."""

    CLIENT = "client"
    GATEWAY = "gateway"
    RELAY = "relay"


@dataclass(frozen=True, slots=True)
class Filter:
    """Allowed traffic; without a port range every port of the protocol."""

    protocol: str
    ports: tuple[int, int] | None = None


@dataclass(frozen=True, slots=True)
class Site:
    """Where gateways stand."""

    id: str
    name: str


@dataclass(frozen=True, slots=True)
class Resource:
    """``address`` is a network for cidr and ip, a pattern for dns, empty for internet."""

    id: str
    name: str
    type: ResourceType
    address: str
    site_ids: tuple[str, ...]
    filters: tuple[Filter, ...] = ()
    description: str | None = None
    ip_stack: str | None = None

    @property
    def shape(self) -> tuple[object, ...]:
        """What a gateway cannot change under a client that uses the resource."""
        return (self.type, self.address, self.ip_stack)


@dataclass(frozen=True, slots=True)
class Policy:
    """Whoever is in one of ``groups``, is one of ``actors`` or holds one of ``tokens`` may use the resource."""

    resource_id: str
    groups: frozenset[str]
    actors: frozenset[str]
    tokens: frozenset[str]
    expires_at: int = NEVER


@dataclass(frozen=True, slots=True)
class Token:
    """An entry of the bearer tokens. Each of its texts opens, while one takes another's place; none is in ``repr``."""

    name: str
    type: TokenType
    texts: tuple[str, ...] = field(repr=False)
    actor: str = ""
    groups: frozenset[str] = frozenset()
    site_id: str = ""
    expires_at: int = NEVER

    @property
    def identity(self) -> tuple[str, ...]:
        """What makes it another token although the name is the same."""
        return (self.type, self.actor, self.site_id)

    def opened_by(self, text: str) -> "Token":
        """The entry as somebody holds it who came by one of its texts."""
        return replace(self, texts=(text,))


@dataclass(frozen=True, slots=True)
class DnsSettings:
    """What clients use to resolve names that are no resource."""

    upstream: tuple[Endpoint, ...] = ()
    search_domain: str | None = None


@dataclass(frozen=True)
class Configuration:
    """The whole file. Names are unique within their kind."""

    listen: Endpoint
    sites: tuple[Site, ...] = ()
    resources: tuple[Resource, ...] = ()
    policies: tuple[Policy, ...] = ()
    tokens: tuple[Token, ...] = ()
    dns: DnsSettings = DnsSettings()
    secret: str = field(default="", repr=False)  # empty where the file has none
    is_confidential: bool = False  # tokens or the secret stand in the file itself
    trusted_proxies: tuple[Network, ...] = ()  # who say for whom they ask

    @cached_property
    def sites_by_id(self) -> Mapping[str, Site]:
        """Each site under its id."""
        return MappingProxyType({site.id: site for site in self.sites})

    @cached_property
    def resources_by_id(self) -> Mapping[str, Resource]:
        """Each resource under its id."""
        return MappingProxyType({resource.id: resource for resource in self.resources})

    @cached_property
    def policies_by_resource(self) -> Mapping[str, tuple[Policy, ...]]:
        """The policies of each resource that has any."""
        found: dict[str, tuple[Policy, ...]] = {}
        for policy in self.policies:
            found[policy.resource_id] = (*found.get(policy.resource_id, ()), policy)
        return MappingProxyType(found)

    @cached_property
    def ends(self) -> tuple[int, ...]:
        """When something in here stops being valid, in order."""
        of_policies = {policy.expires_at for policy in self.policies}
        return tuple(sorted(of_policies | {token.expires_at for token in self.tokens}))

    @cached_property
    def tokens_by_name(self) -> Mapping[str, Token]:
        """Each token under its name."""
        return MappingProxyType({token.name: token for token in self.tokens})

    def renewed(self, held: Token) -> Token | None:
        """What a token that was ``opened_by`` a text is now; None if that text opens nothing any more."""
        token = self.tokens_by_name.get(held.name)
        if token is None or token.identity != held.identity or not set(held.texts) <= set(token.texts):
            return None
        return replace(token, texts=held.texts)
