"""What a node counts outlives the connections that it counted on."""

from collections import Counter
from types import SimpleNamespace
from typing import cast

from client.drops import ClientDrop
from connectivity.clock import MILLISECOND, SECOND
from connectivity.ice import IceCredentials
from connectivity.ice.policy import CandidateRefusal
from connectivity.node.connection import Connection
from connectivity.node.connections import ConnectionTable
from connectivity.node.parameters import Parameters
from connectivity.wireguard import DropReason
from tests.unit.test_world import answer, question
from tests.unit.world import World


def test_packets_that_wait_are_counted_until_they_are_sent() -> None:
    world = World()
    world.start()
    assert world.client.statistics().waiting_packets == 0
    world.send_from_client(question(b"first"))
    assert world.client.statistics().waiting_packets == 1
    world.advance(MILLISECOND)
    world.send_from_client(question(b"second"))
    assert world.client.statistics().waiting_packets == 2
    world.advance(2 * SECOND)
    assert world.host_received["gateway"] == [question(b"first"), question(b"second")]
    assert world.client.statistics().waiting_packets == 0
    assert not any(world.client.statistics().drops.values())


def test_drops_add_up_and_stay_when_a_connection_goes() -> None:
    table = ConnectionTable(bytes)
    first, second = connection("a", 1, 2), connection("b", 2, 3)
    for each in (first, second):
        table.add(each)
        each.tunnel.drops[DropReason.DUPLICATE] += 5
    first.tunnel.drops[DropReason.TOO_OLD] += 1
    first.agent.refused[CandidateRefusal.OWN] += 2
    before = table.statistics()
    assert before.drops == {DropReason.DUPLICATE: 10, DropReason.TOO_OLD: 1}
    assert before.waiting_packets == 5
    table.remove(first)
    assert table.statistics().drops == before.drops
    assert table.statistics().waiting_packets == 3
    second.tunnel.drops[DropReason.DUPLICATE] += 1
    assert table.statistics().drops == {DropReason.DUPLICATE: 11, DropReason.TOO_OLD: 1}
    assert table.statistics().candidates_refused == {CandidateRefusal.OWN: 2}
    assert before.drops == {DropReason.DUPLICATE: 10, DropReason.TOO_OLD: 1}  # a sample does not change


ICE = IceCredentials("ours", "password")


class Fake:
    """What the table looks at."""

    def __init__(self, connection_id: str, index: int, waiting_packets: int) -> None:
        self.connection_id, self.index, self.waiting_packets = connection_id, index, waiting_packets
        self.parameters = Parameters(bytes(32), bytes(32), ICE, ICE)
        self.tunnel = SimpleNamespace(drops=Counter(), sent_bytes=0, received_bytes=0)
        self.agent = SimpleNamespace(refused=Counter())

    def close(self) -> None:
        pass


def connection(connection_id: str, index: int, waiting_packets: int) -> Connection:
    return cast(Connection, Fake(connection_id, index, waiting_packets))


def test_the_first_packet_keeps_its_tos_while_it_waits_for_a_gateway_a_path_and_a_session() -> None:
    world = World()
    world.start()
    world.send_from_client(question(b"first", tos=0b10))
    outer = set()
    for _ in range(1_000):
        world.advance(MILLISECOND)
        outer |= {tos for *_, tos in world._wire}
    assert world.host_received["gateway"] == [question(b"first", tos=0b10)]
    assert outer == {0, 0b10}


def test_a_gateway_without_a_path_to_its_client_drops_and_counts() -> None:
    world = World()
    world.start()
    world.send_from_client(question())
    world.send_from_gateway(answer())
    assert world.gateway.statistics().drops[DropReason.NO_PATH] == 1


def test_what_waits_for_a_gateway_in_vain_is_counted() -> None:
    world = World()
    world.start()
    world.online = []
    world.send_from_client(question(b"first"))
    assert world.client.statistics().flow_drops[ClientDrop.UNREACHABLE] == 0
    world.advance(10 * SECOND)
    assert world.client.statistics().flow_drops[ClientDrop.UNREACHABLE] == 1
    world.online = ["gateway"]
    world.advance(2 * SECOND)
    world.send_from_client(question(b"second"))
    world.advance(2 * SECOND)
    assert world.host_received["gateway"] == [question(b"second")]
