"""What goes up, and under which reason: each malformation, each refusal, each way to find the next hop."""

import socket
import struct
import time
from collections.abc import Iterator
from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path
from typing import Final

import pytest

from connectivity.endpoint import Endpoint
from ebpf import bpf_syscall
from ebpf.layout import Counter, FlowKey, FlowValue, NextHop
from ebpf.oracle import ChecksumKind, Datagram, ones_complement_sum, read_packet
from ebpf.outcomes import Direction, Outcome
from ebpf.settings import ChannelFlow
from tests.bpf.relay_bench import FOREVER, MACS, OTHER_LISTEN_PORT, PUBLIC, SPARE_SLOT, Bench
from tests.bpf.relay_frames import (
    CLIENT,
    CLIENT6,
    FLOW,
    FLOW6,
    LISTEN,
    LISTEN6,
    PEER,
    PEER6,
    channel_data,
    frame_of,
    ipv4_of,
    ipv6_of,
)

pytestmark = pytest.mark.root

VIA_SLOT_7: Final = FlowValue(PEER, 50_000, 0, SPARE_SLOT, next_hop=7, listen_port=LISTEN.port)
FORWARDING: Final = (Path("/proc/sys/net/ipv4/ip_forward"), Path("/proc/sys/net/ipv6/conf/all/forwarding"))


def _patched(packet: bytes, offset: int, value: bytes) -> bytes:
    return packet[:offset] + value + packet[offset + len(value) :]


def _v4_with(offset: int, value: bytes) -> bytes:
    """Another value in the IPv4 header, whose checksum is right for it."""
    header = _patched(_patched(ipv4_of(), offset, value)[:20], 10, bytes(2))
    return _patched(header, 10, struct.pack("!H", 0xFFFF - ones_complement_sum(header))) + ipv4_of()[20:]


def _with_options(packet: bytes) -> bytes:
    longer = _patched(packet, 0, b"\x46")
    return _patched(longer[:20] + b"\x01\x01\x01\x01" + longer[20:], 2, struct.pack("!H", len(packet) + 4))


def _with_extension(packet: bytes, kind: int) -> bytes:
    extended = packet[:40] + bytes([17, 0, 1, 4, 0, 0, 0, 0]) + packet[40:]
    return _patched(_patched(extended, 4, struct.pack("!H", len(extended) - 40)), 6, bytes([kind]))


