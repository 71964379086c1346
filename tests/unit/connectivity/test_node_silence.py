"""When a peer that answers nothing is checked, and when it is told of."""

from connectivity.clock import MILLISECOND, SECOND
from connectivity.node.silence import Silence

START = 100 * SECOND


def run(silence: Silence, since: int | None, until: int, round_trip: int = 0) -> list[tuple[float, bool]]:
    """What was done when, from ``since`` on: seconds, and whether it was told."""
    found, now = [], since or 0
    while (deadline := silence.poll_timeout(since, round_trip)) is not None and deadline <= until:
        assert deadline >= now
        now = deadline
        due = silence.due(since, round_trip, now)
        assert due.check
        assert not silence.due(since, round_trip, now).check
        found.append(((now - START) / SECOND, due.tell))
    return found


def test_three_checks_then_it_is_told_and_again_every_two_seconds() -> None:
    done = run(Silence(), START, START + 6 * SECOND)
    assert done == [(1.0, False), (1.25, False), (1.5, False), (1.75, True), (3.75, True), (5.75, True)]


def test_who_is_far_away_has_the_time_to_answer() -> None:
    done = run(Silence(), START, START + 4 * SECOND, round_trip=600 * MILLISECOND)
    assert [seconds for seconds, told in done if told] == [2.95]


def test_any_sign_of_life_begins_it_anew() -> None:
    silence = Silence()
    run(silence, START, START + 3 * SECOND)
    assert silence.poll_timeout(None, 0) is None
    assert not silence.due(None, 0, START + 50 * SECOND).check
    later = START + 10 * SECOND
    assert run(silence, later, later + SECOND + 300 * MILLISECOND) == [(11.0, False), (11.25, False)]
