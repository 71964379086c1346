"""Real datagrams through the attached program, native and generic, with right checksums where they arrive."""

import asyncio
import signal
import socket
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Final, Literal

import pytest

from connectivity.endpoint import Endpoint, IPAddress
from ebpf import ChannelFlow, Direction, OffloadError, OffloadSettings, Outcome, RelayOffload, netlink
from ebpf.verdict import EgressState
from tests.netns.plain_pair import entered, ip
from tests.netns.xdp_bridge import CLIENT, CLIENT_2, PEER, RELAY, Lab, bridged, neighbourly
from tests.netns.xdp_lab import channel_data, has_program, later, udp, until

pytestmark = pytest.mark.root

CHANNEL: Final = 0x4005
RELAYED_PORT: Final = 50_123


@pytest.fixture
def lab() -> Iterator[Lab]:
    with bridged() as names:
        yield names


@pytest.mark.parametrize("checksum_offload", ["on", "off"])
@pytest.mark.parametrize(("client", "peer"), [(4, 4), (4, 6), (6, 4), (6, 6)])
def test_native_forwards_both_ways(lab: Lab, client: int, peer: int, checksum_offload: str) -> None:
    lab.open_forwarding()
    for name in (lab.client, lab.peer):
        lab.run(name, "ethtool", "-K", "e0", "tx", checksum_offload)
    with offloaded(lab, "native") as offload:
        assert offload.mode == "native"
        _carry(lab, offload, client, peer)
        forwarded = offload.counters().forwarded
        assert forwarded[Direction.TO_PEER].packets == forwarded[Direction.TO_CLIENT].packets == 3
        assert not offload.counters().dropped


@pytest.mark.parametrize(("client", "peer"), [(4, 4), (4, 6), (6, 4), (6, 6)])
def test_generic_forwards_both_ways(lab: Lab, client: int, peer: int) -> None:
    lab.open_forwarding()
    with offloaded(lab, "generic", generic_from_peer=True) as offload:
        assert offload.mode == "generic"
        _carry(lab, offload, client, peer)


def test_generic_leaves_the_way_back_to_user_space(lab: Lab) -> None:
    lab.open_forwarding()
    with offloaded(lab, "generic") as offload:
        flow = _flow(4, 4)
        assert offload.install(flow)
        with udp(lab.relay, RELAY[4], RELAYED_PORT) as stack, udp(lab.peer, PEER[4], 7000) as peer:
            peer.sendto(b"up", (str(RELAY[4]), RELAYED_PORT))
            assert stack.recvfrom(100)[0] == b"up"
        assert Outcome.PUNT_FROM_PEER in offload.counters().passed


def test_clients_of_one_relay_meet_in_the_kernel(lab: Lab) -> None:
    """Hairpin: installed when the second binding comes, gone with either, the rest takes the sockets."""
    lab.open_forwarding()
    one = ChannelFlow(Endpoint(CLIENT[4], 6000), 0x4001, Endpoint(RELAY[4], 50_002), 50_001, later())
    other = ChannelFlow(Endpoint(CLIENT_2[6], 6001), 0x4ABC, Endpoint(RELAY[4], 50_001), 50_002, later())
    with (
        offloaded(lab, "native", public=(RELAY[4], RELAY[6])) as offload,
        udp(lab.client, CLIENT[4], 6000) as first,
        udp(lab.client, CLIENT_2[6], 6001) as second,
        udp(lab.relay, RELAY[4], 3478) as stack,
    ):
        assert offload.install(one)
        first.sendto(channel_data(0x4001, b"alone"), (str(RELAY[4]), 3478))
        assert stack.recvfrom(100)[0] == channel_data(0x4001, b"alone")
        assert offload.install(other)
        first.sendto(channel_data(0x4001, b"hello"), (str(RELAY[4]), 3478))
        assert second.recvfrom(100) == (channel_data(0x4ABC, b"hello"), (str(RELAY[6]), 3478, 0, 0))
        second.sendto(channel_data(0x4ABC, b"hi"), (str(RELAY[6]), 3478))
        assert first.recvfrom(100) == (channel_data(0x4001, b"hi"), (str(RELAY[4]), 3478))
        offload.remove(other.client, other.channel)
        first.sendto(channel_data(0x4001, b"alone"), (str(RELAY[4]), 3478))
        assert stack.recvfrom(100)[0] == channel_data(0x4001, b"alone")


