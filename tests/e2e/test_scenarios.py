"""The stack in each network that it may meet, and what may happen to it there.

Every case runs in a lab of its own and ends with the same proof: no complaint in any log, no wrong checksum on either
side of a relay, no UDP error counted by the kernel in any namespace. ``-s`` shows what each case showed.
"""

import signal
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

import pytest

from lab.counters import nstat
from lab.impairment import impaired, impaired_count
from lab.measure import PAGE_URL, PAGE_URL6, first_answer_ms
from lab.plan import CLIENT_INSIDE, GATEWAY_ROUTER, LabSettings, Nat, Underlay, client_role, relay_role, relay_site
from lab.processes import stop_all
from lab.stack import Stack
from lab.topology import Lab
from lab.transfer import download, upload
from tests.e2e.evidence import Wire, captured, parts_of, prove
from tests.e2e.stage import RELAY_SILENT, is_within, reaches

pytestmark = [pytest.mark.root, pytest.mark.long]

DIRECT: Final = "PeerToPeer"
SETTLE_SECONDS: Final = 20.0
BEFORE_ICE_SECONDS: Final = 14.0
RECOVERY_SECONDS: Final = 30.0
NONE, FULL_CONE, SYMMETRIC = Nat.NONE, Nat.FULL_CONE, Nat.SYMMETRIC
IPV4, DUAL = Underlay.IPV4, Underlay.DUAL


@dataclass(frozen=True)
class Network:
    """A network and the path that it leaves, with the family of the outer addresses where that is certain."""

    settings: LabSettings
    direct: bool
    version: int | None = 4

    def __str__(self) -> str:
        lab = self.settings
        blocked = "".join(f" no-direct-ipv{v}" for v in (4, 6) if not getattr(lab, f"direct_ipv{v}"))
        return f"{lab.client_nat}-{lab.gateway_nat}-{lab.underlay}{blocked}".replace(" ", "-")


# Two that give every destination another port never meet over IPv4; all other pairs do. Over IPv6 there is no NAT,
# and a stateful filter on both sides opens for who sends.
NETWORKS: Final = (
    Network(LabSettings(NONE, NONE, IPV4), direct=True),
    Network(LabSettings(NONE, FULL_CONE, IPV4), direct=True),
    Network(LabSettings(NONE, SYMMETRIC, IPV4), direct=True),
    Network(LabSettings(FULL_CONE, NONE, IPV4), direct=True),
    Network(LabSettings(FULL_CONE, FULL_CONE, IPV4), direct=True),
    Network(LabSettings(FULL_CONE, SYMMETRIC, IPV4), direct=True),
    Network(LabSettings(SYMMETRIC, NONE, IPV4), direct=True),
    Network(LabSettings(SYMMETRIC, FULL_CONE, IPV4), direct=True),
    Network(LabSettings(SYMMETRIC, SYMMETRIC, IPV4), direct=False),
    Network(LabSettings(NONE, NONE, DUAL), direct=True, version=6),
    Network(LabSettings(NONE, FULL_CONE, DUAL), direct=True, version=6),
    Network(LabSettings(NONE, SYMMETRIC, DUAL), direct=True, version=6),
    Network(LabSettings(FULL_CONE, NONE, DUAL), direct=True, version=6),
    Network(LabSettings(FULL_CONE, FULL_CONE, DUAL), direct=True, version=6),
    Network(LabSettings(FULL_CONE, SYMMETRIC, DUAL), direct=True, version=6),
    Network(LabSettings(SYMMETRIC, NONE, DUAL), direct=True, version=6),
    Network(LabSettings(SYMMETRIC, FULL_CONE, DUAL), direct=True, version=6),
    Network(LabSettings(SYMMETRIC, SYMMETRIC, DUAL), direct=True, version=6),
    Network(LabSettings(SYMMETRIC, SYMMETRIC, DUAL, direct_ipv6=False), direct=False, version=None),
    Network(LabSettings(NONE, NONE, DUAL, direct_ipv6=False), direct=True, version=4),
    Network(LabSettings(NONE, NONE, DUAL, direct_ipv4=False, direct_ipv6=False), direct=False, version=None),
)


