"""The rules of one agent, message by message (RFC 8445 §6, §7, §8)."""

import logging
from dataclasses import replace

import pytest

from connectivity.clock import MILLISECOND, SECOND, Instant
from connectivity.endpoint import Endpoint
from connectivity.ice import Agent, AgentState, Candidate, CandidateKind, Event, Nominated, StateChanged, parse
from connectivity.run import Transmit
from connectivity.stun import (
    Attribute,
    IceControlled,
    IceControlling,
    Message,
    MessageClass,
    Method,
    Priority,
    UseCandidate,
    Username,
    XorMappedAddress,
    decode,
    encode,
)
from tests.unit.connectivity.ice_pair import CLIENT, GATEWAY, START, counting_rng

OURS = Endpoint.parse("10.0.0.1:52625")
THEIRS = Endpoint.parse("192.0.2.1:52625")
OTHER = Endpoint.parse("192.0.2.2:4000")
RELAYED = Endpoint.parse("203.0.113.1:50000")


def make_agent(*, controlling: bool = True) -> Agent:
    local, remote = (CLIENT, GATEWAY) if controlling else (GATEWAY, CLIENT)
    return Agent(controlling=controlling, local=local, remote=remote, rng=counting_rng("agent"), now=START)


def connected_agent(*, controlling: bool = True) -> Agent:
    """With one host pair whose first check has left already."""
    agent = make_agent(controlling=controlling)
    agent.add_local_candidate(Candidate.host(OURS))
    agent.add_remote_candidate(parse(Candidate.host(THEIRS).to_text()), START)
    agent.handle_timeout(START)
    return agent


def transmits(agent: Agent) -> list[Transmit]:
    drained: list[Transmit] = []
    while (transmit := agent.poll_transmit()) is not None:
        drained.append(transmit)
    return drained


def sent(agent: Agent) -> list[Message]:
    return [decode(transmit.run.data) for transmit in transmits(agent)]


def state(agent: Agent) -> AgentState:
    """The state now: a call, because a type checker believes that attributes stay as they were compared."""
    return agent.state


def events(agent: Agent) -> list[Event]:
    drained: list[Event] = []
    while (event := agent.poll_event()) is not None:
        drained.append(event)
    return drained


def check(
    *extra: Attribute,
    to_controlling: bool = False,
    username: str | None = None,
    password: str | None = None,
    message_class: MessageClass = MessageClass.REQUEST,
    priority: int | None = 1862270719,
) -> Message:
    """A check of the peer, right in all that is not changed."""
    ours, theirs = (CLIENT, GATEWAY) if to_controlling else (GATEWAY, CLIENT)
    name = Username(f"{ours.username}:{theirs.username}" if username is None else username)
    attributes: list[Attribute] = [name, IceControlled(1) if to_controlling else IceControlling(1)]
    attributes += [Priority(priority)] if priority is not None else []
    key = (ours.password if password is None else password).encode()
    data = encode(Method.BINDING, message_class, b"t" * 12, [*attributes, *extra], integrity_key=key, fingerprint=True)
    return decode(data)


def answer(request: Message, mapped: Endpoint = OURS, password: str = GATEWAY.password) -> Message:
    """The peer's answer to a check of ours."""
    attributes = [XorMappedAddress(mapped)]
    key = password.encode()
    return decode(encode(Method.BINDING, MessageClass.SUCCESS, request.transaction_id, attributes, integrity_key=key))


# What is sent.


@pytest.mark.parametrize("controlling", [True, False])
def test_a_check_has_its_attributes_in_order(controlling: bool) -> None:
    agent = connected_agent(controlling=controlling)
    (transmit,) = transmits(agent)
    assert (transmit.source, transmit.destination, transmit.tos) == (OURS, THEIRS, 0)
    message = decode(transmit.run.data)
    role = IceControlling if controlling else IceControlled
    assert [type(attribute) for attribute in message.attributes] == [Username, role, Priority]
    assert message.get(Username) == Username("gate:clnt" if controlling else "clnt:gate")
    assert message.get(Priority) == Priority(1862270719)
    assert message.has_integrity
    assert message.verify_integrity((GATEWAY if controlling else CLIENT).password.encode())
    assert message.verify_fingerprint()