def test_refresh_keeps_counters_and_removal_returns_to_user_space(lab: Lab) -> None:
    lab.open_forwarding()
    with offloaded(lab, "native") as offload, udp(lab.relay, RELAY[4], 3478) as stack:
        flow = _flow(4, 4)
        with udp(lab.client, CLIENT[4], 6000) as client, udp(lab.peer, PEER[4], 7000) as peer:
            assert offload.install(flow)
            client.sendto(channel_data(CHANNEL, b"12345"), (str(RELAY[4]), 3478))
            assert peer.recvfrom(100)[0] == b"12345"
            assert offload.install(_flow(4, 4))
            assert offload.flow_counters(flow.client, CHANNEL).to_peer == (1, 5)
            assert offload.remove(flow.client, CHANNEL).to_peer == (1, 5)
            client.sendto(channel_data(CHANNEL, b"12345"), (str(RELAY[4]), 3478))
            assert stack.recvfrom(100)[0] == channel_data(CHANNEL, b"12345")
            assert offload.flow_counters(flow.client, CHANNEL).to_peer == (0, 0)


def test_a_full_table_keeps_the_next_flow_in_user_space(lab: Lab) -> None:
    with offloaded(lab, "native", capacity=1) as offload:
        first = _flow(4, 4)
        second = replace(first, channel=CHANNEL + 1, peer=Endpoint(PEER[4], 7001))
        assert [offload.install(first), offload.install(second), offload.install(first)] == [True, False, True]
        assert (len(offload), offload.capacity) == (1, 1)
        offload.remove(first.client, CHANNEL)
        assert offload.install(second)


@pytest.mark.parametrize("entries", [2, 3])
def test_a_full_map_keeps_a_flow_in_user_space_until_it_is_tried_again(
    lab: Lab, monkeypatch: pytest.MonkeyPatch, entries: int
) -> None:
    """A map with room for one binding and a half: what was written of the other is taken back."""
    monkeypatch.setattr("ebpf.offload._ENTRIES_PER_BINDING", 1)
    lab.open_forwarding()
    first = _flow(4, 4)
    second = replace(first, channel=CHANNEL + 1, peer=Endpoint(PEER[4], 7001), relayed_port=RELAYED_PORT + 1)
    with (
        offloaded(lab, "native", capacity=entries) as offload,
        udp(lab.relay, RELAY[4], 3478) as stack,
        udp(lab.client, CLIENT[4], 6000) as client,
        udp(lab.peer, PEER[4], 7000) as peer,
        udp(lab.peer, PEER[4], 7001) as other_peer,
    ):
        assert [offload.install(first), offload.install(second)] == [True, False]
        client.sendto(channel_data(second.channel, b"by hand"), (str(RELAY[4]), 3478))
        assert stack.recvfrom(100)[0] == channel_data(second.channel, b"by hand")
        client.sendto(channel_data(CHANNEL, b"first"), (str(RELAY[4]), 3478))
        assert peer.recvfrom(100)[0] == b"first"
        assert not offload.install(second)
        assert (offload.mode, len(offload)) == ("native", 1)
        offload.remove(first.client, first.channel)
        assert offload.install(second)
        client.sendto(channel_data(second.channel, b"second"), (str(RELAY[4]), 3478))
        assert other_peer.recvfrom(100)[0] == b"second"


def test_without_forwarding_the_learnt_neighbour_is_used(lab: Lab) -> None:
    with offloaded(lab, "native") as offload:
        _carry(lab, offload, 4, 6)
        assert set(offload.counters().egress) <= {Outcome.FORWARD_NEXT_HOP, Outcome.FORWARD_PROBE}


def test_an_unresolved_neighbour_is_learnt_later(lab: Lab) -> None:
    with offloaded(lab, "native") as offload:
        lab.forget_neighbours()
        offload.install(_flow(4, 4))
        with (
            udp(lab.relay, RELAY[4], 3478) as stack,
            udp(lab.client, CLIENT[4], 6000) as client,
            udp(lab.peer, PEER[4], 7000) as peer,
        ):
            message = channel_data(CHANNEL, b"early")
            client.sendto(message, (str(RELAY[4]), 3478))
            assert stack.recvfrom(100)[0] == message
            stack.sendto(b"early", (str(PEER[4]), 7000))
            assert peer.recvfrom(100)[0] == b"early"
            until(lambda: _is_forwarded(offload, client, peer))


