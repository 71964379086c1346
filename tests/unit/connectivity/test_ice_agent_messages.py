"""What one agent sends, accepts and nominates (RFC 8445 §7, §8)."""

from dataclasses import replace

import pytest

from connectivity.clock import MILLISECOND, SECOND
from connectivity.ice import AgentState, Candidate, Nominated, StateChanged, parse
from connectivity.stun import (
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
from tests.unit.connectivity.ice_pair import CLIENT, GATEWAY, START
from tests.unit.connectivity.ice_solo import (
    OTHER,
    OURS,
    RELAYED,
    THEIRS,
    answer,
    check,
    connected_agent,
    events,
    make_agent,
    sent,
    transmits,
)

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