@contextmanager
def running(
    settings: LabSettings, *, ebpf: bool = True, started: bool = True, allowed: Sequence[str] = ()
) -> Iterator[tuple[Stack, Wire]]:
    """The whole stack in a network, watched, and held to the proof in the end."""
    with Lab(settings) as lab:
        stack = Stack(lab, ebpf=ebpf)
        with captured(lab) as wire:
            if started:
                stack.start()
            yield stack, wire
            stop_all([process for process in lab.processes if process.name in parts_of(lab)])
        prove(stack, wire, allowed)


def outer_version(connection: Mapping[str, Any]) -> int:
    """The family of the datagrams that carry a connection."""
    return 6 if connection["remote"].startswith("[") else 4


def connection_of(stack: Stack, role: str = "client") -> Mapping[str, Any]:
    (connection,) = stack.status(role)["connections"]
    found: Mapping[str, Any] = connection
    return found


def paths(stack: Stack) -> list[str]:
    return [connection["path"] for connection in stack.status("client")["connections"]]


@pytest.mark.parametrize("network", NETWORKS, ids=str)
def test_network_leaves_its_path(network: Network) -> None:
    def settled() -> bool:
        connection = connection_of(stack)
        return (connection["path"] == DIRECT) is network.direct and network.version in (None, outer_version(connection))

    # Where nothing is relayed in the end, what the relay carries at first goes through Python.
    with running(network.settings, ebpf=not network.direct) as (stack, wire):
        first = first_answer_ms(stack.lab, PAGE_URL)
        assert is_within(settled, SETTLE_SECONDS), connection_of(stack)
        download(stack.lab, 2_000_000)
        upload(stack.lab, 1_000_000)
        first6 = first_answer_ms(stack.lab, PAGE_URL6)
        assert settled()
        found, counts = connection_of(stack), stack.relay_counts()
        assert (counts.xdp > 2000) is not network.direct, counts
        # Checks of pairs through the relay, fifteen a second for as long as this takes; the data is thousands.
        assert counts.python < 1000, counts
    print(
        f"{network}: {found['path']} {found['local']} -> {found['remote']}, first answer {first:.0f} ms, "
        f"{first6:.0f} ms over IPv6, {counts}, datagrams {dict(wire.seen)}"
    )


DIRECT_NETWORK: Final = LabSettings(underlay=DUAL)
RELAYED_NETWORK: Final = LabSettings(SYMMETRIC, SYMMETRIC, IPV4)
CLIENT_NETWORK: Final = CLIENT_INSIDE.address.rpartition(".")[0]
BACK_TO_IPV4: Final = f"route add default via {CLIENT_INSIDE.address}"


def test_direct_connection_outlives_what_it_can_do_without() -> None:
    """Portal and relay die, the gateway stops; ``test_life_cycle`` holds relayed connections to the same and more."""
    with running(DIRECT_NETWORK, ebpf=False, allowed=[RELAY_SILENT]) as (stack, _):
        lab = stack.lab
        first_answer_ms(lab)
        assert is_within(lambda: stack.path() == DIRECT, SETTLE_SECONDS)
        starts = {"portal": stack.start_portal, "relay": stack.start_relay, "gateway": stack.start_gateway}
        for part, start in starts.items():
            ended = next(process for process in lab.processes if process.name == part)
            if part == "gateway":
                ended.terminate()
                assert is_within(lambda: stack.status("client")["connections"] == [], SETTLE_SECONDS)
            else:
                ended.popen.kill()
                ended.popen.wait()
                _transfer_seconds(lab, 1_000_000)
                assert stack.path() == DIRECT
            start()
            back = time.monotonic()
            # Who has not joined again is not told that a relay has gone, and who joins a new portal ends its flows.
            assert is_within(
                lambda: all(stack.status(end)["portal"] for end in ("client", "gateway")), RECOVERY_SECONDS
            )
            assert is_within(lambda: reaches(lab) and paths(stack) == [DIRECT], RECOVERY_SECONDS)
            recovered = time.monotonic() - back
            _transfer_seconds(lab, 1_000_000)
            print(f"{part} gone and back: page {recovered:.1f} s after it was ready, path {DIRECT} again")