def test_the_self_test_tells_a_swallowing_egress(lab: Lab) -> None:
    lab.open_forwarding()
    lab.run(lab.bridge, "ethtool", "-K", "p2", "gro", "off")
    with offloaded(lab, "auto") as offload:
        assert (offload.mode, offload.egress_states()) == ("native", {"e0": "swallows"})
        assert offload.install(_flow(4, 4))
        with udp(lab.relay, RELAY[4], 3478) as stack, udp(lab.client, CLIENT[4], 6000) as client:
            client.sendto(channel_data(CHANNEL, b"kept"), (str(RELAY[4]), 3478))
            assert stack.recvfrom(100)[0] == channel_data(CHANNEL, b"kept")


@pytest.mark.parametrize("is_noticed", [False, True])
def test_a_next_hop_that_answers_late_is_asked_again(
    lab: Lab, monkeypatch: pytest.MonkeyPatch, is_noticed: bool
) -> None:
    """At boot the router may be up later than the relay: all first answers are lost."""
    monkeypatch.setattr("ebpf.verdict.FIRST_RETRY", 1 << 62 if is_noticed else 0)
    monkeypatch.setattr("ebpf.verdict.LAST_RETRY", 1 << 62 if is_noticed else 0)
    lab.open_forwarding()
    ip("-n", lab.relay, "route", "add", "default", "via", str(PEER[4]))
    ip("-n", lab.peer, "link", "set", "e0", "arp", "off")
    with entered(lab.relay):
        interface = netlink.find_interface("e0")
        # Nor shall it hear of neighbours by their solicitations of a router.
        Path("/proc/sys/net/ipv6/conf/e0/disable_ipv6").write_text("1")
    assert interface is not None
    # So that the client need not ask, by which the relay would learn of another neighbour.
    ip("-n", lab.client, "neigh", "add", str(RELAY[4]), "lladdr", interface.mac.hex(":"), "dev", "e0")
    with offloaded(lab, "auto", neighbours=False) as offload:
        assert (offload.mode, offload.egress_states()) == ("native", {"e0": "silent"})
        assert offload.install(_flow(4, 4))
        with (
            udp(lab.relay, RELAY[4], 3478) as stack,
            udp(lab.client, CLIENT[4], 6000) as client,
            udp(lab.peer, PEER[4], 7000) as peer,
        ):
            client.sendto(channel_data(CHANNEL, b"kept"), (str(RELAY[4]), 3478))
            assert stack.recvfrom(100)[0] == channel_data(CHANNEL, b"kept")
            assert _looked(offload) == {"e0": "silent"}
            ip("-n", lab.peer, "link", "set", "e0", "arp", "on")
            if is_noticed:  # a neighbour appears, long before the next test would be due
                neighbourly(lab)
            until(lambda: _looked(offload) == {"e0": "verified"})
            neighbourly(lab)
            until(lambda: _is_forwarded(offload, client, peer))


