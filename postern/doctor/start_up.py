"""What a service tries when it starts with the settings of this host: to read them, to listen, to reach the portal.

They are those of its environment, then of ``/etc/postern`` as the units in ``dist/`` have them.
"""

import os
import re
import socket
import ssl
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import client.command
import gateway.settings
import portal.config_file
import relay.config_file
import relay.settings
from connectivity.endpoint import Endpoint
from connectivity.errors import FatalError, chain
from connectivity.settings import SOCKET_FOLDER, SettingsError
from postern.doctor import incoming, ports, unit
from postern.doctor.finding import Finding, remark
from postern.doctor.incoming import Opening

FOLDER: Final = Path("/etc/postern")
_PATIENCE_SECONDS: Final = 5.0
PREFIXES: Final = ("FIREZONE_", "POSTERN_", "PUBLIC_IP")
_OF_TESTS: Final = "POSTERN_TEST_"
_PORTAL_FILE: Final = "POSTERN_PORTAL_CONFIG"
_RELAY_FILE: Final = "POSTERN_RELAY_CONFIG"
_FILES: Final = {"relay": _RELAY_FILE, "portal": _PORTAL_FILE}
_ASKING_FOR_OFFLOAD: Final = ("POSTERN_EBPF_INTERFACES", "EBPF_OFFLOADING")
_INCOMING: Final = ("prerouting", "input", "ingress", "(iptables-legacy)")


@dataclass(frozen=True, slots=True)
class Plan:
    """What a service would do at its start."""

    listens: tuple[tuple[Endpoint, socket.SocketKind], ...] = ()
    portal_url: str = ""
    opens: tuple[Opening, ...] = ()  # what a firewall has to let in
    versions: tuple[int, ...] = ()  # of IP, by which it comes


def examine(service: str) -> list[Finding]:
    """Read the settings of a service; try what it would do with them."""
    given = settings_of(service)
    if not given:
        return [remark("no settings here, so only the host was looked at", f"{FOLDER / service}.env, or its variables")]
    try:
        with _environment(given):
            plan = _PLANS[service]()
    except SettingsError as error:
        return [Finding(problem, "correct it where it is set") for problem in error.problems]
    except (FatalError, OSError) as error:
        return [Finding(chain(error), "correct it where it is set")]
    found = ports.examine(service, SOCKET_FOLDER / f"{service}.sock", plan.listens)
    found += _as_the_unit(service, given, plan)
    found += _look_at_firewalls(plan)
    unreached = _try_to_reach(plan.portal_url) if plan.portal_url else None
    return found if unreached is None else [*found, unreached]


def _look_at_firewalls(plan: Plan) -> list[Finding]:
    """What is certainly kept out; else which chains there are, for what they do may rest on more than one sees."""
    if not plan.opens or not (filtering := _incoming_filters()):
        return []
    if lost := incoming.examine(plan.opens, plan.versions):
        return lost
    ports = {
        protocol: ", ".join(opening.text() for opening in plan.opens if opening.protocol == protocol)
        for protocol in ("udp", "tcp")
    }
    opens = " and ".join(f"{protocol.upper()} {texts}" for protocol, texts in ports.items() if texts)
    what = f"what comes in passes {', '.join(filtering)}, which may drop it; that it does is not seen"
    return [remark(what, f"nothing, if they let in {opens}")]


def _as_the_unit(service: str, given: Mapping[str, str], plan: Plan) -> list[Finding]:
    """The same with less than root's powers, where the settings are the unit's."""
    found = []
    if service == "relay" and any(given.get(name) and not os.environ.get(name) for name in _ASKING_FOR_OFFLOAD):
        found = unit.examine_offload()
    name = _FILES.get(service, "")
    if name not in given or os.environ.get(name):
        return found
    load: Callable[[Path], object] = relay.config_file.load if service == "relay" else portal.config_file.load
    return [*found, *unit.examine(Path(given[name]), load, (endpoint.port for endpoint, _ in plan.listens))]


def _incoming_filters() -> list[str]:
    from connectivity.io.firewall import filters  # pyroute2

    return [place for place in filters() if place.endswith(_INCOMING)]


def variables(service: str) -> dict[str, str]:
    """Those of this environment, and what the service's unit would add to them."""
    found = {name: value for name, value in os.environ.items() if name.startswith(PREFIXES) and value}
    try:
        text = (FOLDER / f"{service}.env").read_text(encoding="utf-8")
    except OSError:
        text = ""  # no such file, or not for us to see
    for name, value in re.findall(r"^(\w+)=(.*)$", text, re.MULTILINE):
        found.setdefault(name, value.strip("\"'"))
    return {name: value for name, value in found.items() if not name.startswith(_OF_TESTS)}


