"""What repeats in the log is counted and told once a minute."""

import asyncio
import logging
import subprocess
import sys
from collections.abc import Callable
from io import StringIO
from typing import Any

from connectivity.io.logs import _Formatter, _Handler
from connectivity.io.repetition import MAX_PHRASES, MOST_NOTES, MOST_WARNINGS, WINDOW_SECONDS, Repetition


class Log:
    """A handler whose minute passes when a test says so."""

    def __init__(self) -> None:
        self.now = 0.0
        self.stream = StringIO()
        self.handler = _Handler(self.stream, lambda: self.now)
        self.handler.setFormatter(_Formatter())

    def say(self, message: str, level: int = logging.WARNING, name: str = "x", **fields: object) -> None:
        record = logging.LogRecord(name, level, "f", 1, message, None, None)
        record.fields = fields
        self.handler.handle(record)

    def lines(self) -> list[str]:
        return [line.split(" ", 1)[1].strip() for line in self.stream.getvalue().splitlines()]


def test_a_flood_of_alike_lines_is_a_burst_and_a_count() -> None:
    log = Log()
    for number in range(4000):
        log.say("Something odd", error=number)
    assert log.lines() == [f"WARN x: Something odd error={number}" for number in range(MOST_WARNINGS)]
    log.now = WINDOW_SECONDS
    log.say("Something else")
    assert log.lines()[MOST_WARNINGS:] == [
        f"WARN x: Something odd ({4000 - MOST_WARNINGS:,} more like it in the last minute)",
        "WARN x: Something else",
    ]
    log.say("Something odd")
    assert log.lines()[-1] == "WARN x: Something odd"


def test_lines_are_alike_in_logger_level_and_phrase() -> None:
    log = Log()
    for _ in range(MOST_WARNINGS + 1):
        log.say("Cannot do it")
    log.say("Cannot do it", name="y")
    log.say("Cannot do it", level=logging.ERROR)
    log.say("Cannot do it, again")
    assert log.lines()[MOST_WARNINGS:] == [
        "WARN y: Cannot do it",
        "ERROR x: Cannot do it",
        "WARN x: Cannot do it, again",
    ]


def test_notes_have_more_room_and_what_was_asked_for_is_not_bounded() -> None:
    log = Log()
    for _ in range(MOST_NOTES + 50):
        log.say("Created", level=logging.INFO)
        log.say("Looking", level=logging.DEBUG)
    assert log.lines().count("INFO x: Created") == MOST_NOTES
    assert log.lines().count("DEBUG x: Looking") == MOST_NOTES + 50


def test_phrases_that_change_all_the_time_share_one_entry() -> None:
    log = Log()
    for number in range(MAX_PHRASES + 4000):
        log.say(f"Odd {number}")
    assert len(log.lines()) == MAX_PHRASES + MOST_WARNINGS
    assert len(log.handler._repetition._windows) == MAX_PHRASES + 1
    log.now = WINDOW_SECONDS
    log.say("After")
    text = f"WARN x: Lines of many kinds ({4000 - MOST_WARNINGS:,} more like it in the last minute)"
    assert log.lines()[-2:] == [text, "WARN x: After"]
    assert len(log.handler._repetition._windows) == 1


def test_a_count_at_the_end_is_told_and_tells_its_arguments() -> None:
    log = Log()
    for name in ("a", "b", "c", "d") * MOST_NOTES:
        log.handler.handle(logging.LogRecord("x", logging.INFO, "f", 1, "%s joined", (name,), None))
    log.handler.close()
    assert log.lines()[-1] == f"INFO x: a joined ({3 * MOST_NOTES} more like it in the last minute)"


def test_a_count_waits_for_no_further_line() -> None:
    log = Log()
    due: list[tuple[float, Callable[[], None]]] = []

    async def flood() -> None:
        loop: Any = asyncio.get_running_loop()
        original = loop.call_later

        def call_later(delay: float, call: Callable[[], None]) -> asyncio.TimerHandle:
            due.append((delay, call))
            return asyncio.TimerHandle(delay, call, (), loop)

        loop.call_later = call_later
        for _ in range(MOST_WARNINGS + 3):
            log.say("Something odd")
        loop.call_later = original

    asyncio.run(flood())
    ((delay, call),) = due
    assert delay == WINDOW_SECONDS
    log.now = delay
    call()
    assert log.lines()[-1] == "WARN x: Something odd (3 more like it in the last minute)"


def test_a_process_that_ends_tells_its_counts() -> None:
    program = (
        "import logging; from connectivity.io import logs; logs.configure('info')\n"
        f"for _ in range({MOST_WARNINGS + 5}): logging.getLogger('x').warning('Odd')"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stderr.splitlines()[-1].endswith("WARN x: Odd (5 more like it in the last minute)")


def test_nothing_is_due_where_nothing_was_withheld() -> None:
    repetition = Repetition()
    record = logging.LogRecord("x", logging.WARNING, "f", 1, "Once", None, None)
    assert repetition.admits(record, 0.0)
    assert repetition.due() is None
    assert repetition.take_ended(WINDOW_SECONDS) == []
