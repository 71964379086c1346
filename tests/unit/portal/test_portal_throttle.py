"""Wrong tokens: honest answers for a few, a brake for many, one line with a count, and nobody else pays."""

import logging
from typing import Any

import pytest

from connectivity.clock import SECOND
from portal import throttle
from portal.configuration import TokenType
from portal.login import Refusal
from portal.throttle import HONEST_ANSWERS, MAXIMUM_SOURCES, Report, WrongTokens
from tests.unit.portal.conftest import AGENTS, public_key

SOURCE = "192.0.2.7"


def test_many_wrong_tokens_of_one_address_are_told_to_come_back_later(world: Any) -> None:
    answers = [guess(world, SOURCE) for _ in range(1500)]
    assert answers[:HONEST_ANSWERS] == [Refusal(401, "Invalid token")] * HONEST_ANSWERS
    assert set(answers[HONEST_ANSWERS:]) == {Refusal(503, "Try again later", 60)}


def test_a_right_token_beside_them_is_let_in(world: Any) -> None:
    for _ in range(100):
        guess(world, SOURCE)
    assert not isinstance(guess(world, SOURCE, "c1"), Refusal)


def test_other_addresses_get_honest_answers(world: Any) -> None:
    for _ in range(100):
        guess(world, SOURCE)
    assert guess(world, "192.0.2.8") == Refusal(401, "Invalid token")


def test_an_honest_answer_comes_again_after_a_minute(world: Any) -> None:
    for _ in range(100):
        guess(world, SOURCE)
    world.pass_time(60)
    assert guess(world, SOURCE) == Refusal(401, "Invalid token")


def test_other_mistakes_are_no_guesses(world: Any) -> None:
    for _ in range(100):
        answer = world.ask(TokenType.CLIENT, {"token": "c1"}, "", SOURCE)
        assert answer.status == 422
    assert guess(world, SOURCE) == Refusal(401, "Invalid token")


def test_they_are_told_once_and_then_counted(world: Any, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "portal"):
        for _ in range(1500):
            guess(world, SOURCE)
        assert lines(caplog) == [("Wrong tokens", {"address": SOURCE, "count": 1})]
        world.pass_time(61)
        assert lines(caplog)[1:] == [("Wrong tokens", {"address": SOURCE, "count": 1500})]
        world.pass_time(120)
        assert len(lines(caplog)) == 2
    assert "guess" not in caplog.text


@pytest.mark.parametrize(
    ("one", "other"), [("2001:db8::1", "2001:db8::ffff"), ("192.0.2.1", "::ffff:192.0.2.1"), ("", "not an address")]
)
def test_addresses_that_one_host_may_have_are_one(one: str, other: str) -> None:
    wrong = WrongTokens()
    answers = [wrong.note(one if number % 2 else other, 0) for number in range(HONEST_ANSWERS + 2)]
    assert answers == [True] * HONEST_ANSWERS + [False] * 2


def test_the_table_is_bounded_and_forgets_no_count() -> None:
    wrong = WrongTokens()
    for _ in range(5):
        wrong.note("192.0.2.1", 0)
    for number in range(MAXIMUM_SOURCES):
        wrong.note(f"10.0.{number >> 8}.{number & 255}", SECOND)
    assert len(wrong._windows) == MAXIMUM_SOURCES
    reports = []
    while (report := wrong.poll()) is not None:
        reports.append(report)
    assert Report("192.0.2.1", 5) in reports
    assert len(reports) == MAXIMUM_SOURCES + 2
    wrong.handle_timeout(throttle.WINDOW + SECOND)
    assert not wrong._windows


def guess(world: Any, source: str, token: str = "guess") -> Any:
    parameters = {"token": token, "external_id": "x", "name": "n", "public_key": public_key(1)}
    return world.ask(TokenType.CLIENT, parameters, AGENTS[TokenType.CLIENT], source)


def lines(caplog: pytest.LogCaptureFixture) -> list[tuple[str, Any]]:
    return [(record.message, getattr(record, "fields", None)) for record in caplog.records if record.levelno >= 20]
