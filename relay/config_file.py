"""Reads ``relay.yaml`` of a stand-alone relay; every problem at once, each with path, value, expectation.

Paths in it are relative to it. Passwords and secrets are in no message. docs/relay.yaml has every key, annotated.
"""

import dataclasses
import itertools
import logging
import ssl
import stat
from collections.abc import Collection, Container
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path
from typing import Any, Final, cast

from connectivity import yaml_document
from connectivity.endpoint import Endpoint, IPAddress
from connectivity.ranges import Network
from connectivity.yaml_document import Section
from relay.configuration import (
    Certificate,
    Configuration,
    OffloadMode,
    OffloadWish,
    port_problem,
)
from relay.core import Quotas, StaticCredentials
from relay.core.configuration import HIGHEST_RELAYED_PORT, LOWEST_RELAYED_PORT
from relay.core.credentials import opaque_string
from relay.core.peers import PeerRule, parse_rules

# Of one source, unless the file says otherwise. Connections: an office or a proxy begins with a crowd at once; as many
# TLS handshakes a second take a fifth of a core.
REQUESTS_PER_SECOND: Final = 100
CONNECTIONS_PER_SECOND: Final = 200
LONGEST_REALM: Final = 127  # characters, as RFC 8489 §14.9 counts
_DEFAULT_LISTEN: Final = ("0.0.0.0:3478", "[::]:3478")
_DEFAULT_TLS_LISTEN: Final = ("0.0.0.0:5349", "[::]:5349")
_MODES: Final = ("auto", "native", "generic", "off")
_SHORT_SECRET: Final = 16
_UNITS: Final = {"K": 10**3, "M": 10**6, "G": 10**9}
_LARGEST_COUNT: Final = 1_000_000_000
_LARGEST_RATE: Final = 10**15
# Others may not read who may use the relay with which password; nobody but the owner may change it.
_UNSAFE_MODE: Final = stat.S_IRWXO | stat.S_IWGRP

_log = logging.getLogger("relay")


def load(path: Path, public: Collection[IPAddress] = (), proxies: tuple[Network, ...] = ()) -> Configuration:
    """Read the file; ``public`` are addresses for a family that it does not name, ``proxies`` those it may trust.

    Raises:
        SettingsError: all that is wrong with it, in one line.
    """
    found = parse(yaml_document.read_text(path), base=path.parent, label=str(path), public=public)
    return found if found.trusted_proxies else dataclasses.replace(found, trusted_proxies=proxies)


def advise(path: Path, configuration: Configuration) -> None:
    """Say what is allowed and unwise."""
    short = [secret for secret in configuration.rest_secrets if len(secret) < _SHORT_SECRET]
    if short:
        fields = {"secrets": len(short), "characters": _SHORT_SECRET}
        _log.warning("Short rest_secrets can be guessed", extra={"fields": fields})
    if configuration.is_confidential and yaml_document.others_may_read(path):
        where = {"file": path, "remedy": yaml_document.remedy(path)}
        _log.warning("Others may read users or rest_secrets", extra={"fields": where})


def parse(content: str, *, base: Path, label: str = "relay.yaml", public: Collection[IPAddress] = ()) -> Configuration:
    """Read the file's text; ``base`` is where relative paths start.

    Raises:
        SettingsError: all that is wrong with it, in one line.
    """
    return yaml_document.parse_settings(
        content, "keys such as realm and public", label, lambda top, found: _Reader(base, found).read(top, public)
    )


