"""What a tunnel's core does with a role's verdicts, over a node that only writes down."""

from collections.abc import Callable
from enum import StrEnum
from ipaddress import ip_address
from typing import Any, cast
from uuid import UUID

import pytest

from connectivity import p2p
from connectivity.data_path import DataPath
from connectivity.endpoint import Endpoint
from connectivity.fragment_table import FragmentDrop
from connectivity.ip.flow import PacketRun
from connectivity.ip.packet import parse
from connectivity.node import Opened, UnknownConnectionError
from connectivity.role import _HOST_PACKETS, RoleTunnel, TunnelDrop
from connectivity.run import Received, Run, Transmit
from connectivity.tunnel import TunnelCore
from connectivity.verdict import HOLD, Answer, Drop, Forward, Reflect, Translation, Verdict
from tests.unit.connectivity.fragments import fragments, together
from tests.unit.connectivity.ip_oracle import V4, V6, checksums_are_right, echo, tcp, udp

PEER = Endpoint(ip_address("192.0.2.1"), 1)


class Reason(StrEnum):
    CLOSED = "closed"


class RecordingNode:
    """Seals nothing and opens what it is handed."""

    def __init__(self) -> None:
        self.data_path = DataPath()  # which knows no peer
        self.sealed: list[tuple[str, bytes]] = []
        self.sent: list[tuple[str, bytes]] = []

    def seal(self, peer_id: str, run: Run, _tos: int, _now: int) -> Transmit:
        self.sealed.append((peer_id, bytes(run.data)))
        return Transmit(None, PEER, run)

    def send(self, peer_id: str, packet: bytes, _tos: int, _now: int) -> None:
        if peer_id == "gone":
            raise UnknownConnectionError("no connection")
        self.sent.append((peer_id, packet))

    def open_others(self, received: Received, *_: object) -> None:
        sink = cast(Callable[[Opened], None], _[2])
        sink(Opened("peer", received.run, received.tos))

    def poll_event(self) -> None:
        return None


class ScriptedRole:
    """Says what it is told to say."""

    peer = peer_field = "peer"
    expects_strays = False
    reasons = Reason

    def __init__(self, verdict: Verdict) -> None:
        self.verdict = verdict
        self.asked = 0
        self.heard: list[object] = []

    def judge_outbound(self, _packets: PacketRun, _now: int) -> Verdict:
        self.asked += 1
        return self.verdict

    def judge_inbound(self, _peer_id: str, _packets: PacketRun, _now: int) -> Verdict:
        self.asked += 1
        return self.verdict

    def handle_control(self, _peer_id: str, event: object, _now: int) -> None:
        self.heard.append(event)


class Stage:
    """One core with a scripted role."""

    def __init__(self, verdict: Verdict) -> None:
        self.node = RecordingNode()
        self.tunnel = RoleTunnel(cast(Any, self.node))
        self.role = ScriptedRole(verdict)
        self.core = TunnelCore(self.tunnel, cast(Any, self.role))
        self.host: list[bytes] = []

    def outbound(self, *rows: bytes, now: int = 1) -> Transmit | None:
        packet = parse(rows[0])
        run = Run(memoryview(bytearray(b"".join(rows))), len(rows[0]))
        return self.core.handle_packets(PacketRun(run, packet.key, packet.tos), now, [])

    def inbound(self, *rows: bytes, now: int = 1) -> None:
        run = Run(memoryview(bytearray(b"".join(rows))), len(rows[0]))
        errors: list[Exception] = []
        sink: Callable[[PacketRun], None] = lambda packets: self.host.extend(map(bytes, packets.run.segments()))  # noqa: E731
        self.core.handle_datagrams(Received(PEER, PEER, run), now, 0, sink, errors)
        assert not errors

    def written(self) -> list[bytes]:
        return list(iter(self.core.poll_host_packet, None))


def test_forward_is_asked_for_once_and_translated_both_ways() -> None:
    stage = Stage(Forward("peer", Translation(destination=V4[0] + 5, destination_port=99), rests_on=("x",)))
    for now in (1, 2):
        assert stage.outbound(udp(4, b"abc"), udp(4, b"xyz"), now=now) is not None
        stage.inbound(udp(4, b"abc"), now=now)
    assert stage.role.asked == 2
    for _, data in stage.node.sealed:
        for segment in Run(memoryview(data), len(udp(4, b"abc"))).segments():
            assert parse(segment).destination == V4[0] + 5
            assert checksums_are_right(bytes(segment))
    assert [parse(packet).ports[2:] for packet in stage.host] == [b"\0\x63"] * 2
    stage.tunnel.flows.forget("x")
    stage.outbound(udp(4, b"abc"))
    stage.inbound(udp(4, b"abc"))
    assert stage.role.asked == 4


