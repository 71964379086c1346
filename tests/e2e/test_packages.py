"""docs/deploying.md, word for word: its packages are built, installed in a fresh Debian, set up, started as units say.

Every machine of the document is a network namespace of one lab; all see the same Debian. ``systemctl`` is played by
``Site``, from what the installed units say.
"""

import re
import shlex
import shutil
import signal
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import pytest

from lab.measure import PAGE_URL, first_answer_ms
from lab.plan import CLIENT, PORTAL, RESOURCE, LabSettings, relay_site
from lab.processes import Process, wait_until
from lab.topology import Lab
from tests.documented import claimed, commands_of
from tests.e2e.deploying import CERTIFICATE, MACHINES, MAY_FAIL, SHOWN, blocks, file_of
from tests.e2e.engine import run
from tests.e2e.installed import Installed

pytestmark = [pytest.mark.root, pytest.mark.long, pytest.mark.timeout(1500)]

SERVICES: Final = ("portal", "relay", "gateway", "client")
WRONG: Final = "https://portal.example.org/client/websocket?token=a-token-that-nobody-has"
# A Binding request (RFC 8489 §5) and whether the answer is its success response.
ASK: Final = """
import socket, sys
request = bytes.fromhex("00010000" "2112a442") + bytes(12)
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
    asking.settimeout(5)
    asking.sendto(request, (sys.argv[1], 3478))
    answer = asking.recv(2048)
sys.exit(0 if answer[:2] == bytes.fromhex("0101") and answer[8:20] == bytes(12) else f"got {answer.hex()}")
"""


@pytest.fixture
def debian(fresh_debian: Path, packages: Path, tmp_path: Path) -> Iterator[Installed]:
    """A fresh Debian with the packages beside it; their dependencies are apt's to find."""
    debian = Installed(tmp_path / "root")
    run(["cp", "--archive", str(fresh_debian), str(debian.root)])
    try:
        shutil.copytree(packages, debian.root / "packages")
        debian.path("/packages/tokens").symlink_to("/etc/postern/tokens")  # brought by a way that one trusts
        debian.run(
            "apt-get", "install", "ca-certificates", "curl", "iproute2", "openssl", "procps", "nftables", "caddy"
        )
        debian.run("sh", "-c", CERTIFICATE)
        with debian.path("/etc/hosts").open("a") as hosts:
            hosts.write(f"127.0.0.1 localhost\n{PORTAL.address} portal.example.org\n{RESOURCE.address} app.internal\n")
        debian.prepare_device()
        yield debian
    finally:
        shutil.rmtree(debian.root)


def test_the_site_of_the_document(debian: Installed) -> None:
    commands = claimed("test_packages::test_the_site_of_the_document")
    with Lab(LabSettings()) as lab:
        _prepare(debian, lab)
        site = Site(debian, lab)
        for heading, kind, text in blocks():
            if kind != "sh":
                site.write(text)
                continue
            for command in commands_of(text):
                if command in commands or command in SHOWN:
                    site.type(MACHINES.get(heading, "portal"), command)
        _look(site)
        assert first_answer_ms(lab, PAGE_URL) > 0
        site.end()
        _tokens_are_told_nowhere(site)
    debian.run("apt-get", "purge", *(f"postern-{name}" for name in (*SERVICES, "common")))
    script = (
        "ls -d /etc/postern/* /usr/lib/postern /usr/bin/postern /var/lib/*firezone* /lib/systemd/system/postern* || :"
    )
    assert debian.run("sh", "-c", script).split() == ["/etc/postern/portal.yaml", "/etc/postern/tokens"]  # one's own


