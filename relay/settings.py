"""The relay's settings: the names that Firezone's relay image uses, plus our own under ``POSTERN_``.

Some variables of that image are accepted and have no effect here (telemetry, trace export, log format, the seed that
would make secrets predictable), so that one environment starts either program.
"""

import ipaddress
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv6Address
from typing import Final, Literal, TypeAlias, cast

from connectivity.endpoint import Endpoint, IPAddress
from connectivity.errors import FatalError
from connectivity.io import logs
from connectivity.phoenix import parse_api_url
from connectivity.settings import SettingsReader, integer, one_of, text_value, token_or_file
from relay.core.configuration import HIGHEST_RELAYED_PORT, LOWEST_RELAYED_PORT, STUN_PORT
from relay.core.peers import PeerRule, parse_rule

OffloadMode: TypeAlias = Literal["auto", "native", "generic"]

# In the offload's flow key, channel numbers and relayed ports share a field: ports must stay above all numbers.
LOWEST_OFFLOADED_PORT: Final = 32_768
DEFAULT_DRAIN_SECONDS: Final = 60
LONGEST_DRAIN_SECONDS: Final = 24 * 60 * 60
_ATTACH_MODES: Final[dict[str, OffloadMode]] = {"driver": "native", "generic": "generic"}
_WITHOUT_EFFECT: Final = (
    ("RNG_SEED", "--rng-seed"),
    ("LOG_FORMAT", "--log-format"),
    ("OTLP_GRPC_ENDPOINT", "--otlp-grpc-endpoint"),
    ("GOOGLE_CLOUD_PROJECT_ID", "--google-cloud-project-id"),
    ("CONTROL_ENDPOINT", "--control-endpoint"),
)


@dataclass(frozen=True, slots=True)
class OffloadWish:
    """Where and how hard to try to offload. ``native`` and ``generic`` are demands."""

    interfaces: tuple[str, ...]
    mode: OffloadMode
    internal: tuple[IPAddress, ...]
    generic_from_peer: bool


@dataclass(frozen=True, slots=True)
class RelaySettings:
    """All of it, checked."""

    public_ipv4: IPv4Address | None
    public_ipv6: IPv6Address | None
    listen_port: int
    lowest_port: int
    highest_port: int
    api_url: str
    token: str = field(repr=False)
    name: str | None
    health_address: Endpoint
    log_filter: str
    drain_seconds: int
    offload: OffloadWish | None
    peers_allow: tuple[PeerRule, ...]
    peers_deny: tuple[PeerRule, ...]

    @property
    def public(self) -> dict[int, IPAddress]:
        """The public addresses by IP version."""
        return {ip.version: ip for ip in (self.public_ipv4, self.public_ipv6) if ip is not None}

    def require_public_address(self) -> None:
        """Check what only a relay about to start must have.

        Raises:
            FatalError: there is no address that clients could reach.
        """
        if not self.public:
            raise FatalError("no public address: set PUBLIC_IP4_ADDR, PUBLIC_IP6_ADDR or both")


def read_settings(arguments: Sequence[str], environ: Mapping[str, str] | None = None) -> RelaySettings:
    """Read flags and environment.

    Raises:
        SettingsError: everything that is wrong, at once.
        HelpRequested: the user asked what there is.
    """
    reader = SettingsReader("relay", arguments, environ)
    offload = _read_offload(reader)
    reader.switch("FIREZONE_TELEMETRY", "--telemetry", "accepted, without effect")
    words = reader.positional()  # only now is it known which words were values of flags
    for extra in words[2:]:
        reader.problem(f"{extra!r} is not expected here")
    public4, public6 = _read_public(reader)
    lowest = reader.optional("LOWEST_PORT", "--lowest-port", _port, LOWEST_RELAYED_PORT, "first relayed port")
    highest = reader.optional("HIGHEST_PORT", "--highest-port", _port, HIGHEST_RELAYED_PORT, "last relayed port")
    if lowest > highest:
        reader.problem(f"LOWEST_PORT is {lowest}: expected at most HIGHEST_PORT, which is {highest}")
    if offload is not None and lowest < LOWEST_OFFLOADED_PORT:
        reader.problem(f"LOWEST_PORT is {lowest}: expected at least {LOWEST_OFFLOADED_PORT} with offload on")
    settings = RelaySettings(
        public_ipv4=public4,
        public_ipv6=public6,
        listen_port=reader.optional("LISTEN_PORT", "--listen-port", _port, STUN_PORT, "STUN and TURN port"),
        lowest_port=lowest,
        highest_port=highest,
        api_url=reader.required("FIREZONE_API_URL", "--api-url", parse_api_url, "URL of the portal"),
        token=_read_token(reader, words),
        name=words[1] if len(words) > 1 else _read_name(reader),
        health_address=reader.optional(
            "HEALTH_CHECK_ADDR", "--health-check-addr", Endpoint.parse, Endpoint(IPv4Address(0), 8080), "address:port"
        ),
        log_filter=reader.optional("RUST_LOG", "--log", _log_filter, "info", "such as info or debug,wire=trace"),
        drain_seconds=reader.optional(
            "POSTERN_DRAIN_SECONDS",
            "--drain-seconds",
            integer(0, LONGEST_DRAIN_SECONDS),
            DEFAULT_DRAIN_SECONDS,
            "how long allocations may go on after SIGTERM; 0: end at once",
        ),
        offload=offload,
        peers_allow=reader.optional("POSTERN_PEERS_ALLOW", "--peers-allow", _rules, (), "CIDR[:port[-port]], by comma"),
        peers_deny=reader.optional("POSTERN_PEERS_DENY", "--peers-deny", _rules, (), "CIDR[:port[-port]], by comma"),
    )
    for name, flag in _WITHOUT_EFFECT:
        reader.optional(name, flag, text_value, None, "accepted, without effect")
    reader.finish()
    return settings


