"""Reads the portal's YAML file into a ``Configuration``; every problem at once, each with path, value, expectation.

Names refer to names: a resource names its sites, a policy its resource. Ids are UUIDv5 of kind and name unless ``id``
is given, so a renamed thing keeps its identity only with an ``id`` of its own. docs/portal.md has an annotated example.
"""

import uuid
from collections.abc import Callable, Sequence
from ipaddress import ip_address
from pathlib import Path
from typing import Any, Final

from connectivity import yaml_document
from connectivity.endpoint import Endpoint
from connectivity.yaml_document import Section
from portal import addresses
from portal.configuration import (
    EVERYONE,
    NEVER,
    Configuration,
    DnsSettings,
    Policy,
    Resource,
    ResourceType,
    Site,
    Token,
    TokenType,
)
from portal.derivation import named_id

DEFAULT_LISTEN: Final = "0.0.0.0:8081"
_DNS_PORT: Final = 53
_IP_STACKS: Final = ("dual", "ipv4_only", "ipv6_only")


def load(path: Path) -> Configuration:
    """Read the file.

    Raises:
        SettingsError: all that is wrong with it, in one line.
    """
    return parse(yaml_document.read_text(path), base=path.parent, label=str(path))


def parse(content: str, *, base: Path, label: str = "portal.yaml") -> Configuration:
    """Read the file's text; ``base`` is where relative ``token_file`` paths start.

    Raises:
        SettingsError: all that is wrong with it, in one line.
    """
    return yaml_document.parse_settings(
        content, "keys such as sites and resources", label, lambda top, found: _Reader(base, found).read(top)
    )


