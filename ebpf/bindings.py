"""What changes while a binding lives: its expiry, its user's token bucket and its counters, in memory shared with XDP.

The token buckets themselves are shared likewise, so that both paths spend from one.

One line per binding of an array that is mapped here, so a refresh is one store and a look at the counters is a load:
nothing that the program counts meanwhile is lost. An expiry of zero ends a binding at once, for both directions and for
flows between two clients.
"""

import mmap
from typing import Final

import numpy as np

from connectivity.clock import MILLISECOND, Duration, Instant
from ebpf import layout
from ebpf.layout import Counter

# The program's clock is that of the kernel's last tick (CONFIG_HZ is 100 to 1000), and nothing may pass too late.
LONGEST_TICK: Final[Duration] = 10 * MILLISECOND


class Bindings:
    """The mapped array. Slot 0 stands for "none" and is never written."""

    def __init__(self, map_fd: int, count: int) -> None:
        self._memory = mmap.mmap(map_fd, count * layout.BINDING.itemsize)
        lines = np.frombuffer(self._memory, layout.BINDING)
        self._expires_at, self._bucket = lines["expires_at"], lines["bucket"]
        self._to_peer, self._to_client = lines["to_peer"], lines["to_client"]

    def start(self, slot: int) -> None:
        """Make a slot ready for a new binding: no counts, not live yet."""
        self._expires_at[slot] = 0
        self._to_peer[slot] = self._to_client[slot] = 0

    def relay_until(self, slot: int, expires_at: Instant, bucket: int) -> None:
        """Let a binding live, or live longer; in its last moments the program leaves its packets to the core."""
        self._bucket[slot] = bucket
        self._expires_at[slot] = max(0, expires_at - LONGEST_TICK)

    def end(self, slot: int) -> None:
        """Nothing passes any more. The counters stay until the next ``start``."""
        self._expires_at[slot] = 0

    def counters(self, slot: int) -> tuple[Counter, Counter]:
        """To the peer, and to the client."""
        return Counter(*self._to_peer[slot].tolist()), Counter(*self._to_client[slot].tolist())

    def close(self) -> None:
        """Give the memory back; once is enough."""
        del self._expires_at, self._bucket, self._to_peer, self._to_client
        self._memory.close()


class Buckets:
    """The mapped array of ``layout.BUCKET``, number by number: three for each bucket."""

    def __init__(self, map_fd: int) -> None:
        self._memory = mmap.mmap(map_fd, layout.BUCKETS * layout.BUCKET.size)
        self.numbers = memoryview(self._memory).cast("Q")

    def close(self) -> None:
        """Give the memory back: nobody may use ``numbers`` any more."""
        self.numbers.release()
        self._memory.close()
