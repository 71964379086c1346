"""The frame around what an event loop calls, and the one timer of a driver."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from connectivity.clock import MILLISECOND, SECOND
from connectivity.io.guard import Guard, Timer


class Loop:
    """Remembers what it was asked to call."""

    def __init__(self) -> None:
        self.calls: list[tuple[float, Callable[[], None]]] = []
        self.cancelled = 0

    def create_future(self) -> Any:
        return Future()

    def call_later(self, delay: float, function: Callable[[], None]) -> "Loop":
        self.calls.append((delay, function))
        return self

    def cancel(self) -> None:
        self.cancelled += 1


class Future:
    """Just as much of one as a guard needs."""

    def __init__(self) -> None:
        self.errors: list[Exception] = []

    def done(self) -> bool:
        return bool(self.errors)

    def set_exception(self, error: Exception) -> None:
        self.errors.append(error)


def made(ring: Callable[[], None] = lambda: None) -> tuple[Any, Guard, Timer]:
    loop: Any = Loop()
    frame = Guard(loop)
    return loop, frame, Timer(loop, frame, ring)


def test_the_first_defect_is_what_ended_the_service_and_who_is_to_stop_is_told_each_time() -> None:
    stops: list[str] = []
    frame = Guard(Loop(), lambda: stops.append("stop"))  # type: ignore[arg-type]  # as much of a loop as it needs
    for text in ("first", "second"):
        with frame:
            raise ValueError(text)
    assert [str(error) for error in frame.failed.errors] == ["first"]  # type: ignore[attr-defined]  # ours
    assert stops == ["stop", "stop"]


@pytest.mark.parametrize("error", [KeyboardInterrupt, asyncio.CancelledError])
def test_what_is_no_defect_goes_on(error: type[BaseException]) -> None:
    _, frame, _ = made()
    with pytest.raises(error), frame:
        raise error
    assert not frame.failed.done()


def test_it_rings_late_rather_than_early_and_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.monotonic_ns", lambda: 10 * SECOND)
    rung: list[bool] = []
    loop, _, timer = made(lambda: rung.append(timer.is_set))
    timer.set(12 * SECOND)
    timer.set(12 * SECOND)  # as it is
    ((delay, call),) = loop.calls
    assert 2 < delay <= 2 + MILLISECOND / SECOND
    call()
    assert rung == [False]
    timer.set(12 * SECOND)  # the same instant again, after it has rung
    timer.set(9 * SECOND)  # past
    assert [delay for delay, _ in loop.calls[1:]] == [delay, 0]
    assert loop.cancelled == 1
    timer.cancel()
    assert loop.cancelled == 2
    assert not timer.is_set


def test_a_defect_when_it_rings_is_guarded() -> None:
    def ring() -> None:
        raise ValueError("a defect")

    loop, frame, timer = made(ring)
    timer.set(0)
    loop.calls[0][1]()
    assert frame.failed.done()