class _Reader:
    def __init__(self, base: Path, problems: list[str]) -> None:
        self._base = base
        self._problems = problems
        self._is_confidential = False

    def read(self, section: Section) -> Configuration:
        listen = section.optional("listen", _listen, Endpoint.parse(DEFAULT_LISTEN))
        sites = self._unique(section, "sites", self._site, lambda site: site.name)
        by_name = {site.name: site for site in sites}
        resources = self._unique(section, "resources", lambda part: self._resource(part, by_name), _name_of)
        tokens = self._unique(section, "tokens", lambda part: self._token(part, by_name), _name_of)
        policies = self._policies(section, resources, tokens)
        configuration = Configuration(
            listen=listen,
            sites=tuple(sites),
            resources=tuple(resources),
            policies=tuple(policies),
            tokens=tuple(tokens),
            dns=self._dns(section),
            secret=section.optional("secret", _secret, ""),
            is_confidential=self._is_confidential or section.has("secret"),
            trusted_proxies=tuple(section.each("trusted_proxies", yaml_document.network, "addresses of proxies")),
        )
        self._check_tokens(tokens)
        section.finish()
        return configuration

    def _unique(self, top: Section, key: str, read: Callable[[Section], Any], label: Callable[[Any], str]) -> list[Any]:
        """The things of one list that could be read, complaining about names and ids that occur twice."""
        found = []
        for path, item in top.items(key, "mappings"):
            section = Section(path, item, self._problems)
            thing = read(section)
            section.finish()
            if thing is not None:
                found.append(thing)
        for twice in yaml_document.duplicates([label(thing) for thing in found]):
            self._problems.append(f"{key} has the name {twice!r} more than once: expected unique names")
        for twice in yaml_document.duplicates([thing.id for thing in found if hasattr(thing, "id")]):
            self._problems.append(f"{key} has the id {twice!r} more than once: expected unique ids")
        return found

    def _site(self, section: Section) -> Site | None:
        name = section.required("name", yaml_document.name, "a name")
        given = section.optional("id", _uuid, None)
        return None if name is None else Site(given or named_id("site", name), name)

    def _resource(self, section: Section, sites: dict[str, Site]) -> Resource | None:
        name = section.required("name", yaml_document.name, "a name")
        kind = section.required("type", _resource_type, "cidr, ip, dns or internet")
        given = section.optional("id", _uuid, None)
        address: str | None = ""
        if kind is ResourceType.INTERNET:
            if section.has("address"):
                section.say("is the Internet: expected no address")
                section.optional("address", str, "")
        elif kind is not None:
            address = section.required("address", addresses.PARSERS[kind], addresses.EXPECTATIONS[kind])
        else:
            section.optional("address", str, "")
        site_names = section.each("sites", yaml_document.name, "site names")
        if not site_names:
            section.say("has no sites: expected at least one")
        filters = section.each("filters", addresses.parse_filter, "filters such as tcp/443")
        description = section.optional("description", yaml_document.text, None)
        ip_stack = section.optional("ip_stack", _ip_stack, None)
        if ip_stack is not None and kind is not ResourceType.DNS:
            section.problem("ip_stack", ip_stack, "expected it with type dns only")
        site_ids = tuple(sites[entry].id for entry in site_names if entry in sites)
        for entry in site_names:
            if entry not in sites:
                section.problem("sites", entry, _one_of("a site", list(sites)))
        if name is None or kind is None or address is None:
            return None
        return Resource(
            given or named_id("resource", name), name, kind, address, site_ids, tuple(filters), description, ip_stack
        )

    def _token(self, section: Section, sites: dict[str, Site]) -> Token | None:
        kind = section.required("type", _token_type, "client, gateway or relay")
        texts = self._token_texts(section)
        expires_at = section.optional("expires_at", yaml_document.time, NEVER)
        given = section.optional("name", yaml_document.name, None)
        site_id, actor, groups = "", "", frozenset({EVERYONE})
        if kind is TokenType.GATEWAY:
            site_name = section.required("site", yaml_document.name, "the name of a site")
            if site_name is not None and site_name not in sites:
                section.problem("site", site_name, _one_of("a site", list(sites)))
            site_id = sites[site_name].id if site_name in sites else ""
            given = given or f"gateway {site_name}"
        elif kind is TokenType.RELAY:
            given = given or "relay"
        else:
            actor = section.optional("actor", yaml_document.name, given or "")
            if kind is TokenType.CLIENT and not actor:
                section.say("has neither name nor actor: expected whose token it is")
            groups |= set(section.each("groups", yaml_document.name, "group names"))
            given = given or actor
        if kind is None or not texts or not given:
            return None
        return Token(given, kind, texts, actor, groups, site_id, expires_at)

    def _token_texts(self, section: Section) -> tuple[str, ...] | None:
        if section.has("token") and section.has("token_file"):
            section.say("has both token and token_file: expected one of them")
        if not section.has("token_file"):
            section.optional("token_file", _each(yaml_document.text), None)
            self._is_confidential = True
            return section.required("token", _each(_token_value), "the token's text, or token_file with a path")
        section.optional("token", _each(_token_value), None)
        return section.required("token_file", _each(self._read_token), "a path")

    def _read_token(self, value: object) -> str:
        try:
            content = (self._base / yaml_document.text(value)).read_text(encoding="utf-8")
        except OSError as error:
            raise ValueError(f"cannot be read: {error.strerror}") from None
        except UnicodeDecodeError:
            raise ValueError("expected a file with text") from None
        return _token_value(content.strip())

    def _policies(self, top: Section, resources: Sequence[Resource], tokens: Sequence[Token]) -> list[Policy]:
        by_name = {resource.name: resource for resource in resources}
        clients = [token for token in tokens if token.type is TokenType.CLIENT]
        known = {
            "groups": sorted({group for token in clients for group in token.groups} | {EVERYONE}),
            "actors": [token.actor for token in clients],
            "tokens": [token.name for token in clients],
        }
        found = []
        for path, item in top.items("policies", "mappings"):
            section = Section(path, item, self._problems)
            section.optional("name", yaml_document.name, None)
            resource = section.required("resource", yaml_document.name, "the name of a resource")
            expires_at = section.optional("expires_at", yaml_document.time, NEVER)
            subjects = {key: self._subjects(section, key, names) for key, names in known.items()}
            if not any(section.has(key) for key in known):
                section.say("names nobody: expected groups, actors or tokens (the group everyone holds all clients)")
            section.finish()
            if resource is not None and resource not in by_name:
                section.problem("resource", resource, _one_of("a resource", list(by_name)))
            elif resource is not None:
                found.append(Policy(by_name[resource].id, **subjects, expires_at=expires_at))
        return found

    def _subjects(self, section: Section, key: str, known: Sequence[str]) -> frozenset[str]:
        given = section.each(key, yaml_document.name, "names")
        for entry in given:
            if entry not in known:
                section.problem(key, entry, _one_of(f"one of the client tokens' {key}", known))
        return frozenset(given)

    def _dns(self, top: Section) -> DnsSettings:
        value = top.optional("dns", lambda given: given, None)
        if value is None:
            return DnsSettings()
        section = Section("dns", value, self._problems)
        upstream = section.each("upstream", _dns_server, "addresses")
        search_domain = section.optional("search_domain", addresses.parse_domain, None)
        section.finish()
        return DnsSettings(tuple(upstream), search_domain)

    def _check_tokens(self, tokens: Sequence[Token]) -> None:
        by_text: dict[str, str] = {}
        for name, text in ((token.name, text) for token in tokens for text in token.texts):
            other = by_text.setdefault(text, name)
            if other != name:
                self._problems.append(
                    f"tokens has the same text for {other!r} and {name!r}: expected a text of its own for each"
                )


