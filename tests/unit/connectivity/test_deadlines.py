"""The deadline queue against a dictionary."""

from hypothesis import given
from hypothesis import strategies as st

from connectivity.deadlines import DeadlineQueue


@given(st.lists(st.tuples(st.sampled_from("scp"), st.integers(0, 9), st.integers(0, 50)), max_size=200))
def test_it_behaves_like_a_dictionary_of_deadlines(steps: list[tuple[str, int, int]]) -> None:
    queue: DeadlineQueue[int] = DeadlineQueue()
    model: dict[int, int] = {}
    now = 0
    for step, subject, amount in steps:
        if step == "s":
            queue.schedule(subject, now + amount)
            model[subject] = now + amount
        elif step == "c":
            queue.cancel(subject)
            model.pop(subject, None)
        else:
            now += amount
            due = list(queue.pop_due(now))
            expected = {key for key, deadline in model.items() if deadline <= now}
            assert set(due) == expected
            assert len(due) == len(expected)
            model = {key: deadline for key, deadline in model.items() if key not in expected}
            following = queue.next_deadline()
            assert following is None or following > now
        following = queue.next_deadline()
        assert (following is None) == (not model)
        assert following is None or following <= min(model.values())
        assert following is None or following >= now
        assert len(queue) == len(model)


def test_moving_a_deadline_to_and_fro_does_not_grow_it() -> None:
    queue: DeadlineQueue[str] = DeadlineQueue()
    for index in range(10_000):
        queue.schedule("allocation", 3600 - index % 2 * 3000 - index // 1000)
    assert len(queue._heap) < 100


def test_subjects_come_earliest_first() -> None:
    queue: DeadlineQueue[str] = DeadlineQueue()
    for deadline, name in ((3, "c"), (1, "a"), (2, "b"), (9, "z")):
        queue.schedule(name, deadline)
    assert list(queue.pop_due(3)) == ["a", "b", "c"]
    assert queue.next_deadline() == 9
