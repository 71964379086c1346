"""Services under a real systemd: docs/deploying.md on machines that boot, typed word for word; then what befalls them.

Each machine of the document is a Debian of its own in its network namespace of one lab. A test leaves them as it found
them: four services that run, an app that is reached.
"""

import shutil
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest

from lab.plan import BACKBONE, PORTAL, RESOURCE, LabSettings
from lab.processes import wait_until
from lab.topology import Lab
from tests.documented import claimed, commands_of
from tests.e2e.deploying import CERTIFICATE, MACHINES, MAY_FAIL, SHOWN, blocks, file_of
from tests.e2e.engine import install, run
from tests.e2e.installed import Installed
from tests.e2e.machine import FOLDER, PACKAGE, PROGRAM, Machine, MachineError, booted, why_none_boots

pytestmark = [pytest.mark.root, pytest.mark.long, pytest.mark.timeout(1500)]

SERVICES: Final = ("portal", "relay", "gateway", "client")
DEBIAN: Final = (
    *("systemd", "systemd-sysv", "dbus", "systemd-resolved", "ca-certificates", "curl", "iproute2", "openssl"),
    *("procps", "nftables", "nginx-light", "python3", "python3-bpfcc", "ethtool", "coturn"),
)
# No udev runs in a container, whose rule this is; coturn is for the machine that it is taken from.
PREPARATION: Final = (
    "echo 'z /dev/net/tun 0666 root root' >/etc/tmpfiles.d/tun.conf && systemctl disable coturn apt-daily.timer"
    " && rm /usr/sbin/policy-rc.d /etc/hostname && mkdir -p /etc/systemd/resolved.conf.d"
    f" && printf '[Resolve]\\nDNS={BACKBONE.address}\\n' >/etc/systemd/resolved.conf.d/lab.conf"
    f" && printf '127.0.0.1 localhost\\n{PORTAL.address} portal.example.org\\n' >/etc/hosts"
    f" && mkdir -p {FOLDER}/tokens && ln -s $(ls -d /bound/*.deb) {FOLDER}/"
)
TYPED_AT_THE_GATEWAY: Final = ("/etc/postern/gateway.token", "restart postern-gateway")
FORWARDING: Final = "sysctl --values net.ipv4.ip_forward net.ipv6.conf.all.forwarding"
FETCH: Final = "curl --silent --show-error --fail --max-time 20"
PAGE: Final = f"{FETCH} http://app.internal"


@dataclass(frozen=True, slots=True)
class Site:
    """The machines of the document, by their parts."""

    lab: Lab
    root: Path
    binds: list[str]
    machines: dict[str, Machine]

    def __getitem__(self, service: str) -> Machine:
        return self.machines[service]

    def restarts(self, service: str) -> int:
        return int(self[service].property(f"postern-{service}", "NRestarts"))

    def is_reached(self) -> None:
        """By who sits at the laptop."""
        self["client"].wait(PAGE, "You reached the resource", seconds=90)