def _name_of(thing: Any) -> str:
    return str(thing.name)


def _listen(value: object) -> Endpoint:
    try:
        return Endpoint.parse(yaml_document.text(value))
    except ValueError:
        raise ValueError(f"expected address:port such as {DEFAULT_LISTEN}") from None


def _secret(value: object) -> str:
    found = yaml_document.text(value)
    if len(found) < 16:
        raise ValueError("expected at least 16 characters")
    return found


def _token_value(value: object) -> str:
    found = yaml_document.text(value)
    if not found.isprintable() or any(character.isspace() for character in found):
        raise ValueError("expected a token without spaces or control characters")
    return found


def _each(parse: Callable[[object], str]) -> Callable[[object], tuple[str, ...]]:
    """One text, or several while one takes the other's place."""

    def read(value: object) -> tuple[str, ...]:
        values = value if isinstance(value, list) else [value]
        if not values:
            raise ValueError("expected at least one")
        return tuple(dict.fromkeys(map(parse, values)))

    return read


def _uuid(value: object) -> str | None:
    try:
        return str(uuid.UUID(yaml_document.text(value)))
    except ValueError:
        raise ValueError("expected a UUID") from None


def _resource_type(value: object) -> ResourceType:
    try:
        return ResourceType(yaml_document.text(value))
    except ValueError:
        raise ValueError("expected cidr, ip, dns or internet") from None


def _token_type(value: object) -> TokenType:
    try:
        return TokenType(yaml_document.text(value))
    except ValueError:
        raise ValueError("expected client, gateway or relay") from None


def _ip_stack(value: object) -> str | None:
    if value not in _IP_STACKS:
        raise ValueError(f"expected one of {', '.join(_IP_STACKS)}")
    return str(value)


def _dns_server(value: object) -> Endpoint:
    found = yaml_document.text(value)
    try:
        server = Endpoint(ip_address(found), _DNS_PORT)
    except ValueError:
        try:
            server = Endpoint.parse(found)
        except ValueError:
            raise ValueError("expected an address such as 1.1.1.1 or 1.1.1.1:53") from None
    addresses.refuse_reserved_address(server.ip)
    return server


def _one_of(what: str, names: Sequence[str]) -> str:
    return f"expected {what}: {', '.join(sorted(set(names)))}" if names else f"expected {what}, but there is none"
