"""Packets in batches leave as they do one by one, and a quick look at one finds what the parser finds."""

from collections import defaultdict
from collections.abc import Callable
from ipaddress import ip_address

from hypothesis import example, given, settings
from hypothesis import strategies as st

from connectivity.clock import SECOND
from connectivity.data_path import DataPath, Path
from connectivity.endpoint import Endpoint
from connectivity.ip import IpError, PacketRun, parse
from connectivity.ip.flow import shares_runs, split_flows
from connectivity.ip.packet import plain_key
from connectivity.run import MAX_SEGMENTS, Received, Run, Transmit, owned
from connectivity.verdict import Forward, Lasting, Translation
from connectivity.wireguard import SessionValues
from connectivity.wireguard.noise import TransportKeys
from tests.property.test_ip_property import UNTIMED, almost_packets
from tests.unit.connectivity.ip_oracle import checksums_are_right, ip, tcp, udp

NOW = 10 * SECOND
OURS, RELAY = (Endpoint(ip_address("192.0.2.1"), port) for port in (52625, 3478))
PEERS = tuple(Endpoint(ip_address("192.0.2.2"), port) for port in range(3))
UNKNOWN_PORT = 9
# Flows by port: of three peers, one of them behind a relay, some translated, one of nobody.
PORTS = st.sampled_from([1, 2, 3, 4, 5, 6, UNKNOWN_PORT])


class Stage:
    """A data path whose core knows the flows of ``PORTS``, and what the peers make of what it sends."""

    def __init__(self) -> None:
        self.path = DataPath()
        self.path.use_flows(self._verdict)
        self.far = DataPath()
        self.translation = Translation(destination=ip_address("10.9.9.9"), destination_port=99)
        for number, endpoint in enumerate(PEERS):
            ours, theirs = number << 8 | 1, (number + 16) << 8 | 1
            keys = TransportKeys(bytes([number]) * 32, bytes([number + 16]) * 32)
            peer = self.path.add_peer(f"peer-{number}", number, NOW)
            peer.use(peer.add(SessionValues(keys, ours, theirs, True, NOW)))
            channel = (RELAY, 0x4000 + number) if number == 2 else (endpoint, None)
            self.path.set_path(number, Path(OURS, *channel))
            far = self.far.add_peer(f"peer-{number}", number + 16, NOW)
            far.add(SessionValues(TransportKeys(keys.receive, keys.send), theirs, ours, False, NOW))
        self.far.allow_channel(OURS, 0x4002, NOW + SECOND)
        self.sends = 0
        self.host: dict[tuple[str, bytes], list[bytes]] = defaultdict(list)
        self.arrived = 0
        self.asked: list[tuple[bytes, int]] = []  # and how many had arrived before

    def _verdict(self, key: object) -> Lasting | None:
        if isinstance(key, tuple):
            return Forward(key[0])
        assert isinstance(key, bytes)
        port = key[-1]
        if port == UNKNOWN_PORT:
            return None
        return Forward(f"peer-{port % 3}", self.translation if port > 4 and key[0] == 4 else None)

    def send(self, transmit: Transmit) -> None:
        """The network carries it to the peer at once; there it is taken apart."""
        self.sends += 1
        run = owned(transmit).run
        assert run.segment_count <= MAX_SEGMENTS
        assert transmit.destination in (RELAY, *PEERS)
        opened = self.far.decrypt(Received(transmit.destination, OURS, run, transmit.tos), NOW, self)
        assert not isinstance(opened, bool)
        for packets in split_flows(opened.run, []):
            assert packets.tos == transmit.tos
            self.arrived += packets.run.segment_count
            for segment in packets.run.segments():
                assert checksums_are_right(bytes(segment))
                self.host[opened.peer_id, packets.flow].append(bytes(segment))

    def ask(self, packets: PacketRun) -> None:
        self.asked += ((bytes(segment), self.arrived) for segment in packets.run.segments())

    def peer_stirred(self, index: int, now: int) -> None:
        """As a core."""


@st.composite
def mixtures(draw: st.DrawFn) -> list[list[bytes]]:
    """Runs as they come from a device: packets of one flow and one length, the last perhaps shorter."""
    runs = []
    builds: list[Callable[..., bytes]] = [tcp, udp]
    flows = draw(st.lists(st.tuples(st.sampled_from([4, 6]), PORTS, st.sampled_from(builds)), min_size=1, max_size=4))
    for number in range(draw(st.integers(1, 12))):
        version, port, build = draw(st.sampled_from(flows))
        size, tos = draw(st.sampled_from([2, 2, 100, 1200])), draw(st.sampled_from([0, 0, 0, 1]))
        bodies = [bytes([number]) * size] * draw(st.sampled_from([1, 1, 1, 2, 16, 64]))
        if draw(st.sampled_from([False, False, True])):
            bodies[-1] = bodies[-1][:-1]
        runs.append([build(version, body, ports=(7, port), tos=tos) for body in bodies])
    return runs


def as_run(packets: list[bytes]) -> PacketRun:
    read = parse(packets[0])
    return PacketRun(Run(memoryview(bytearray(b"".join(packets))), len(packets[0])), read.key, read.tos)


@settings(UNTIMED, max_examples=50)
@given(mixtures())
def test_any_mixture_leaves_as_it_does_one_by_one_and_in_fewer_sends(runs: list[list[bytes]]) -> None:
    together, single = Stage(), Stage()
    together.path.seal_batch([as_run(packets) for packets in runs], NOW, together.send, together.ask)
    for packets in runs:
        for packet in packets:
            run = as_run([packet])
            transmit = single.path.seal(run, NOW)
            if transmit is None:
                single.ask(run)
            else:
                single.send(transmit)
    assert together.host == single.host
    assert together.asked == single.asked
    assert together.sends <= min(single.sends, len(runs))


def changed(packet: bytes, position: int, value: int) -> bytes:
    return packet[:position] + bytes([value]) + packet[position + 1 :]


@UNTIMED
@given(almost_packets(), st.binary(max_size=60))
@example(udp(4, b""), bytes(60))
@example(udp(6, b""), bytes(60))
@example(changed(udp(4, b"abc"), 6, 0x20), bytes(60))  # a first fragment
@example(changed(udp(4, b"abc"), 7, 1), bytes(60))  # a later one
@example(changed(udp(6, b"abc"), 45, 10), bytes(60))  # a UDP length that ends before the packet
@example(changed(ip(4, 17, b"abcd"), 25, 4)[:24], b"\0\4" + bytes(60))  # no room for a UDP header
@example(changed(tcp(4, b""), 32, 0xA0), bytes(60))  # a TCP header that ends behind the packet
@example(changed(tcp(6, b"abcdefgh"), 52, 0x40), bytes(60))  # one that is too short
@example(changed(tcp(6, b""), 5, 19), bytes(60))
def test_a_quick_look_finds_what_the_parser_finds(packet: bytes, behind: bytes) -> None:
    found = plain_key(memoryview(packet + behind), 0, len(packet))
    try:
        parsed = parse(packet)
    except IpError:
        assert found is None
        return
    is_plain = shares_runs(parsed) and len(parsed.data) == len(packet)
    if found is not None:
        assert is_plain
        assert found == (parsed.key, parsed.tos)
    elif len(behind) >= 53:  # there was room to look
        assert not is_plain
