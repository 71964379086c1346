"""The relay's settings: the names that Firezone's relay image uses, plus our own under ``POSTERN_``.

Under a portal all of it comes from variables and flags. With ``--config`` a file says what the relay serves and to
whom, and those variables that would say the same are mistakes. Some variables of Firezone's image are accepted and have
no effect here, so that one environment starts either program.
"""

import ipaddress
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from typing import Final, cast

from connectivity.endpoint import Endpoint, IPAddress
from connectivity.errors import FatalError
from connectivity.io import logs
from connectivity.io.export_settings import TelemetrySettings, read_metrics_address, read_telemetry
from connectivity.networks import read_networks
from connectivity.phoenix import parse_api_url
from connectivity.ranges import Network
from connectivity.settings import (
    SOCKET_FOLDER,
    LocalSocket,
    SettingsError,
    SettingsReader,
    integer,
    local_socket,
    one_of,
    text_value,
    token_or_file,
)
from relay.configuration import Configuration, OffloadMode, OffloadWish, port_problem
from relay.core.configuration import HIGHEST_RELAYED_PORT, LOWEST_RELAYED_PORT, STUN_PORT
from relay.core.peers import PeerRule, parse_rules

CHECK_FLAG: Final = "--check"
DEFAULT_DRAIN_SECONDS: Final = 60
LONGEST_DRAIN_SECONDS: Final = 24 * 60 * 60
DEFAULT_ADMIN_SOCKET: Final = SOCKET_FOLDER / "relay.sock"
_ANY: Final[dict[int, IPAddress]] = {4: IPv4Address(0), 6: IPv6Address(0)}
_NO_RULES: Final[tuple[PeerRule, ...]] = ()
_ATTACH_MODES: Final[dict[str, OffloadMode]] = {"driver": "native", "generic": "generic"}
_WITHOUT_EFFECT: Final = (
    ("RNG_SEED", "--rng-seed"),
    ("GOOGLE_CLOUD_PROJECT_ID", "--google-cloud-project-id"),
    ("CONTROL_ENDPOINT", "--control-endpoint"),
)


@dataclass(frozen=True, slots=True)
class PortalAccess:
    """Which portal to join, and as whom."""

    api_url: str
    token: str = field(repr=False)
    name: str | None


@dataclass(frozen=True, slots=True)
class RelaySettings:
    """All of it, checked. Either ``portal`` or ``file`` is given."""

    configuration: Configuration
    portal: PortalAccess | None
    file: Path | None
    health_address: Endpoint
    log_filter: str
    log_format: str
    drain_seconds: int
    admin_socket: LocalSocket
    telemetry: TelemetrySettings
    metrics_address: Endpoint | None
    warnings: tuple[str, ...] = ()
    listed: tuple[IPAddress, ...] = ()  # public addresses for a family that nothing else names
    proxies: tuple[Network, ...] = ()  # that are trusted where the file names none

    @property
    def public(self) -> Mapping[int, IPAddress]:
        """The public addresses by IP version."""
        return self.configuration.public

    def require_public_address(self) -> None:
        """Check what only a relay about to start must have.

        Raises:
            FatalError: there is no address that clients could reach.
        """
        if not self.public:
            raise FatalError("no public address: set PUBLIC_IP4_ADDR, PUBLIC_IP6_ADDR or both")


def is_check(arguments: list[str]) -> bool:
    """Whether a file is to be looked at instead of served."""
    return any(word == CHECK_FLAG or word.startswith(f"{CHECK_FLAG}=") for word in arguments)