def test_the_tie_breaker_stays_the_same() -> None:
    agent = connected_agent()
    (first,) = sent(agent)
    agent.handle_timeout(START + SECOND)
    (second,) = sent(agent)
    assert first.get(IceControlling) == second.get(IceControlling)
    assert first.transaction_id != second.transaction_id


def test_a_check_is_answered_with_the_mapped_address_alone() -> None:
    agent = connected_agent(controlling=False)
    transmits(agent)
    request = check()
    agent.handle_message(request, source=THEIRS, destination=OURS, now=START)
    (transmit,) = transmits(agent)
    assert (transmit.source, transmit.destination) == (OURS, THEIRS)
    message = decode(transmit.run.data)
    assert message.message_class is MessageClass.SUCCESS
    assert message.transaction_id == request.transaction_id
    assert message.attributes == (XorMappedAddress(THEIRS),)
    assert message.verify_integrity(GATEWAY.password.encode())
    assert message.verify_fingerprint()


def test_relayed_candidates_send_from_their_relayed_address() -> None:
    agent = make_agent()
    agent.add_local_candidate(Candidate.relayed(RELAYED, OURS))
    agent.add_remote_candidate(parse(Candidate.host(THEIRS).to_text()), START)
    agent.handle_timeout(START)
    (transmit,) = transmits(agent)
    assert transmit.source == RELAYED
    assert decode(transmit.run.data).get(Priority) == Priority(110 << 24 | 37748479 & 0xFFFFFF)


def test_all_due_checks_leave_in_one_wake_up_best_first() -> None:
    agent = make_agent()
    agent.add_local_candidate(Candidate.relayed(RELAYED, OURS))
    agent.add_local_candidate(Candidate.host(OURS))
    agent.add_remote_candidate(parse(Candidate.host(THEIRS).to_text()), START)
    agent.handle_timeout(START)
    assert [transmit.source for transmit in transmits(agent)] == [OURS, RELAYED]
    due = agent.poll_timeout()
    assert due == START + 250 * MILLISECOND


# What is accepted.


def test_the_peers_check_is_accepted() -> None:
    agent = connected_agent(controlling=False)
    assert agent.accepts(check())
    assert agent.accepts(check(message_class=MessageClass.INDICATION, priority=None))


@pytest.mark.parametrize(
    "message",
    [
        check(username="gate:else"),
        check(username="else:clnt"),
        check(username="clnt:gate"),
        check(username="gate"),
        check(password=CLIENT.password),
        check(priority=None),
        check(message_class=MessageClass.SUCCESS),
        replace(check(), unknown_required=(0x7777,)),
        replace(check(), method=3),
        decode(encode(Method.BINDING, MessageClass.REQUEST, b"t" * 12, [Username("gate:clnt"), Priority(1)])),
        decode(encode(Method.BINDING, MessageClass.REQUEST, b"t" * 12, [Priority(1)], integrity_key=b"x")),
    ],
)
def test_other_checks_are_neither_accepted_nor_answered(message: Message) -> None:
    agent = connected_agent(controlling=False)
    transmits(agent)
    assert not agent.accepts(message)
    agent.handle_message(message, source=THEIRS, destination=OURS, now=START)
    assert transmits(agent) == []


def test_an_answer_is_accepted_by_transaction_and_integrity() -> None:
    agent = connected_agent()
    (request,) = sent(agent)
    assert agent.accepts(answer(request))
    assert not agent.accepts(answer(request, password=CLIENT.password))
    assert not agent.accepts(answer(replace(request, transaction_id=b"u" * 12)))
    assert not agent.accepts(replace(answer(request), unknown_required=(0x7777,)))
    key = GATEWAY.password.encode()
    unmapped = encode(Method.BINDING, MessageClass.SUCCESS, request.transaction_id, [], integrity_key=key)
    assert not agent.accepts(decode(unmapped))


def test_an_error_response_to_our_check_is_ours_and_ignored() -> None:
    agent = connected_agent()
    (request,) = sent(agent)
    error = decode(encode(Method.BINDING, MessageClass.ERROR, request.transaction_id, []))
    assert agent.accepts(error)
    agent.handle_message(error, source=THEIRS, destination=OURS, now=START)
    assert [type(event) for event in events(agent)] == [StateChanged]
    assert transmits(agent) == []