@dataclass
class Site:
    """What has been set up of it."""

    debian: Installed
    lab: Lab
    started: dict[str, Process] = field(default_factory=dict)

    def write(self, text: str) -> None:
        """A file as the document has it, or more of one."""
        found = file_of(text)
        if found is None:
            return
        name, has_more, content = found
        path = self.debian.path(name)
        path.write_text((path.read_text() if has_more else "") + content)
        if path.name == "client.env":  # no systemd-resolved here
            path.write_text(f"{path.read_text()}FIREZONE_DNS_CONTROL=disabled\n")
        if path.name == "relay.env":
            path.write_text(f"{path.read_text()}POSTERN_DRAIN_SECONDS=1\n")

    def type(self, machine: str, command: str) -> None:
        """Do what the document says; a person would look again where it takes a moment."""
        if command.startswith("systemctl "):
            _, verb, *words = shlex.split(command)
            if verb == "daemon-reload":  # units are read whenever one is started
                return
            getattr(self, verb)(words[-1])
            return
        if command.endswith("http://app.internal"):  # by whoever uses the laptop, who has its resolver
            self.lab.run(self.lab.user, shlex.split(command), timeout=30)
            return
        if command.startswith("apt-get "):  # the lab leads to no archive
            self.debian.run("sh", "-c", f"cd /packages && {command}")
            return
        deadline = time.monotonic() + 30
        while True:
            done = self.debian.run_at(self.lab.namespace(machine), command)
            if (done.returncode == 0 or command == MAY_FAIL) and SHOWN.get(command, "") in done.stdout:
                return
            assert time.monotonic() < deadline, f"{command}: code {done.returncode}: {done.stdout}{done.stderr}"
            time.sleep(0.2)  # not before it is asked again

    def enable(self, unit: str) -> None:
        """Start a service by its unit; ``--now`` is all that counts here."""
        service = unit.removeprefix("postern-")
        if service == "client":  # and somebody to reach
            web = self.lab.spawn("web", self.lab.resource, [sys.executable, "-m", "lab.resource", "80"])
            wait_until(lambda: "listening" in web.log_text(), "the web server listens", [web])
        self.started[service] = self.debian.start(self.lab, service, self.lab.namespace(service))

    def restart(self, unit: str) -> None:
        if unit == "nginx":
            command = ["chroot", str(self.debian.root), "nginx", "-g", "daemon off;"]
            self.started[unit] = self.lab.spawn(unit, self.lab.portal, command)
            return
        service = unit.removeprefix("postern-")
        assert self.started[service].terminate(20) == 0
        self.enable(unit)

    def reload(self, unit: str) -> None:
        process = self.started[unit.removeprefix("postern-")]
        told = process.log_text().count("Configuration read again")
        process.popen.send_signal(signal.SIGHUP)  # as its ExecReload does
        wait_until(lambda: process.log_text().count("Configuration read again") > told, "the file is read", [process])

    def end(self) -> None:
        """The portal first: what the proxy says of those who ask it then is read, too."""
        for service in ("portal", "client", "gateway", "relay", "nginx"):
            assert self.started[service].terminate(20) == 0, self.started[service].log_text()
            if service == "portal":
                self._ask_in_vain()
        self._caddy()

    def _ask_in_vain(self) -> None:
        """A proxy whose portal is away: what it logs then tends to have the URL."""
        token = self.debian.path("/etc/postern/tokens/laptop").read_text().strip()
        asked = "curl --silent --output /dev/null --write-out '%{http_code}'"
        asked += f" https://portal.example.org/client/websocket?token={token}"
        assert self.debian.run_at(self.lab.portal, asked).stdout == "502"

    def _caddy(self) -> None:
        """The other proxy, with the certificate that is there."""
        path = self.debian.path("/etc/caddy/Caddyfile")
        tls = "\ttls /etc/ssl/postern/fullchain.pem /etc/ssl/postern/key.pem\n\treverse_proxy"
        path.write_text(path.read_text().replace("\treverse_proxy", tls))
        command = ["chroot", str(self.debian.root), "caddy", "run", "--config", "/etc/caddy/Caddyfile"]
        process = self.lab.spawn("caddy", self.lab.portal, command, {"HOME": "/root"})
        wait_until(lambda: "serving initial configuration" in process.log_text(), "caddy serves", [process])
        self._ask_in_vain()
        assert process.terminate(20) == 0


def _prepare(debian: Installed, lab: Lab) -> None:
    """Debian's own chain for the relay's machine."""
    chain = "nft 'add table inet filter; add chain inet filter input { type filter hook input priority 0; }'"
    assert debian.run_at(lab.relay, chain).returncode == 0


def _look(site: Site) -> None:
    """What is installed is what the packages say; the second laptop and the second token of the gateway are known."""
    debian, portal = site.debian, site.started["portal"]
    for service in SERVICES:
        told = debian.run("dpkg-query", "--show", "--showformat=${Conffiles}", f"postern-{service}")
        assert f"/etc/postern/{service}.env" in told
    assert re.fullmatch(r"postern \d+\.\d+\.\d+\S*\n", debian.run("postern", "--version"))
    assert debian.run("sh", "-c", "dpkg -L postern-common | xargs stat --format=%U | sort --unique") == "root\n"
    site.lab.run(site.lab.internet, [sys.executable, "-c", ASK, relay_site(1).address])
    wrong = f"curl --silent --output /dev/null '{WRONG}'"
    assert debian.run_at(site.lab.client, wrong).returncode == 0
    named = f"Wrong tokens address={CLIENT.address} "
    wait_until(lambda: named in portal.log_text(), "behind the proxy who guesses is named", [portal])
    wait_until(
        lambda: portal.log_text().count("Gateway joined") == 2, "the gateway is there by its new token", [portal]
    )
    for change in (
        "access of laptop of bob to app given",
        "texts of the token of gateway 1 → 2",
        "texts of the token of gateway 2 → 1",
    ):
        assert change in portal.log_text()


def _tokens_are_told_nowhere(site: Site) -> None:
    logs = [*site.debian.path("/var/log/nginx").iterdir(), *site.lab.logs.glob("*.log")]
    text = "".join(path.read_text(errors="replace") for path in logs)
    assert "GET /client/websocket 101" in text
    for path in site.debian.path("/etc/postern/tokens").iterdir():
        assert path.read_text().strip() not in text, path.name