def read_settings(arguments: Sequence[str], environ: Mapping[str, str] | None = None) -> RelaySettings:
    """Read flags and environment, and the file if there is one.

    Raises:
        SettingsError: everything that is wrong, at once.
        HelpRequested: the user asked what there is.
    """
    reader = SettingsReader("relay", arguments, environ)
    reader.switch("FIREZONE_TELEMETRY", "--telemetry", "accepted, without effect")
    from_peer = _read_from_peer(reader)
    listed = read_listed(reader)
    proxies = _read_proxies(reader)
    words = reader.positional()  # only now is it known which words were values of flags
    file = reader.optional("POSTERN_RELAY_CONFIG", "--config", Path, None, "path of relay.yaml: serve without a portal")
    reader.optional(None, CHECK_FLAG, Path, None, "path of a relay.yaml to look at; nothing is served")
    process = len(reader.given)
    configuration = _read_configuration(reader, from_peer, listed)
    portal = _read_portal(reader, words, is_required=file is None)
    if file is not None:
        given = reader.given[process:]
        given += ["the token argument"] if words else []
        given += ["POSTERN_EBPF_GENERIC_FROM_PEER"] if from_peer else []
        for name in given:
            reader.problem(f"{name} is set together with a file for the relay: expected only one of the two")
        configuration = _load(reader, file, listed, proxies) or configuration
    elif proxies:
        reader.problem("POSTERN_TRUSTED_PROXIES is set: expected a file for the relay with it, as only UDP is served")
    settings = RelaySettings(
        configuration=configuration,
        portal=None if file is not None else portal,
        file=file,
        listed=listed,
        proxies=proxies,
        warnings=tuple(reader.warnings),
        health_address=reader.optional(
            "HEALTH_CHECK_ADDR", "--health-check-addr", Endpoint.parse, Endpoint(IPv4Address(0), 8080), "address:port"
        ),
        log_filter=reader.optional("RUST_LOG", "--log", _log_filter, "info", "such as info or debug,wire=trace"),
        log_format=reader.optional("LOG_FORMAT", "--log-format", logs.read_form, logs.HUMAN, "json, google-cloud"),
        drain_seconds=reader.optional(
            "POSTERN_DRAIN_SECONDS",
            "--drain-seconds",
            integer(0, LONGEST_DRAIN_SECONDS),
            DEFAULT_DRAIN_SECONDS,
            "how long allocations may go on after SIGTERM; 0: end at once",
        ),
        admin_socket=reader.optional(
            "POSTERN_ADMIN_SOCKET",
            "--admin-socket",
            local_socket,
            LocalSocket(DEFAULT_ADMIN_SOCKET),
            "path of the socket of postern relay admin, or off",
        ),
        telemetry=read_telemetry(reader),
        metrics_address=read_metrics_address(reader),
    )
    for name, flag in _WITHOUT_EFFECT:
        reader.optional(name, flag, text_value, None, "accepted, without effect")
    reader.finish()
    return settings


def _load(
    reader: SettingsReader, file: Path, listed: tuple[IPAddress, ...], proxies: tuple[Network, ...]
) -> Configuration | None:
    from relay import config_file  # with a parser of YAML: only where there is a file

    try:
        return config_file.load(file, listed, proxies)
    except SettingsError as error:
        for problem in error.problems:
            reader.problem(problem)
        return None


def _read_configuration(reader: SettingsReader, from_peer: bool, listed: tuple[IPAddress, ...]) -> Configuration:
    public = _read_public(reader, listed)
    internal = _read_internal(reader)
    offload = _read_offload(reader, internal, from_peer)
    lowest = reader.optional("LOWEST_PORT", "--lowest-port", _port, LOWEST_RELAYED_PORT, "first relayed port")
    highest = reader.optional("HIGHEST_PORT", "--highest-port", _port, HIGHEST_RELAYED_PORT, "last relayed port")
    problem = port_problem(lowest, highest, offloads=offload is not None)
    if problem is not None:
        reader.problem(f"LOWEST_PORT is {lowest}: {problem}")
    port = reader.optional("LISTEN_PORT", "--listen-port", _port, STUN_PORT, "STUN and TURN port")
    rules = "CIDR or first-last, also with :port or :port-port (IPv6: [CIDR]:port), by comma"
    return Configuration(
        public=public,
        listen=tuple(Endpoint(_ANY[version], port) for version in public),
        lowest_port=lowest,
        highest_port=highest,
        peers_allow=reader.optional("POSTERN_PEERS_ALLOW", "--peers-allow", _peer_rules, _NO_RULES, rules),
        peers_deny=reader.optional("POSTERN_PEERS_DENY", "--peers-deny", _peer_rules, _NO_RULES, rules),
        internal=internal,
        offload=offload,
    )


def _read_portal(reader: SettingsReader, words: list[str], *, is_required: bool) -> PortalAccess:
    for extra in words[2:]:
        reader.problem(f"{extra!r} is not expected here")
    text = "the relay's token, or the path of a file that holds it"
    if is_required:
        api_url = reader.required("FIREZONE_API_URL", "--api-url", parse_api_url, "URL of the portal")
    else:
        api_url = reader.optional("FIREZONE_API_URL", "--api-url", parse_api_url, "", "URL of the portal")
    if words:
        token = reader.token_argument(words[0])
    elif is_required:
        token = reader.required("FIREZONE_TOKEN", None, token_or_file, text)
    else:
        token = reader.optional("FIREZONE_TOKEN", None, text_value, "", text)
    name = reader.optional("FIREZONE_NAME", None, text_value, None, "display name in the portal")
    return PortalAccess(api_url, token, words[1] if len(words) > 1 else name)


def read_listed(reader: SettingsReader) -> tuple[IPAddress, ...]:
    """Public addresses for a family that nothing else names.

    All that Kubernetes tells a pod of its node (status.hostIPs) is one list of both families.
    """
    none: tuple[IPAddress, ...] = ()
    text = "public addresses by comma, for a family without one"
    return reader.optional("POSTERN_PUBLIC_ADDRESSES", "--public-addresses", _addresses, none, text)


