"""What holds for ICE whatever the text, the candidates, the network and the order of things."""

from collections.abc import Callable
from contextlib import suppress

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from connectivity.clock import MILLISECOND, SECOND
from connectivity.endpoint import Endpoint
from connectivity.ice import Agent, AgentState, Candidate, CandidateKind, Nominated, is_valid_address, parse
from connectivity.ice.candidate import candidate_priority, local_preference
from connectivity.ice.checklist import MAX_PAIRS
from connectivity.ice.pair import pair_priority
from connectivity.stun import (
    Attribute,
    IceControlling,
    MessageClass,
    Method,
    Priority,
    UseCandidate,
    Username,
    XorMappedAddress,
    decode,
    encode,
)
from tests.unit.connectivity.ice_pair import (
    CLIENT,
    GATEWAY,
    START,
    Packet,
    Pair,
    PortPreserving,
    Symmetric,
    counting_rng,
)

ENDPOINTS = st.builds(Endpoint, st.ip_addresses(), st.integers(1, 0xFFFF)).filter(is_valid_address)
KINDS = st.sampled_from(CandidateKind)
PRIORITIES = st.integers(0, 0xFFFFFFFF)
ICE_CHARS = st.text("ABCabc019+/", min_size=1, max_size=20)


@st.composite
def candidates(draw: st.DrawFn) -> Candidate:
    address, related = draw(ENDPOINTS), draw(st.none() | ENDPOINTS)
    ufrag = draw(st.none() | ICE_CHARS)
    return Candidate(draw(KINDS), address, address, draw(PRIORITIES), related, draw(ICE_CHARS), ufrag)


@given(candidates())
def test_candidates_read_back(candidate: Candidate) -> None:
    assert parse(candidate.to_text()) == candidate


@given(
    st.text() | st.lists(st.sampled_from(["candidate:1", "1", "udp", "::", "typ", "host", "raddr", " "])).map(" ".join)
)
def test_any_text_is_a_candidate_or_a_value_error(text: str) -> None:
    with suppress(ValueError):
        assert is_valid_address(parse(text).address)


@given(PRIORITIES, PRIORITIES)
def test_both_sides_give_a_pair_the_same_priority(controlling: int, controlled: int) -> None:
    priority = pair_priority(controlling, controlled)
    assert 0 <= priority < 1 << 65
    assert pair_priority(controlled, controlling) ^ priority == (1 if controlling != controlled else 0)


@given(KINDS, st.sampled_from([4, 6]), st.integers(0, 10**6), st.booleans())
def test_priorities_stay_in_their_kind(kind: CandidateKind, version: int, known: int, crossed: bool) -> None:
    priority = candidate_priority(kind, local_preference(kind, version, known, cross_family=crossed))
    assert 0 < priority < 1 << 31
    first = candidate_priority(kind, local_preference(kind, version, 0))
    assert priority >> 24 == first >> 24
    assert priority <= first


NATS = st.sampled_from([None, PortPreserving, Symmetric])


def build_network(
    client_nat: type[PortPreserving] | type[Symmetric] | None,
    gateway_nat: type[PortPreserving] | type[Symmetric] | None,
    loses: Callable[[Packet], bool],
) -> Pair:
    pair = Pair("192.168.1.2:52625", "10.0.0.2:52625")
    if client_nat is not None:
        pair.client.nat = client_nat("198.51.100.1")
    if gateway_nat is not None:
        pair.gateway.nat = gateway_nat("198.51.100.2")
    pair.loses = loses
    return pair


@settings(deadline=None, max_examples=40)
@given(NATS, NATS, st.integers(0, 90), st.integers(1, 400))
def test_with_relays_any_network_is_crossed_despite_loss(
    client_nat: type[PortPreserving] | type[Symmetric] | None,
    gateway_nat: type[PortPreserving] | type[Symmetric] | None,
    loss_percent: int,
    latency_ms: int,
) -> None:
    """Losing the first of each transaction in so many of a hundred; the loss ends after a while."""
    end = START + 5 * SECOND

    def loses(packet: Packet) -> bool:
        return packet.at < end and packet.message.transaction_id[0] * 100 // 256 < loss_percent

    pair = build_network(client_nat, gateway_nat, loses)
    pair.latency = latency_ms * MILLISECOND
    pair.seed(relayed=True)
    pair.run(40 * SECOND)
    for node in (pair.client, pair.gateway):
        assert node.state in (AgentState.CONNECTED, AgentState.COMPLETED)
        assert node.nominated
    source, destination = pair.client.nominated[-1][1].source, pair.client.nominated[-1][1].destination
    assert source in (pair.client.host, *pair.client.relayed)
    assert destination in [candidate.address for candidate in pair.client.agent.remote_candidates]


@settings(deadline=None, max_examples=15)
@given(NATS, NATS, st.integers(2, 9))
def test_equal_inputs_give_equal_packets(
    client_nat: type[PortPreserving] | type[Symmetric] | None,
    gateway_nat: type[PortPreserving] | type[Symmetric] | None,
    divisor: int,
) -> None:
    traces: list[list[Packet]] = []
    for _ in range(2):
        pair = build_network(client_nat, gateway_nat, lambda packet: packet.message.transaction_id[0] % divisor == 0)
        pair.seed(relayed=True)
        pair.run(20 * SECOND)
        traces.append(pair.packets)
    assert traces[0] == traces[1]