PASSED_UP: Final[dict[str, tuple[bytes, Outcome, Direction]]] = {
    "ARP": (frame_of(bytes(46), 0x0806), Outcome.PUNT_NOT_IP, Direction.NONE),
    "an IPv4 type with version 6": (frame_of(ipv6_of(), 0x0800), Outcome.PUNT_NOT_IP, Direction.NONE),
    "an IPv6 type with version 4": (frame_of(ipv4_of(channel_data(40)), 0x86DD), Outcome.PUNT_NOT_IP, Direction.NONE),
    "a VLAN tag": (MACS + b"\x81\x00\x00\x05\x08\x00" + ipv4_of(), Outcome.PUNT_VLAN, Direction.NONE),
    "two VLAN tags": (
        MACS + b"\x88\xa8\x00\x05\x81\x00\x00\x05\x08\x00" + ipv4_of(),
        Outcome.PUNT_VLAN,
        Direction.NONE,
    ),
    "a cut IPv4 header": (frame_of(ipv4_of()[:19]), Outcome.PUNT_TRUNCATED, Direction.NONE),
    "a cut IPv6 header": (frame_of(ipv6_of()[:39]), Outcome.PUNT_TRUNCATED, Direction.NONE),
    "a cut UDP header": (frame_of(_patched(ipv6_of()[:47], 4, b"\x00\x07")), Outcome.PUNT_TRUNCATED, Direction.NONE),
    "IPv4 options": (frame_of(_with_options(ipv4_of())), Outcome.PUNT_IPV4_OPTIONS, Direction.NONE),
    "a header length below five words": (
        frame_of(_patched(ipv4_of(), 0, b"\x44")),
        Outcome.PUNT_IPV4_OPTIONS,
        Direction.NONE,
    ),
    "a first IPv4 fragment": (frame_of(_v4_with(6, b"\x20\x00")), Outcome.PUNT_FRAGMENT, Direction.NONE),
    "a later IPv4 fragment": (frame_of(_v4_with(6, b"\x00\x10")), Outcome.PUNT_FRAGMENT, Direction.NONE),
    "an IPv6 fragment": (frame_of(_with_extension(ipv6_of(), 44)), Outcome.PUNT_FRAGMENT, Direction.NONE),
    "hop-by-hop options": (frame_of(_with_extension(ipv6_of(), 0)), Outcome.PUNT_IPV6_EXTENSION, Direction.NONE),
    "destination options": (frame_of(_with_extension(ipv6_of(), 60)), Outcome.PUNT_IPV6_EXTENSION, Direction.NONE),
    "TCP over IPv4": (frame_of(_v4_with(9, b"\x06")), Outcome.PUNT_NOT_UDP, Direction.NONE),
    "TCP over IPv6": (frame_of(_patched(ipv6_of(), 6, b"\x06")), Outcome.PUNT_NOT_UDP, Direction.NONE),
    "another host's address": (
        frame_of(ipv4_of(destination=Endpoint(ip_address("192.0.2.2"), 3478))),
        Outcome.PUNT_NOT_OURS,
        Direction.NONE,
    ),
    "another host's IPv6 address": (
        frame_of(ipv6_of(destination=Endpoint(ip_address("2001:db8::2"), 3478))),
        Outcome.PUNT_NOT_OURS,
        Direction.NONE,
    ),
    "the unspecified address": (
        frame_of(ipv4_of(destination=Endpoint(ip_address("0.0.0.0"), 3478))),
        Outcome.PUNT_NOT_OURS,
        Direction.NONE,
    ),
    "the unspecified IPv6 address": (
        frame_of(ipv6_of(destination=Endpoint(ip_address("::"), 3478))),
        Outcome.PUNT_NOT_OURS,
        Direction.NONE,
    ),
    "an IPv4 length beyond the frame": (
        frame_of(_v4_with(2, b"\x01\x00")),
        Outcome.PUNT_BAD_LENGTH,
        Direction.NONE,
    ),
    "an IPv4 length below its header": (
        frame_of(_v4_with(2, b"\x00\x13")),
        Outcome.PUNT_BAD_LENGTH,
        Direction.NONE,
    ),
    "an IPv6 length beyond the frame": (
        frame_of(_patched(ipv6_of(), 4, b"\x01\x00")),
        Outcome.PUNT_BAD_LENGTH,
        Direction.NONE,
    ),
    "a UDP length beyond IP's": (
        frame_of(_patched(ipv4_of(), 24, b"\x00\x15")),
        Outcome.PUNT_BAD_LENGTH,
        Direction.NONE,
    ),
    "a UDP length below IP's": (
        frame_of(_patched(ipv4_of(), 24, b"\x00\x13")),
        Outcome.PUNT_BAD_LENGTH,
        Direction.NONE,
    ),
    "a UDP length below its header": (
        frame_of(_patched(ipv6_of(), 44, b"\x00\x07")),
        Outcome.PUNT_BAD_LENGTH,
        Direction.NONE,
    ),
    "a port below the relayed ones": (
        frame_of(ipv4_of(destination=Endpoint(LISTEN.ip, 32_767))),
        Outcome.PUNT_OTHER_PORT,
        Direction.NONE,
    ),
    "STUN": (frame_of(ipv4_of(b"\x00\x01\x00\x00" + bytes(16))), Outcome.PUNT_NOT_CHANNEL_DATA, Direction.NONE),
    "a number above the channels": (
        frame_of(ipv4_of(channel_data(number=0x8000))),
        Outcome.PUNT_NOT_CHANNEL_DATA,
        Direction.NONE,
    ),
    "three bytes": (frame_of(ipv4_of(b"\x40\x01\x00")), Outcome.PUNT_NOT_CHANNEL_DATA, Direction.NONE),
    "an empty datagram": (frame_of(ipv4_of(b"")), Outcome.PUNT_NOT_CHANNEL_DATA, Direction.NONE),
    "a damaged IPv4 header": (frame_of(_patched(ipv4_of(), 1, b"\x04")), Outcome.PUNT_IPV4_CHECKSUM, Direction.NONE),
    "padding": (frame_of(ipv4_of(channel_data(5, extra=3))), Outcome.PUNT_PADDED, Direction.NONE),
    "more than padding": (frame_of(ipv4_of(channel_data(4, extra=4))), Outcome.PUNT_CHANNEL_LENGTH, Direction.NONE),
    "a channel length beyond the datagram": (
        frame_of(ipv4_of(channel_data(8, claimed=9))),
        Outcome.PUNT_CHANNEL_LENGTH,
        Direction.NONE,
    ),
    "a super-packet": (frame_of(ipv4_of(channel_data(100) * 3)), Outcome.PUNT_CHANNEL_LENGTH, Direction.NONE),
    "another channel": (frame_of(ipv4_of(channel_data(number=0x4002))), Outcome.PUNT_UNKNOWN_FLOW, Direction.NONE),
    "another listen port than the client's": (
        frame_of(ipv4_of(destination=Endpoint(LISTEN.ip, OTHER_LISTEN_PORT))),
        Outcome.PUNT_UNKNOWN_FLOW,
        Direction.NONE,
    ),
    "another client port": (
        frame_of(ipv4_of(source=Endpoint(CLIENT.ip, 50_002))),
        Outcome.PUNT_UNKNOWN_FLOW,
        Direction.NONE,
    ),
    "another peer port": (
        frame_of(ipv4_of(b"data", source=Endpoint(PEER.ip, 60_003), destination=Endpoint(LISTEN.ip, 50_000))),
        Outcome.PUNT_UNKNOWN_FLOW,
        Direction.NONE,
    ),
    "another relayed port": (
        frame_of(ipv4_of(b"data", source=PEER, destination=Endpoint(LISTEN.ip, 50_001))),
        Outcome.PUNT_UNKNOWN_FLOW,
        Direction.NONE,
    ),
    "IPv6 without a checksum": (
        frame_of(Datagram(CLIENT6, LISTEN6, channel_data()).packet(ChecksumKind.ZERO)),
        Outcome.PUNT_NO_CHECKSUM,
        Direction.TO_PEER,
    ),
}


