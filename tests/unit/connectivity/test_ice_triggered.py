"""RFC 8445 §7.3.1.4: a check that arrives triggers one of ours, so that whoever was early need not wait."""

from connectivity.clock import MILLISECOND, SECOND
from tests.unit.connectivity.ice_pair import START
from tests.unit.connectivity.ice_solo import OURS, THEIRS, answer, check, connected_agent, sent

LATER = START + 100 * MILLISECOND  # before the second check of the timetable, at 250 ms


def test_a_check_on_an_unanswered_pair_triggers_one_at_once() -> None:
    agent = connected_agent()
    sent(agent)
    agent.handle_message(check(to_controlling=True), source=THEIRS, destination=OURS, now=LATER)
    sent(agent)  # the answer
    assert agent.poll_timeout() == LATER
    agent.handle_timeout(LATER)
    assert len(sent(agent)) == 1


def test_it_triggers_only_once_so_that_one_way_pairs_keep_their_time() -> None:
    agent = connected_agent()
    for step in range(1, 6):
        agent.handle_message(
            check(to_controlling=True), source=THEIRS, destination=OURS, now=START + step * MILLISECOND
        )
        agent.handle_timeout(START + step * MILLISECOND)
    assert len(sent(agent)) == 1 + 5 + 1  # the first check, the answers, the triggered check


def test_a_pair_that_has_succeeded_keeps_its_cadence() -> None:
    agent = connected_agent()
    (first,) = sent(agent)
    agent.handle_message(answer(first), source=THEIRS, destination=OURS, now=START + MILLISECOND)
    agent.handle_timeout(START + MILLISECOND)
    sent(agent)
    before = agent.poll_timeout()
    agent.handle_message(check(to_controlling=True), source=THEIRS, destination=OURS, now=START + 2 * MILLISECOND)
    assert agent.poll_timeout() == before
    assert before is not None
    assert before < START + SECOND
