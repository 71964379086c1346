"""The memory of answers: bounded by age and by count, the oldest first."""

from ipaddress import ip_address

import pytest

from connectivity.endpoint import Endpoint
from connectivity.stun import Method
from relay.core import FiveTuple, answers
from relay.core.answers import ANSWER_LIFETIME, AnswerMemory

FIVE_TUPLE = FiveTuple(Endpoint(ip_address("192.0.2.1"), 5), Endpoint(ip_address("198.51.100.1"), 3478))


def name(number: int) -> tuple[FiveTuple, int, bytes]:
    return FIVE_TUPLE, Method.ALLOCATE, number.to_bytes(12, "big")


def test_an_answer_lives_until_no_copy_of_its_request_can_come() -> None:
    memory = AnswerMemory()
    memory.remember(*name(1), b"one", 0)
    memory.remember(*name(2), b"two", 1)
    assert memory.recall(*name(1), ANSWER_LIFETIME - 1) == b"one"
    assert memory.recall(*name(1), ANSWER_LIFETIME) is None
    memory.forget_expired(ANSWER_LIFETIME)
    assert (len(memory), memory.recall(*name(2), ANSWER_LIFETIME)) == (1, b"two")
    memory.remember(*name(1), b"anew", ANSWER_LIFETIME)
    assert memory.recall(*name(1), ANSWER_LIFETIME) == b"anew"


def test_one_too_many_drops_the_oldest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answers, "MOST_ANSWERS", 3)
    memory = AnswerMemory()
    for number in range(5):
        memory.remember(*name(number), bytes((number,)), number)
    assert [memory.recall(*name(number), 5) for number in range(5)] == [None, None, b"\2", b"\3", b"\4"]


def test_what_was_never_asked_is_not_known_whatever_the_time() -> None:
    """Tests of a machine that has just started look back to before its clock's zero."""
    memory = AnswerMemory()
    assert [memory.recall(*name(1), now) for now in (-1, 0, 1)] == [None] * 3
    memory.remember(*name(1), b"one", -1)
    assert memory.recall(*name(1), 0) == b"one"
