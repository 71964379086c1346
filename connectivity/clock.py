"""Time as the cores see it: an argument, never a call.

``Instant`` is an integer count of nanoseconds on CLOCK_MONOTONIC, the clock that BPF programs read too, so deadlines
can be compared across the kernel border. ``wall_now`` arguments are integer nanoseconds since the Unix epoch.
"""

from typing import Final, TypeAlias

Instant: TypeAlias = int
WallTime: TypeAlias = int
Duration: TypeAlias = int

MILLISECOND: Final = 1_000_000
SECOND: Final = 1_000_000_000


def earliest(*deadlines: Instant | None) -> Instant | None:
    """The first of several deadlines; None entries do not count."""
    first: Instant | None = None
    for deadline in deadlines:
        if deadline is not None and (first is None or deadline < first):
            first = deadline
    return first
