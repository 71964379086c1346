"""The free relayed ports, drawn at random (RFC 8656 §7.2: hard to predict for an attacker).

Any port is drawn in constant time. An even one, and one with its neighbour, is searched for from a random place on:
a few steps, unless the range is nearly full.

Invariant: a port is either in the pool or with whoever took it.
"""

from array import array
from collections.abc import Callable, Iterable


class PortPool:
    """Holds the free ports of a closed range."""

    def __init__(self, lowest: int, highest: int, excluded: Iterable[int], rng: Callable[[int], bytes]) -> None:
        barred = frozenset(excluded)
        self._free = array("H", (port for port in range(lowest, highest + 1) if port not in barred))
        self._index = {port: index for index, port in enumerate(self._free)}
        self._rng = rng

    def __len__(self) -> int:
        return len(self._free)

    def take(self) -> int | None:
        """A random free port; None when all are taken."""
        return self._take(self._free[self._random_index()]) if self._free else None

    def take_even(self, *, with_next: bool) -> int | None:
        """A random free even port, and the one above it too if ``with_next``; None when there is none."""
        free = self._free
        start = self._random_index() if free else 0
        for offset in range(len(free)):
            port = free[(start + offset) % len(free)]
            if port % 2 == 0 and (not with_next or port + 1 in self._index):
                if with_next:
                    self._take(port + 1)
                return self._take(port)
        return None

    def give_back(self, port: int) -> None:
        """Return a port that was handed out."""
        self._index[port] = len(self._free)
        self._free.append(port)

    def _random_index(self) -> int:
        # 64 random bits over at most 2**16 ports: the bias is below 2**-48.
        return int.from_bytes(self._rng(8), "big") % len(self._free)

    def _take(self, port: int) -> int:
        """Remove a port from the pool; the last one fills its place."""
        last = self._free.pop()
        index = self._index.pop(port)
        if last != port:
            self._free[index] = last
            self._index[last] = index
        return port
