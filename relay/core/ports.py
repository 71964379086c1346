"""The free relayed ports, drawn at random in constant time (RFC 8656 §7.2: hard to predict for an attacker).

Invariant: a port is either in the pool or with whoever took it.
"""

from array import array
from collections.abc import Callable, Iterable


class PortPool:
    """Holds the free ports of a closed range."""

    def __init__(self, lowest: int, highest: int, excluded: Iterable[int], rng: Callable[[int], bytes]) -> None:
        barred = frozenset(excluded)
        self._free = array("H", (port for port in range(lowest, highest + 1) if port not in barred))
        self._rng = rng

    def __len__(self) -> int:
        return len(self._free)

    def take(self) -> int | None:
        """A random free port; None when all are taken."""
        free = self._free
        if not free:
            return None
        # 64 random bits over at most 2**16 ports: the bias is below 2**-48.
        index = int.from_bytes(self._rng(8), "big") % len(free)
        port = free[index]
        free[index] = free[-1]
        free.pop()
        return port

    def give_back(self, port: int) -> None:
        """Return a port that ``take`` handed out."""
        self._free.append(port)