class _Reader:
    def __init__(self, base: Path, problems: list[str]) -> None:
        self._base = base
        self._problems = problems

    def read(self, top: Section, others: Collection[IPAddress]) -> Configuration:
        realm = top.required("realm", _realm, "a name such as example.org")
        listen = self._endpoints(top, "listen", _DEFAULT_LISTEN)
        before = len(self._problems)
        public = {ip.version: ip for ip in reversed([*others])} | self._addresses(top, "public")
        if not public and len(self._problems) == before:
            self._problems.append("public has no address: expected ipv4, ipv6 or both")
        certificate, tls_listen = self._tls(top)
        for endpoint in tls_listen:
            if endpoint in listen:
                top.problem("tls.listen", str(endpoint), "expected an address that listen does not have")
        internal = tuple(self._addresses(top, "internal").values())
        before = len(self._problems)
        users = self._users(top)
        secrets = tuple(top.each("rest_secrets", yaml_document.text, "secrets"))
        if not top.has("users") and not top.has("rest_secrets"):
            self._problems.append("users and rest_secrets are missing: expected one of them, or nobody could use it")
        elif not users and not secrets and len(self._problems) == before:
            self._problems.append("users and rest_secrets are empty: expected somebody who can use it")
        offload = self._offload(top, internal)
        lowest, highest = self._ports(top, offload is not None)
        allow, deny = self._peers(top)
        configuration = Configuration(
            public=public,
            listen=listen,
            serves_tcp=True,
            tls_listen=tls_listen,
            certificate=certificate,
            realm=realm or "",
            users=users,
            rest_secrets=secrets,
            is_confidential=bool(secrets) or top.is_mapping("users"),
            lowest_port=lowest,
            highest_port=highest,
            peers_allow=allow,
            peers_deny=deny,
            quotas=self._quotas(top),
            alternate=self._alternate(top, {Endpoint(ip, each.port) for ip in public.values() for each in listen}),
            trusted_proxies=tuple(top.each("trusted_proxies", yaml_document.network, "addresses of proxies")),
            internal=internal,
            offload=offload,
        )
        top.finish()
        return configuration

    def _section(self, top: Section, key: str) -> Section | None:
        value = top.optional(key, lambda given: given, None)
        return None if value is None else Section(top.at(key), value, self._problems)

    def _endpoints(self, section: Section, key: str, default: tuple[str, ...]) -> tuple[Endpoint, ...]:
        before = len(self._problems)
        given = section.each(key, _endpoint, "addresses with ports")
        if not section.has(key):
            given = [Endpoint.parse(entry) for entry in default]
        elif not given and len(self._problems) == before:
            section.problem(key, [], "expected at least one address with a port")
        for twice in yaml_document.duplicates([str(endpoint) for endpoint in given]):
            section.problem(key, twice, "expected each address once")
        return tuple(given)

    def _addresses(self, top: Section, key: str) -> dict[int, IPAddress]:
        section = self._section(top, key)
        if section is None:
            return {}
        found = [section.optional("ipv4", _ipv4, None), section.optional("ipv6", _ipv6, None)]
        section.finish()
        return {ip.version: ip for ip in found if ip is not None}

    def _alternate(self, top: Section, own: Container[Endpoint]) -> dict[int, Endpoint]:
        section = self._section(top, "alternate")
        if section is None:
            return {}
        found = {version: section.optional(f"ipv{version}", _endpoint, None) for version in (4, 6)}
        section.finish()
        for version, endpoint in found.items():
            if endpoint is not None and endpoint.ip.version != version:
                section.problem(f"ipv{version}", str(endpoint), f"expected an IPv{version} address")
            elif endpoint in own:
                section.problem(f"ipv{version}", str(endpoint), "expected another server than this one")
        return {version: endpoint for version, endpoint in found.items() if endpoint is not None}

    def _tls(self, top: Section) -> tuple[Certificate | None, tuple[Endpoint, ...]]:
        section = self._section(top, "tls")
        if section is None:
            return None, ()
        certificate = section.required("certificate", self._path, "the path of a PEM file")
        key = section.required("key", self._path, "the path of a PEM file")
        listen = self._endpoints(section, "listen", _DEFAULT_TLS_LISTEN)
        section.finish()
        if certificate is None or key is None:
            return None, listen
        files = Certificate(certificate, key)
        try:
            files.context()
        except ssl.SSLError:
            section.say(f"has {certificate} and {key}: expected a PEM certificate and the key that belongs to it")
        except OSError as error:
            section.say(f"has {certificate} and {key}: {yaml_document.reason(error)}")
        return files, listen

    def _path(self, value: object) -> Path:
        return self._base / yaml_document.text(value)

    def _users(self, top: Section) -> dict[str, str]:
        value = top.optional("users", lambda given: given, None)
        if value is None:
            return {}
        where = "users"
        if isinstance(value, str):
            where = str(self._base / value)
            try:
                value = _read_private(self._base / value)
            except ValueError as error:
                self._problems.append(f"users is {where!r}: {error}")
                return {}
        if not isinstance(value, dict):
            self._problems.append(f"{where} is (hidden): expected a mapping of names to passwords, or the path of one")
            return {}
        users: dict[str, str] = {}
        for name, password in value.items():
            if not isinstance(name, str) or not isinstance(password, str):
                expectation = "expected texts (in quotes where YAML would read a number or a boolean)"
                self._problems.append(
                    f"{where}.{yaml_document.show(name)} is {yaml_document.hide(password)}: {expectation}"
                )
                continue
            try:
                StaticCredentials({name: password})
            except ValueError as error:
                self._problems.append(f"{where}: {error}")
            users[name] = password
        return users

    def _offload(self, top: Section, internal: tuple[IPAddress, ...]) -> OffloadWish | None:
        section = self._section(top, "ebpf")
        if section is None:
            return None
        interfaces = tuple(dict.fromkeys(section.each("interfaces", yaml_document.name, "interfaces")))
        mode = section.optional("mode", _mode, "auto")
        from_peer = section.optional("generic_from_peer", _boolean, False)
        section.finish()
        if not interfaces and mode in {"native", "generic"}:
            section.problem("mode", mode, "expected interfaces with it")
        if not interfaces or mode == "off":
            return None
        return OffloadWish(interfaces, cast(OffloadMode, mode), internal, from_peer)

    def _ports(self, top: Section, offloads: bool) -> tuple[int, int]:
        default = (LOWEST_RELAYED_PORT, HIGHEST_RELAYED_PORT)
        lowest, highest = top.optional("ports", _port_range, default)
        problem = port_problem(lowest, highest, offloads=offloads)
        if problem is not None:
            top.problem("ports", [lowest, highest], problem)
        return lowest, highest

    def _peers(self, top: Section) -> tuple[tuple[PeerRule, ...], tuple[PeerRule, ...]]:
        section = self._section(top, "peers")
        if section is None:
            return (), ()
        allow, deny = (section.each(key, _peer_rules, "ranges such as 10.20.0.0/16") for key in ("allow", "deny"))
        section.finish()
        return tuple(itertools.chain(*allow)), tuple(itertools.chain(*deny))

    def _quotas(self, top: Section) -> Quotas:
        section = self._section(top, "quotas")
        if section is None:
            return Quotas(
                requests_per_second_per_source=REQUESTS_PER_SECOND,
                connections_per_second_per_source=CONNECTIONS_PER_SECOND,
            )
        quotas = Quotas(
            allocations_per_user=section.optional("allocations_per_user", _count, None),
            allocations=section.optional("allocations", _count, None),
            bandwidth_per_user=section.optional("bandwidth_per_user", rate, None),
            bandwidth=section.optional("bandwidth", rate, None),
            requests_per_second_per_source=_limit(section, "requests_per_second_per_source", REQUESTS_PER_SECOND),
            connections_per_second_per_source=_limit(
                section, "connections_per_second_per_source", CONNECTIONS_PER_SECOND
            ),
        )
        section.finish()
        return quotas


