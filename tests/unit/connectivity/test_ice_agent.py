"""How one agent treats candidates, states and time (RFC 8445 §5, §6)."""

import logging
from dataclasses import replace

import pytest

from connectivity.clock import MILLISECOND, SECOND, Instant
from connectivity.endpoint import Endpoint
from connectivity.ice import Agent, AgentState, Candidate, CandidateKind, Nominated, StateChanged, parse
from connectivity.stun import (
    MessageClass,
    UseCandidate,
    decode,
)
from tests.unit.connectivity.ice_pair import CLIENT, START
from tests.unit.connectivity.ice_solo import (
    OTHER,
    OURS,
    RELAYED,
    THEIRS,
    check,
    connected_agent,
    events,
    make_agent,
    state,
    transmits,
)

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
