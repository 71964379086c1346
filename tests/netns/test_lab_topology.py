"""The lab itself: who reaches whom, what the routers do, and that nothing stays behind.

The topology is drawn in ``lab.plan``.
"""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from pyroute2 import netns

from lab import records
from lab.counters import interface_bytes
from lab.errors import LabError
from lab.plan import CLIENT, GATEWAY, PORTAL, RESOURCE, LabSettings, Nat, Underlay, relay_site
from lab.processes import wait_until
from lab.topology import Lab

pytestmark = pytest.mark.root

PORT = 52625


def ping(lab: Lab, source: str, destination: str) -> bool:
    try:
        lab.run(source, ["ping", "-c1", "-W1", destination])
    except LabError:
        return False
    return True


class Datagrams:
    """Sends from one namespace to another, and tells under which address and port it arrived."""

    RECEIVE = (
        "import socket,sys; s=socket.socket(socket.AF_INET,socket.SOCK_DGRAM); s.bind(('', int(sys.argv[1])));"
        "print('bound',flush=True)\n"
        "while True: d,a=s.recvfrom(2000); print(d.decode(),*a,flush=True)"
    )
    SEND = (
        "import socket,sys; s=socket.socket(socket.AF_INET,socket.SOCK_DGRAM); s.bind(('',int(sys.argv[1])));"
        "s.sendto(sys.argv[4].encode(),(sys.argv[2],int(sys.argv[3])))"
    )

    def __init__(self, lab: Lab, name: str, namespace: str, port: int) -> None:
        self.process = lab.spawn(name, namespace, [sys.executable, "-c", self.RECEIVE, str(port)])
        wait_until(lambda: "bound" in self.process.log_text(), f"{name} listens", [self.process])

    def seen(self, word: str) -> tuple[str, int] | None:
        for line in self.process.log_text().splitlines():
            if line.startswith(word + " "):
                _, address, port = line.split()
                return address, int(port)
        return None

    def source_of(self, word: str) -> tuple[str, int]:
        wait_until(lambda: self.seen(word) is not None, f"{word} arrives", [self.process], seconds=5)
        found = self.seen(word)
        assert found is not None
        return found


def send(lab: Lab, namespace: str, source_port: int, to: tuple[str, int], word: str) -> None:
    lab.run(namespace, [sys.executable, "-c", Datagrams.SEND, str(source_port), to[0], str(to[1]), word])


