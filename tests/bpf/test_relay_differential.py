"""The program against the oracle: the same packets, byte for byte, in all twelve family and direction cases."""

from dataclasses import replace
from ipaddress import ip_address
from itertools import product
from typing import Final

import pytest

from connectivity.endpoint import Endpoint
from ebpf.layout import Counter
from ebpf.oracle import ChecksumKind, Datagram, outgoing, read_packet
from ebpf.outcomes import Direction, Outcome
from ebpf.settings import ChannelFlow
from tests.bpf.relay_bench import FOREVER, LISTEN_PORT, MACS, NEIGHBOUR_MAC, OTHER_LISTEN_PORT, PUBLIC, RELAY, Bench

pytestmark = pytest.mark.root

CLIENT: Final = {4: Endpoint(ip_address("192.0.2.10"), 50_001), 6: Endpoint(ip_address("2001:db8::10"), 50_001)}
PEER: Final = {4: Endpoint(ip_address("192.0.2.20"), 60_002), 6: Endpoint(ip_address("2001:db8::20"), 60_002)}
SIZES: Final = (1, 2, 3, 55, 64, 1311, 1312, 1472)
FAMILIES: Final = tuple(product((4, 6), (4, 6)))
ETHERTYPE: Final = {4: b"\x08\x00", 6: b"\x86\xdd"}


@pytest.mark.parametrize("kind", ChecksumKind, ids=lambda kind: kind.value)
@pytest.mark.parametrize(("inner", "outer"), FAMILIES, ids=lambda version: f"v{version}")
@pytest.mark.parametrize("direction", [Direction.TO_PEER, Direction.TO_CLIENT, Direction.BETWEEN_CLIENTS])
def test_output_is_the_oracle_s(bench: Bench, direction: Direction, inner: int, outer: int, kind: ChecksumKind) -> None:
    flow, mirror, template = _case(direction, inner, outer)
    bench.install(*(each for each in (flow, mirror) if each is not None))
    is_refused = kind is ChecksumKind.ZERO and inner == 6
    for size, tos in product(SIZES, (0x00, 0x03, 0xB8, 0xFF)):
        arriving = _with_message(template, _message(size), direction, tos)
        expected = outgoing(arriving, flow, sources=RELAY, mirror=mirror)
        frame = _frame(arriving.packet(kind, identification=0x1234, flow_label=0xABCDE))
        verdict, out = bench.run(frame)
        if is_refused:
            assert (verdict, out) == ("pass", frame)
        elif len(expected.packet()) > 1500:
            assert (verdict, out) == ("pass", frame), "larger than the egress takes: up, and untouched"
        else:
            assert verdict == "redirect"
            assert read_packet(out[14:]) == expected, (size, tos)
            assert out[12:14] == ETHERTYPE[outer]
            assert out[:6] == NEIGHBOUR_MAC


@pytest.mark.parametrize("version", [4, 6], ids=lambda version: f"v{version}")
@pytest.mark.parametrize("direction", [Direction.TO_PEER, Direction.TO_CLIENT])
def test_a_checksum_is_completed_over_every_length(bench: Bench, direction: Direction, version: int) -> None:
    flow, _, template = _case(direction, version, version)
    bench.install(flow)
    for size in (*range(150), *range(1400, 1440)):
        arriving = _with_message(template, _message(size), direction)
        # What a frame has behind its packet is not summed.
        verdict, out = bench.run(_frame(arriving.packet(ChecksumKind.PARTIAL)) + b"\xee" * 7)
        expected = outgoing(arriving, flow, sources=RELAY)
        assert verdict == "redirect"
        assert read_packet(out[14 : 14 + len(expected.packet())]) == expected, size


