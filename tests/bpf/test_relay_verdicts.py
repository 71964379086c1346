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

from connectivity.clock import SECOND
from connectivity.endpoint import Endpoint
from ebpf import bpf_syscall
from ebpf.bindings import Buckets
from ebpf.layout import Counter, FlowKey, FlowValue, NextHop
from ebpf.oracle import ChecksumKind, Datagram, ones_complement_sum, read_packet
from ebpf.outcomes import Direction, Outcome
from ebpf.settings import ChannelFlow
from relay.core.quotas import NUMBERS_OF_BUCKET, TokenBucket
from tests.bpf.relay_bench import FOREVER, MACS, OTHER_LISTEN_PORT, PROGRAM_CLOCK, PUBLIC, SPARE_SLOT, Bench

pytestmark = pytest.mark.root

CLIENT: Final = Endpoint(ip_address("192.0.2.10"), 50_001)
CLIENT6: Final = Endpoint(ip_address("2001:db8::10"), 50_001)
PEER: Final = Endpoint(ip_address("192.0.2.20"), 60_002)
PEER6: Final = Endpoint(ip_address("2001:db8::20"), 60_002)
LISTEN: Final = Endpoint(ip_address("192.0.2.1"), 3478)
LISTEN6: Final = Endpoint(ip_address("2001:db8::1"), 3478)
FLOW: Final = ChannelFlow(CLIENT, 0x4001, PEER, 50_000, FOREVER)
FLOW6: Final = ChannelFlow(CLIENT6, 0x4001, PEER6, 50_000, FOREVER)
VIA_SLOT_7: Final = FlowValue(PEER, 50_000, 0, SPARE_SLOT, next_hop=7, listen_port=LISTEN.port)
FORWARDING: Final = (Path("/proc/sys/net/ipv4/ip_forward"), Path("/proc/sys/net/ipv6/conf/all/forwarding"))


def _frame(packet: bytes, ethertype: int | None = None) -> bytes:
    return MACS + struct.pack("!H", ethertype or (0x0800 if packet[0] >> 4 == 4 else 0x86DD)) + packet


def _channel(length: int = 8, *, number: int = 0x4001, claimed: int | None = None, extra: int = 0) -> bytes:
    return struct.pack("!HH", number, length if claimed is None else claimed) + bytes(length) + bytes(extra)


def _v4(payload: bytes = _channel(), source: Endpoint = CLIENT, destination: Endpoint = LISTEN) -> bytes:
    return Datagram(source, destination, payload).packet()


def _v6(payload: bytes = _channel(), source: Endpoint = CLIENT6, destination: Endpoint = LISTEN6) -> bytes:
    return Datagram(source, destination, payload).packet()


def _patched(packet: bytes, offset: int, value: bytes) -> bytes:
    return packet[:offset] + value + packet[offset + len(value) :]


def _v4_with(offset: int, value: bytes) -> bytes:
    """Another value in the IPv4 header, whose checksum is right for it."""
    header = _patched(_patched(_v4(), offset, value)[:20], 10, bytes(2))
    return _patched(header, 10, struct.pack("!H", 0xFFFF - ones_complement_sum(header))) + _v4()[20:]


def _with_options(packet: bytes) -> bytes:
    longer = _patched(packet, 0, b"\x46")
    return _patched(longer[:20] + b"\x01\x01\x01\x01" + longer[20:], 2, struct.pack("!H", len(packet) + 4))


def _with_extension(packet: bytes, kind: int) -> bytes:
    extended = packet[:40] + bytes([17, 0, 1, 4, 0, 0, 0, 0]) + packet[40:]
    return _patched(_patched(extended, 4, struct.pack("!H", len(extended) - 40)), 6, bytes([kind]))


