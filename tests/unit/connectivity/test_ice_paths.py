"""Two agents find each other through emulated networks, keep their path, lose it and move to a better one."""

import pytest

from connectivity.clock import MILLISECOND, SECOND
from connectivity.ice import AgentState, Candidate, CandidateKind
from tests.unit.connectivity.ice_pair import (
    START,
    Forwarding,
    Packet,
    Pair,
    PortPreserving,
    Symmetric,
    endpoint,
)

CLIENT_HOST = "192.168.1.2:52625"
GATEWAY_HOST = "10.0.0.2:52625"
CLIENT_NAT = "198.51.100.1"
GATEWAY_NAT = "198.51.100.2"
CLIENT_RELAYED = "203.0.113.2:50002"
GATEWAY_RELAYED = "203.0.113.1:50001"


def open_pair() -> Pair:
    return Pair("192.0.2.1:52625", "192.0.2.2:52625")


def natted_pair(kind: type[PortPreserving] | type[Symmetric]) -> Pair:
    pair = Pair(CLIENT_HOST, GATEWAY_HOST)
    pair.client.nat = kind(CLIENT_NAT)
    pair.gateway.nat = kind(GATEWAY_NAT)
    return pair


def both_nominated(pair: Pair) -> bool:
    return bool(pair.client.nominated and pair.gateway.nominated)


def test_host_to_host() -> None:
    pair = open_pair()
    pair.seed()
    assert pair.run_until(lambda: both_nominated(pair)) <= 50 * MILLISECOND
    assert pair.client.path == ("192.0.2.1:52625", "192.0.2.2:52625")
    assert pair.gateway.path == ("192.0.2.2:52625", "192.0.2.1:52625")
    pair.run(60 * SECOND)
    assert len(pair.client.nominated) == len(pair.gateway.nominated) == 1
    assert pair.client.state is AgentState.COMPLETED


def test_host_to_host_over_ipv6() -> None:
    pair = Pair("[2001:db8::1]:52625", "[2001:db8::2]:52625")
    pair.seed()
    pair.run_until(lambda: both_nominated(pair))
    assert pair.client.path == ("[2001:db8::1]:52625", "[2001:db8::2]:52625")


def test_the_path_is_used_after_one_round_trip_by_the_client() -> None:
    pair = open_pair()
    pair.seed()
    pair.run_until(lambda: bool(pair.client.nominated))
    first_check = next(packet for packet in pair.sent(pair.client) if packet.is_check)
    assert pair.client.nominated[0][0] - first_check.at == 2 * pair.latency


def test_reflexive_candidates_punch_through_port_preserving_nats() -> None:
    pair = natted_pair(PortPreserving)
    pair.seed()
    pair.run_until(lambda: both_nominated(pair), 2 * SECOND)
    assert pair.client.path == (CLIENT_HOST, f"{GATEWAY_NAT}:52625")
    assert pair.gateway.path == (GATEWAY_HOST, f"{CLIENT_NAT}:52625")


def test_one_nat_is_passed_by_the_discovered_address() -> None:
    pair = Pair(CLIENT_HOST, "192.0.2.2:52625")
    pair.client.nat = Symmetric(CLIENT_NAT)
    pair.seed()
    pair.run_until(lambda: both_nominated(pair), 2 * SECOND)
    assert pair.client.path == (CLIENT_HOST, "192.0.2.2:52625")
    assert [c.kind for c in pair.gateway.agent.remote_candidates].count(CandidateKind.PRFLX) == 1


def test_symmetric_nats_leave_only_the_relayed_addresses() -> None:
    pair = natted_pair(Symmetric)
    pair.seed(relayed=True)
    pair.run_until(lambda: both_nominated(pair), 5 * SECOND)
    assert pair.client.path == (CLIENT_RELAYED, GATEWAY_RELAYED)
    assert pair.gateway.path == (GATEWAY_RELAYED, CLIENT_RELAYED)
    pair.run(60 * SECOND)
    assert pair.client.state is AgentState.COMPLETED
    assert pair.client.path == (CLIENT_RELAYED, GATEWAY_RELAYED)


def test_symmetric_nats_without_relays_fail() -> None:
    pair = natted_pair(Symmetric)
    pair.seed()
    pair.run(20 * SECOND)
    assert pair.client.state is AgentState.DISCONNECTED
    assert not pair.client.nominated
    assert not pair.gateway.nominated