@pytest.mark.parametrize("direction", [Direction.TO_PEER, Direction.TO_CLIENT, Direction.BETWEEN_CLIENTS])
@pytest.mark.parametrize(("inner", "outer"), FAMILIES, ids=lambda version: f"v{version}")
def test_counts_packets_and_message_bytes(bench: Bench, direction: Direction, inner: int, outer: int) -> None:
    flow, mirror, template = _case(direction, inner, outer)
    bench.install(*(each for each in (flow, mirror) if each is not None))
    for size in (10, 20, 30):
        bench.run(_frame(_with_message(template, _message(size), direction).packet()))
    assert bench.outcomes() == {(Outcome.FORWARD_ROUTE, direction): Counter(3, 60)}
    counted = Counter(3, 60)
    assert bench.flow_counters(flow) == (
        (Counter(), counted) if direction is Direction.TO_CLIENT else (counted, Counter())
    )
    if mirror is not None:
        assert bench.flow_counters(mirror) == (Counter(), counted)


@pytest.mark.parametrize("direction", [Direction.TO_PEER, Direction.TO_CLIENT, Direction.BETWEEN_CLIENTS])
@pytest.mark.parametrize(("inner", "outer"), FAMILIES, ids=lambda version: f"v{version}")
def test_every_truncation_goes_up_untouched(bench: Bench, direction: Direction, inner: int, outer: int) -> None:
    flow, mirror, template = _case(direction, inner, outer)
    bench.install(*(each for each in (flow, mirror) if each is not None))
    whole = _frame(_with_message(template, _message(33), direction).packet())
    for length in range(14, len(whole)):
        assert bench.run(whole[:length]) == ("pass", whole[:length]), length
    assert bench.run(whole)[0] == "redirect"


@pytest.mark.parametrize("direction", [Direction.TO_PEER, Direction.TO_CLIENT])
@pytest.mark.parametrize(("inner", "outer"), FAMILIES, ids=lambda version: f"v{version}")
def test_every_checksum_value_is_right_after_the_update(
    bench: Bench, direction: Direction, inner: int, outer: int
) -> None:
    """Two payload bytes run through values that bring the sum to its corners: 0x0000, 0xFFFF and their neighbours."""
    flow, _, template = _case(direction, inner, outer)
    bench.install(flow)
    base = _with_message(template, bytes(6), direction)
    expected = outgoing(base, flow, sources=RELAY)
    for sums in (base, expected):
        field = _checksum_field(sums.packet())
        for offset in range(-2, 3):
            word = (field + offset) % 0x10000
            arriving = _with_message(template, bytes(4) + word.to_bytes(2, "big"), direction)
            wanted = outgoing(arriving, flow, sources=RELAY)
            verdict, out = bench.run(_frame(arriving.packet()))
            assert verdict == "redirect"
            assert read_packet(out[14:]) == wanted


def test_corruption_on_the_way_in_stays_detectable(bench: Bench) -> None:
    flow, _, template = _case(Direction.TO_PEER, 4, 6)
    bench.install(flow)
    frame = bytearray(_frame(_with_message(template, _message(100), Direction.TO_PEER).packet()))
    frame[-7] ^= 0x10
    verdict, out = bench.run(bytes(frame))
    assert verdict == "redirect"
    with pytest.raises(ValueError, match="UDP checksum"):
        read_packet(out[14:])


def test_trailing_padding_of_short_frames_is_no_part_of_the_message(bench: Bench) -> None:
    flow, _, template = _case(Direction.TO_PEER, 4, 4)
    bench.install(flow)
    arriving = _with_message(template, b"abc", Direction.TO_PEER)
    for kind in ChecksumKind:
        frame = _frame(arriving.packet(kind))
        verdict, out = bench.run(frame + b"\xee" * (60 - len(frame)))
        assert verdict == "redirect"
        expected = outgoing(arriving, flow, sources=RELAY)
        assert read_packet(out[14 : 14 + len(expected.packet())]) == expected