def settings_of(service: str) -> dict[str, str]:
    """The variables that a service would find; nothing where nobody has set any for it."""
    found = variables(service)
    token, file = FOLDER / f"{service}.token", FOLDER / "portal.yaml"
    if token.exists():
        found.setdefault("FIREZONE_TOKEN", str(token))  # where it is empty, none is meant
    if service == "portal" and file.exists():
        found.setdefault(_PORTAL_FILE, str(file))
    needed = {"portal": {_PORTAL_FILE}, "relay": {"FIREZONE_API_URL", _RELAY_FILE}}
    return found if needed.get(service, {"FIREZONE_TOKEN", "FIREZONE_TOKEN_PATH"}) & {*found} else {}


@contextmanager
def _environment(given: Mapping[str, str]) -> Iterator[None]:
    """As if these were all that is set; the doctor has one thread."""
    before = dict(os.environ)
    for name in [name for name in before if name.startswith(PREFIXES)]:
        del os.environ[name]
    os.environ.update(given)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def _plan_of_relay() -> Plan:
    settings = relay.settings.read_settings([])
    settings.require_public_address()
    configuration = settings.configuration
    listens = [(endpoint, socket.SOCK_DGRAM) for endpoint in configuration.listen]
    listens += [(endpoint, socket.SOCK_STREAM) for endpoint in configuration.listen if configuration.serves_tcp]
    listens += [(endpoint, socket.SOCK_STREAM) for endpoint in (*configuration.tls_listen, settings.health_address)]
    streams = {endpoint.port for endpoint in configuration.listen if configuration.serves_tcp}
    streams |= {endpoint.port for endpoint in configuration.tls_listen}
    opens = [Opening("udp", port, port) for port in sorted({endpoint.port for endpoint in configuration.listen})]
    opens.append(Opening("udp", configuration.lowest_port, configuration.highest_port))
    opens += [Opening("tcp", port, port) for port in sorted(streams)]
    portal_url = settings.portal.api_url if settings.portal else ""
    return Plan(tuple(listens), portal_url, tuple(opens), tuple(sorted(configuration.public)))


def _plan_of_gateway() -> Plan:
    settings = gateway.settings.read_settings([])
    return Plan(((settings.health_address, socket.SOCK_STREAM),), settings.tunnel.api_url)


def _plan_of_client() -> Plan:
    settings = client.command.read_settings([]).tunnel
    status = settings.status_address
    return Plan(() if status is None else ((status, socket.SOCK_STREAM),), settings.api_url)


def _plan_of_portal() -> Plan:
    configuration = portal.config_file.load(Path(os.environ[_PORTAL_FILE]))
    return Plan(((configuration.listen, socket.SOCK_STREAM),))


_PLANS: Final[dict[str, Callable[[], Plan]]] = {
    "relay": _plan_of_relay,
    "gateway": _plan_of_gateway,
    "client": _plan_of_client,
    "portal": _plan_of_portal,
}


def _try_to_reach(url: str) -> Finding | None:
    """Speak to the portal as far as its TLS goes; nothing is sent to it."""
    parts = urlsplit(url)
    secure = parts.scheme in {"wss", "https"}
    host, port = str(parts.hostname), parts.port or (443 if secure else 80)
    try:
        with socket.create_connection((host, port), _PATIENCE_SECONDS) as connection:
            if secure:
                ssl.create_default_context().wrap_socket(connection, server_hostname=host).close()
    except OSError as error:
        return Finding(f"the portal {host}:{port} cannot be reached: {_reason(error)}", _remedy(error))
    return None


def _reason(error: OSError) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return error.verify_message
    return str(error.strerror or error)


def _remedy(error: OSError) -> str:
    match error:
        case socket.gaierror():
            return "the name in FIREZONE_API_URL, or this host's name servers"
        case ssl.SSLCertVerificationError():
            return "a certificate that this host trusts; SSL_CERT_FILE names a file of others"
        case ssl.SSLError():
            return "ws:// in FIREZONE_API_URL if that port speaks no TLS"
        case ConnectionRefusedError():
            return "start the portal, or correct the port in FIREZONE_API_URL"
        case _:
            return "a route and a firewall that let TCP to it pass"