def rate(value: object) -> int:
    """Bits per second: a number, or one with K, M or G behind it (decimal)."""
    expectation = "expected bits per second such as 10M (K, M, G are decimal)"
    if isinstance(value, str) and value:
        digits, unit = (value[:-1], _UNITS[value[-1]]) if value[-1] in _UNITS else (value, 1)
        whole, point, fraction = digits.partition(".")
        if not (whole.isascii() and whole.isdecimal()) or (point and not (fraction.isascii() and fraction.isdecimal())):
            raise ValueError(expectation)
        value = int(whole) * unit + int(fraction or 0) * unit // 10 ** len(fraction)
    if isinstance(value, bool) or not isinstance(value, int) or not 8 <= value <= _LARGEST_RATE:
        raise ValueError(expectation)
    return value


def _realm(value: object) -> str:
    realm = opaque_string(yaml_document.text(value))
    if len(realm) > LONGEST_REALM:
        raise ValueError(f"expected at most {LONGEST_REALM} characters")
    return realm


def _endpoint(value: object) -> Endpoint:
    try:
        endpoint = Endpoint.parse(yaml_document.text(value))
    except ValueError:
        raise ValueError('expected address:port such as "0.0.0.0:3478" or "[::]:3478"') from None
    if not endpoint.port:
        raise ValueError("expected a port from 1 to 65535")
    return endpoint


def _ipv4(value: object) -> IPAddress | None:
    return _address(value, IPv4Address, "expected an IPv4 address")


def _ipv6(value: object) -> IPAddress | None:
    return _address(value, IPv6Address, "expected an IPv6 address, in quotes")


def _address(value: object, kind: type[IPv4Address | IPv6Address], expectation: str) -> IPAddress:
    try:
        found = ip_address(yaml_document.text(value))
    except ValueError:
        raise ValueError(expectation) from None
    if not isinstance(found, kind) or found.is_unspecified:
        raise ValueError(expectation)
    return found


def _mode(value: object) -> str:
    if value is False:  # which is how YAML reads a bare off
        return "off"
    if value not in _MODES:
        raise ValueError(f"expected one of {', '.join(_MODES)}")
    return str(value)


def _boolean(value: object) -> bool:
    if not isinstance(value, bool):
        raise ValueError("expected true or false")
    return value


def _count(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= _LARGEST_COUNT:
        raise ValueError(f"expected an integer from 1 to {_LARGEST_COUNT}")
    return value


def _limit(section: Section, key: str, default: int | None) -> int | None:
    return section.optional(key, _count_or_off, default)


def _count_or_off(value: object) -> int | None:
    if value is False:  # which is how YAML reads a bare off
        return None
    try:
        return _count(value)
    except ValueError as error:
        raise ValueError(f"{error}, or off") from None


def _port_range(value: object) -> tuple[int, int]:
    expectation = f"expected two ports such as [{LOWEST_RELAYED_PORT}, {HIGHEST_RELAYED_PORT}]"
    if not isinstance(value, list) or len(value) != 2:
        raise ValueError(expectation)
    lowest, highest = (_whole_port(part, expectation) for part in value)
    return lowest, highest


def _whole_port(value: object, expectation: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= 0xFFFF:
        raise ValueError(expectation)
    return value


def _peer_rules(value: object) -> tuple[PeerRule, ...]:
    return parse_rules(yaml_document.text(value))


def _read_private(path: Path) -> dict[str, Any]:
    """The mapping in a file that only its owner may change and that others may not read."""
    try:
        with path.open(encoding="utf-8") as opened:
            if stat.S_IMODE(path.stat().st_mode) & _UNSAFE_MODE:
                raise ValueError("expected a file that others cannot read or change (mode 0600 or 0640)")
            content = opened.read()
        return yaml_document.load_document(content, "names and passwords")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"cannot be read: {yaml_document.reason(error)}") from None