def test_an_indication_is_ignored() -> None:
    agent = connected_agent(controlling=False)
    transmits(agent)
    message = check(message_class=MessageClass.INDICATION)
    agent.handle_message(message, source=OTHER, destination=OURS, now=START)
    assert transmits(agent) == []
    assert len(agent.remote_candidates) == 1


# Nomination.


def test_the_controlling_side_nominates_on_success_without_waiting_for_confirmation() -> None:
    agent = connected_agent()
    (request,) = sent(agent)
    events(agent)
    now = START + 20 * MILLISECOND
    agent.handle_message(answer(request), source=THEIRS, destination=OURS, now=now)
    assert events(agent) == [Nominated(OURS, THEIRS)]
    assert agent.poll_timeout() == now
    agent.handle_timeout(now)
    (nominating,) = sent(agent)
    kinds = [type(attribute) for attribute in nominating.attributes]
    assert kinds == [Username, IceControlling, Priority, UseCandidate]
    assert events(agent) == [StateChanged(AgentState.COMPLETED)]
    timeout = agent.poll_timeout()
    assert timeout is not None
    assert timeout > now


def test_checks_on_a_nominated_pair_always_nominate() -> None:
    agent = connected_agent()
    agent.handle_message(answer(sent(agent)[0]), source=THEIRS, destination=OURS, now=START)
    for _ in range(3):
        timeout = agent.poll_timeout()
        assert timeout is not None
        agent.handle_timeout(timeout)
        (message,) = sent(agent)
        assert message.get(UseCandidate) is not None


def test_the_controlled_side_follows_at_its_next_wake_up_though_it_has_not_succeeded() -> None:
    agent = connected_agent(controlling=False)
    transmits(agent)
    events(agent)
    agent.handle_message(check(UseCandidate()), source=THEIRS, destination=OURS, now=START)
    assert events(agent) == []
    assert agent.poll_timeout() == START
    agent.handle_timeout(START)
    assert events(agent) == [Nominated(OURS, THEIRS), StateChanged(AgentState.COMPLETED)]
    triggered = [message for message in sent(agent) if message.message_class is MessageClass.REQUEST]
    assert [message.get(UseCandidate) for message in triggered] == [None]


def test_a_nominated_pair_stays_due_when_an_older_check_is_answered_first() -> None:
    agent = connected_agent(controlling=False)
    (request,) = sent(agent)
    now = START + 20 * MILLISECOND
    agent.handle_message(check(UseCandidate()), source=THEIRS, destination=OURS, now=now)
    agent.handle_message(answer(request, password=CLIENT.password), source=THEIRS, destination=OURS, now=now)
    assert agent.poll_timeout() == now


def test_the_controlled_side_chooses_the_best_of_the_nominated() -> None:
    agent = connected_agent(controlling=False)
    agent.add_remote_candidate(parse(Candidate.server_reflexive(OTHER, OTHER).to_text()), START)
    events(agent)
    agent.handle_message(check(UseCandidate()), source=OTHER, destination=OURS, now=START)
    agent.handle_message(check(UseCandidate()), source=THEIRS, destination=OURS, now=START)
    agent.handle_timeout(START)
    assert events(agent)[0] == Nominated(OURS, THEIRS)
    agent.handle_message(check(UseCandidate()), source=OTHER, destination=OURS, now=START)
    agent.handle_timeout(START)
    assert events(agent) == []


def test_the_controlling_side_ignores_nominations() -> None:
    agent = connected_agent()
    transmits(agent)
    agent.handle_message(check(UseCandidate(), to_controlling=True), source=OTHER, destination=OURS, now=START)
    assert transmits(agent) == []
    assert len(agent.remote_candidates) == 1


def test_an_answer_that_took_another_way_proves_nothing() -> None:
    agent = connected_agent()
    (request,) = sent(agent)
    events(agent)
    agent.handle_message(answer(request), source=OTHER, destination=OURS, now=START)
    agent.handle_message(answer(request), source=THEIRS, destination=OTHER, now=START)
    assert events(agent) == []
    agent.handle_message(answer(request), source=THEIRS, destination=OURS, now=START)
    assert events(agent) == [Nominated(OURS, THEIRS)]


