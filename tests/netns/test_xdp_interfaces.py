"""A relay with two interfaces: out by the other one, an interface that goes and comes back, a process that is gone."""

import select
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import pytest

from connectivity.endpoint import Endpoint
from ebpf import ChannelFlow, Counter, Direction, FlowCounters, OffloadSettings, Outcome, RelayOffload
from tests.netns.plain_pair import entered, ip
from tests.netns.xdp_lab import CLIENT, PEER, RELAY, Sides, channel_data, has_program, later, two_sides, udp, until

pytestmark = pytest.mark.root

CHANNEL: Final = 0x4005
RELAYED_PORT: Final = 50_123


@pytest.fixture
def lab() -> Iterator[Sides]:
    with two_sides() as sides:
        yield sides


@contextmanager
def offloaded(lab: Sides, *interfaces: str) -> Iterator[RelayOffload]:
    with entered(lab.relay):
        settings = OffloadSettings(
            interfaces=interfaces,
            mode="native",
            internal=(RELAY[4], RELAY[6]),
            public=(RELAY[4], RELAY[6]),
            capacity=16,
        )
        offload = RelayOffload(settings)
        try:
            yield offload
        finally:
            offload.close()


@pytest.mark.parametrize(("client", "peer"), [(4, 4), (4, 6), (6, 4), (6, 6)])
def test_leaves_by_the_other_interface(lab: Sides, client: int, peer: int) -> None:
    with offloaded(lab, "c0", "p0") as offload:
        assert offload.egress_states() == {"c0": "verified", "p0": "verified"}
        assert offload.install(_flow(client, peer))
        with udp(lab.client, CLIENT[client], 6000) as near, udp(lab.peer, PEER[peer], 7000) as far:
            near.sendto(channel_data(CHANNEL, b"there"), (str(RELAY[client]), 3478))
            assert far.recvfrom(100)[0] == b"there"
            far.sendto(b"and back", (str(RELAY[peer]), RELAYED_PORT))
            assert near.recvfrom(100)[0] == channel_data(CHANNEL, b"and back")
        assert offload.flow_counters(Endpoint(CLIENT[client], 6000), CHANNEL) == FlowCounters(
            Counter(1, 5), Counter(1, 8)
        )
        assert offload.counters().egress[Outcome.FORWARD_ROUTE].packets == 2


def test_an_interface_that_is_not_named_gets_nothing(lab: Sides) -> None:
    with offloaded(lab, "c0") as offload, udp(lab.relay, RELAY[4], 3478) as stack:
        assert offload.install(_flow(4, 4))
        with udp(lab.client, CLIENT[4], 6000) as near:
            near.sendto(channel_data(CHANNEL, b"kept"), (str(RELAY[4]), 3478))
        assert stack.recvfrom(100)[0] == channel_data(CHANNEL, b"kept")
        assert offload.counters().passed[Outcome.PUNT_EGRESS].packets == 1


def test_what_the_next_link_cannot_take_goes_up(lab: Sides) -> None:
    """User space then does as without offload: its socket fragments it, or refuses where the client forbids that."""
    ip("-n", lab.relay, "link", "set", "p0", "mtu", "1280")
    with offloaded(lab, "c0", "p0") as offload, udp(lab.relay, RELAY[4], 3478) as stack:
        assert offload.install(_flow(4, 4))
        with udp(lab.client, CLIENT[4], 6000) as near, udp(lab.peer, PEER[4], 7000) as far:
            for size in (1280 - 28, 1280 - 27):
                near.sendto(channel_data(CHANNEL, bytes(size)), (str(RELAY[4]), 3478))
            assert len(far.recvfrom(2000)[0]) == 1280 - 28
            assert len(stack.recvfrom(2000)[0]) == 4 + 1280 - 27
        assert offload.counters().passed[Outcome.PUNT_MTU].packets == 1


