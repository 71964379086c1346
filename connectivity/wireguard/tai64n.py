"""TAI64N timestamps of handshake initiations: 8 bytes of seconds and 4 of nanoseconds, big-endian.

Receivers only compare them, as bytes. The base is the one that Firezone's peers use (TAI was 37 s ahead of UTC when it
was chosen); a restart on another base would look like a step of the clock.
"""

from typing import Final

from connectivity.clock import SECOND, WallTime

BASE: Final = (1 << 62) + 37


class TimestampClock:
    """Strictly increasing timestamps, also when the wall clock stands still or steps back."""

    __slots__ = ("_last",)

    def __init__(self) -> None:
        self._last: WallTime = -1

    def next(self, wall_now: WallTime) -> bytes:
        """The timestamp of ``wall_now``, or one nanosecond after the previous one."""
        self._last = max(wall_now, self._last + 1)
        return encode(self._last)


def encode(wall: WallTime) -> bytes:
    """The TAI64N label of a time after 1970."""
    seconds, nanoseconds = divmod(wall, SECOND)
    return (BASE + seconds).to_bytes(8, "big") + nanoseconds.to_bytes(4, "big")
