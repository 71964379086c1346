"""The five parts in a lab as separate processes: portal, relay, gateway, client and the resource.

Every part but the portal and the resource may be ours or upstream's; both get the same environment variables, ours
some of its own in addition. All need the portal; nobody waits for anybody else.
"""

import json
import os
import sys
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeAlias

from connectivity.tunnel import PEERS_IPV4
from lab import network, portal_file
from lab.errors import LabError
from lab.plan import (
    BACKBONE,
    PORTAL,
    PORTAL_PORT,
    TUN_NAME,
    Underlay,
    client_role,
    gateway_role,
    masquerading_rules,
    relay_role,
    relay_site,
)
from lab.processes import Process, wait_until
from lab.relay_metrics import RelayCounts, parse_counts
from lab.topology import Lab

API_URL: Final = f"ws://{PORTAL.address}:{PORTAL_PORT}"
RELAY_HTTP: Final = "127.0.0.1:8080"
STATUS_HTTP: Final = "127.0.0.1:9100"
METRICS_HTTP: Final = "0.0.0.0:9464"
_LONGEST_SOCKET_PATH: Final = 107  # unix(7)
_START_SECONDS: Final = 60
_Launched: TypeAlias = tuple[Process, Callable[[], None]]  # and what waits until it is ready
_PROGRAMS: Final = {"relay": "firezone-relay", "gateway": "firezone-gateway", "client": "firezone-headless-client"}


class Maker(StrEnum):
    """Whose program plays a part."""

    OURS = "ours"
    UPSTREAM = "upstream"


@dataclass(frozen=True, slots=True)
class Parts:
    """Who plays client, gateway and relay; ``programs`` are upstream's by name."""

    client: Maker = Maker.OURS
    gateway: Maker = Maker.OURS
    relay: Maker = Maker.OURS
    programs: Mapping[str, Path] = field(default_factory=dict)