def test_equal_priorities_do_not_take_turns() -> None:
    agent = make_agent()
    agent.add_local_candidate(Candidate.host(OURS))
    for address in (THEIRS, OTHER):
        agent.add_remote_candidate(parse(Candidate.server_reflexive(address, address).to_text()), START)
    agent.handle_timeout(START)
    first, second = transmits(agent)
    assert (first.destination, second.destination) == (THEIRS, OTHER)
    events(agent)
    agent.handle_message(answer(decode(second.run.data)), source=OTHER, destination=OURS, now=START)
    agent.handle_message(answer(decode(first.run.data)), source=THEIRS, destination=OURS, now=START)
    agent.handle_timeout(START)
    assert events(agent) == [Nominated(OURS, OTHER), StateChanged(AgentState.CONNECTED)]


def test_an_equal_pair_takes_over_when_the_current_one_is_lost() -> None:
    agent = make_agent()
    agent.add_local_candidate(Candidate.host(OURS))
    reflexive = [parse(Candidate.server_reflexive(address, address).to_text()) for address in (THEIRS, OTHER)]
    for candidate in reflexive:
        agent.add_remote_candidate(candidate, START)
    agent.handle_timeout(START)
    for transmit in transmits(agent):
        message = answer(decode(transmit.run.data))
        agent.handle_message(message, source=transmit.destination, destination=OURS, now=START)
    events(agent)
    agent.remove_remote_candidate(reflexive[0], START)
    agent.handle_timeout(START)
    assert events(agent) == [Nominated(OURS, OTHER), StateChanged(AgentState.COMPLETED)]


# Peer-reflexive candidates.


def test_a_check_from_an_unknown_address_discovers_it() -> None:
    agent = connected_agent(controlling=False)
    agent.add_local_candidate(Candidate.relayed(RELAYED, OURS))
    agent.handle_timeout(START)
    transmits(agent)
    agent.handle_message(check(priority=77), source=OTHER, destination=OURS, now=START)
    discovered = agent.remote_candidates[-1]
    assert (discovered.kind, discovered.address, discovered.base) == (CandidateKind.PRFLX, OTHER, OTHER)
    assert discovered.priority == 77
    agent.handle_timeout(START)
    checks = [t for t in transmits(agent) if decode(t.run.data).message_class is MessageClass.REQUEST]
    assert [(t.source, t.destination) for t in checks] == [(OURS, OTHER)]


def test_a_signalled_candidate_replaces_the_discovered_one_and_its_pair_runs_on() -> None:
    agent = make_agent(controlling=False)
    agent.add_local_candidate(Candidate.host(OURS))
    reflexive = parse(Candidate.server_reflexive(THEIRS, THEIRS).to_text())
    agent.add_remote_candidate(reflexive, START)
    agent.handle_timeout(START)
    agent.handle_message(check(UseCandidate()), source=RELAYED, destination=OURS, now=START)
    agent.handle_timeout(START)
    assert Nominated(OURS, RELAYED) in events(agent)
    transmits(agent)
    signalled = replace(parse(Candidate.relayed(RELAYED, RELAYED).to_text()), ufrag=CLIENT.username)
    assert agent.add_remote_candidate(signalled, START)
    assert agent.remote_candidates == (reflexive, signalled)
    agent.handle_timeout(START)
    assert transmits(agent) == []
    # Peer-reflexive addresses come before server-reflexive ones. This one has turned out to be a relay's.
    agent.handle_message(check(UseCandidate()), source=THEIRS, destination=OURS, now=START)
    agent.handle_timeout(START)
    assert events(agent)[0] == Nominated(OURS, THEIRS)


def test_a_discovered_candidate_is_replaced_once() -> None:
    agent = connected_agent(controlling=False)
    agent.handle_message(check(), source=OTHER, destination=OURS, now=START)
    signalled = [parse(c.to_text()) for c in (Candidate.host(OTHER), Candidate.server_reflexive(OTHER, OTHER))]
    for candidate in signalled:
        agent.add_remote_candidate(candidate, START)
    assert [candidate for candidate in agent.remote_candidates if candidate.address == OTHER] == signalled


