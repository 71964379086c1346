"""Faults under a relay as a process: full queues, links and addresses that go, no descriptors, SIGKILL."""

import os
import select
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from connectivity.stun import Method, RequestedTransport
from lab.processes import wait_until
from relay.core import Transport
from tests.netns.plain_pair import ip, join, let_through
from tests.netns.relay_stage import RELAY, fetch, running
from tests.netns.standalone import CHANNEL, FILE, StandAlone, allocate
from tests.netns.turn_wire import TurnWire
from tests.unit.relay.playbook import error_code

pytestmark = pytest.mark.root

PAYLOAD_BYTES = 1000
OFFLOADED = FILE + "ebpf: {interfaces: [veth0], mode: native}\n"
_TICKS = os.sysconf("SC_CLK_TCK")


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as opened:
        yield opened


def queue(relay: StandAlone, *discipline: str) -> None:
    """Give the relay's interface this queue."""
    subprocess.run(["tc", "-n", relay.here, "qdisc", "replace", "dev", "veth0", "root", *discipline], check=True)


def bound_client(relay: StandAlone, transport: Transport = Transport.UDP) -> tuple[TurnWire, int, socket.socket]:
    """A client with a channel, its port, and its peer."""
    client = relay.client(transport)
    peer, address = relay.peer()
    peer.setsockopt(socket.SOL_SOCKET, 33, 64 << 20)  # SO_RCVBUFFORCE
    port = allocate(client)
    assert error_code(client.bind(CHANNEL, address)) == 0
    return client, port, peer


def carried_by_xdp(relay: StandAlone) -> int:
    """Datagrams of both directions."""
    return sum(relay.metric(f'packets_total{{path="xdp",direction="{to}"}}') for to in ("to_peer", "to_client"))


