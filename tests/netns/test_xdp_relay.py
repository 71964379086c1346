"""A stand-alone relay as a process, offloaded on two sides by its file: what the kernel carries, and what it leaves.

The two sides are those of ``xdp_lab``. Which path carried a datagram is told by the relay's own metrics.
"""

import re
import signal
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Final

import pytest

from connectivity.endpoint import Endpoint
from lab.processes import wait_until
from tests.netns.plain_pair import ip
from tests.netns.relay_stage import fetch, running
from tests.netns.turn_wire import TurnWire
from tests.netns.xdp_lab import CLIENT, PEER, RELAY, Sides, has_program, two_sides, udp
from tests.unit.relay.playbook import error_code

pytestmark = pytest.mark.root

FILE: Final = """
realm: example.org
listen: ["0.0.0.0:3478", "0.0.0.0:80"]
public: {ipv4: 192.0.2.1}
users: {alice: secret}
peers: {allow: [198.51.100.0/24]}
ebpf: {interfaces: [c0, p0], mode: MODE, generic_from_peer: FROM_PEER}
"""
CHANNEL: Final = 0x4000
COUNT: Final = 20


class Relay:
    """The process, and a client and a peer of it."""

    def __init__(
        self, stack: ExitStack, folder: Path, mode: str, *, from_peer: bool = False, sides: Sides | None = None
    ) -> None:
        self.stack = stack
        self.sides = sides or stack.enter_context(two_sides())
        self.file = file = folder / "relay.yaml"
        file.write_text(FILE.replace("MODE", mode).replace("FROM_PEER", str(from_peer).lower()))
        file.chmod(0o600)
        self._errors = folder / "errors"
        environment = {"HEALTH_CHECK_ADDR": "127.0.0.1:8080", "POSTERN_ADMIN_SOCKET": "off", "RUST_LOG": "info"}
        self.process = stack.enter_context(
            running(
                self.sides.relay,
                environment,
                *("--config", str(file)),
                errors=stack.enter_context(self._errors.open("w")),
            )
        )
        wait_until(lambda: fetch(self.sides.relay, "readyz")[0] == 200, "the relay is ready")
        self.peer = stack.enter_context(udp(self.sides.peer, PEER[4], 7000))

    def client(self, port: int) -> tuple[TurnWire, int]:
        """One with a channel to the peer, and its relayed port."""
        server = Endpoint(RELAY[4], port)
        client = TurnWire(self.stack, self.sides.client, local=CLIENT[4], server=server)
        relayed = client.allocate()
        assert error_code(client.bind(CHANNEL, Endpoint(PEER[4], 7000))) == 0
        return client, relayed

    def carry(self, client: TurnWire, relayed: int, count: int = COUNT) -> None:
        """So many datagrams each way, one at a time."""
        for number in range(count):
            message = bytes([number]) * (number + 1)
            client.send_data(CHANNEL, message)
            assert self.peer.recvfrom(100) == (message, (str(RELAY[4]), relayed))
            self.peer.sendto(message, (str(RELAY[4]), relayed))
            assert client.read_data() == (CHANNEL, message)

    def send_both_ways(self, client: TurnWire, relayed: int) -> None:
        """One datagram each way, whose arrival the counters tell."""
        before = self.packets("xdp")
        client.send_data(CHANNEL, b"up")
        self.peer.sendto(b"down", (str(RELAY[4]), relayed))
        wait_until(lambda: self.packets("xdp") == (before[0] + 1, before[1] + 1), "both are forwarded")
        assert self.peer.recvfrom(100)[0] == b"up"
        assert client.read_data() == (CHANNEL, b"down")

    def metrics(self) -> str:
        return fetch(self.sides.relay, "metrics")[1]

    def packets(self, path: str) -> tuple[int, int]:
        """To the peer and to the client so far."""
        metrics = self.metrics()
        found = [
            re.search(rf'relay_packets_total{{path="{path}",direction="{direction}"}} (\d+)', metrics)
            for direction in ("to_peer", "to_client")
        ]
        to_peer, to_client = (0 if each is None else int(each[1]) for each in found)
        return to_peer, to_client

    def passed(self, reason: str) -> int:
        found = re.search(rf'xdp_passed_total{{reason="{reason}"}} (\d+)', self.metrics())
        return 0 if found is None else int(found[1])

    def log(self) -> str:
        return self._errors.read_text(encoding="utf-8")


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as opened:
        yield opened


@pytest.mark.parametrize("mode", ["native", "generic"])
def test_clients_of_every_listen_port_are_offloaded(stack: ExitStack, tmp_path: Path, mode: str) -> None:
    relay = Relay(stack, tmp_path, mode, from_peer=True)
    for port in (3478, 80):
        relay.carry(*relay.client(port))
    assert relay.packets("xdp") == (2 * COUNT, 2 * COUNT)
    assert relay.packets("python") == (0, 0)


def test_generic_mode_leaves_the_way_to_clients_unless_the_file_says_otherwise(
    stack: ExitStack, tmp_path: Path
) -> None:
    relay = Relay(stack, tmp_path, "generic", from_peer=False)
    relay.carry(*relay.client(3478))
    assert (relay.packets("xdp"), relay.packets("python")) == ((COUNT, 0), (0, COUNT))


@pytest.mark.parametrize("mode", ["native", "generic", "off"])
def test_what_the_next_link_cannot_take_is_fragmented_with_and_without_offload(
    stack: ExitStack, tmp_path: Path, mode: str
) -> None:
    """As a relay's socket does; what the kernel carries may overtake it."""
    relay = Relay(stack, tmp_path, mode)
    ip("-n", relay.sides.relay, "link", "set", "p0", "mtu", "1280")
    client, _ = relay.client(3478)
    for size in (1252, 1253, 1252):
        client.send_data(CHANNEL, bytes(size))
    assert sorted(len(relay.peer.recv(2000)) for _ in range(3)) == [1252, 1252, 1253]
    assert relay.packets("python")[0] == (1 if mode != "off" else 3)
    assert relay.passed("mtu") == (mode != "off")
    assert "ERROR" not in relay.log()