PASSED_UP: Final[dict[str, tuple[bytes, Outcome, Direction]]] = {
    "ARP": (_frame(bytes(46), 0x0806), Outcome.PUNT_NOT_IP, Direction.NONE),
    "an IPv4 type with version 6": (_frame(_v6(), 0x0800), Outcome.PUNT_NOT_IP, Direction.NONE),
    "an IPv6 type with version 4": (_frame(_v4(_channel(40)), 0x86DD), Outcome.PUNT_NOT_IP, Direction.NONE),
    "a VLAN tag": (MACS + b"\x81\x00\x00\x05\x08\x00" + _v4(), Outcome.PUNT_VLAN, Direction.NONE),
    "two VLAN tags": (MACS + b"\x88\xa8\x00\x05\x81\x00\x00\x05\x08\x00" + _v4(), Outcome.PUNT_VLAN, Direction.NONE),
    "a cut IPv4 header": (_frame(_v4()[:19]), Outcome.PUNT_TRUNCATED, Direction.NONE),
    "a cut IPv6 header": (_frame(_v6()[:39]), Outcome.PUNT_TRUNCATED, Direction.NONE),
    "a cut UDP header": (_frame(_patched(_v6()[:47], 4, b"\x00\x07")), Outcome.PUNT_TRUNCATED, Direction.NONE),
    "IPv4 options": (_frame(_with_options(_v4())), Outcome.PUNT_IPV4_OPTIONS, Direction.NONE),
    "a header length below five words": (
        _frame(_patched(_v4(), 0, b"\x44")),
        Outcome.PUNT_IPV4_OPTIONS,
        Direction.NONE,
    ),
    "a first IPv4 fragment": (_frame(_v4_with(6, b"\x20\x00")), Outcome.PUNT_FRAGMENT, Direction.NONE),
    "a later IPv4 fragment": (_frame(_v4_with(6, b"\x00\x10")), Outcome.PUNT_FRAGMENT, Direction.NONE),
    "an IPv6 fragment": (_frame(_with_extension(_v6(), 44)), Outcome.PUNT_FRAGMENT, Direction.NONE),
    "hop-by-hop options": (_frame(_with_extension(_v6(), 0)), Outcome.PUNT_IPV6_EXTENSION, Direction.NONE),
    "destination options": (_frame(_with_extension(_v6(), 60)), Outcome.PUNT_IPV6_EXTENSION, Direction.NONE),
    "TCP over IPv4": (_frame(_v4_with(9, b"\x06")), Outcome.PUNT_NOT_UDP, Direction.NONE),
    "TCP over IPv6": (_frame(_patched(_v6(), 6, b"\x06")), Outcome.PUNT_NOT_UDP, Direction.NONE),
    "another host's address": (
        _frame(_v4(destination=Endpoint(ip_address("192.0.2.2"), 3478))),
        Outcome.PUNT_NOT_OURS,
        Direction.NONE,
    ),
    "another host's IPv6 address": (
        _frame(_v6(destination=Endpoint(ip_address("2001:db8::2"), 3478))),
        Outcome.PUNT_NOT_OURS,
        Direction.NONE,
    ),
    "the unspecified address": (
        _frame(_v4(destination=Endpoint(ip_address("0.0.0.0"), 3478))),
        Outcome.PUNT_NOT_OURS,
        Direction.NONE,
    ),
    "the unspecified IPv6 address": (
        _frame(_v6(destination=Endpoint(ip_address("::"), 3478))),
        Outcome.PUNT_NOT_OURS,
        Direction.NONE,
    ),
    "an IPv4 length beyond the frame": (
        _frame(_v4_with(2, b"\x01\x00")),
        Outcome.PUNT_BAD_LENGTH,
        Direction.NONE,
    ),
    "an IPv4 length below its header": (
        _frame(_v4_with(2, b"\x00\x13")),
        Outcome.PUNT_BAD_LENGTH,
        Direction.NONE,
    ),
    "an IPv6 length beyond the frame": (
        _frame(_patched(_v6(), 4, b"\x01\x00")),
        Outcome.PUNT_BAD_LENGTH,
        Direction.NONE,
    ),
    "a UDP length beyond IP's": (_frame(_patched(_v4(), 24, b"\x00\x15")), Outcome.PUNT_BAD_LENGTH, Direction.NONE),
    "a UDP length below IP's": (_frame(_patched(_v4(), 24, b"\x00\x13")), Outcome.PUNT_BAD_LENGTH, Direction.NONE),
    "a UDP length below its header": (
        _frame(_patched(_v6(), 44, b"\x00\x07")),
        Outcome.PUNT_BAD_LENGTH,
        Direction.NONE,
    ),
    "a port below the relayed ones": (
        _frame(_v4(destination=Endpoint(LISTEN.ip, 32_767))),
        Outcome.PUNT_OTHER_PORT,
        Direction.NONE,
    ),
    "STUN": (_frame(_v4(b"\x00\x01\x00\x00" + bytes(16))), Outcome.PUNT_NOT_CHANNEL_DATA, Direction.NONE),
    "a number above the channels": (
        _frame(_v4(_channel(number=0x8000))),
        Outcome.PUNT_NOT_CHANNEL_DATA,
        Direction.NONE,
    ),
    "three bytes": (_frame(_v4(b"\x40\x01\x00")), Outcome.PUNT_NOT_CHANNEL_DATA, Direction.NONE),
    "an empty datagram": (_frame(_v4(b"")), Outcome.PUNT_NOT_CHANNEL_DATA, Direction.NONE),
    "a damaged IPv4 header": (_frame(_patched(_v4(), 1, b"\x04")), Outcome.PUNT_IPV4_CHECKSUM, Direction.NONE),
    "padding": (_frame(_v4(_channel(5, extra=3))), Outcome.PUNT_PADDED, Direction.NONE),
    "more than padding": (_frame(_v4(_channel(4, extra=4))), Outcome.PUNT_CHANNEL_LENGTH, Direction.NONE),
    "a channel length beyond the datagram": (
        _frame(_v4(_channel(8, claimed=9))),
        Outcome.PUNT_CHANNEL_LENGTH,
        Direction.NONE,
    ),
    "a super-packet": (_frame(_v4(_channel(100) * 3)), Outcome.PUNT_CHANNEL_LENGTH, Direction.NONE),
    "another channel": (_frame(_v4(_channel(number=0x4002))), Outcome.PUNT_UNKNOWN_FLOW, Direction.NONE),
    "another listen port than the client's": (
        _frame(_v4(destination=Endpoint(LISTEN.ip, OTHER_LISTEN_PORT))),
        Outcome.PUNT_UNKNOWN_FLOW,
        Direction.NONE,
    ),
    "another client port": (
        _frame(_v4(source=Endpoint(CLIENT.ip, 50_002))),
        Outcome.PUNT_UNKNOWN_FLOW,
        Direction.NONE,
    ),
    "another peer port": (
        _frame(_v4(b"data", source=Endpoint(PEER.ip, 60_003), destination=Endpoint(LISTEN.ip, 50_000))),
        Outcome.PUNT_UNKNOWN_FLOW,
        Direction.NONE,
    ),
    "another relayed port": (
        _frame(_v4(b"data", source=PEER, destination=Endpoint(LISTEN.ip, 50_001))),
        Outcome.PUNT_UNKNOWN_FLOW,
        Direction.NONE,
    ),
    "IPv6 without a checksum": (
        _frame(Datagram(CLIENT6, LISTEN6, _channel()).packet(ChecksumKind.ZERO)),
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
    up = Datagram(CLIENT, LISTEN, _channel(0))
    down = Datagram(PEER, Endpoint(LISTEN.ip, 50_000), b"")
    for arriving, payload in ((up, b""), (down, struct.pack("!HH", 0x4001, 0))):
        verdict, out = bench.run(_frame(arriving.packet(kind)))
        assert verdict == "redirect"
        assert read_packet(out[14:]).payload == payload
    assert list(bench.flow_counters(FLOW)) == [Counter(1, 0), Counter(1, 0)]


def test_an_expired_flow_goes_up_until_it_is_refreshed(bench: Bench) -> None:
    frame = _frame(_v4())
    bench.install(replace(FLOW, expires_at=1))
    assert bench.run(frame) == ("pass", frame)
    assert (Outcome.PUNT_EXPIRED, Direction.TO_PEER) in bench.outcomes()
    bench.install(FLOW)
    assert bench.run(frame)[0] == "redirect"


def test_nothing_passes_after_its_time_although_the_program_s_clock_is_late(bench: Bench) -> None:
    bench.install(replace(FLOW, expires_at=time.monotonic_ns()))
    assert bench.run(_frame(_v4()))[0] == "pass"


def test_between_clients_the_far_end_s_life_counts_with_every_packet(bench: Bench) -> None:
    """An allocation that ended, or whose binding did, gets nothing, although the other's entry is still there."""
    near = replace(FLOW, peer=Endpoint(PUBLIC[4], 50_002))
    far = ChannelFlow(CLIENT6, 0x4002, Endpoint(PUBLIC[4], 50_000), 50_002, FOREVER)
    bench.install(near, far)
    frame = _frame(_v4())
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
    frame = _frame(_v4())
    assert bench.run(frame) == ("pass", frame)


class TestBandwidth:
    """Token buckets: one second deep, each direction on its own, the user's and the whole relay's."""

    RATE: Final = 1000
    UP: Final = _frame(_v4(_channel(400)))
    DOWN: Final = _frame(_v4(bytes(400), source=PEER, destination=Endpoint(LISTEN.ip, 50_000)))

    @pytest.mark.parametrize("bucket", [5, 0], ids=["the user's", "the relay's"])
    def test_over_it_drops_and_counts(self, bench: Bench, bucket: int) -> None:
        bench.install(replace(FLOW, bucket=5))
        bench.set_bucket(bucket, self.RATE)
        # Three times 400 bytes: the third finds 200 left and takes it into debt, the fourth has to wait 200 ms.
        assert [bench.run(self.UP)[0] for _ in range(4)] == ["redirect"] * 3 + ["drop"]
        assert bench.outcomes()[Outcome.DROP_OVER_QUOTA, Direction.TO_PEER] == Counter(1, len(self.UP))
        assert bench.flow_counters(FLOW)[0] == Counter(3, 1200)
        assert bench.run(self.DOWN)[0] == "redirect", "the other direction has tokens of its own"

    def test_fills_with_time(self, bench: Bench) -> None:
        bench.install(replace(FLOW, bucket=5))
        now = time.clock_gettime_ns(PROGRAM_CLOCK)
        bench.set_bucket(5, self.RATE, spent_until=now + 60 * SECOND)
        assert bench.run(self.UP)[0] == "drop"
        bench.set_bucket(5, self.RATE, spent_until=now)
        assert [bench.run(self.UP)[0] for _ in range(2)] == ["redirect", "drop"]

    def test_idle_time_gives_one_second_at_most(self, bench: Bench) -> None:
        bench.install(replace(FLOW, bucket=5))
        bench.set_bucket(5, self.RATE, spent_until=max(0, time.monotonic_ns() - 60 * SECOND))
        assert [bench.run(self.UP)[0] for _ in range(4)] == ["redirect"] * 3 + ["drop"]

    def test_between_clients_the_receiver_s_user_pays_too(self, bench: Bench) -> None:
        near = replace(FLOW, peer=Endpoint(PUBLIC[4], 50_002), bucket=5)
        far = ChannelFlow(CLIENT6, 0x4002, Endpoint(PUBLIC[4], 50_000), 50_002, FOREVER, bucket=6)
        bench.install(near, far)
        bench.set_bucket(6, self.RATE, spent_until=time.monotonic_ns() + 60 * SECOND)
        assert bench.run(self.UP)[0] == "drop"
        bench.set_bucket(6, 0)
        assert bench.run(self.UP)[0] == "redirect"

    def test_user_space_spends_from_the_same_buckets(self, bench: Bench) -> None:
        bench.install(replace(FLOW, bucket=5))
        bench.set_bucket(5, self.RATE)
        buckets = Buckets(bench.program.maps["buckets"])
        ours = {direction: TokenBucket(self.RATE) for direction in (Direction.TO_PEER, Direction.TO_CLIENT)}
        for direction, each in ours.items():
            each.keep_in(buckets.numbers, 5 * NUMBERS_OF_BUCKET + 1 + direction)
        assert ours[Direction.TO_PEER].room(100, time.monotonic_ns()) >= 10
        ours[Direction.TO_PEER].spend(700, time.monotonic_ns())
        assert [bench.run(self.UP)[0] for _ in range(2)] == ["redirect", "drop"]
        assert not ours[Direction.TO_PEER].room(1, time.monotonic_ns())
        assert [bench.run(self.DOWN)[0] for _ in range(3)] == ["redirect"] * 3
        assert not ours[Direction.TO_CLIENT].room(1, time.monotonic_ns())
        for each in ours.values():
            each.keep_in([0], 0)
        buckets.close()

    def test_another_user_is_not_touched(self, bench: Bench) -> None:
        bench.install(replace(FLOW, bucket=5), replace(FLOW6, bucket=6))
        bench.set_bucket(5, self.RATE, spent_until=time.monotonic_ns() + 60 * SECOND)
        bench.set_bucket(6, self.RATE)
        assert (bench.run(self.UP)[0], bench.run(_frame(_v6()))[0]) == ("drop", "redirect")


def test_an_entry_that_echoes_another_key_is_not_trusted(bench: Bench) -> None:
    """What a reader sees when the element was recycled for another flow between lookup and use."""
    key = FlowKey(CLIENT, 0x4001)
    value = FlowValue(PEER, 50_000, 0, SPARE_SLOT, listen_port=LISTEN.port)
    bpf_syscall.map_update(bench.flow_map(key), key.pack(), value.pack(FlowKey(CLIENT, 0x4002)))
    frame = _frame(_v4())
    assert bench.run(frame) == ("pass", frame)
    assert list(bench.outcomes()) == [(Outcome.PUNT_RECYCLED, Direction.TO_PEER)]


def test_generic_mode_leaves_packets_from_peers_to_user_space(bench: Bench) -> None:
    bench.install(FLOW)
    frame = _frame(_v4(b"data", source=PEER, destination=Endpoint(LISTEN.ip, 50_000)))
    bench.configure(from_peer=False)
    assert bench.run(frame) == ("pass", frame)
    assert list(bench.outcomes()) == [(Outcome.PUNT_FROM_PEER, Direction.NONE)]
    bench.configure(from_peer=True)
    assert bench.run(frame)[0] == "redirect"


def test_an_egress_that_is_not_offloaded_gets_nothing(bench: Bench) -> None:
    bench.install(FLOW)
    bench.configure(egress=[])
    frame = _frame(_v4())
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
    frame = _frame(_v4())
    assert bench.run(frame) == ("pass", frame)
    assert list(bench.outcomes()) == [(outcome, Direction.TO_PEER)]


def test_a_packet_above_the_mtu_goes_up_whole(bench: Bench) -> None:
    bench.install(ChannelFlow(CLIENT, 0x4001, PEER6, 50_000, FOREVER), replace(FLOW, channel=0x4002))
    at_limit, above = 1500 - 48, 1500 - 47
    assert bench.run(_frame(_v4(_channel(at_limit))))[0] == "redirect"
    frame = _frame(_v4(_channel(above)))
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
        verdict, out = bench.run(_frame(_v4()))
        assert (verdict, out[:12]) == ("redirect", hop.destination_mac + hop.source_mac)
        assert read_packet(out[14:]).destination == PEER
        assert list(bench.outcomes()) == [(Outcome.FORWARD_NEXT_HOP, Direction.TO_PEER)]

    def test_respects_the_next_hop_s_mtu(self, bench: Bench) -> None:
        bench.put_hop(7, NextHop(bench.egress, 100, bytes(6), bytes(6)))
        bench.put(FlowKey(CLIENT, 0x4001), VIA_SLOT_7)
        assert bench.run(_frame(_v4(_channel(72))))[0] == "redirect"
        assert bench.run(_frame(_v4(_channel(73))))[0] == "pass"

    def test_an_unresolved_next_hop_sends_up(self, bench: Bench) -> None:
        bench.put_hop(7, NextHop(0, 0, bytes(6), bytes(6)))
        bench.put(FlowKey(CLIENT, 0x4001), VIA_SLOT_7)
        frame = _frame(_v4())
        assert bench.run(frame) == ("pass", frame)
        assert list(bench.outcomes()) == [(Outcome.PUNT_NO_NEIGHBOUR, Direction.TO_PEER)]

    @pytest.mark.parametrize("peer", [PEER, PEER6], ids=["v4", "v6"])
    def test_without_one_returns_to_the_sender(self, bench: Bench, peer: Endpoint) -> None:
        bench.configure(egress=[socket.if_nametoindex("lo")])
        bench.install(replace(FLOW, peer=peer))
        verdict, out = bench.run(_frame(_v4()))
        assert (verdict, out[:12]) == ("redirect", MACS[6:] + MACS[:6])
        assert read_packet(out[14:]).destination == peer
        assert list(bench.outcomes()) == [(Outcome.FORWARD_RETURN, Direction.TO_PEER)]