def test_drops_are_counted_by_packet_and_remembered_if_they_rest_on_something() -> None:
    for rests_on, asked in (((), 4), (("x",), 2)):
        stage = Stage(Drop(Reason.CLOSED, rests_on=rests_on))
        for _ in range(2):
            assert stage.outbound(udp(4, b"abc"), udp(4, b"xyz")) is None
            stage.inbound(udp(4, b"abc"))
        assert (stage.tunnel.drops[Reason.CLOSED], stage.role.asked) == (6, asked)
        assert not stage.host
        assert not stage.node.sealed


def test_an_answer_goes_back_to_who_sent() -> None:
    stage = Stage(Answer((b"one", b"two"), Reason.CLOSED))
    stage.outbound(udp(4, b"abc"))
    assert stage.written() == [b"one", b"two"]
    stage.inbound(udp(4, b"abc"))
    assert stage.node.sent == [("peer", b"one"), ("peer", b"two")]
    assert stage.tunnel.drops[Reason.CLOSED] == 2
    stage.outbound(udp(4, b"abc"))
    assert stage.role.asked == 3


def test_reflect_turns_a_flow_round_translated() -> None:
    stage = Stage(Reflect(Translation(source=V4[1], source_port=53, destination=V4[0], destination_port=4000)))
    assert stage.outbound(tcp(4, b"abc"), tcp(4, b"x")) is None
    written = stage.written()
    assert [parse(packet).ports for packet in written] == [b"\x00\x35\x0f\xa0"] * 2
    assert all(checksums_are_right(packet) for packet in written)
    assert stage.core.poll_host_packet() is None
    stage.outbound(tcp(4, b"abc"))
    assert stage.role.asked == 1
    stage.inbound(tcp(4, b"abc"))
    assert [peer_id for peer_id, _ in stage.node.sent] == ["peer"]


@pytest.mark.parametrize("version", [4, 6])
def test_fragments_share_the_verdict_and_the_translation_of_the_first(version: int) -> None:
    away = (V4 if version == 4 else V6)[0] + 5
    stage = Stage(Forward("peer", Translation(destination=away, destination_port=99), rests_on=("x",)))
    sent = fragments(udp(version, bytes(range(256)) * 16))
    stage.inbound(sent[1])
    assert (stage.host, stage.role.asked) == ([], 0)
    for part in sent:
        assert stage.outbound(part) is not None
        stage.inbound(part)
    assert stage.role.asked == 2, "each way once, for the first fragment"
    for parts in (stage.host, [data for _, data in stage.node.sealed]):
        assert {parse(part).destination for part in parts} == {away}
        whole = together(parts)
        assert checksums_are_right(whole)
        assert whole[-4096:] == bytes(range(256)) * 16
        assert int.from_bytes(whole[-4102:-4100], "big") == 99
    stage.tunnel.flows.forget("x")
    stage.role.verdict = Drop(Reason.CLOSED)
    assert stage.outbound(sent[1]) is None
    assert stage.tunnel.drops == {FragmentDrop.UNKNOWN: 1, Reason.CLOSED: 1}


def test_what_is_held_and_errors_of_icmp_are_judged_each_time() -> None:
    stage = Stage(HOLD)
    for _ in range(2):
        assert stage.outbound(udp(4, b"abc")) is None
    assert stage.role.asked == 2
    stage.role.verdict = Forward("peer")
    for _ in range(2):
        assert stage.outbound(echo(4, 7, kind=3)) is not None
    assert stage.role.asked == 4
    assert not stage.tunnel.drops


def test_packets_for_the_host_are_bounded_and_those_to_nobody_counted() -> None:
    stage = Stage(HOLD)
    for number in range(_HOST_PACKETS + 3):
        stage.tunnel.write_to_host(number.to_bytes(2, "big"))
    assert stage.tunnel.drops[TunnelDrop.HOST_QUEUE_FULL] == 3
    assert len(stage.written()) == _HOST_PACKETS
    stage.tunnel.send("gone", b"packet", 0, 1)
    assert stage.tunnel.drops[TunnelDrop.NO_CONNECTION] == 1


def test_control_messages_reach_the_role_and_never_the_host() -> None:
    stage = Stage(Forward("peer"))
    event = p2p.DomainStatus(UUID(int=1), "app.internal", active=True)
    stage.inbound(p2p.build(event))
    unknown = bytearray(p2p.build(event))
    unknown[40] = 9
    stage.inbound(bytes(unknown))
    assert stage.role.heard == [event]
    assert (stage.host, stage.role.asked) == ([], 0)
    assert stage.tunnel.drops[TunnelDrop.CONTROL_UNREADABLE] == 1