@pytest.mark.parametrize("name", PASSED_UP)
def test_passes_up_untouched_and_counts_why(bench: Bench, name: str) -> None:
    frame, outcome, direction = PASSED_UP[name]
    bench.install(FLOW, FLOW6)
    assert bench.run(frame) == ("pass", frame)
    assert bench.outcomes() == {(outcome, direction): Counter(1, len(frame))}


@pytest.mark.parametrize("kind", ChecksumKind)
def test_empty_messages_are_relayed_and_counted(bench: Bench, kind: ChecksumKind) -> None:
    bench.install(FLOW)
    up = Datagram(CLIENT, LISTEN, channel_data(0))
    down = Datagram(PEER, Endpoint(LISTEN.ip, 50_000), b"")
    for arriving, payload in ((up, b""), (down, struct.pack("!HH", 0x4001, 0))):
        verdict, out = bench.run(frame_of(arriving.packet(kind)))
        assert verdict == "redirect"
        assert read_packet(out[14:]).payload == payload
    assert list(bench.flow_counters(FLOW)) == [Counter(1, 0), Counter(1, 0)]


def test_an_expired_flow_goes_up_until_it_is_refreshed(bench: Bench) -> None:
    frame = frame_of(ipv4_of())
    bench.install(replace(FLOW, expires_at=1))
    assert bench.run(frame) == ("pass", frame)
    assert (Outcome.PUNT_EXPIRED, Direction.TO_PEER) in bench.outcomes()
    bench.install(FLOW)
    assert bench.run(frame)[0] == "redirect"