def test_checks_that_arrive_where_we_have_no_candidate_are_discarded() -> None:
    agent = connected_agent(controlling=False)
    transmits(agent)
    agent.handle_message(check(), source=OTHER, destination=Endpoint(OURS.ip, 1), now=START)
    agent.handle_message(check(), source=OTHER, destination=RELAYED, now=START)
    assert transmits(agent) == []
    assert len(agent.remote_candidates) == 1


def test_a_pair_that_failed_comes_back_when_its_peer_checks_again() -> None:
    agent = connected_agent(controlling=False)
    while (timeout := agent.poll_timeout()) is not None:
        agent.handle_timeout(timeout)
    assert state(agent) is AgentState.DISCONNECTED
    transmits(agent)
    later = START + 60 * SECOND
    agent.handle_message(check(), source=THEIRS, destination=OURS, now=later)
    agent.handle_timeout(later)
    assert state(agent) is AgentState.CHECKING
    assert len(agent.remote_candidates) == 1
    assert len(transmits(agent)) == 2


def test_a_flood_of_addresses_is_bounded_and_warned_of_once(caplog: pytest.LogCaptureFixture) -> None:
    agent = connected_agent(controlling=False)
    with caplog.at_level(logging.WARNING):
        for port in range(1, 400):
            agent.handle_message(check(), source=Endpoint(OTHER.ip, port), destination=OURS, now=START)
    assert len(agent.remote_candidates) == 100
    assert len(transmits(agent)) == 400
    agent.handle_timeout(START)
    assert len(transmits(agent)) == 99
    assert len(caplog.records) == 1


# Adding and removing candidates.


@pytest.mark.parametrize(
    "text",
    [
        "candidate:1 2 udp 2130706175 192.0.2.9 1 typ host",
        "candidate:1 1 udp 2130706175 192.0.2.9 1 typ host ufrag clnt",
        Candidate.host(THEIRS).to_text(),
    ],
)
def test_candidates_of_no_use_are_rejected(text: str) -> None:
    agent = connected_agent()
    assert not agent.add_remote_candidate(parse(text), START)
    assert len(agent.remote_candidates) == 1


def test_a_candidate_with_the_peers_ufrag_is_taken() -> None:
    text = "candidate:1 1 udp 2130706175 192.0.2.9 1 typ host ufrag gate"
    assert connected_agent().add_remote_candidate(parse(text), START)


def test_a_candidate_signalled_again_with_another_priority_is_renumbered() -> None:
    agent = connected_agent()
    renumbered = parse(Candidate.host(THEIRS).numbered(3, "gate").to_text())
    assert agent.add_remote_candidate(renumbered, START)
    assert agent.remote_candidates == (renumbered,)
    transmits(agent)
    agent.handle_timeout(START)
    assert transmits(agent) == []


def test_an_invalidated_candidate_is_deaf_until_it_is_signalled_again() -> None:
    agent = connected_agent(controlling=False)
    transmits(agent)
    candidate = parse(Candidate.host(THEIRS).to_text())
    assert agent.remove_remote_candidate(candidate, START)
    assert not agent.remove_remote_candidate(candidate, START)
    agent.handle_message(check(UseCandidate()), source=THEIRS, destination=OURS, now=START)
    agent.handle_timeout(START)
    assert transmits(agent) == []
    assert agent.remote_candidates == ()
    assert state(agent) is AgentState.DISCONNECTED
    assert agent.add_remote_candidate(candidate, START)
    agent.handle_timeout(START)
    assert len(transmits(agent)) == 1
    assert state(agent) is AgentState.CHECKING


def test_an_unknown_candidate_cannot_be_invalidated() -> None:
    agent = connected_agent()
    assert not agent.remove_remote_candidate(parse(Candidate.server_reflexive(THEIRS, OURS).to_text()), START)
    assert not agent.remove_local_candidate(Candidate.host(THEIRS))


