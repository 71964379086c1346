"""Deadlines in a heap, one live entry per subject, corrected lazily.

A deadline that moves later costs a dictionary write: when the old entry comes up, it goes back with the true deadline.
One that moves earlier pushes a second entry and outdates the first. Outdated entries are swept when they outnumber the
live ones, so the heap is never more than twice the size of what it watches (plus a constant).
"""

import heapq
from collections.abc import Hashable, Iterator
from typing import Final, Generic, TypeVar

from connectivity.clock import Instant

S = TypeVar("S", bound=Hashable)

_SWEEP_SLACK: Final = 64  # implementation constant: no sweeping below this many outdated entries


class DeadlineQueue(Generic[S]):
    """Subjects with a deadline each."""

    def __init__(self) -> None:
        self._heap: list[tuple[Instant, int, S]] = []
        self._deadlines: dict[S, Instant] = {}
        self._entries: dict[S, int] = {}  # the sequence number of the entry that counts
        self._entry_deadlines: dict[S, Instant] = {}
        self._sequence = 0  # keeps the heap from ever comparing subjects

    def __len__(self) -> int:
        return len(self._deadlines)

    def schedule(self, subject: S, deadline: Instant) -> None:
        """Watch a subject or move its deadline."""
        queued = self._entry_deadlines.get(subject)
        self._deadlines[subject] = deadline
        if queued is None or deadline < queued:
            self._push(subject, deadline)
            self._sweep()

    def cancel(self, subject: S) -> None:
        """Forget a subject; unknown ones are fine."""
        if self._deadlines.pop(subject, None) is not None:
            del self._entries[subject], self._entry_deadlines[subject]
            self._sweep()

    def pop_due(self, now: Instant) -> Iterator[S]:
        """Take out, earliest first, the subjects whose deadline has come."""
        while self._heap and self._heap[0][0] <= now:
            _, sequence, subject = heapq.heappop(self._heap)
            if self._entries.get(subject) != sequence:
                continue
            deadline = self._deadlines[subject]
            if deadline > now:
                self._push(subject, deadline)
                continue
            del self._deadlines[subject], self._entries[subject], self._entry_deadlines[subject]
            yield subject
        self._sweep()

    def next_deadline(self) -> Instant | None:
        """When to call ``pop_due``: no subject is due earlier. May come before a deadline that moved later."""
        return self._heap[0][0] if self._heap else None

    def _push(self, subject: S, deadline: Instant) -> None:
        self._sequence += 1
        self._entries[subject] = self._sequence
        self._entry_deadlines[subject] = deadline
        heapq.heappush(self._heap, (deadline, self._sequence, subject))

    def _sweep(self) -> None:
        """Keep outdated entries off the top, where they would wake us for nothing, and few everywhere else."""
        while self._heap and self._entries.get(self._heap[0][2]) != self._heap[0][1]:
            heapq.heappop(self._heap)
        if len(self._heap) > 2 * len(self._deadlines) + _SWEEP_SLACK:
            self._heap = [entry for entry in self._heap if self._entries.get(entry[2]) == entry[1]]
            heapq.heapify(self._heap)