def test_nothing_passes_after_its_time_although_the_program_s_clock_is_late(bench: Bench) -> None:
    bench.install(replace(FLOW, expires_at=time.monotonic_ns()))
    assert bench.run(frame_of(ipv4_of()))[0] == "pass"


def test_between_clients_the_far_end_s_life_counts_with_every_packet(bench: Bench) -> None:
    """An allocation that ended, or whose binding did, gets nothing, although the other's entry is still there."""
    near = replace(FLOW, peer=Endpoint(PUBLIC[4], 50_002))
    far = ChannelFlow(CLIENT6, 0x4002, Endpoint(PUBLIC[4], 50_000), 50_002, FOREVER)
    bench.install(near, far)
    frame = frame_of(ipv4_of())
    assert bench.run(frame)[0] == "redirect"
    bench.bindings.relay_until(bench.slot(far), 1, 0)
    assert bench.run(frame) == ("pass", frame)
    bench.bindings.relay_until(bench.slot(far), FOREVER, 0)
    assert bench.run(frame)[0] == "redirect"
    bench.bindings.end(bench.slot(far))
    assert bench.run(frame) == ("pass", frame)
    assert bench.outcomes()[Outcome.PUNT_EXPIRED, Direction.BETWEEN_CLIENTS] == Counter(2, 2 * len(frame))


def test_an_entry_of_no_binding_is_not_served(bench: Bench) -> None:
    bench.put(FlowKey(CLIENT, 0x4001), FlowValue(PEER, 50_000, 0, listen_port=LISTEN.port))
    frame = frame_of(ipv4_of())
    assert bench.run(frame) == ("pass", frame)


def test_an_entry_that_echoes_another_key_is_not_trusted(bench: Bench) -> None:
    """What a reader sees when the element was recycled for another flow between lookup and use."""
    key = FlowKey(CLIENT, 0x4001)
    value = FlowValue(PEER, 50_000, 0, SPARE_SLOT, listen_port=LISTEN.port)
    bpf_syscall.map_update(bench.flow_map(key), key.pack(), value.pack(FlowKey(CLIENT, 0x4002)))
    frame = frame_of(ipv4_of())
    assert bench.run(frame) == ("pass", frame)
    assert list(bench.outcomes()) == [(Outcome.PUNT_RECYCLED, Direction.TO_PEER)]


def test_generic_mode_leaves_packets_from_peers_to_user_space(bench: Bench) -> None:
    bench.install(FLOW)
    frame = frame_of(ipv4_of(b"data", source=PEER, destination=Endpoint(LISTEN.ip, 50_000)))
    bench.configure(from_peer=False)
    assert bench.run(frame) == ("pass", frame)
    assert list(bench.outcomes()) == [(Outcome.PUNT_FROM_PEER, Direction.NONE)]
    bench.configure(from_peer=True)
    assert bench.run(frame)[0] == "redirect"


def test_an_egress_that_is_not_offloaded_gets_nothing(bench: Bench) -> None:
    bench.install(FLOW)
    bench.configure(egress=[])
    frame = frame_of(ipv4_of())
    assert bench.run(frame) == ("pass", frame)
    assert list(bench.outcomes()) == [(Outcome.PUNT_EGRESS, Direction.TO_PEER)]