@pytest.mark.parametrize("mode", ["native", "off"])
def test_what_the_link_to_a_client_cannot_take_is_fragmented_with_and_without_offload(
    stack: ExitStack, tmp_path: Path, mode: str
) -> None:
    """With the channel header it is four bytes longer than what came."""
    relay = Relay(stack, tmp_path, mode)
    ip("-n", relay.sides.relay, "link", "set", "c0", "mtu", "1280")
    client, relayed = relay.client(3478)
    for size in (1248, 1249, 1248):
        relay.peer.sendto(bytes(size), (str(RELAY[4]), relayed))
    assert sorted(len(client.read_data()[1]) for _ in range(3)) == [1248, 1248, 1249]
    assert relay.packets("python")[1] == (1 if mode != "off" else 3)
    assert relay.passed("mtu") == (mode != "off")
    assert "ERROR" not in relay.log()


FILTERS: Final = """
table inet guard {
  chain in { type filter hook input priority 0; policy drop; iifname lo accept; }
  chain through { type filter hook forward priority 0; policy drop; }
  chain out { type filter hook output priority 0; policy drop; oifname lo accept; }
}
"""
INGRESS: Final = """
table netdev guard {
  chain from_clients { type filter hook ingress device DEVICE priority 0; policy accept; meta l4proto udp drop; }
}
"""


@pytest.mark.parametrize("mode", ["native", "generic"])
def test_the_hosts_firewall_does_not_see_what_the_kernel_forwards(stack: ExitStack, tmp_path: Path, mode: str) -> None:
    """Neither its usual hooks nor that of ingress, in either mode; what works is told by the next tests."""
    relay = Relay(stack, tmp_path, mode, from_peer=True)
    client, relayed = relay.client(3478)
    relay.carry(client, relayed, 1)
    for rules in (FILTERS, INGRESS.replace("DEVICE", "c0"), INGRESS.replace("DEVICE", "p0")):
        filtered(relay.sides.relay, rules)
        before = relay.packets("xdp")
        relay.send_both_ways(client, relayed)
        filtered(relay.sides.relay, "flush ruleset")
        assert relay.packets("xdp") == (before[0] + 1, before[1] + 1)


@pytest.mark.parametrize("mode", ["native", "generic"])
def test_a_filter_before_the_host_and_a_denied_peer_hold(stack: ExitStack, tmp_path: Path, mode: str) -> None:
    """A far end of the link, as a container's host is one, may filter; and so may the relay itself."""
    relay = Relay(stack, tmp_path, mode, from_peer=True)
    client, relayed = relay.client(3478)
    relay.carry(client, relayed, 1)
    filtered(relay.sides.client, INGRESS.replace("DEVICE", "e0"))
    relay.peer.sendto(b"not past the filter", (str(RELAY[4]), relayed))
    client.send_data(CHANNEL, b"x")
    assert relay.peer.recvfrom(100)[0] == b"x"
    client.socket.settimeout(0.5)
    with pytest.raises(TimeoutError):
        client.read()
    filtered(relay.sides.client, "flush ruleset")
    relay.carry(client, relayed, 1)
    relay.file.write_text(relay.file.read_text().replace("peers: {", f"peers: {{deny: [{PEER[4]}-{PEER[4]}], "))
    relay.process.send_signal(signal.SIGHUP)
    wait_until(lambda: "Configuration read again" in relay.log(), "it is denied")
    before = relay.packets("xdp")
    client.send_data(CHANNEL, b"denied")
    relay.peer.settimeout(0.5)
    with pytest.raises(TimeoutError):
        relay.peer.recv(100)
    assert relay.packets("xdp") == before


def test_a_host_that_filters_is_told_at_start(stack: ExitStack, tmp_path: Path) -> None:
    sides = stack.enter_context(two_sides())
    filtered(sides.relay, FILTERS.replace("policy drop", "policy accept"))
    relay = Relay(stack, tmp_path, "native", sides=sides)
    wait_until(lambda: "This host's firewall does not see what XDP forwards" in relay.log(), "it is told")
    assert "inet guard input" in relay.log()


def filtered(namespace: str, rules: str) -> None:
    subprocess.run(["ip", "netns", "exec", namespace, "nft", "-f", "-"], input=rules, text=True, check=True)


def test_an_interface_that_goes_and_comes_back_is_offloaded_again(stack: ExitStack, tmp_path: Path) -> None:
    relay = Relay(stack, tmp_path, "native")
    client, relayed = relay.client(3478)
    relay.carry(client, relayed, 1)
    ip("-n", relay.sides.relay, "link", "del", "p0")
    client.send_data(CHANNEL, b"to nowhere")
    wait_until(lambda: "an interface lost its offload" in relay.log(), "it is noticed")
    relay.sides.connect_peer()
    relay.carry(client, relayed, 1)  # by user space, unless it is already noticed
    wait_until(lambda: "offload is on again" in relay.log(), "it is back")
    wait_until(lambda: '"p0": "verified"' in fetch(relay.sides.relay, "readyz")[1], "it is tested")
    assert 'xdp_egress{interface="p0",state="verified"} 1' in relay.metrics()
    before = relay.packets("xdp")
    relay.carry(client, relayed, 3)
    assert relay.packets("xdp") == (before[0] + 3, before[1] + 3)
    assert has_program(relay.sides.relay, "p0")
    assert relay.process.poll() is None
    assert "ERROR" not in relay.log()