def _read_public(reader: SettingsReader) -> tuple[IPv4Address | None, IPv6Address | None]:
    public4 = reader.optional("PUBLIC_IP4_ADDR", "--public-ip4-addr", _ipv4, None, "IPv4 address that clients reach")
    public6 = reader.optional("PUBLIC_IP6_ADDR", "--public-ip6-addr", _ipv6, None, "IPv6 address that clients reach")
    # All that Kubernetes tells a pod of its node (status.hostIPs) is one list of both families.
    none: tuple[IPAddress, ...] = ()
    text = "addresses by comma, for a family without one"
    listed = reader.optional("POSTERN_PUBLIC_ADDRESSES", "--public-addresses", _addresses, none, text)
    public4 = public4 or next((ip for ip in listed if isinstance(ip, IPv4Address)), None)
    public6 = public6 or next((ip for ip in listed if isinstance(ip, IPv6Address)), None)
    return public4, public6


def _read_token(reader: SettingsReader, words: list[str]) -> str:
    if words:
        try:
            return token_or_file(words[0])
        except ValueError as error:
            reader.problem(f"the token argument: {error}")
            return ""
    return reader.required(
        "FIREZONE_TOKEN", None, token_or_file, "the relay's token, or the path of a file that holds it"
    )


def _read_name(reader: SettingsReader) -> str | None:
    return reader.optional("FIREZONE_NAME", None, text_value, None, "display name in the portal")


def _read_offload(reader: SettingsReader) -> OffloadWish | None:
    """Two families of names: Firezone's demand, ours prefers and falls back. ``POSTERN_EBPF`` decides over both."""
    none: tuple[str, ...] = ()
    demanded = reader.optional("EBPF_OFFLOADING", "--ebpf-offloading", _interfaces, none, "interfaces; must work")
    attach = reader.optional("EBPF_ATTACH_MODE", "--ebpf-attach-mode", one_of(*_ATTACH_MODES), "driver", "or generic")
    internal4 = reader.optional("EBPF_INT4_ADDR", "--ebpf-int4-addr", _ipv4, None, "own address behind 1:1 NAT")
    internal6 = reader.optional("EBPF_INT6_ADDR", "--ebpf-int6-addr", _ipv6, None, "own address behind 1:1 NAT")
    preferred = reader.optional(
        "POSTERN_EBPF_INTERFACES", "--ebpf-interfaces", _interfaces, none, "interfaces, by comma"
    )
    choices = one_of("auto", "native", "generic", "off")
    chosen = reader.optional("POSTERN_EBPF", "--ebpf", choices, None, "auto, native, generic or off")
    from_peer = reader.switch(
        "POSTERN_EBPF_GENERIC_FROM_PEER",
        "--ebpf-generic-from-peer",
        "offload towards clients in generic mode too; only where no sender segments late",
    )
    if demanded and preferred and demanded != preferred:
        reader.problem("EBPF_OFFLOADING and POSTERN_EBPF_INTERFACES name different interfaces: expected one of the two")
    interfaces = demanded or preferred
    if not interfaces and chosen in {"native", "generic"}:
        reader.problem(f"POSTERN_EBPF is {chosen!r}: expected POSTERN_EBPF_INTERFACES with it")
    if not interfaces or chosen == "off":
        return None
    mode = cast(OffloadMode, chosen) if chosen else _ATTACH_MODES[attach] if demanded else "auto"
    internal = tuple(ip for ip in (internal4, internal6) if ip is not None)
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


def _interfaces(text: str) -> tuple[str, ...]:
    names = tuple(part.strip() for part in text.split(","))
    if not all(names):
        raise ValueError("expected interface names separated by commas")
    return tuple(dict.fromkeys(names))


def _rules(text: str) -> tuple[PeerRule, ...]:
    return tuple(parse_rule(part.strip()) for part in text.split(","))


def _log_filter(text: str) -> str:
    logs.parse_filter(text)
    return text


_port: Callable[[str], int] = integer(1, 65_535)
