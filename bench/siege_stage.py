"""The place of a siege: a lab, the programs that are besieged, and how others ask them something meanwhile.

Whoever besieges sits in the lab's ``internet`` with addresses of his own; whoever must be served all the same asks from
another address. The programs may open 1,024 files each, the usual soft limit; here it is the hard one too, so that a
limit which they raise does not hide what fills it.
"""

import json
import socket
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import yaml

from bench.relay_turn import PASSWORD, REALM, USERNAME
from bench.siege_flood import Reached
from connectivity.endpoint import Endpoint
from lab import network
from lab.errors import LabError
from lab.network import entered
from lab.plan import PORTAL, PORTAL_PORT, relay_site
from lab.processes import Process, wait_until
from lab.topology import Lab

PORTAL_AT: Final = Endpoint.parse(f"{PORTAL.address}:{PORTAL_PORT}")
RELAY_AT: Final = Endpoint.parse(f"{relay_site(1).address}:3478")
RELAY_TLS_AT: Final = Endpoint.parse(f"{relay_site(1).address}:5349")
HEALTH_PORT: Final = 8080
ATTACKER: Final = "203.0.113.201"
OTHER: Final = "203.0.113.202"
GATEWAYS: Final = "203.0.113.203"
_BRIDGE: Final = "internet0"
_DESCRIPTORS: Final = 1024
_START_SECONDS: Final = 60
_ASK_SECONDS: Final = 5.0


@dataclass(frozen=True, slots=True)
class Terms:
    """What is besieged, and for how long by what goes on at a pace."""

    postern: Path
    seconds: float = 5.0

    @property
    def command(self) -> list[str]:
        return ["prlimit", f"--nofile={_DESCRIPTORS}", str(self.postern)]


@contextmanager
def besieged() -> Iterator[Lab]:
    """A lab with the besiegers' and their neighbours' addresses in it."""
    with Lab() as lab:
        for address in (ATTACKER, OTHER, GATEWAYS):
            network.execute(lab.internet, ["ip", "address", "add", f"{address}/24", "dev", _BRIDGE])
        yield lab


def start_portal(lab: Lab, terms: Terms, content: Mapping[str, object]) -> Process:
    """A portal of that file, once it answers."""
    path = lab.logs / "portal.yaml"
    path.touch(mode=0o600)
    path.write_text(yaml.safe_dump({"listen": f"0.0.0.0:{PORTAL_PORT}", **content}), encoding="utf-8")
    process = lab.spawn("portal", lab.portal, [*terms.command, "portal", "--config", str(path)])
    _wait(process, lab.portal, PORTAL_AT)
    return process


def start_relay(lab: Lab, terms: Terms, *, offload: bool = False, tls: Sequence[str] = ()) -> Process:
    """A stand-alone relay, once it is ready; ``tls`` are the paths of certificate and key."""
    content: dict[str, object] = {
        "realm": REALM,
        "listen": [str(RELAY_AT)],
        "public": {"ipv4": str(RELAY_AT.ip)},
        "users": {USERNAME: PASSWORD},
        "peers": {"allow": [relay_site(1).network]},
    }
    if offload:
        content["ebpf"] = {"interfaces": ["eth0"], "mode": "native"}
    if tls:
        content["tls"] = {"listen": [str(RELAY_TLS_AT)], "certificate": tls[0], "key": tls[1]}
    path = lab.logs / "relay.yaml"
    path.touch(mode=0o600)
    path.write_text(yaml.safe_dump(content), encoding="utf-8")
    env = {"HEALTH_CHECK_ADDR": f"0.0.0.0:{HEALTH_PORT}", "POSTERN_ADMIN_SOCKET": str(lab.logs / "admin")}
    process = lab.spawn("relay", lab.relay, [*terms.command, "relay", "--config", str(path)], env)
    _wait(process, lab.relay, Endpoint(RELAY_AT.ip, HEALTH_PORT), "/readyz")
    return process


def ask(
    namespace: str, server: Endpoint, target: str = "/healthz", seconds: float = _ASK_SECONDS, source: str = ""
) -> float | None:
    """GET a page from a namespace: ms until the first byte of a 200; None if that does not come in time."""
    started = time.monotonic()
    with entered(namespace):
        opened = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    with opened:
        opened.settimeout(seconds)
        try:
            if source:
                opened.bind((source, 0))
            opened.connect((str(server.ip), server.port))
            opened.sendall(f"GET {target} HTTP/1.1\r\nHost: {server}\r\nConnection: close\r\n\r\n".encode())
            answered = opened.recv(64).startswith(b"HTTP/1.1 200")
        except OSError:
            return None
    return (time.monotonic() - started) * 1000 if answered else None


def worst_answer(namespace: str, server: Endpoint, seconds: float, source: str = "") -> float | None:
    """The longest of several answers; None if one did not come."""
    worst, ends = 0.0, time.monotonic() + seconds
    while True:
        found = ask(namespace, server, source=source)
        if found is None:
            return None
        worst = max(worst, found)
        if time.monotonic() >= ends:
            return worst
        time.sleep(0.2)


@contextmanager
def flood(
    lab: Lab, kind: str, target: Endpoint, sources: str, rate: int, seconds: float, *, key: bytes = b""
) -> Iterator["Flood"]:
    """A flood from the lab's ``internet``, under way when entered; left, it has ended."""
    arguments = [kind, str(target), sources, str(rate), str(seconds), *([key.hex()] if key else [])]
    command = [sys.executable, "-m", "bench.siege_flood", *arguments]
    process = lab.spawn(f"flood-{kind}", lab.internet, command)
    wait_until(lambda: "sending" in process.log_text(), "the flood has begun", [], _START_SECONDS)
    try:
        yield Flood(process)
    finally:
        process.terminate()


@dataclass(frozen=True, slots=True)
class Flood:
    """A flood that runs."""

    process: Process

    def is_running(self) -> bool:
        return self.process.running()

    def reached(self) -> Reached:
        """Wait for its end.

        Raises:
            LabError: it failed.
        """
        if self.process.popen.wait(_START_SECONDS) != 0:
            raise LabError(f"{self.process.name} failed (log: {self.process.log})")
        found: dict[str, Any] = json.loads(self.process.log_text().splitlines()[-1])
        return Reached(**found)


class LogTail:
    """What comes to a log from now on."""

    def __init__(self, log: Path) -> None:
        self._log = log
        self._start = self._log.stat().st_size

    @property
    def size(self) -> int:
        return self._log.stat().st_size - self._start

    def text(self) -> str:
        with self._log.open("rb") as file:
            file.seek(self._start)
            return file.read().decode(errors="replace")


def resident_mib(process: Process) -> float:
    """Its memory (RSS)."""
    for line in Path(f"/proc/{process.pid}/status").read_text(encoding="ascii").splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    raise LabError(f"{process.name} has ended")


def _wait(process: Process, namespace: str, server: Endpoint, target: str = "/healthz") -> None:
    def answers() -> bool:
        return ask(namespace, server, target, 1.0) is not None

    wait_until(answers, f"{process.name} answers", [process], _START_SECONDS)
