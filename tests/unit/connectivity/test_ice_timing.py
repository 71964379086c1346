"""The timetable of one pair: cadence, back-off, failure (RFC 8445 §14)."""

from collections.abc import Callable
from itertools import count, pairwise

import pytest

from connectivity.clock import MILLISECOND, SECOND, Instant
from connectivity.endpoint import Endpoint
from connectivity.ice.candidate import Candidate
from connectivity.ice.pair import CandidatePair, pair_priority
from connectivity.ice.remote import RemoteCandidate
from connectivity.ice.timing import ACTIVE, IDLE, CheckTiming

START: Instant = 500 * SECOND
LOCAL = Candidate.host(Endpoint.parse("10.0.0.1:1"))
REMOTE = RemoteCandidate(0, Candidate.host(Endpoint.parse("10.0.0.2:2")))
ROUND_TRIP = 20 * MILLISECOND


def make_pair() -> CandidatePair:
    return CandidatePair(LOCAL, REMOTE, pair_priority(LOCAL.priority, REMOTE.candidate.priority), START)


def play(
    pair: CandidatePair, timing: CheckTiming, answered: Callable[[int], bool], until: Instant
) -> tuple[list[Instant], Instant | None]:
    """Check the pair at its deadlines; the n-th check (from 0) is answered after a round trip or not at all.

    Returns when checks were sent and when the pair failed.
    """
    sent: list[Instant] = []
    for number in count():
        now = pair.next_check_at
        if now > until:
            return sent, None
        if pair.has_failed(timing, now):
            return sent, now
        transaction_id = now.to_bytes(12, "big")  # nothing is sent twice in one instant
        pair.record_check(transaction_id, timing, now)
        sent.append(now)
        if answered(number):
            pair.record_answer(transaction_id, timing, now + ROUND_TRIP)
    raise AssertionError("unreachable: count() does not end")


def seconds(instants: list[Instant], since: Instant = START) -> list[float]:
    return [(instant - since) / SECOND for instant in instants]


def never(_: int) -> bool:
    return False


def always(_: int) -> bool:
    return True


def test_a_fresh_pair_without_answers_fails_after_15_25_seconds() -> None:
    sent, failed_at = play(make_pair(), ACTIVE, never, START + 60 * SECOND)
    assert seconds(sent) == [0, 0.25, 0.75, 1.75, 3.25, 4.75, 6.25, 7.75, 9.25, 10.75, 12.25, 13.75]
    assert failed_at == START + 15_250 * MILLISECOND


def test_an_idle_fresh_pair_without_answers_fails_after_100_seconds() -> None:
    sent, failed_at = play(make_pair(), IDLE, never, START + 200 * SECOND)
    assert seconds(sent) == [0, 25, 50, 75]
    assert failed_at == START + 100 * SECOND


def test_an_answered_pair_starts_with_the_same_steps_and_settles_at_1_5_seconds() -> None:
    sent, failed_at = play(make_pair(), ACTIVE, always, START + 60 * SECOND)
    assert seconds(sent)[:6] == [0, 0.25, 0.75, 1.75, 3.25, 4.75]
    assert {later - earlier for earlier, later in pairwise(sent[3:])} == {1500 * MILLISECOND}
    assert failed_at is None


def test_an_idle_answered_pair_is_checked_each_25_seconds() -> None:
    sent, failed_at = play(make_pair(), IDLE, always, START + 300 * SECOND)
    assert seconds(sent) == [25.0 * number for number in range(13)]
    assert failed_at is None


def test_an_outage_of_a_healthy_pair_is_found_after_16_5_seconds() -> None:
    pair = make_pair()
    healthy, _ = play(pair, ACTIVE, always, START + 40 * SECOND)
    first_lost = pair.next_check_at
    sent, failed_at = play(pair, ACTIVE, never, START + 100 * SECOND)
    assert len(healthy) > 12
    assert seconds(sent, first_lost) == [0, 1.5, 2, 3, 4.5, 6, 7.5, 9, 10.5, 12, 13.5, 15]
    assert failed_at == first_lost + 16_500 * MILLISECOND


def test_an_outage_of_an_idle_pair_is_found_after_100_seconds() -> None:
    pair = make_pair()
    play(pair, IDLE, always, START + 200 * SECOND)
    first_lost = pair.next_check_at
    sent, failed_at = play(pair, IDLE, never, START + 400 * SECOND)
    assert seconds(sent, first_lost) == [0, 25, 50, 75]
    assert failed_at == first_lost + 100 * SECOND


def test_one_answer_ends_an_outage() -> None:
    pair = make_pair()
    play(pair, ACTIVE, always, START + 40 * SECOND)
    play(pair, ACTIVE, never, pair.next_check_at + 14 * SECOND)
    sent, failed_at = play(pair, ACTIVE, always, pair.next_check_at + 30 * SECOND)
    assert failed_at is None
    assert sent[-1] - sent[-2] == 1500 * MILLISECOND


def test_a_pair_that_loses_every_other_check_lives_on() -> None:
    _, failed_at = play(make_pair(), ACTIVE, lambda number: number % 2 == 0, START + 120 * SECOND)
    assert failed_at is None


def test_only_the_latest_attempts_are_remembered() -> None:
    pair = make_pair()
    play(pair, ACTIVE, always, START + 60 * SECOND)
    assert len(pair.attempts) == ACTIVE.attempt_count
    pair.record_check(b"x" * 12, IDLE, START + 61 * SECOND)
    assert len(pair.attempts) == IDLE.attempt_count


def test_a_change_of_the_timetable_moves_the_deadline_both_ways() -> None:
    pair = make_pair()
    sent, _ = play(pair, ACTIVE, always, START + 40 * SECOND)
    pair.reschedule(IDLE, sent[-1] + SECOND)
    assert pair.next_check_at == sent[-1] + 25 * SECOND
    pair.reschedule(ACTIVE, sent[-1] + 10 * SECOND)
    assert pair.next_check_at == sent[-1] + 1500 * MILLISECOND


def test_a_fresh_pair_is_due_at_once_in_any_timetable() -> None:
    pair = make_pair()
    pair.reschedule(IDLE, START + SECOND)
    assert pair.next_check_at == START + SECOND
    assert not pair.has_failed(IDLE, START + 1000 * SECOND)


@pytest.mark.parametrize(("sent_count", "delay"), [(1, 250), (2, 500), (3, 1000), (4, 1500), (5, 1500), (10**6, 1500)])
def test_the_delay_doubles_and_saturates(sent_count: int, delay: int) -> None:
    assert ACTIVE.delay(sent_count) == delay * MILLISECOND


@pytest.mark.parametrize(
    ("controlling", "controlled", "priority"),
    [(2, 1, 2**32 * 1 + 2 * 2 + 1), (1, 2, 2**32 * 1 + 2 * 2), (7, 7, 2**32 * 7 + 14)],
)
def test_pair_priority(controlling: int, controlled: int, priority: int) -> None:
    assert pair_priority(controlling, controlled) == priority


def test_the_round_trip_is_that_of_the_last_answered_check_and_a_repeated_answer_changes_nothing() -> None:
    pair = make_pair()
    assert pair.round_trip is None
    for number, round_trip in enumerate((30, 20)):
        sent_at = START + number * SECOND
        pair.record_check(bytes([number]) * 12, ACTIVE, sent_at)
        pair.record_answer(bytes([number]) * 12, ACTIVE, sent_at + round_trip * MILLISECOND)
        assert pair.round_trip == round_trip * MILLISECOND
    pair.record_answer(bytes(12), ACTIVE, START + 60 * SECOND)
    assert pair.round_trip == 20 * MILLISECOND