def test_a_better_pair_takes_over_and_the_old_one_stays_nominated() -> None:
    pair = open_pair()
    for node, relayed in ((pair.client, CLIENT_RELAYED), (pair.gateway, GATEWAY_RELAYED)):
        pair.add_relayed(node, relayed)
    pair.run_until(lambda: both_nominated(pair))
    assert pair.client.path == (CLIENT_RELAYED, GATEWAY_RELAYED)
    for node in (pair.client, pair.gateway):
        pair.add_host(node)
    pair.run(5 * SECOND)
    for node in (pair.client, pair.gateway):
        peer = pair.peer(node)
        assert node.path == (str(node.host), str(peer.host))
    later = [packet for packet in pair.sent(pair.client) if packet.is_check and packet.at > pair.now - 2 * SECOND]
    nominated = {(str(packet.source), str(packet.destination)) for packet in later if packet.is_nominating}
    assert (CLIENT_RELAYED, GATEWAY_RELAYED) in nominated
    assert (str(pair.client.host), str(pair.gateway.host)) in nominated


def test_the_relayed_path_takes_over_when_the_direct_one_dies() -> None:
    pair = natted_pair(PortPreserving)
    pair.seed(relayed=True)
    pair.run(5 * SECOND)
    assert pair.client.path == (CLIENT_HOST, f"{GATEWAY_NAT}:52625")
    relayed = (endpoint(CLIENT_RELAYED), endpoint(GATEWAY_RELAYED))
    died = pair.now
    pair.loses = lambda packet: packet.source not in relayed and packet.destination not in relayed
    pair.run(18 * SECOND + 500 * MILLISECOND)
    for node in (pair.client, pair.gateway):
        assert endpoint(node.path[0]) in relayed or endpoint(node.path[1]) in relayed
        assert AgentState.DISCONNECTED not in [state for _, state in node.states]
    first_lost = next(p.at for p in pair.sent(pair.client) if p.at >= died and p.is_check and pair.loses(p))
    assert pair.client.nominated[-1][0] - first_lost <= 16_500 * MILLISECOND


def test_an_outage_disconnects_16_5_seconds_after_the_first_lost_check_and_recovery_reconnects() -> None:
    pair = open_pair()
    pair.seed()
    pair.run(30 * SECOND)
    died = pair.now
    pair.loses = lambda _: True
    pair.run(20 * SECOND)
    for node in (pair.client, pair.gateway):
        first_lost = next(packet.at for packet in pair.sent(node) if packet.at > died and packet.is_check)
        assert node.states[-1] == (first_lost + 16_500 * MILLISECOND, AgentState.DISCONNECTED)
    pair.loses = lambda _: False
    pair.resignal(pair.client, *pair.client.signalled)
    pair.run(SECOND)
    assert pair.client.state is AgentState.COMPLETED
    assert pair.gateway.state is AgentState.COMPLETED


def test_silence_of_a_fresh_pair_disconnects_after_15_25_seconds() -> None:
    pair = open_pair()
    pair.loses = lambda _: True
    pair.seed()
    pair.run(20 * SECOND)
    assert pair.client.states == [
        (START, AgentState.CHECKING),
        (START + 15_250 * MILLISECOND, AgentState.DISCONNECTED),
    ]


def test_idle_connections_whisper_and_notice_an_outage_after_100_seconds() -> None:
    pair = open_pair()
    pair.seed()
    pair.run(30 * SECOND)
    for node in (pair.client, pair.gateway):
        node.agent.set_idle(True, pair.now)
    pair.packets.clear()
    pair.run(100 * SECOND)
    assert len([packet for packet in pair.sent(pair.client) if packet.is_check]) == 4
    assert pair.client.state is AgentState.COMPLETED
    died = pair.now
    pair.loses = lambda _: True
    pair.run(130 * SECOND)
    first_lost = next(packet.at for packet in pair.sent(pair.client) if packet.at > died and packet.is_check)
    assert pair.client.states[-1] == (first_lost + 100 * SECOND, AgentState.DISCONNECTED)


def test_checks_pass_a_lossy_network() -> None:
    pair = open_pair()
    pair.loses = lambda packet: packet.message.transaction_id[0] % 2 == 0
    pair.seed()
    pair.run(120 * SECOND)
    assert pair.client.state is AgentState.COMPLETED
    assert len(pair.client.nominated) == 1


def test_a_forwarded_port_is_found_by_guessing() -> None:
    pair = Pair(CLIENT_HOST, GATEWAY_HOST)
    pair.client.nat = Symmetric(CLIENT_NAT)
    pair.gateway.nat = Forwarding(GATEWAY_NAT, pair.gateway.host)
    pair.add_host(pair.client)
    pair.add_host(pair.gateway)
    mapped = endpoint(f"{GATEWAY_NAT}:61000")
    pair.resignal(pair.gateway, Candidate.server_reflexive(mapped, pair.gateway.host))
    pair.run_until(lambda: bool(pair.client.nominated), 2 * SECOND)
    assert pair.client.path == (CLIENT_HOST, f"{GATEWAY_NAT}:52625")