def test_ipv4_keeps_the_sender_s_choice_about_fragments(bench: Bench) -> None:
    flow, _, template = _case(Direction.TO_PEER, 4, 4)
    bench.install(flow)
    packet = bytearray(_with_message(template, b"abcd", Direction.TO_PEER).packet(identification=0xBEEF))
    packet[6:8] = b"\0\0"
    _, out = bench.run(_frame(bytes(packet)))
    assert out[18:22] == b"\xbe\xef\0\0"
    flow6, _, template6 = _case(Direction.TO_PEER, 6, 4)
    bench.install(flow6)
    _, out = bench.run(_frame(_with_message(template6, b"abcd", Direction.TO_PEER).packet()))
    assert out[18:22] == b"\0\0\x40\0"


@pytest.mark.parametrize("direction", [Direction.TO_PEER, Direction.TO_CLIENT])
@pytest.mark.parametrize(("inner", "outer"), FAMILIES, ids=lambda version: f"v{version}")
def test_a_client_of_another_listen_port_is_relayed_by_that_one(
    bench: Bench, direction: Direction, inner: int, outer: int
) -> None:
    flow, _, template = _case(direction, inner, outer)
    flow = replace(flow, listen_port=OTHER_LISTEN_PORT)
    bench.install(flow)
    arriving = _with_message(template, _message(33), direction)
    if direction is Direction.TO_PEER:
        frame = _frame(arriving.packet())
        assert bench.run(frame) == ("pass", frame), "it has no allocation by the first one"
        arriving = replace(arriving, destination=Endpoint(RELAY[inner], OTHER_LISTEN_PORT))
    verdict, out = bench.run(_frame(arriving.packet()))
    assert verdict == "redirect"
    left = read_packet(out[14:])
    assert left == outgoing(arriving, flow, sources=RELAY)
    assert direction is Direction.TO_PEER or left.source.port == OTHER_LISTEN_PORT


def _case(direction: Direction, inner: int, outer: int) -> tuple[ChannelFlow, ChannelFlow | None, Datagram]:
    """The binding, its mirror between clients, and a datagram of ``inner`` family that leaves in ``outer``."""
    if direction is Direction.BETWEEN_CLIENTS:
        other = replace(_flow(outer, 4), client=Endpoint(PEER[outer].ip, 50_077), channel=0x4ABC, relayed_port=51_000)
        other = replace(other, listen_port=OTHER_LISTEN_PORT)
        flow = replace(_flow(inner, 4), peer=Endpoint(PUBLIC[4], other.relayed_port))
        mirror = replace(other, peer=Endpoint(PUBLIC[4], flow.relayed_port))
        return flow, mirror, Datagram(flow.client, Endpoint(RELAY[inner], LISTEN_PORT), b"")
    if direction is Direction.TO_PEER:
        flow = _flow(inner, outer)
        return flow, None, Datagram(flow.client, Endpoint(RELAY[inner], LISTEN_PORT), b"")
    flow = _flow(outer, inner)
    return flow, None, Datagram(flow.peer, Endpoint(RELAY[inner], flow.relayed_port), b"")


def _flow(client: int, peer: int) -> ChannelFlow:
    return ChannelFlow(CLIENT[client], 0x4001, PEER[peer], 50_000, FOREVER)


def _with_message(template: Datagram, message: bytes, direction: Direction, tos: int = 0) -> Datagram:
    header = b"" if direction is Direction.TO_CLIENT else (0x4001).to_bytes(2, "big") + len(message).to_bytes(2, "big")
    return replace(template, payload=header + message, tos=tos, hop_limit=3)


def _message(size: int) -> bytes:
    return bytes((index * 37 + 11) % 256 for index in range(size))


def _frame(packet: bytes) -> bytes:
    return MACS + ETHERTYPE[packet[0] >> 4] + packet


def _checksum_field(packet: bytes) -> int:
    offset = 26 if packet[0] >> 4 == 4 else 46
    return int.from_bytes(packet[offset : offset + 2], "big")
