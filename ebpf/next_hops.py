"""Next hops for interfaces on which the kernel does not forward and so does not tell them to the program.

Each gateway has a slot in a map; flows name the slot. Slot 0 means none: the packet returns to where it came from. A
slot whose neighbour is unresolved sends its packets up, and user space's own sending resolves it.
"""

from collections.abc import Callable, Mapping

from connectivity.clock import SECOND, Instant
from connectivity.endpoint import IPAddress
from ebpf.layout import MAX_NEXT_HOPS, NextHop
from ebpf.netlink import Route

RESOLVE_INTERVAL = 1 * SECOND  # an unresolved neighbour is asked for again
REFRESH_INTERVAL = 10 * SECOND  # a resolved one may have moved


class NextHops:
    """Slots, filled from the kernel's routes and neighbours.

    ``write`` puts a value into the map of next hops; ``None`` is an unresolved neighbour. ``due`` may be called by
    another thread than the rest.
    """

    def __init__(
        self,
        *,
        route_to: Callable[[IPAddress], Route | None],
        neighbour: Callable[[Route], NextHop | None],
        write: Callable[[int, NextHop | None], None],
    ) -> None:
        self._route_to = route_to
        self._neighbour = neighbour
        self._write = write
        self._slots: dict[Route, int] = {}
        self._known: dict[Route, NextHop | None] = {}
        self._due: dict[Route, Instant] = {}

    def slot(self, destination: IPAddress, now: Instant) -> int:
        """The slot for ``destination``; 0 without a route, or with the table full."""
        route = self._route_to(destination)
        if route is None:
            return 0
        if route not in self._slots:
            if len(self._slots) + 1 >= MAX_NEXT_HOPS:
                return 0
            self._slots[route] = len(self._slots) + 1
            self._due[route] = now
        if now >= self._due[route]:
            self.learn({route: self._neighbour(route)}, now)
        return self._slots[route]

    def due(self, now: Instant) -> list[Route]:
        """Whose neighbours are to be asked for again."""
        return [route for route, due in list(self._due.items()) if now >= due]

    def learn(self, found: Mapping[Route, NextHop | None], now: Instant) -> None:
        """Take over what the kernel knows of neighbours."""
        for route, hop in found.items():
            if route not in self._known or hop != self._known[route]:
                self._write(self._slots[route], hop)
                self._known[route] = hop
            self._due[route] = now + (REFRESH_INTERVAL if hop is not None else RESOLVE_INTERVAL)