class Stack:
    """The processes of one stack in a lab. Ended by the lab, the last started first."""

    def __init__(
        self,
        lab: Lab,
        parts: Parts | None = None,
        *,
        ebpf: bool = True,
        log_filter: str = "info",
        drain_seconds: int = 0,
        environment: Mapping[str, str] | None = None,
        portal_environment: Mapping[str, str] | None = None,
        gateway_environment: Mapping[str, str] | None = None,
        postern: Sequence[str] | None = None,
    ) -> None:
        """``environment`` is what relay, gateway and client get besides, whoever made them; the portal has its own.

        ``gateway_environment`` is what our gateway alone gets besides.

        ``postern`` is called in place of our command: that of another checkout, or what starts it.
        """
        self.lab = lab
        self.parts = parts or Parts()
        self.tokens = portal_file.Tokens.random()
        self._ebpf = ebpf
        self._log_filter = log_filter
        # Who stops a lab's relay mostly wants it gone, and whoever used it goes too.
        self._drain_seconds = drain_seconds
        self._environment = dict(environment or {})
        self._portal_environment = dict(portal_environment or {})
        self._gateway_environment = dict(gateway_environment or {})
        self._postern = [str(postern_command())] if postern is None else [*postern]

    def start(self) -> None:
        """Start all, every relay, gateway and client of the lab, and wait until each is ready.

        Once there is a portal they start side by side, which takes half the time: whoever is in first learns of the
        others from it.
        """
        self.start_nameserver()
        self.start_portal()
        relays = [self._launch_relay(number) for number in range(1, self.lab.settings.relay_count + 1)]
        gateways = [self._launch_gateway(number) for number in range(1, self.lab.settings.gateway_count + 1)]
        clients = [self._launch_client(number) for number in range(1, self.lab.settings.client_count + 1)]
        self.start_resource()
        for _, wait in (*relays, *gateways, *clients):
            wait()

    def start_nameserver(self) -> None:
        server = self.lab.spawn(
            "nameserver", self.lab.internet, [sys.executable, "-m", "lab.nameserver", BACKBONE.address]
        )
        wait_until(lambda: "listening" in server.log_text(), "the name server listens", [server])

    def start_portal(self) -> Process:
        path = self.lab.logs / "portal.yaml"
        portal_file.write(path, self.tokens)
        command = [*self._postern, "portal", "--config", str(path)]
        ours = {"POSTERN_STATUS_SOCKET": self._socket("portal"), "POSTERN_METRICS_ADDR": METRICS_HTTP}
        process = self._spawn("portal", command, self._portal_environment, ours)
        probe = ["curl", "-s", "-o", str(self.lab.logs / "probe"), f"http://{PORTAL.address}:{PORTAL_PORT}/healthz"]
        wait_until(lambda: self._succeeds("portal", probe), "the portal answers", [process], _START_SECONDS)
        return process

    def start_relay(self, number: int = 1) -> Process:
        return _ready(self._launch_relay(number))

    def start_gateway(self, number: int = 1) -> Process:
        return _ready(self._launch_gateway(number))

    def start_client(self, number: int = 1) -> Process:
        return _ready(self._launch_client(number))

    def _launch_relay(self, number: int) -> _Launched:
        name = relay_role(number)
        site = relay_site(number)
        env = {**self._login(self.tokens.relay, name), "PUBLIC_IP4_ADDR": site.address}
        if self.lab.settings.underlay is Underlay.DUAL:
            env["PUBLIC_IP6_ADDR"] = site.address6
        env["HEALTH_CHECK_ADDR"] = "0.0.0.0:8080"
        ours = {"POSTERN_DRAIN_SECONDS": str(self._drain_seconds), "POSTERN_ADMIN_SOCKET": self._socket(name)}
        ours["POSTERN_METRICS_ADDR"] = METRICS_HTTP
        ours |= {"POSTERN_EBPF_INTERFACES": "eth0"} if self._ebpf else {"POSTERN_EBPF": "off"}
        process = self._spawn(name, self._command("relay", self.parts.relay), env, ours, self.parts.relay)
        upstream = self.parts.relay is Maker.UPSTREAM
        probe = ["curl", "-sf", f"http://{RELAY_HTTP}/{'healthz' if upstream else 'readyz'}"]

        def wait() -> None:
            wait_until(lambda: self._succeeds(name, probe), f"{name} is ready", [process], _START_SECONDS)
            if upstream:
                # Its health says nothing about the portal; its log does.
                wait_until(lambda: "Connected to portal" in process.log_text(), f"{name} has joined", [process])

        return process, wait

    def _launch_gateway(self, number: int) -> _Launched:
        maker, role = self.parts.gateway, gateway_role(number)
        if maker is Maker.UPSTREAM:
            network.load_rules(self.lab.namespace(role), masquerading_rules())
        env = self._login(self.tokens.gateway, role)
        ours = {**self._status(role), "POSTERN_FORWARD": "tunnel", **self._gateway_environment}  # as in our images
        return self._launched(self._spawn(role, self._command("gateway", maker), env, ours, maker), maker)

    def _launch_client(self, number: int) -> _Launched:
        maker, role = self.parts.client, client_role(number)
        env = {"FIREZONE_DNS_CONTROL": "disabled", **self._login(self.tokens.client, role)}
        ours = self._status(role)
        return self._launched(self._spawn(role, self._command("client", maker), env, ours, maker), maker)

    def status_socket(self, role: str) -> Path:
        """Where ``postern status`` and ``postern client status`` ask a part of this stack."""
        return self.lab.logs / f"{role}.sock"

    def _status(self, role: str) -> dict[str, str]:
        return {
            "POSTERN_STATUS_ADDR": STATUS_HTTP,
            "POSTERN_STATUS_SOCKET": self._socket(role),
            "POSTERN_METRICS_ADDR": METRICS_HTTP,
        }

    def _socket(self, role: str) -> str:
        path = str(self.status_socket(role))
        return path if len(path) <= _LONGEST_SOCKET_PATH else "off"

    def _launched(self, process: Process, maker: Maker) -> _Launched:
        """A client or gateway, ready once it has its tunnel; one that was killed may have left it for a moment."""
        probe = ["curl", "-sf", "-o", os.devnull, f"http://{STATUS_HTTP}/"]

        def ready() -> bool:
            return self._has_tunnel(process.name) and (maker is Maker.UPSTREAM or self._succeeds(process.name, probe))

        return process, partial(wait_until, ready, f"{process.name} is ready", [process], _START_SECONDS)

    def start_resource(self) -> None:
        web = self.lab.spawn("web", self.lab.resource, [sys.executable, "-m", "lab.resource", "80"])
        iperf = self.lab.spawn("iperf3", self.lab.resource, ["iperf3", "-s", "--forceflush"])
        wait_until(lambda: "listening" in web.log_text(), "the web server listens", [web])
        wait_until(lambda: "listening" in iperf.log_text(), "iperf3 listens", [iperf])

    def status(self, role: str) -> dict[str, Any]:
        """What our client or gateway says of itself and its connections."""
        text = network.execute(self.lab.namespace(role), ["curl", "-sf", f"http://{STATUS_HTTP}/"])
        found: dict[str, Any] = json.loads(text)
        return found

    def path(self, role: str = "client") -> str:
        """The path that our client's one connection takes.

        Raises:
            LabError: it has none.
        """
        connections = self.status(role)["connections"]
        paths = [connection["path"] for connection in connections if connection["path"]]
        if len(paths) != 1:
            raise LabError(f"the client has {len(paths)} connections with a path, not one: {connections}")
        return str(paths[0])

    def relay_counts(self, number: int = 1) -> RelayCounts:
        """What our relay has relayed so far, by XDP and in Python."""
        return parse_counts(self._relay_http("metrics", number))

    def xdp_mode(self) -> str:
        return str(json.loads(self._relay_http("readyz"))["offload"]["mode"])

    def _relay_http(self, page: str, number: int = 1) -> str:
        return network.execute(self.lab.namespace(relay_role(number)), ["curl", "-sf", f"http://{RELAY_HTTP}/{page}"])

    def _login(self, token: str, name: str) -> dict[str, str]:
        return {
            "FIREZONE_API_URL": API_URL,
            "FIREZONE_TOKEN": token,
            "FIREZONE_NAME": name,
            "FIREZONE_ID": str(uuid.uuid5(uuid.NAMESPACE_DNS, f"{name}.{self.lab.run_id}")),
            "FIREZONE_NO_TELEMETRY": "true",
            "RUST_LOG": self._log_filter,
            **self._environment,
        }

    def _command(self, role: str, maker: Maker) -> list[str]:
        if maker is Maker.OURS:
            return [*self._postern, role]
        return [str(self.parts.programs[_PROGRAMS[role]])]

    def _spawn(
        self,
        name: str,
        command: list[str],
        env: dict[str, str],
        ours: Mapping[str, str] | None = None,
        maker: Maker = Maker.OURS,
    ) -> Process:
        extra = dict(ours or {}) if maker is Maker.OURS else {}
        return self.lab.spawn(name, self.lab.namespace(name), command, {**env, **extra})

    def _succeeds(self, role: str, command: list[str]) -> bool:
        try:
            network.execute(self.lab.namespace(role), command)
        except LabError:
            return False
        return True

    def _has_tunnel(self, role: str) -> bool:
        """Routes lead to the device, the last thing to be set up: the program has joined the portal."""
        try:
            found = network.execute(self.lab.namespace(role), ["ip", "route", "show", "table", "all", "dev", TUN_NAME])
        except LabError:
            return False  # no device yet
        return str(PEERS_IPV4) in found


def _ready(launched: _Launched) -> Process:
    process, wait = launched
    wait()
    return process


def postern_command() -> Path:
    """The command beside the interpreter that runs us."""
    return Path(sys.executable).with_name("postern")