ADDRESSES = [Endpoint.parse(f"192.0.2.{host}:{port}") for host in (1, 2) for port in (10, 11)]
ADDRESSES += [Endpoint.parse(f"[2001:db8::{host}]:10") for host in (1, 2)]
LOCALS = [Candidate.host(Endpoint.parse("10.0.0.1:1")), Candidate.host(Endpoint.parse("[2001:db8::10]:1"))]
LOCALS += [Candidate.relayed(Endpoint.parse("203.0.113.1:50000"), LOCALS[0].address)]
REMOTES = [Candidate.host(address) for address in ADDRESSES]
REMOTES += [parse(Candidate.server_reflexive(address, address).to_text()) for address in ADDRESSES]


class AgentMachine(RuleBasedStateMachine):
    """One controlled agent and a peer that does anything, in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.now = START
        self.agent = Agent(controlling=False, local=GATEWAY, remote=CLIENT, rng=counting_rng("machine"), now=self.now)
        self.unanswered: list[tuple[bytes, Endpoint, Endpoint]] = []
        self.state = AgentState.NEW

    @rule(candidate=st.sampled_from(LOCALS))
    def add_local(self, candidate: Candidate) -> None:
        known = [each.address for each in self.agent.local_candidates]
        assert (self.agent.add_local_candidate(candidate) is None) == (candidate.address in known)

    @rule(candidate=st.sampled_from(LOCALS))
    def remove_local(self, candidate: Candidate) -> None:
        known = [each.address for each in self.agent.local_candidates]
        assert self.agent.remove_local_candidate(candidate) == (candidate.address in known)

    @rule(candidate=st.sampled_from(REMOTES))
    def add_remote(self, candidate: Candidate) -> None:
        self.agent.add_remote_candidate(candidate, self.now)
        assert candidate.address in [each.address for each in self.agent.remote_candidates]

    @rule(candidate=st.sampled_from(REMOTES))
    def remove_remote(self, candidate: Candidate) -> None:
        self.agent.remove_remote_candidate(candidate, self.now)
        assert candidate not in self.agent.remote_candidates

    @rule(idle=st.booleans())
    def change_timing(self, idle: bool) -> None:
        self.agent.set_idle(idle, self.now)

    @rule(source=st.sampled_from(ADDRESSES), local=st.sampled_from(LOCALS), nominating=st.booleans())
    def receive_check(self, source: Endpoint, local: Candidate, nominating: bool) -> None:
        if source.ip.version != local.address.ip.version:
            return  # no network delivers that
        attributes: list[Attribute] = [Username("gate:clnt"), IceControlling(1), Priority(1862270719)]
        attributes += [UseCandidate()] if nominating else []
        key = GATEWAY.password.encode()
        message = decode(encode(Method.BINDING, MessageClass.REQUEST, b"t" * 12, attributes, integrity_key=key))
        self.agent.handle_message(message, source=source, destination=local.address, now=self.now)

    @precondition(lambda self: self.unanswered)
    @rule(pick=st.integers(0, 1000), mapped=st.sampled_from(ADDRESSES))
    def receive_answer(self, pick: int, mapped: Endpoint) -> None:
        transaction_id, source, destination = self.unanswered.pop(pick % len(self.unanswered))
        attributes = [XorMappedAddress(mapped)]
        key = CLIENT.password.encode()
        message = decode(encode(Method.BINDING, MessageClass.SUCCESS, transaction_id, attributes, integrity_key=key))
        self.agent.handle_message(message, source=destination, destination=source, now=self.now)

    @rule(elapsed=st.sampled_from([0, MILLISECOND, 300 * MILLISECOND, 2 * SECOND, 30 * SECOND]))
    def pass_time(self, elapsed: int) -> None:
        self.now += elapsed

    @rule()
    def wake_up(self) -> None:
        self.agent.handle_timeout(self.now)
        timeout = self.agent.poll_timeout()
        assert timeout is None or timeout > self.now

    @invariant()
    def what_leaves_makes_sense(self) -> None:
        locals_ = [candidate.address for candidate in LOCALS]
        while (transmit := self.agent.poll_transmit()) is not None:
            assert transmit.source in locals_
            assert transmit.source is not None
            assert transmit.source.ip.version == transmit.destination.ip.version
            message = decode(transmit.run.data)
            if message.message_class is MessageClass.REQUEST:
                assert message.get(UseCandidate) is None
                self.unanswered.append((message.transaction_id, transmit.source, transmit.destination))
        del self.unanswered[:-50]
        while (event := self.agent.poll_event()) is not None:
            if isinstance(event, Nominated):
                assert event.source in locals_
                assert event.source.ip.version == event.destination.ip.version
            else:
                assert event.state is not self.state
                self.state = event.state
        assert self.agent.state is self.state

    @invariant()
    def the_tables_agree(self) -> None:
        checks = list(self.agent._checks)
        assert len(checks) <= MAX_PAIRS
        priorities = [pair.priority for pair in checks]
        assert priorities == sorted(priorities, reverse=True)
        assert len({(pair.source, pair.destination) for pair in checks}) == len(checks)
        for pair in checks:
            assert pair.local in self.agent.local_candidates
            assert pair.remote.candidate in self.agent.remote_candidates
            assert not pair.remote.discarded
            assert pair.priority == pair_priority(pair.remote.candidate.priority, pair.local.priority)
        assert self.agent._current is None or self.agent._current in checks


TestAgentMachine = AgentMachine.TestCase
TestAgentMachine.settings = settings(deadline=None, max_examples=60, stateful_step_count=40)
