"""A turnserver.conf that was imported serves coturn's own clients; one of REST secrets does, too.

relay (plain_pair's a)  198.51.100.1  ──veth──  198.51.100.2  clients and peer (b)
"""

import re
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Final

import pytest

from lab.processes import wait_until
from tests.documented import claimed
from tests.e2e.engine import install
from tests.netns.plain_pair import namespaces
from tests.netns.relay_stage import COMMAND, fetch, running
from tests.unit.relay.test_relay_config_file import make_certificate

pytestmark = [pytest.mark.root, pytest.mark.timeout(600)]  # the first one may have to install programs

MESSAGES: Final = 20
ADDRESS: Final = "198.51.100.1"
FAR: Final = "198.51.100.2"
COMMON: Final = """
listening-ip=198.51.100.1
listening-port=3479
min-port=50000
max-port=50999
realm=example.org
fingerprint
user-quota=20
bps-capacity=12500000
allowed-peer-ip=198.51.100.0-198.51.100.255
denied-peer-ip=192.0.2.0-192.0.2.255
no-cli
"""
FILES: Final = {
    "users": COMMON + "lt-cred-mech\nuser=alice:the password\ncert=cert.pem\npkey=key.pem\ntls-listening-port=5350\n",
    "secrets": COMMON + "use-auth-secret\nstatic-auth-secret=current-of-16-characters\nno-tls\n",
}
RUNS: Final = (("-p", "3479"), ("-p", "5350", "-t", "-S"))  # UDP, TLS


@pytest.fixture
def relay(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """Where its clients are."""
    install(("turnutils_uclient", "turnutils_peer"), ("coturn",))
    make_certificate(tmp_path, "relay.example.org", [])
    (tmp_path / "turnserver.conf").write_text(FILES[request.param])
    (command,) = claimed("test_turn_import::test_the_imported_file_serves")
    arguments = command.split()[1:]
    subprocess.run([*COMMAND[:-1], *arguments], cwd=tmp_path, check=True, timeout=60)
    with ExitStack() as stack:
        here, there = stack.enter_context(namespaces())
        peer = subprocess.Popen(["ip", "netns", "exec", there, "turnutils_peer", "-L", FAR], stdout=subprocess.DEVNULL)
        stack.callback(peer.wait, 10)
        stack.callback(peer.kill)
        environment = {"HEALTH_CHECK_ADDR": "127.0.0.1:8080", "POSTERN_ADMIN_SOCKET": "off"}
        stack.enter_context(running(here, environment, "--config", str(tmp_path / "relay.yaml")))
        wait_until(lambda: fetch(here, "readyz")[0] == 200, "the relay is ready")
        yield there


@pytest.mark.parametrize("relay", ["users"], indirect=True)
def test_the_imported_file_serves(relay: str) -> None:
    for arguments in RUNS:
        who = ("-u", "alice", "-w", "the password", "-e", FAR)
        said = told(relay, ["turnutils_uclient", "-n", str(MESSAGES), *who, *arguments, ADDRESS])
        counts = re.findall(r"tot_send_msgs=(\d+), tot_recv_msgs=(\d+)", said)[-1:]
        assert counts == [(str(2 * MESSAGES), str(2 * MESSAGES))], said


@pytest.mark.parametrize("relay", ["secrets"], indirect=True)
def test_the_documented_check(relay: str) -> None:
    (command,) = claimed("test_turn_import::test_the_documented_check")
    words = command.replace("turn.example.org", ADDRESS).split()
    assert "Total lost packets 0 (0.000000%)" in told(relay, [words[0], "-p", "3479", *words[1:]])


def told(namespace: str, words: list[str]) -> str:
    """What a client of coturn says there."""
    command = ["ip", "netns", "exec", namespace, *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False).stdout