@pytest.fixture
def leftovers(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No namespace of a lab may outlive its test; other labs on this machine are not ours to count."""
    prefixes: list[str] = []

    class Noted(records.Record):
        def __init__(self) -> None:
            super().__init__()
            prefixes.append(self.prefix)

    monkeypatch.setattr("lab.topology.Record", Noted)
    yield
    assert prefixes, "the test built no lab"
    assert not [name for name in netns.listnetns() if name.startswith(tuple(prefixes))]


@pytest.mark.usefixtures("leftovers")
def test_without_nat_the_ends_reach_each_other_the_relay_and_the_portal() -> None:
    with Lab(LabSettings(underlay=Underlay.DUAL)) as lab:
        for site in (GATEWAY, PORTAL, relay_site(1)):
            assert ping(lab, lab.client, site.address)
            assert ping(lab, lab.client, site.address6)
        assert ping(lab, lab.gateway, RESOURCE.address6)


@pytest.mark.usefixtures("leftovers")
def test_user_reaches_nothing_but_the_tunnel() -> None:
    with Lab() as lab:
        assert not ping(lab, lab.user, PORTAL.address)
        assert not ping(lab, lab.user, RESOURCE.address)


@pytest.mark.usefixtures("leftovers")
def test_ipv4_underlay_has_no_ipv6_at_all() -> None:
    with Lab(LabSettings(underlay=Underlay.IPV4)) as lab:
        assert lab.run(lab.client, ["ip", "-6", "address", "show", "dev", "eth0"]) == ""
        assert not ping(lab, lab.client, PORTAL.address6)


@pytest.mark.usefixtures("leftovers")
def test_blocked_direct_ipv6_leaves_the_relay_reachable() -> None:
    with Lab(LabSettings(Nat.SYMMETRIC, Nat.SYMMETRIC, Underlay.DUAL, direct_ipv6=False)) as lab:
        for end, other in ((lab.client, GATEWAY), (lab.gateway, CLIENT)):
            assert ping(lab, end, relay_site(1).address6)
            assert not ping(lab, end, other.address6)


@pytest.mark.usefixtures("leftovers")
def test_symmetric_nat_maps_each_destination_to_another_port_and_drops_the_uninvited() -> None:
    with Lab(LabSettings(client_nat=Nat.SYMMETRIC)) as lab:
        relay = Datagrams(lab, "relay", lab.relay, PORT)
        portal = Datagrams(lab, "portal", lab.portal, PORT)
        client = Datagrams(lab, "client", lab.client, PORT + 1)
        send(lab, lab.client, PORT, (relay_site(1).address, PORT), "one")
        send(lab, lab.client, PORT, (PORTAL.address, PORT), "two")
        mapped = relay.source_of("one")
        assert mapped[0] == "203.0.113.20"
        assert mapped[1] not in {PORT, portal.source_of("two")[1]}
        send(lab, lab.portal, PORT + 1, ("203.0.113.20", PORT + 1), "uninvited")
        send(lab, lab.client, PORT, ("127.0.0.1", PORT + 1), "last")
        client.source_of("last")
        assert client.seen("uninvited") is None


@pytest.mark.usefixtures("leftovers")
def test_full_cone_nat_keeps_the_port_and_lets_anybody_in() -> None:
    with Lab(LabSettings(client_nat=Nat.FULL_CONE)) as lab:
        relay = Datagrams(lab, "relay", lab.relay, PORT)
        client = Datagrams(lab, "client", lab.client, PORT + 1)
        send(lab, lab.client, PORT, (relay_site(1).address, PORT), "one")
        assert relay.source_of("one") == ("203.0.113.20", PORT)
        send(lab, lab.portal, PORT, ("203.0.113.20", PORT + 1), "uninvited")
        assert client.source_of("uninvited")[0] == PORTAL.address


@pytest.mark.usefixtures("leftovers")
def test_relay_sees_single_packets_with_whole_checksums_while_the_ends_send_super_packets() -> None:
    with Lab() as lab:
        relay = Datagrams(lab, "relay", lab.relay, PORT)
        # A capture looks behind GRO: without it, it shows what came over the wire.
        lab.run(lab.relay, ["ethtool", "-K", "eth0", "gro", "off"])
        log = lab.logs / "capture.pcap"
        capture = lab.spawn(
            "tcpdump", lab.relay, [*["tcpdump", "-i", "eth0", "--immediate-mode", "-c", "9", "-w"], str(log), "udp"]
        )
        wait_until(lambda: "listening on" in capture.log_text(), "tcpdump listens", [capture])
        batch = (
            "import socket,sys; s=socket.socket(socket.AF_INET,socket.SOCK_DGRAM); s.setsockopt(17,103,1000);"
            "s.sendto(b'a'*8000,(sys.argv[1],int(sys.argv[2]))); s.setsockopt(17,103,0);"
            "s.sendto(b'last',(sys.argv[1],int(sys.argv[2])))"
        )
        lab.run(lab.client, [sys.executable, "-c", batch, relay_site(1).address, str(PORT)])
        relay.source_of("last")
        wait_until(lambda: not capture.running(), "nine packets pass")
        lines = lab.run(lab.relay, ["tcpdump", "-nvv", "-r", str(log)]).splitlines()
        packets = [line for line in lines if "UDP, length 1000" in line]
        assert len(packets) == 8
        assert all("[udp sum ok]" in line for line in packets)
        received, _ = interface_bytes(lab.relay, "eth0")
        assert received >= 8000


def test_failure_inside_leaves_logs_but_no_namespace(leftovers: None) -> None:  # noqa: ARG001  # order of teardown
    def fail() -> Path:
        with Lab() as lab:
            lab.spawn("sleeper", lab.user, ["sleep", "300"])
            raise_from = lab.logs
            raise LabError(str(raise_from))

    with pytest.raises(LabError) as caught:
        fail()
    logs = Path(str(caught.value))
    assert (logs / "sleeper.log").exists()
    for log in logs.iterdir():
        log.unlink()
    logs.rmdir()


@pytest.mark.usefixtures("leftovers")
def test_half_built_lab_is_removed(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise LabError("no rules today")

    monkeypatch.setattr("lab.network.load_rules", broken)
    with pytest.raises(LabError, match="no rules today"), Lab():
        pass


def test_lab_of_a_killed_process_is_swept_and_a_kept_one_only_on_demand(tmp_path: Path) -> None:
    script = (
        "import os, sys, signal\nfrom pathlib import Path\n"
        "from lab import network, records\nfrom lab.plan import LabSettings, make_plan\n"
        "record = records.Record(Path(sys.argv[1]))\nplan = make_plan(LabSettings())\n"
        "network.build(plan, {role: record.prefix + role for role in plan.roles})\n"
        "logs = Path(sys.argv[3])\nrecord.note(logs)\nif sys.argv[2] == 'kept': record.keep(logs)\n"
        "print(record.prefix, flush=True)\nos.kill(os.getpid(), signal.SIGKILL)\n"
    )

    directory = tmp_path / "records"

    def orphan(state: str) -> str:
        (tmp_path / state).mkdir()
        done = subprocess.run(
            [sys.executable, "-c", script, str(directory), state, str(tmp_path / state)],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.stdout, done.stderr
        return done.stdout.strip()

    killed, kept = orphan("killed"), orphan("kept")
    assert records.sweep(directory=directory) == 1
    names = netns.listnetns()
    assert not [name for name in names if name.startswith(killed)]
    assert [name for name in names if name.startswith(kept)]
    assert sorted(os.listdir(tmp_path)) == ["kept", "records"]
    assert records.sweep(kept=True, directory=directory) == 1
    assert os.listdir(tmp_path) == ["records"]
    assert os.listdir(directory) == []