def test_the_other_kind_of_an_invalidated_address_lives_on() -> None:
    agent = connected_agent()
    reflexive = parse(Candidate.server_reflexive(THEIRS, OURS).to_text())
    assert agent.add_remote_candidate(reflexive, START)
    transmits(agent)
    agent.remove_remote_candidate(parse(Candidate.host(THEIRS).to_text()), START)
    agent.handle_timeout(START)
    assert [transmit.destination for transmit in transmits(agent)] == [THEIRS]
    assert agent.remote_candidates == (reflexive,)


def test_checks_to_a_removed_local_candidate_are_ignored() -> None:
    agent = connected_agent(controlling=False)
    transmits(agent)
    assert agent.remove_local_candidate(Candidate.host(OURS))
    assert agent.local_candidates == ()
    agent.handle_message(check(), source=THEIRS, destination=OURS, now=START)
    assert transmits(agent) == []


def test_a_local_candidate_that_returns_is_paired_again() -> None:
    agent = connected_agent()
    first = agent.local_candidates
    agent.remove_local_candidate(Candidate.host(OURS))
    transmits(agent)
    assert agent.add_local_candidate(Candidate.host(OURS)) == first[0]
    agent.handle_timeout(START)
    assert len(transmits(agent)) == 1


# State and time.


def test_no_candidates_yet_is_no_reason_to_give_up() -> None:
    agent = make_agent()
    assert state(agent) is AgentState.NEW
    assert agent.poll_timeout() == START
    agent.handle_timeout(START)
    assert events(agent) == [StateChanged(AgentState.CHECKING)]
    assert agent.poll_timeout() is None
    agent.add_local_candidate(Candidate.host(OURS))
    agent.handle_timeout(START + 3600 * SECOND)
    assert state(agent) is AgentState.CHECKING


def test_candidates_that_cannot_be_paired_leave_nothing_possible() -> None:
    agent = make_agent()
    agent.add_local_candidate(Candidate.host(OURS))
    agent.handle_timeout(START)
    agent.add_remote_candidate(parse(Candidate.host(Endpoint.parse("[2001:db8::1]:1")).to_text()), START + SECOND)
    assert agent.poll_timeout() == START + SECOND
    agent.handle_timeout(START + SECOND)
    assert state(agent) is AgentState.DISCONNECTED


def last_before_failure(agent: Agent) -> Instant:
    """Wake the agent up until it has no more checks to send."""
    now = START
    while (timeout := agent.poll_timeout()) is not None:
        assert timeout >= now
        now = timeout
        agent.handle_timeout(now)
    return now


@pytest.mark.parametrize("controlling", [True, False])
def test_nobody_answers_for_15_25_seconds(controlling: bool) -> None:
    agent = connected_agent(controlling=controlling)
    assert last_before_failure(agent) == START + 15_250 * MILLISECOND
    assert len(transmits(agent)) == 12
    assert events(agent) == [StateChanged(AgentState.CHECKING), StateChanged(AgentState.DISCONNECTED)]


def test_nobody_answers_for_100_seconds_when_idle() -> None:
    agent = make_agent()
    agent.set_idle(True, START)
    agent.add_local_candidate(Candidate.host(OURS))
    agent.add_remote_candidate(parse(Candidate.host(THEIRS).to_text()), START)
    agent.handle_timeout(START)
    assert last_before_failure(agent) == START + 100 * SECOND
    assert len(transmits(agent)) == 4
    assert state(agent) is AgentState.DISCONNECTED


def test_idle_slows_waiting_checks_at_once_and_activity_wakes_them() -> None:
    agent = connected_agent()
    agent.set_idle(True, START + 10 * MILLISECOND)
    assert agent.poll_timeout() == START + 25 * SECOND
    agent.set_idle(False, START + 10 * SECOND)
    assert agent.poll_timeout() == START + 250 * MILLISECOND


def test_a_late_wake_up_sends_one_check_per_pair() -> None:
    agent = connected_agent()
    transmits(agent)
    agent.handle_timeout(START + 3600 * SECOND)
    assert len(transmits(agent)) == 1
    timeout = agent.poll_timeout()
    assert timeout is not None
    assert timeout > START + 3600 * SECOND


def test_nothing_secret_is_shown() -> None:
    assert CLIENT.password not in repr(CLIENT)
    assert CLIENT.password not in repr(vars(connected_agent()))