def test_guesses_are_two_in_all() -> None:
    pair = Pair(CLIENT_HOST, GATEWAY_HOST)
    pair.add_host(pair.gateway)
    for number in range(1, 5):
        mapped = endpoint(f"198.51.100.{number}:61000")
        pair.resignal(pair.gateway, Candidate.server_reflexive(mapped, pair.gateway.host))
    known = [str(candidate.address) for candidate in pair.client.agent.remote_candidates]
    assert known == [
        GATEWAY_HOST,
        "198.51.100.1:61000",
        "198.51.100.1:52625",
        "198.51.100.2:61000",
        "198.51.100.2:52625",
        "198.51.100.3:61000",
        "198.51.100.4:61000",
    ]


def test_a_lost_relay_is_invalidated_and_a_new_one_takes_over() -> None:
    pair = natted_pair(Symmetric)
    pair.seed(relayed=True)
    pair.run(20 * SECOND)
    gone = next(c for c in pair.client.signalled if c.kind is CandidateKind.RELAY)
    pair.client.relayed.remove(gone.address)
    assert pair.invalidate(pair.client, gone)
    pair.run(20 * MILLISECOND)
    assert pair.client.state is AgentState.DISCONNECTED
    pair.add_relayed(pair.client, "203.0.113.3:50003")
    pair.run(SECOND)
    assert pair.client.path == ("203.0.113.3:50003", GATEWAY_RELAYED)
    assert pair.gateway.path == (GATEWAY_RELAYED, "203.0.113.3:50003")
    assert pair.client.signalled[-1].priority < gone.priority


def test_an_invalidated_relay_that_returns_is_signalled_again() -> None:
    pair = natted_pair(Symmetric)
    pair.seed(relayed=True)
    pair.run(5 * SECOND)
    gone = next(c for c in pair.client.signalled if c.kind is CandidateKind.RELAY)
    pair.invalidate(pair.client, gone)
    pair.run(SECOND)
    pair.add_relayed(pair.client, CLIENT_RELAYED)
    assert pair.client.signalled[-1] == gone
    pair.run(SECOND)
    assert pair.client.path == (CLIENT_RELAYED, GATEWAY_RELAYED)


def test_a_peer_that_lost_its_agent_is_found_again_after_signalling_anew() -> None:
    pair = open_pair()
    pair.seed()
    pair.run(10 * SECOND)
    fresh = Pair("192.0.2.1:52625", "192.0.2.2:52625", seed="restarted")
    pair.gateway.agent = fresh.gateway.agent
    pair.gateway.nominated.clear()
    pair.add_host(pair.gateway)
    pair.resignal(pair.client, *pair.client.signalled)
    pair.run(2 * SECOND)
    assert pair.gateway.path == ("192.0.2.2:52625", "192.0.2.1:52625")
    assert pair.client.state is AgentState.COMPLETED


def test_equal_priorities_are_all_tried() -> None:
    pair = Pair(CLIENT_HOST, "192.0.2.2:52625")
    pair.add_host(pair.client)
    mapped = [endpoint(f"192.0.2.{number}:52625") for number in (9, 8, 2)]
    candidates = [Candidate.server_reflexive(address, pair.gateway.host) for address in mapped]
    assert len({candidate.priority for candidate in candidates}) == 1
    pair.resignal(pair.gateway, *candidates)
    pair.add_host(pair.gateway)
    pair.gateway.agent.remove_remote_candidate(pair.client.signalled[0], pair.now)
    pair.run(100 * MILLISECOND)
    tried = [packet.destination for packet in pair.sent(pair.client) if packet.is_check]
    assert set(tried) == set(mapped)


def trace(pair: Pair) -> list[Packet]:
    pair.loses = lambda packet: packet.message.transaction_id[1] % 3 == 0
    pair.seed(relayed=True)
    pair.run(40 * SECOND)
    return pair.packets


@pytest.mark.parametrize("kind", [PortPreserving, Symmetric])
def test_equal_inputs_give_equal_packets(kind: type[PortPreserving] | type[Symmetric]) -> None:
    assert trace(natted_pair(kind)) == trace(natted_pair(kind))


def test_after_each_wake_up_the_next_one_lies_ahead() -> None:
    pair = natted_pair(PortPreserving)
    pair.seed(relayed=True)
    begin = pair.now
    pair.run(30 * SECOND)
    assert begin < pair.now
    for node in (pair.client, pair.gateway):
        assert len(node.arms) < 2000
