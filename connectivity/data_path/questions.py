"""Packets of flows that a worker has asked about: each flow's in order, all of them bounded.

A flow that is asked about keeps everything that comes of it until the answer is there, so nothing overtakes anything.
"""

from collections import deque
from collections.abc import Iterator
from typing import Final, NamedTuple

from connectivity.flow_table import Key
from connectivity.run import Run

MAX_RUNS: Final = 64  # of one flow; an answer takes milliseconds
MAX_FLOWS: Final = 1024
MAX_BYTES: Final = 8 << 20


class Kept(NamedTuple):
    """A copy of a run of one flow."""

    run: Run
    tos: int
    outer_tos: int


class _Waiting:
    __slots__ = ("key", "question", "runs")

    def __init__(self, key: Key, question: int) -> None:
        self.key = key
        self.question = question
        self.runs: deque[Kept] = deque()


class Questions:
    """What is asked, by flow and by number."""

    def __init__(self) -> None:
        self._by_key: dict[Key, _Waiting] = {}
        self._by_number: dict[int, _Waiting] = {}
        self._last = 0
        self._bytes = 0
        self.dropped = 0  # packets

    def __len__(self) -> int:
        """How many flows wait."""
        return len(self._by_key)

    def __contains__(self, key: Key) -> bool:
        """Whether packets of this flow wait."""
        return key in self._by_key

    def keep(self, key: Key, run: Run, tos: int, outer_tos: int) -> int | None:
        """Keep a copy of a run; returns the number of the question to ask, None if none is to be asked for it."""
        waiting = self._by_key.get(key)
        room = self._bytes + len(run.data) <= MAX_BYTES
        if not room or (len(self._by_key) >= MAX_FLOWS if waiting is None else len(waiting.runs) >= MAX_RUNS):
            self.dropped += run.segment_count
            return None
        kept = Kept(Run(memoryview(bytearray(run.data)), run.segment_size), tos, outer_tos)
        self._bytes += len(kept.run.data)
        if waiting is not None:
            waiting.runs.append(kept)
            return None
        self._last = self._last % 0xFFFF_FFFF + 1
        waiting = self._by_key[key] = self._by_number[self._last] = _Waiting(key, self._last)
        waiting.runs.append(kept)
        return self._last

    def answer(self, number: int, *, taken: bool) -> tuple[Key, Iterator[Kept]] | None:
        """What has waited for this answer, in order, without what the core has taken; None: nobody asked.

        The flow waits no more, so what is to wait again is to be kept again.
        """
        waiting = self._by_number.pop(number, None)
        if waiting is None:
            return None
        del self._by_key[waiting.key]
        self._bytes -= sum(len(kept.run.data) for kept in waiting.runs)
        if taken:
            waiting.runs.popleft()
        return waiting.key, iter(waiting.runs)