@pytest.mark.parametrize(
    ("peer", "outcome"),
    [
        ("192.0.2.77", Outcome.PUNT_NO_NEIGHBOUR),
        ("192.0.2.1", Outcome.PUNT_UNROUTABLE),
        ("127.0.0.1", Outcome.PUNT_UNROUTABLE),
    ],
)
def test_what_the_kernel_cannot_forward_goes_up(bench: Bench, peer: str, outcome: Outcome) -> None:
    key = FlowKey(CLIENT, 0x4001)
    bench.put(key, FlowValue(Endpoint(ip_address(peer), 60_002), 50_000, 0, SPARE_SLOT, listen_port=LISTEN.port))
    frame = frame_of(ipv4_of())
    assert bench.run(frame) == ("pass", frame)
    assert list(bench.outcomes()) == [(outcome, Direction.TO_PEER)]


def test_a_packet_above_the_mtu_goes_up_whole(bench: Bench) -> None:
    bench.install(ChannelFlow(CLIENT, 0x4001, PEER6, 50_000, FOREVER), replace(FLOW, channel=0x4002))
    at_limit, above = 1500 - 48, 1500 - 47
    assert bench.run(frame_of(ipv4_of(channel_data(at_limit))))[0] == "redirect"
    frame = frame_of(ipv4_of(channel_data(above)))
    assert bench.run(frame) == ("pass", frame)
    assert (Outcome.PUNT_MTU, Direction.TO_PEER) in bench.outcomes()


class TestWithoutForwarding:
    """The operator did not open forwarding: learnt next hops, else back to the sender."""

    @pytest.fixture(autouse=True)
    def _forwarding_is_off(self, bench: Bench) -> Iterator[None]:
        assert bench.program.fd >= 0
        before = {path: path.read_text() for path in FORWARDING}
        for path in FORWARDING:
            path.write_text("0")
        yield
        for path, text in before.items():
            path.write_text(text)

    def test_uses_the_learnt_next_hop(self, bench: Bench) -> None:
        hop = NextHop(bench.egress, 1500, bytes.fromhex("0200000000aa"), bytes.fromhex("0200000000bb"))
        bench.put_hop(7, hop)
        bench.put(FlowKey(CLIENT, 0x4001), VIA_SLOT_7)
        verdict, out = bench.run(frame_of(ipv4_of()))
        assert (verdict, out[:12]) == ("redirect", hop.destination_mac + hop.source_mac)
        assert read_packet(out[14:]).destination == PEER
        assert list(bench.outcomes()) == [(Outcome.FORWARD_NEXT_HOP, Direction.TO_PEER)]

    def test_respects_the_next_hop_s_mtu(self, bench: Bench) -> None:
        bench.put_hop(7, NextHop(bench.egress, 100, bytes(6), bytes(6)))
        bench.put(FlowKey(CLIENT, 0x4001), VIA_SLOT_7)
        assert bench.run(frame_of(ipv4_of(channel_data(72))))[0] == "redirect"
        assert bench.run(frame_of(ipv4_of(channel_data(73))))[0] == "pass"

    def test_an_unresolved_next_hop_sends_up(self, bench: Bench) -> None:
        bench.put_hop(7, NextHop(0, 0, bytes(6), bytes(6)))
        bench.put(FlowKey(CLIENT, 0x4001), VIA_SLOT_7)
        frame = frame_of(ipv4_of())
        assert bench.run(frame) == ("pass", frame)
        assert list(bench.outcomes()) == [(Outcome.PUNT_NO_NEIGHBOUR, Direction.TO_PEER)]

    @pytest.mark.parametrize("peer", [PEER, PEER6], ids=["v4", "v6"])
    def test_without_one_returns_to_the_sender(self, bench: Bench, peer: Endpoint) -> None:
        bench.configure(egress=[socket.if_nametoindex("lo")])
        bench.install(replace(FLOW, peer=peer))
        verdict, out = bench.run(frame_of(ipv4_of()))
        assert (verdict, out[:12]) == ("redirect", MACS[6:] + MACS[:6])
        assert read_packet(out[14:]).destination == peer
        assert list(bench.outcomes()) == [(Outcome.FORWARD_RETURN, Direction.TO_PEER)]