@pytest.mark.parametrize("direct", [True, False], ids=["direct", "relayed"])
def test_right_bytes_arrive_through_a_network_that_loses_some(direct: bool) -> None:
    """5 % both ways from the start; once connected 20 %."""
    network = DIRECT_NETWORK if direct else RELAYED_NETWORK
    with running(network, ebpf=not direct, started=False, allowed=[RELAY_SILENT]) as (stack, _):
        lab = stack.lab
        with impaired(lab, "client-nat", loss_percent=5):
            stack.start()
            began = time.monotonic()
            download(lab, 1)  # through a tunnel that is not there yet
            first = round(time.monotonic() - began, 1)
            # The better path may have to wait for the next round of checks.
            assert is_within(lambda: (stack.path() == DIRECT) is direct, RECOVERY_SECONDS)
            mild = _transfer_seconds(lab, 300_000)
            mildly_lost = impaired_count(lab, "client-nat")
        with impaired(lab, "client-nat", loss_percent=20):
            hard = _transfer_seconds(lab, 60_000)
            lost = impaired_count(lab, "client-nat")
        path = stack.path()
        assert (path == DIRECT) is direct
    assert min(mildly_lost, lost) > 5
    print(
        f"{path}: 5 % lost both ways ({mildly_lost} datagrams): first byte {first} s, 300 kB down and up {mild} s; "
        f"20 % ({lost}): 60 kB {hard} s"
    )


@pytest.mark.parametrize(
    ("settings", "ebpf"),
    [(DIRECT_NETWORK, False), (RELAYED_NETWORK, True), (RELAYED_NETWORK, False)],
    ids=["direct-ipv6", "relayed-by-xdp", "relayed-by-python"],
)
def test_congestion_marked_outside_is_seen_inside(settings: LabSettings, ebpf: bool) -> None:
    with running(settings, ebpf=ebpf) as (stack, _):
        lab = stack.lab
        ends = (lab.user, lab.resource)
        for end in ends:
            lab.run(end, ["sysctl", "-qw", "net.ipv4.tcp_ecn=1"])
        first_answer_ms(lab)
        assert is_within(lambda: (stack.path() == DIRECT) is (settings == DIRECT_NETWORK), SETTLE_SECONDS)
        assert [_marked(end) for end in ends] == [0, 0]
        with impaired(lab, "client-nat", mark_every=10):
            for url in (PAGE_URL, PAGE_URL6):
                download(lab, 500_000, url=url)
                upload(lab, 500_000, url=url)
            by_router = impaired_count(lab, "client-nat")
        down, up = map(_marked, ends)
        told = [nstat(end, ["TcpExtTCPDeliveredCE"])["TcpExtTCPDeliveredCE"] for end in ends]
    assert min(down, up) > 20
    assert down + up == by_router  # each mark arrives, and none is made up
    assert min(told) > 0  # and comes back to who sends too fast
    print(f"{by_router} datagrams marked: {down} arrived marked at the user, {up} at the resource, told {told}")


def test_many_clients_behind_one_nat_and_one_relay() -> None:
    count = 8
    settings = LabSettings(SYMMETRIC, SYMMETRIC, IPV4, client_count=count)
    with running(settings) as (stack, _):
        lab = stack.lab
        roles = ["user", *(client_role(number) for number in range(2, count + 1))]
        started = time.monotonic()
        with ThreadPoolExecutor(count) as threads:
            done = threads.map(lambda role: download(lab, 500_000, role=role), roles)
            assert len(list(done)) == count
        seconds = time.monotonic() - started
        found = {stack.path(client_role(number)) for number in range(1, count + 1)}
        assert DIRECT not in found
        assert len(stack.status("gateway")["connections"]) == count
        counts = stack.relay_counts()
    print(f"{count} clients at once, cold: {count * 500_000} bytes in {seconds:.1f} s, paths {found}, {counts}")