@pytest.fixture(scope="module")
def site(fresh_debian: Path, packages: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """The document's site, as it is once all of it has been typed."""
    if reason := why_none_boots():
        pytest.skip(reason)
    install((PROGRAM,), (PACKAGE,))
    folder = tmp_path_factory.mktemp("systemd")
    try:
        root = _bootable(fresh_debian, packages, folder / "root")
        headers = [f"--bind-ro={path}" for path in sorted(Path("/usr/src").glob("linux-headers-*"))]
        binds = [f"--bind-ro={packages}:/bound", *headers]
        with Lab(LabSettings()) as lab, ExitStack() as stack:
            nameserver = [sys.executable, "-m", "lab.nameserver", BACKBONE.address]
            lab.spawn("nameserver", lab.internet, nameserver)
            web = lab.spawn("web", lab.resource, [sys.executable, "-m", "lab.resource", "80"])
            wait_until(lambda: "listening" in web.log_text(), "the web server listens", [web])
            machines: dict[str, Machine] = {}
            for service in SERVICES:  # the last is halted first, so that the relay has nobody to wait for
                try:
                    machines[service] = stack.enter_context(booted(service, root, lab.namespace(service), binds))
                except MachineError as error:
                    if not machines:
                        pytest.skip(str(error))
                    raise
            made = Site(lab, root, binds, machines)
            _type_the_document(made)
            yield made
    finally:
        shutil.rmtree(folder)


def _bootable(fresh_debian: Path, packages: Path, root: Path) -> Path:
    """A Debian with a systemd, and what the document's machines have from the archive."""
    run(["cp", "--archive", str(fresh_debian), str(root)])
    debian = Installed(root)
    debian.run("apt-get", "install", *DEBIAN, seconds=600)
    debian.run("sh", "-c", CERTIFICATE)
    (root / "bound").mkdir()
    for package in packages.glob("*.deb"):
        (root / "bound" / package.name).touch()  # a name for the link
    debian.run("sh", "-c", PREPARATION)
    return root


def _type_the_document(site: Site) -> None:
    """As in its order; the gateway is no router yet, and the relay's machine has Debian's own chain."""
    site["gateway"].do("sysctl net.ipv4.ip_forward=0 net.ipv6.conf.all.forwarding=0")
    known = claimed("test_packages::test_the_site_of_the_document")
    site["relay"].do("nft 'add table inet filter; add chain inet filter input { type filter hook input priority 0; }'")
    for heading, kind, text in blocks():
        machine = site[MACHINES.get(heading, "portal")]
        if kind != "sh":
            found = file_of(text)
            if found is not None and "caddy" not in found[0]:
                # Before a client began anew it had another allocation, for which a drain would wait a minute.
                more = "POSTERN_DRAIN_SECONDS=3\n" if found[0].endswith("/relay.env") else ""
                machine.do(f"cat {'>>' if found[1] else '>'}{found[0]}", stdin=found[2] + more)
            continue
        for command in commands_of(text):
            if command in known or command in SHOWN:
                at = site["gateway"] if any(end in command for end in TYPED_AT_THE_GATEWAY) else machine
                _type(site, at, command)
    for service in SERVICES:
        machine, unit = site[service], f"postern-{service}"
        assert site.restarts(service) == 0
        assert "No entries" in machine.do(f"journalctl --boot --priority err --unit {unit}")


def _type(site: Site, machine: Machine, command: str) -> None:
    if "tokens/" in command and machine is not site["portal"]:  # brought by a way that one trusts
        name = command.split("tokens/")[1].split()[0]
        machine.do(f"cat >tokens/{name}", stdin=site["portal"].do(f"cat /etc/postern/tokens/{name}"))
    if command in SHOWN and command != MAY_FAIL:
        machine.wait(command, SHOWN[command])
    elif command == MAY_FAIL:
        assert SHOWN[command] in machine.run(command).stdout
    elif command.startswith("curl "):
        machine.wait(f"{command} --max-time 20", seconds=90)
    else:
        machine.do(command)


def test_four_services_run_and_a_download_passes(site: Site) -> None:
    for service in SERVICES:
        machine, unit = site[service], f"postern-{service}"
        assert machine.property(unit, "ActiveState") == "active"
        assert machine.do("systemctl is-system-running") == "running\n"
        assert service in machine.do("postern status")
    size = site["client"].wait(f"{FETCH} --output /dev/null --write-out '%{{size_download}}' {_url('bytes/3000000')}")
    assert size == "3000000"
    assert "~." in site["client"].do("resolvectl domain tun-firezone")
    assert "100.100.111.1" in site["client"].do("resolvectl dns tun-firezone")
    assert site["portal"].do("stat --format '%a %U %G' /etc/postern/tokens") == "750 root postern\n"
    assert "tokens/gateway-2}" in site["portal"].do("cat /etc/postern/portal.yaml")  # the old one lets nobody in


def _url(path: str) -> str:
    return f"http://{RESOURCE.address}/{path}"


def test_a_reload_ends_nobody(site: Site) -> None:
    told = {"portal": "Configuration read again", "relay": "Settings change only", "client": "beginning anew"}
    site.is_reached()
    for service, line in told.items():
        machine, unit = site[service], f"postern-{service}"
        before = machine.property(unit, "MainPID")
        machine.do(f"systemctl reload {unit}")
        machine.wait(f"journalctl --boot --unit {unit}", line)
        assert machine.property(unit, "MainPID") == before
    site.is_reached()


def test_who_is_killed_comes_back(site: Site) -> None:
    before = {service: site.restarts(service) for service in SERVICES}
    for service in SERVICES:
        site[service].do(f"systemctl kill --signal KILL postern-{service}")
    site["client"].wait("! resolvectl status | grep tun-firezone")
    for service in SERVICES:
        site[service].wait(f"systemctl show postern-{service}", f"NRestarts={before[service] + 1}\n")
        site[service].wait(f"systemctl is-active postern-{service}")
    site.is_reached()


def test_a_service_without_its_token_or_with_a_wrong_one_says_so(site: Site) -> None:
    client = site["client"]
    client.do("systemctl stop postern-client && mv /etc/postern/client.token /etc/postern/kept")
    assert "Assertion failed" in client.run("systemctl start postern-client").stderr
    client.do("echo a-token-that-nobody-has >/etc/postern/client.token")
    assert client.run("systemctl start postern-client").returncode == 1
    client.wait("journalctl --boot --priority err --unit postern-client", "401 Unauthorized")
    client.do("mv /etc/postern/kept /etc/postern/client.token && systemctl restart postern-client")
    site.is_reached()


def test_xdp_takes_no_more_than_the_drop_in(site: Site) -> None:
    relay = site["relay"]
    relay.do("echo POSTERN_EBPF_INTERFACES=eth0 >>/etc/postern/relay.env")
    for command in claimed("test_systemd::test_xdp_takes_no_more_than_the_drop_in"):
        relay.do(command)
    assert "Draining" in relay.do("journalctl --boot --unit postern-relay")
    relay.wait("postern relay admin offload", "verified", seconds=120)
    assert "prog/xdp" in relay.do("ip -details link show dev eth0")
    assert "relay offload (XDP): ok" in relay.do("postern doctor")
    site.is_reached()
    relay.do("systemctl stop postern-relay")
    assert "prog/xdp" not in relay.do("ip -details link show dev eth0")
    relay.do("systemctl start postern-relay")


def test_a_host_is_as_it_was_once_its_service_is_stopped(site: Site) -> None:
    site.is_reached()
    client, gateway = site["client"], site["gateway"]
    assert gateway.do(FORWARDING) == "1\n1\n"
    client.do("systemctl stop postern-client")
    gateway.do("systemctl stop postern-gateway")
    for machine in (client, gateway):
        assert "tun-firezone" not in machine.do("ip link && resolvectl status")
        assert "firezone" not in machine.do("ip rule && ip route show table all")
        assert machine.do("ls /run/postern") == ""
    assert client.do("ip rule").count("\n") == 3
    assert gateway.do("nft list tables") == ""
    assert gateway.do(FORWARDING) == "0\n0\n"
    for service in ("gateway", "client"):
        site[service].do(f"systemctl start postern-{service}")
    site.is_reached()


def test_a_package_that_goes_takes_its_service_along(site: Site) -> None:
    with booted("spare", site.root, site.lab.user, site.binds) as machine:
        machine.do("apt-get install ./postern-common_*.deb ./postern-portal_*.deb")
        assert machine.property("postern-portal", "ActiveState") == "inactive"  # nobody has set it up
        machine.do("cat >/etc/postern/portal.yaml", stdin=site["portal"].do("cat /etc/postern/portal.yaml"))
        machine.do("mkdir /etc/postern/tokens")
        for name in site["portal"].do("ls /etc/postern/tokens").split():
            machine.do(f"echo token-of-{name}-long-enough >/etc/postern/tokens/{name}")
        machine.do("systemctl enable --now postern-portal")
        before = machine.property("postern-portal", "MainPID")
        machine.do("apt-get install --reinstall ./postern-common_*.deb ./postern-portal_*.deb")
        machine.wait("systemctl is-active postern-portal")
        assert machine.property("postern-portal", "MainPID") != before
        machine.do("apt-get purge postern-portal postern-common")
        assert "postern" not in machine.do("ps -e -o args= | grep -v ps")
        left = sorted(machine.do("find /etc /lib /usr /var /run -xdev -name '*postern*'").split())
        assert left == ["/etc/postern", "/etc/ssl/postern"]
        assert machine.do("ls /etc/postern").split() == ["portal.yaml", "tokens"]  # one's own


def test_a_relay_takes_the_place_of_coturn(site: Site) -> None:
    with booted("turn", site.root, site.lab.resource, site.binds) as machine:
        address = RESOURCE.address
        machine.do(
            "mkdir --parents --mode 0700 /etc/letsencrypt/live/turn && cd /etc/ssl/postern"
            " && install --mode 0600 fullchain.pem /etc/letsencrypt/live/turn/fullchain.pem"
            " && install --mode 0600 key.pem /etc/letsencrypt/live/turn/privkey.pem"
        )
        machine.do(
            "cat >/etc/turnserver.conf && systemctl enable --now coturn",
            stdin=f"realm=example.org\nlt-cred-mech\nuser=alice:secret\nexternal-ip={address}\n"
            "cert=/etc/letsencrypt/live/turn/fullchain.pem\npkey=/etc/letsencrypt/live/turn/privkey.pem\n",
        )
        hook = "/etc/letsencrypt/renewal-hooks/deploy/postern"
        renew = [c for c in claimed("test_systemd::test_a_relay_takes_the_place_of_coturn") if _is_of_the_hook(c)]
        machine.do(
            f"mkdir --parents {Path(hook).parent} && cat >{hook} && chmod 0755 {hook}",
            stdin="\n".join(["#!/bin/sh", *renew, ""]),
        )
        renewed = f"RENEWED_LINEAGE=/etc/letsencrypt/live/turn {hook}"
        for command in claimed("test_systemd::test_a_relay_takes_the_place_of_coturn"):
            if not _is_of_the_hook(command):
                machine.do(command)
            if command.startswith("chgrp "):
                settings = "POSTERN_RELAY_CONFIG=/etc/postern/relay.yaml\nFIREZONE_TOKEN=\n"
                machine.do("cat >>/etc/postern/relay.env", stdin=settings)
                machine.do(renewed)
                machine.do("sed -i s#/etc/letsencrypt/live/turn/##g /etc/postern/relay.yaml")
        assert machine.do("postern doctor relay").count("settings of the relay: ok") == 1
        machine.do("systemctl enable --now postern-relay")
        assert "lost packets 0 " in machine.do(f"turnutils_uclient -y -u alice -w secret {address}")
        machine.do(f"rm /etc/postern/*.pem && {renewed}")
        machine.wait("journalctl --boot --unit postern-relay", "Configuration read again")
        machine.do("systemctl kill --signal KILL postern-relay")  # what the program has left would be waited for


def _is_of_the_hook(command: str) -> bool:
    return "RENEWED_LINEAGE" in command or "try-reload" in command
