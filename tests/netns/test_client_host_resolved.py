"""Names at a client's host with systemd-resolved itself, beside a bus of its own. See ``client_host``.

Debian's package is unpacked, never installed: it would take over the DNS of the machine that runs the tests.
"""

import signal
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from lab.errors import LabError
from lab.plan import PORTAL
from lab.processes import Process, wait_until
from tests import apt
from tests.e2e.engine import install
from tests.netns.client_host import RESOURCE_NAME, SENTINELS, ClientHost, client_host, end

pytestmark = pytest.mark.root

BUS = """\
<busconfig>
  <type>system</type><listen>unix:path={folder}/bus</listen><auth>EXTERNAL</auth>
  <policy context="default">
    <allow user="*"/><allow own="*"/><allow send_destination="*"/><allow receive_type="*"/>
  </policy>
</busconfig>
"""
# In a mount namespace of its own: the user that it becomes, and the folder that it writes to.
RESOLVED = """\
set -eu
for file in passwd group; do cp /etc/$file {folder}/$file; done
grep -q systemd-resolve {folder}/passwd || echo systemd-resolve:x:996:996::/:/usr/sbin/nologin >> {folder}/passwd
grep -q systemd-resolve {folder}/group || echo systemd-resolve:x:996: >> {folder}/group
for file in passwd group; do mount --bind {folder}/$file /etc/$file; done
mkdir -p /run/systemd
mount -t tmpfs tmpfs /run/systemd
install -d -o systemd-resolve -g systemd-resolve /run/systemd/resolve
exec {program}
"""


@dataclass(frozen=True)
class Resolved:
    """A client's host with systemd-resolved."""

    host: ClientHost
    process: Process
    tools: Path
    bus: str

    def start(self) -> Process:
        """A client that uses it."""
        path = f"{self.tools}:/usr/sbin:/usr/bin:/sbin:/bin"
        return self.host.start("systemd-resolved", PATH=path, DBUS_SYSTEM_BUS_ADDRESS=self.bus)

    def resolvectl(self, *words: str) -> str:
        """What it says."""
        command = ["env", f"DBUS_SYSTEM_BUS_ADDRESS={self.bus}", str(self.tools / "resolvectl"), "--no-pager", *words]
        return self.host.run(*command)

    def link(self, question: str) -> list[str]:
        """What it answers about the device's link."""
        lines = [line for line in self.resolvectl(question).splitlines() if "(tun-firezone)" in line]
        return lines[0].partition(": ")[2].split() if lines else []


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The package's files."""
    install(("dbus-daemon", "systemctl"), ("dbus-daemon", "systemd"))
    folder = tmp_path_factory.mktemp("package")
    folder.chmod(0o755)
    fetch = ["apt-get", "-o", "APT::Sandbox::User=root", "download", "-qq", "systemd-resolved"]
    with apt.alone():
        if subprocess.run(fetch, cwd=folder, capture_output=True, check=False).returncode != 0:
            subprocess.run(["apt-get", "update", "-qq"], check=True, timeout=300)
            subprocess.run(fetch, cwd=folder, check=True, timeout=300)
    (archive,) = folder.glob("*.deb")
    subprocess.run(["dpkg-deb", "--extract", str(archive), str(folder / "files")], check=True)
    return folder / "files"


@pytest.fixture(scope="module")
def resolved(package: Path) -> Iterator[Resolved]:
    # Not in pytest's folder, which is closed to the user that resolved becomes.
    with tempfile.TemporaryDirectory(prefix="postern-resolved-") as name, client_host() as host:
        folder = Path(name)
        folder.chmod(0o755)
        (folder / "bus.conf").write_text(BUS.format(folder=folder))
        command = ["dbus-daemon", f"--config-file={folder}/bus.conf", "--nofork", "--nopidfile"]
        daemon = host.lab.spawn("dbus", host.lab.client, command)
        wait_until((folder / "bus").exists, "there is a bus", [daemon])
        program = package / "lib/systemd/systemd-resolved"
        script = RESOLVED.format(folder=folder, program=program)
        environment = {"DBUS_SYSTEM_BUS_ADDRESS": f"unix:path={folder}/bus", "SYSTEMD_LOG_TARGET": "console"}
        command = ["unshare", "--mount", "--propagation", "private", "sh", "-c", script]
        process = host.lab.spawn("resolved", host.lab.client, command, environment)
        found = Resolved(host, process, package / "usr/bin", environment["DBUS_SYSTEM_BUS_ADDRESS"])
        host.resolv_conf.write_text("nameserver 127.0.0.53\n")  # so it has no server but those of links
        wait_until(lambda: "Using system hostname" in process.log_text(), "resolved has started", [process])
        wait_until(lambda: _answers(found), "resolved is on the bus", [process])
        found.resolvectl("dns", "eth0", PORTAL.address)
        yield found


def _answers(resolved: Resolved) -> bool:
    try:
        return "Global" in resolved.resolvectl("dns")
    except LabError:
        return False


def test_all_names_of_the_host_are_asked_of_the_client_until_it_is_gone(resolved: Resolved) -> None:
    host = resolved.host
    assert host.dig("@127.0.0.53", "four.internal") == ["192.0.2.4"]
    client = resolved.start()
    try:
        host.wait_for(client, lambda: bool(resolved.link("domain")), "the link has all names")
        host.wait_for(client, lambda: "Flushed all caches" in resolved.process.log_text(), "caches are flushed")
        assert resolved.link("domain") == ["~."]
        assert resolved.link("llmnr") == ["yes"]
        assert resolved.link("dnsovertls") == ["no"]
        (sentinel,) = resolved.link("dns")
        assert sentinel.startswith(SENTINELS)
        assert host.dig("@127.0.0.53", "four.internal") == ["192.0.2.4"]
        assert len(host.dig("@127.0.0.53", RESOURCE_NAME)) == 4
        assert set(host.dig("@127.0.0.53", "TXT", "long.internal")) > {'"000' + "x" * 200 + '"'}
        assert "100.96.0.1" in resolved.resolvectl("query", "--legend=no", RESOURCE_NAME).split()
        resolved.resolvectl("dns", "eth0", PORTAL.address6)  # another network: the client sees it, and asks there
        host.wait_for(
            client, lambda: ":" in "".join(resolved.link("dns")), "the server behind the sentinel is the new one"
        )
        assert host.dig("@127.0.0.53", "six.internal", "AAAA") == ["2001:db8:1::6"]
        resolved.resolvectl("revert", "tun-firezone")  # somebody's mistake
        host.wait_for(client, lambda: bool(resolved.link("dns")), "the client puts it there again")
        assert end(client) == 0
        assert resolved.link("dns") == []
        assert host.dig("@127.0.0.53", "four.internal") == ["192.0.2.4"]
    finally:
        client.terminate()
        resolved.resolvectl("dns", "eth0", PORTAL.address)


def test_nothing_of_a_client_that_was_killed_stays(resolved: Resolved) -> None:
    host = resolved.host
    client = resolved.start()
    host.wait_for(client, lambda: bool(resolved.link("domain")), "the link has all names")
    end(client, signal.SIGKILL)
    assert resolved.link("dns") == []
    assert host.dig("@127.0.0.53", "four.internal") == ["192.0.2.4"]
    assert host.resolv_conf.read_text() == "nameserver 127.0.0.53\n"