def test_clients_move_from_a_relay_that_dies_to_the_other_and_back() -> None:
    settings = LabSettings(SYMMETRIC, SYMMETRIC, IPV4, relay_count=2)
    with running(settings, allowed=[RELAY_SILENT]) as (stack, _):
        lab = stack.lab
        first_answer_ms(lab)
        for _ in range(2):
            before = connection_of(stack)
            assert before["path"] != DIRECT
            number = next(n for n in (1, 2) if relay_site(n).address in before["local"])
            relay = [process for process in lab.processes if process.name == relay_role(number)][-1]
            relay.popen.kill()
            relay.popen.wait()
            killed = time.monotonic()
            assert is_within(lambda: reaches(lab), RECOVERY_SECONDS)
            seconds = time.monotonic() - killed
            download(lab, 1_000_000)
            after = connection_of(stack)
            assert relay_site(number).address not in after["local"] + after["remote"]
            print(f"{relay.name} died: {before['local']} -> {after['local']}, page again after {seconds:.1f} s")
            stack.start_relay(number)


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL], ids=["stopped", "killed"])
def test_a_new_connection_goes_through_the_other_gateway(how: signal.Signals) -> None:
    """Before ICE would have given up; how long it takes is measured by ``bench faults``, on a machine left alone."""
    with running(LabSettings(SYMMETRIC, SYMMETRIC, IPV4, gateway_count=2)) as (stack, _):
        first_answer_ms(stack.lab)
        role = next(role for role in ("gateway", "gateway-2") if stack.status(role)["connections"])
        gateway = [process for process in stack.lab.processes if process.name == role][-1]
        gateway.popen.send_signal(how)
        gateway.popen.wait()
        ended = time.monotonic()
        assert is_within(lambda: reaches(stack.lab), BEFORE_ICE_SECONDS)
        print(f"{role} ended by {how.name}: another connection after {time.monotonic() - ended:.1f} s")
        download(stack.lab, 1_000_000)


@pytest.mark.parametrize("by_hand", [False, True], ids=["by-itself", "by-hand"])
@pytest.mark.parametrize("direct", [True, False], ids=["direct", "relayed"])
def test_a_connection_inside_goes_on_when_the_client_moves(direct: bool, by_hand: bool) -> None:
    """Another address; with both families then also IPv6 alone, by which the portal is out of reach, and both again."""
    moves = [f"-4 address flush dev eth0; address add {CLIENT_NETWORK}.101/24 dev eth0; {BACK_TO_IPV4}"]
    if direct:
        moves += ["-4 address flush dev eth0", f"address add {CLIENT_NETWORK}.102/24 dev eth0; {BACK_TO_IPV4}"]
    network = DIRECT_NETWORK if direct else RELAYED_NETWORK
    with running(network, ebpf=not direct, allowed=[RELAY_SILENT]) as (stack, _):
        lab = stack.lab
        client = next(process for process in lab.processes if process.name == "client")
        first_answer_ms(lab)
        with ThreadPoolExecutor(1) as threads:
            transfer = threads.submit(download, lab, 3_000_000, bytes_per_second=300_000)
            seconds = []
            for commands in moves:
                time.sleep(1)
                for command in commands.split(";"):
                    lab.run(lab.client, ["ip", *command.split()])
                if by_hand and BACK_TO_IPV4 in commands:
                    client.popen.send_signal(signal.SIGHUP)
                moved = time.monotonic()
                assert is_within(lambda: reaches(lab), RECOVERY_SECONDS)
                seconds.append(round(time.monotonic() - moved, 2))
            transfer.result()
        assert client.running()
        assert is_within(lambda: (stack.path() == DIRECT) is direct, SETTLE_SECONDS)
        anew = client.log_text().count("Beginning anew")
        assert anew >= 1 + (by_hand and direct)
    print(f"page again after {seconds} s, {anew} times anew, and one download of 3 MB went on")


def test_capture_finds_a_wrong_checksum() -> None:
    """The proof can fail: a relay's datagram with a wrong sum, among right ones, shows behind the bridge."""
    send = (
        "import socket,struct,sys; to=(sys.argv[1],0); s=socket.socket(socket.AF_INET,socket.SOCK_RAW,17)\n"
        "for checksum in (0x1234, 0): s.sendto(struct.pack('!HHHH', 4000, 4001, 12, checksum) + b'data', to)\n"
        "socket.socket(socket.AF_INET,socket.SOCK_DGRAM).sendto(b'right', (sys.argv[1], 4002))"
    )
    with Lab() as lab, captured(lab) as wire:
        lab.run(lab.relay, [sys.executable, "-c", send, GATEWAY_ROUTER.address])
    assert wire.seen == {"gateway-nat": 3}
    assert len(wire.bad) == 2
    assert "bad udp cksum 0x1234" in wire.bad[0]
    assert "[no cksum]" in wire.bad[1]


def _transfer_seconds(lab: Lab, length: int) -> list[float]:
    began = time.monotonic()
    download(lab, length)
    middle = time.monotonic()
    upload(lab, length)
    return [round(middle - began, 1), round(time.monotonic() - middle, 1)]


def _marked(namespace: str) -> int:
    """Packets that arrived with Congestion Experienced."""
    return sum(nstat(namespace, ["IpExtInCEPkts", "Ip6InCEPkts"]).values())