def _read_proxies(reader: SettingsReader) -> tuple[Network, ...]:
    none: tuple[Network, ...] = ()
    text = "addresses by comma whose connections begin with PROXY protocol v2, where the file names none"
    return reader.optional("POSTERN_TRUSTED_PROXIES", "--trusted-proxies", _networks, none, text)


def _read_public(reader: SettingsReader, listed: tuple[IPAddress, ...]) -> dict[int, IPAddress]:
    public4 = reader.optional("PUBLIC_IP4_ADDR", "--public-ip4-addr", _ipv4, None, "IPv4 address that clients reach")
    public6 = reader.optional("PUBLIC_IP6_ADDR", "--public-ip6-addr", _ipv6, None, "IPv6 address that clients reach")
    public4 = public4 or next((ip for ip in listed if isinstance(ip, IPv4Address)), None)
    public6 = public6 or next((ip for ip in listed if isinstance(ip, IPv6Address)), None)
    return {ip.version: ip for ip in (public4, public6) if ip is not None}


def _read_from_peer(reader: SettingsReader) -> bool:
    return reader.switch(
        "POSTERN_EBPF_GENERIC_FROM_PEER",
        "--ebpf-generic-from-peer",
        "offload towards clients in generic mode too; only where no sender segments late",
    )


def _read_internal(reader: SettingsReader) -> tuple[IPAddress, ...]:
    internal4 = reader.optional("EBPF_INT4_ADDR", "--ebpf-int4-addr", _ipv4, None, "own address behind 1:1 NAT")
    internal6 = reader.optional("EBPF_INT6_ADDR", "--ebpf-int6-addr", _ipv6, None, "own address behind 1:1 NAT")
    return tuple(ip for ip in (internal4, internal6) if ip is not None)


def _read_offload(reader: SettingsReader, internal: tuple[IPAddress, ...], from_peer: bool) -> OffloadWish | None:
    """Two families of names: Firezone's demand, ours prefers and falls back. ``POSTERN_EBPF`` decides over both."""
    none: tuple[str, ...] = ()
    demanded = reader.optional("EBPF_OFFLOADING", "--ebpf-offloading", _interfaces, none, "interfaces; must work")
    attach = reader.optional("EBPF_ATTACH_MODE", "--ebpf-attach-mode", one_of(*_ATTACH_MODES), "driver", "or generic")
    preferred = reader.optional(
        "POSTERN_EBPF_INTERFACES", "--ebpf-interfaces", _interfaces, none, "interfaces, by comma"
    )
    choices = one_of("auto", "native", "generic", "off")
    chosen = reader.optional("POSTERN_EBPF", "--ebpf", choices, None, "auto, native, generic or off")
    if demanded and preferred and demanded != preferred:
        reader.problem("EBPF_OFFLOADING and POSTERN_EBPF_INTERFACES name different interfaces: expected one of the two")
    interfaces = demanded or preferred
    if not interfaces and chosen in {"native", "generic"}:
        reader.problem(f"POSTERN_EBPF is {chosen!r}: expected POSTERN_EBPF_INTERFACES with it")
    if not interfaces or chosen == "off":
        return None
    mode = cast(OffloadMode, chosen) if chosen else _ATTACH_MODES[attach] if demanded else "auto"
    return OffloadWish(interfaces, mode, internal, from_peer)


def _ipv4(text: str) -> IPv4Address:
    try:
        return IPv4Address(text)
    except ValueError:
        raise ValueError("expected an IPv4 address") from None


def _ipv6(text: str) -> IPv6Address:
    try:
        return IPv6Address(text)
    except ValueError:
        raise ValueError("expected an IPv6 address") from None


def _addresses(text: str) -> tuple[IPAddress, ...]:
    try:
        return tuple(ipaddress.ip_address(part.strip()) for part in text.split(","))
    except ValueError:
        raise ValueError("expected IP addresses separated by commas") from None


def _networks(text: str) -> tuple[Network, ...]:
    return read_networks(text.split(","))


def _interfaces(text: str) -> tuple[str, ...]:
    names = tuple(part.strip() for part in text.split(","))
    if not all(names):
        raise ValueError("expected interface names separated by commas")
    return tuple(dict.fromkeys(names))


def _peer_rules(text: str) -> tuple[PeerRule, ...]:
    return tuple(rule for part in text.split(",") for rule in _peer_rule(part.strip(), text))


def _peer_rule(part: str, text: str) -> tuple[PeerRule, ...]:
    try:
        return parse_rules(part)
    except ValueError as error:
        if part == text:
            raise
        raise ValueError(f"{part!r}: {error}") from None


def _log_filter(text: str) -> str:
    logs.parse_filter(text)
    return text


_port: Callable[[str], int] = integer(1, 65_535)