@pytest.mark.parametrize("is_forwarding", [True, False])
def test_an_interface_may_go_and_come_back(lab: Sides, caplog: pytest.LogCaptureFixture, is_forwarding: bool) -> None:
    if not is_forwarding:
        with entered(lab.relay):
            Path("/proc/sys/net/ipv4/ip_forward").write_text("0")
    with offloaded(lab, "c0", "p0") as offload, udp(lab.client, CLIENT[4], 6000) as near:
        assert offload.install(_flow(4, 4))
        ip("-n", lab.relay, "link", "del", "p0")
        for _ in range(3):
            offload.follow(offload.look())
        assert offload.egress_states() == {"c0": "verified", "p0": "absent"}
        warnings = [record.message for record in caplog.records if record.levelname == "WARNING"]
        assert warnings == ["an interface lost its offload"]
        with udp(lab.relay, RELAY[4], 3478) as stack:
            near.sendto(channel_data(CHANNEL, b"meanwhile"), (str(RELAY[4]), 3478))
            assert stack.recvfrom(100)[0] == channel_data(CHANNEL, b"meanwhile")
        lab.connect_peer()
        assert not has_program(lab.relay, "p0")
        offload.follow(offload.look())
        assert has_program(lab.relay, "p0")
        assert offload.has_test_due
        offload.follow(offload.look())
        assert not offload.has_test_due
        assert offload.egress_states() == {"c0": "verified", "p0": "verified"}
        with udp(lab.peer, PEER[4], 7000) as far:
            near.sendto(channel_data(CHANNEL, b"again"), (str(RELAY[4]), 3478))
            assert far.recvfrom(100)[0] == b"again"
            far.sendto(b"and back", (str(RELAY[4]), RELAYED_PORT))
            assert near.recvfrom(100)[0] == channel_data(CHANNEL, b"and back")
        assert offload.counters().forwarded[Direction.TO_CLIENT].packets == 1


def test_refreshes_lose_no_count(lab: Sides) -> None:
    with offloaded(lab, "c0", "p0") as offload, udp(lab.client, CLIENT[4], 6000) as near:
        assert offload.install(_flow(4, 4))
        flow, message = (Endpoint(CLIENT[4], 6000), CHANNEL), channel_data(CHANNEL, bytes(10))

        def send() -> None:
            for _ in range(3000):
                near.sendto(message, (str(RELAY[4]), 3478))

        sender = threading.Thread(target=send)
        sender.start()
        refreshes = 0
        while sender.is_alive():
            assert offload.install(_flow(4, 4))
            refreshes += 1
        sender.join()
        assert refreshes > 10
        # The last ones may still be on their way to the program.
        until(lambda: offload.flow_counters(*flow).to_peer == offload.counters().forwarded[Direction.TO_PEER])
        assert offload.flow_counters(*flow).to_peer.packets > 1000


SERVE: Final = textwrap.dedent("""
    import sys, time
    from ipaddress import ip_address
    from connectivity.endpoint import Endpoint
    from ebpf import ChannelFlow, OffloadSettings, RelayOffload
    client, peer, relay, seconds = sys.argv[1:]
    offload = RelayOffload(OffloadSettings(
        interfaces=("c0", "p0"), mode="native", internal=(ip_address(relay),), public=(ip_address(relay),), capacity=16
    ))
    expires_at = time.monotonic_ns() + int(float(seconds) * 1e9)
    offload.install(ChannelFlow(Endpoint.parse(client), 0x4005, Endpoint.parse(peer), 50_123, expires_at))
    print(expires_at, flush=True)
    input()
""")


@contextmanager
def serving(lab: Sides, seconds: float) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """A process with one binding open, and when that expires."""
    addresses = (f"{CLIENT[4]}:6000", f"{PEER[4]}:7000", str(RELAY[4]), str(seconds))
    command = ["ip", "netns", "exec", lab.relay, sys.executable, "-c", SERVE, *addresses]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield process, int(process.stdout.readline())
        finally:
            process.kill()


def test_a_killed_process_leaves_nothing_that_forwards(lab: Sides) -> None:
    with udp(lab.client, CLIENT[4], 6000) as near, udp(lab.peer, PEER[4], 7000) as far:
        with serving(lab, 60) as (process, _):
            assert _is_carried(near, far)
            process.kill()
            process.wait()
        until(lambda: not has_program(lab.relay, "c0") and not has_program(lab.relay, "p0"))
        assert not _is_carried(near, far)


def test_a_process_that_hangs_forwards_no_longer_than_the_binding_lives(lab: Sides) -> None:
    with (
        udp(lab.client, CLIENT[4], 6000) as near,
        udp(lab.peer, PEER[4], 7000) as far,
        serving(lab, 4) as (process, expires_at),
    ):
        process.send_signal(signal.SIGSTOP)
        assert _is_carried(near, far)
        until(lambda: not _is_carried(near, far))
        assert time.monotonic_ns() >= expires_at
        assert has_program(lab.relay, "c0"), "it is the expiry that stops it"


def _is_carried(near: socket.socket, far: socket.socket) -> bool:
    near.sendto(channel_data(CHANNEL, b"data"), (str(RELAY[4]), 3478))
    readable, _, _ = select.select([far], [], [], 1)
    return bool(readable) and far.recvfrom(100)[0] == b"data"


def _flow(client: int, peer: int) -> ChannelFlow:
    return ChannelFlow(Endpoint(CLIENT[client], 6000), CHANNEL, Endpoint(PEER[peer], 7000), RELAYED_PORT, later())