def test_an_egress_that_begins_to_swallow_is_found_out(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    for constant in ("FIRST_RETRY", "LAST_RETRY", "RECHECK"):
        monkeypatch.setattr(f"ebpf.verdict.{constant}", 0)
    ip("-n", lab.relay, "route", "add", "default", "via", str(PEER[4]))
    with offloaded(lab, "native") as offload:
        assert offload.egress_states() == {"e0": "verified"}
        lab.run(lab.bridge, "ethtool", "-K", "p2", "gro", "off")
        until(lambda: _looked(offload) == {"e0": "swallows"})
        lab.run(lab.bridge, "ethtool", "-K", "p2", "gro", "on")
        until(lambda: _looked(offload) == {"e0": "verified"})


@pytest.mark.parametrize("version", [4, 6])
def test_the_self_test_verifies_a_working_egress(lab: Lab, version: int) -> None:
    lab.run(lab.relay, "ip", f"-{version}", "route", "add", "default", "via", str(PEER[version]))
    with offloaded(lab, "native", neighbours=False) as offload:
        assert offload.egress_states() == {"e0": "verified"}
        assert offload.counters().egress[Outcome.FORWARD_PROBE].packets


def test_without_a_next_hop_the_egress_is_unverified(lab: Lab) -> None:
    lab.forget_neighbours()
    with offloaded(lab, "native", neighbours=False) as offload:
        assert offload.egress_states() == {"e0": "unverified"}


def test_an_absent_interface_is_an_error_in_every_mode(lab: Lab) -> None:
    with entered(lab.relay), pytest.raises(OffloadError, match="no such network interface: e7"):
        RelayOffload(OffloadSettings(interfaces=("e0", "e7"), mode="auto"))


def test_auto_falls_back_to_generic_where_native_is_refused(lab: Lab) -> None:
    for name, device in ((lab.relay, "e0"), (lab.bridge, "p2")):
        ip("-n", name, "link", "set", device, "mtu", "9000")
    with offloaded(lab, "auto") as offload:
        assert offload.mode == "generic"
        assert "native" in offload.reason
    with entered(lab.relay), pytest.raises(OffloadError, match="e0 in native mode"):
        RelayOffload(OffloadSettings(interfaces=("e0",), mode="native"))


def test_a_program_of_another_relay_is_not_replaced(lab: Lab) -> None:
    with offloaded(lab, "native"), entered(lab.relay):
        with pytest.raises(OffloadError, match="another running relay"):
            RelayOffload(OffloadSettings(interfaces=("e0",), mode="native", capacity=16))
        second = RelayOffload(OffloadSettings(interfaces=("e0",), mode="auto", capacity=16))
        assert second.mode == "off"
        assert "another running relay" in second.reason
        assert not second.install(_flow(4, 4))
        second.close()


def test_the_program_goes_with_its_process(lab: Lab) -> None:
    script = textwrap.dedent("""
        from ebpf import OffloadSettings, RelayOffload
        offload = RelayOffload(OffloadSettings(interfaces=("e0",), mode="native", capacity=16))
        print(offload.mode, flush=True)
        input()
    """)
    command = ["ip", "netns", "exec", lab.relay, sys.executable, "-c", script]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "native\n"
        process.send_signal(signal.SIGKILL)
    until(lambda: not has_program(lab.relay, "e0"))
    with offloaded(lab, "native") as offload:
        assert offload.mode == "native"
    assert not has_program(lab.relay, "e0")


def test_works_inside_a_running_event_loop(lab: Lab) -> None:
    async def serve() -> str:
        with offloaded(lab, "native") as offload:
            offload.follow(offload.look())
            return offload.mode

    assert asyncio.run(serve()) == "native"


def _carry(lab: Lab, offload: RelayOffload, client: int, peer: int) -> None:
    """Three messages each way; the sockets check the checksums, a wrong one would not arrive."""
    assert offload.install(_flow(client, peer))
    with udp(lab.client, CLIENT[client], 6000) as near, udp(lab.peer, PEER[peer], 7000) as far:
        for size in (1, 2, 1200):
            message = bytes(index % 251 for index in range(size))
            near.sendto(channel_data(CHANNEL, message), (str(RELAY[client]), 3478))
            received, sender = far.recvfrom(2000)
            assert (received, sender[:2]) == (message, (str(RELAY[peer]), RELAYED_PORT))
            far.sendto(message, (str(RELAY[peer]), RELAYED_PORT))
            received, sender = near.recvfrom(2000)
            assert (received, sender[:2]) == (channel_data(CHANNEL, message), (str(RELAY[client]), 3478))


def _flow(client: int, peer: int) -> ChannelFlow:
    return ChannelFlow(Endpoint(CLIENT[client], 6000), CHANNEL, Endpoint(PEER[peer], 7000), RELAYED_PORT, later())


@contextmanager
def offloaded(
    lab: Lab,
    mode: Literal["auto", "native", "generic"],
    *,
    public: tuple[IPAddress, ...] = (),
    generic_from_peer: bool = False,
    neighbours: bool = True,
    capacity: int = 128,
) -> Iterator[RelayOffload]:
    if neighbours:
        neighbourly(lab)
    with entered(lab.relay):
        offload = RelayOffload(
            OffloadSettings(
                interfaces=("e0",), mode=mode, public=public, generic_from_peer=generic_from_peer, capacity=capacity
            )
        )
        try:
            yield offload
        finally:
            offload.close()


def _looked(offload: RelayOffload) -> dict[str, EgressState]:
    offload.follow(offload.look())
    return offload.egress_states()


def _is_forwarded(offload: RelayOffload, client: socket.socket, peer: socket.socket) -> bool:
    offload.follow(offload.look())
    client.sendto(channel_data(CHANNEL, b"late"), (str(RELAY[4]), 3478))
    peer.settimeout(0.2)
    try:
        return peer.recvfrom(100)[0] == b"late"
    except TimeoutError:
        return False