def cpu_seconds(pid: int) -> float:
    """What a process has used so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS


def drain(by: socket.socket) -> list[bytes]:
    """What comes until nothing more does."""
    found = []
    while select.select([by], [], [], 0.5)[0]:
        found.append(by.recv(2000))
    return found


class Sequence:
    """Numbered datagrams from a client to its peer."""

    def __init__(self, client: TurnWire, peer: socket.socket) -> None:
        self._client, self._peer = client, peer
        self.sent = 0

    def send(self, count: int) -> None:
        for number in range(self.sent, self.sent + count):
            self._client.send_data(CHANNEL, number.to_bytes(4, "big") + bytes(PAYLOAD_BYTES - 4))
        self.sent += count

    def arrived(self) -> list[int]:
        """What comes until nothing more does."""
        return [int.from_bytes(datagram[:4], "big") for datagram in drain(self._peer)]


def assert_works(client: TurnWire, port: int, peer: socket.socket) -> None:
    """Data goes both ways, though something may come late before it, and requests are answered."""
    client.send_data(CHANNEL, b"as ever")
    while peer.recv(2000) != b"as ever":
        pass
    peer.sendto(b"both ways", (str(RELAY[4]), port))
    while client.read_data() != (CHANNEL, b"both ways"):
        pass
    assert error_code(client.call(Method.REFRESH)) == 0


def test_a_devices_full_queue_costs_datagrams_and_nothing_else(stack: ExitStack, tmp_path: Path) -> None:
    relay = StandAlone(stack, tmp_path)
    client, port, peer = bound_client(relay)
    data = Sequence(client, peer)
    queue(relay, "tbf", "rate", "1mbit", "burst", "4k", "limit", "4k")
    while not relay.metric('socket_errors_total{kind="send"}'):  # ENOBUFS
        data.send(200)
    queue(relay, "pfifo")
    arrived = data.arrived()
    assert len(set(arrived)) == len(arrived)  # in order, too, but for what the kernel swaps between processors
    assert len(arrived) < data.sent
    assert_works(client, port, peer)


def test_a_full_socket_makes_datagrams_wait_and_the_relay_does_not_spin(stack: ExitStack, tmp_path: Path) -> None:
    relay = StandAlone(stack, tmp_path)
    client, port, peer = bound_client(relay)
    data = Sequence(client, peer)
    queue(relay, "tbf", "rate", "1mbit", "burst", "4k", "limit", "100m")
    dropped = 'socket_errors_total{kind="backlog"}'
    while not relay.metric(dropped):  # EAGAIN, and what may wait is bounded
        data.send(500)
    relay.metric(dropped)  # all that was sent is read
    used, began = cpu_seconds(relay.process.pid), time.monotonic()
    arrived = [int.from_bytes(peer.recv(2000)[:4], "big") for _ in range(200)]  # more than a second's
    used, taken = cpu_seconds(relay.process.pid) - used, time.monotonic() - began
    queue(relay, "tbf", "rate", "400mbit", "burst", "64k", "limit", "100m")  # what waits in it stays
    while len(arrived) + relay.metric(dropped) < data.sent:
        arrived += data.arrived()
    assert len(set(arrived)) == len(arrived)  # in order, too, but for what the kernel swaps between processors
    assert len(arrived) > 4000  # what the socket holds, and as much that waited
    assert used < 0.5 * taken
    queue(relay, "pfifo")
    assert_works(client, port, peer)


def test_a_link_and_an_address_may_go_and_come_back(stack: ExitStack, tmp_path: Path) -> None:
    relay = StandAlone(stack, tmp_path)
    client, port, peer = bound_client(relay)
    for away, back in (
        (("link", "set", "veth0", "down"), ("link", "set", "veth0", "up")),
        (("address", "delete", f"{RELAY[4]}/24", "dev", "veth0"), ("address", "add", f"{RELAY[4]}/24", "dev", "veth0")),
    ):
        ip("-n", relay.here, *away)
        for _ in range(10):
            client.send_data(CHANNEL, b"lost")
            peer.sendto(b"lost", (str(RELAY[4]), port))
        ip("-n", relay.here, *back)
        # The neighbours find each other anew, and what was sent meanwhile may come late.
        wait_until(lambda: _is_relayed(client, peer), "data goes again")
        drain(client.socket)
        drain(peer)
        assert_works(client, port, peer)
    assert "ERROR" not in relay.log()


def test_an_offloaded_interface_may_vanish_and_come_back(stack: ExitStack, tmp_path: Path) -> None:
    relay = StandAlone(stack, tmp_path, file=OFFLOADED)
    client, port, peer = bound_client(relay)
    assert_works(client, port, peer)
    before = carried_by_xdp(relay)
    assert before == 2
    ip("-n", relay.here, "link", "delete", "veth0")
    wait_until(lambda: '"veth0": "absent"' in fetch(relay.here, "readyz")[1], "it is missed")
    join(relay.here, relay.there)
    let_through(relay.there)
    wait_until(lambda: '"veth0": "verified"' in fetch(relay.here, "readyz")[1], "it is found")
    assert_works(client, port, peer)  # the same allocation
    assert carried_by_xdp(relay) == before + 2
    assert "ERROR" not in relay.log()


@pytest.mark.parametrize("transport", [Transport.UDP, Transport.TCP])
def test_a_relay_out_of_descriptors_goes_on_for_those_it_has(
    stack: ExitStack, tmp_path: Path, transport: Transport
) -> None:
    relay = StandAlone(stack, tmp_path, limit=60)
    client, port, peer = bound_client(relay, transport)
    crowd = [relay.client(Transport.TCP) for _ in range(60)]
    warning = "WARN relay: Cannot accept connections for now error=Too many open files"
    wait_until(lambda: warning in relay.log(), "it is full")
    assert error_code(relay.client().call(Method.ALLOCATE, RequestedTransport(17))) == 508
    used, began = cpu_seconds(relay.process.pid), time.monotonic()
    peer.settimeout(3)
    with pytest.raises(TimeoutError):
        peer.recv(100)  # nothing happens for so long
    assert cpu_seconds(relay.process.pid) - used < 0.2 * (time.monotonic() - began)
    assert relay.log().count("WARN") == 1
    assert_works(client, port, peer)
    assert fetch(relay.here, "healthz")[0] == 200
    assert str(port) in relay.admin("list").stdout
    for one in crowd:
        one.socket.close()
    allocate(relay.client(Transport.TCP))
    allocate(relay.client())
    assert "ERROR" not in relay.log()


def test_a_relay_that_slept_goes_on_where_it_was(stack: ExitStack, tmp_path: Path) -> None:
    relay = StandAlone(stack, tmp_path)
    client, port, peer = bound_client(relay)
    relay.process.send_signal(signal.SIGSTOP)
    wait_until(
        lambda: Path(f"/proc/{relay.process.pid}/stat").read_text().rpartition(")")[2].split()[0] == "T",
        "it is stopped",
    )
    data = Sequence(client, peer)
    data.send(50)
    crowd = [relay.client(Transport.TCP) for _ in range(10)]
    relay.process.send_signal(signal.SIGCONT)
    arrived = [int.from_bytes(peer.recv(2000)[:4], "big") for _ in range(50)]
    assert sorted(arrived) == list(range(50))  # in order, too, but for what the kernel swaps between processors
    assert_works(client, port, peer)
    for one in crowd:
        allocate(one)


def test_nothing_forwards_for_a_relay_that_was_killed_and_the_next_one_starts(stack: ExitStack, tmp_path: Path) -> None:
    relay = StandAlone(stack, tmp_path, file=OFFLOADED)
    client, port, peer = bound_client(relay)
    assert_works(client, port, peer)
    assert relay.metric('packets_total{path="xdp",direction="to_peer"}') == 1
    relay.process.kill()
    relay.process.wait()
    wait_until(lambda: "xdp" not in ip("-n", relay.here, "link", "show", "veth0"), "the program goes")
    client.send_data(CHANNEL, b"nobody there")
    with pytest.raises(ConnectionRefusedError):
        client.read()
    assert drain(peer) == []
    environment = {"HEALTH_CHECK_ADDR": "127.0.0.1:8080", "POSTERN_ADMIN_SOCKET": str(relay.admin_socket)}
    stack.enter_context(running(relay.here, environment, "--config", str(relay.file)))
    wait_until(lambda: fetch(relay.here, "readyz")[0] == 200, "the next relay is ready")
    assert '"mode": "native"' in fetch(relay.here, "readyz")[1]
    client.send_data(CHANNEL, b"of the former life")
    assert drain(peer) == []
    assert '{path="python",reason="no_allocation"} 1' in fetch(relay.here, "metrics")[1]
    assert relay.admin("list").returncode == 0


def _is_relayed(client: TurnWire, peer: socket.socket) -> bool:
    client.send_data(CHANNEL, b"?")
    return bool(select.select([peer], [], [], 0.2)[0])
