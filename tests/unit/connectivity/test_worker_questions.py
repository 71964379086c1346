"""Packets of flows that are asked about keep their order, and are bounded."""

from connectivity.data_path.questions import MAX_BYTES, MAX_FLOWS, MAX_RUNS, Questions
from connectivity.run import Run


def run(text: bytes) -> Run:
    return Run.single(bytearray(text))


def taken(questions: Questions, number: int, *, by_core: bool) -> list[bytes]:
    answered = questions.answer(number, taken=by_core)
    assert answered is not None
    return [bytes(kept.run.data) for kept in answered[1]]


def test_one_question_a_flow_and_all_in_order() -> None:
    questions = Questions()
    assert [questions.keep(b"a", run(text), 0, 0) for text in (b"1", b"2", b"3")] == [1, None, None]
    assert questions.keep(b"b", run(b"4"), 0, 0) == 2
    assert b"a" in questions
    assert taken(questions, 1, by_core=False) == [b"1", b"2", b"3"]
    assert b"a" not in questions
    assert taken(questions, 2, by_core=True) == []
    assert questions.answer(2, taken=True) is None
    assert len(questions) == 0


def test_what_is_kept_is_a_copy() -> None:
    questions, memory = Questions(), bytearray(b"1")
    questions.keep(b"a", Run.single(memory), 0, 0)
    memory[:] = b"2"
    assert taken(questions, 1, by_core=False) == [b"1"]


def test_runs_flows_and_bytes_are_bounded() -> None:
    questions = Questions()
    for _ in range(MAX_RUNS + 3):
        questions.keep(b"a", run(b"1"), 0, 0)
    assert questions.dropped == 3
    for number in range(MAX_FLOWS):
        questions.keep(number.to_bytes(4, "big"), run(b"1"), 0, 0)
    assert (len(questions), questions.dropped) == (MAX_FLOWS, 4)
    full = Questions()
    assert full.keep(b"a", run(bytes(MAX_BYTES)), 0, 0) == 1
    assert full.keep(b"b", run(b"1"), 0, 0) is None
    assert taken(full, 1, by_core=True) == []
    assert full.keep(b"b", run(b"1"), 0, 0) == 2  # there is room again
