"""Whether this machine is on another network now, or was asleep: what a change of routes, addresses or clocks means.

A tunnel's sockets belong to the route on which the portal and the relays were reached: source address, next hop, link.
If one of these is another now, all that was built on it is dead or will be soon. What leaves the routes alone (privacy
addresses, a container's link, our own device, a route to elsewhere) is no news.
"""

from collections.abc import Collection, Mapping
from typing import Final, NamedTuple

from connectivity.clock import SECOND, Duration, Instant, WallTime
from connectivity.endpoint import IPAddress

ASLEEP_NS: Final = 10 * SECOND  # peers give up whom they have not heard of for 15 s, NATs may forget sooner


class Route(NamedTuple):
    """How packets to one address leave, as the kernel says; ``link`` is an interface's index."""

    source: IPAddress
    gateway: IPAddress | None
    link: int


class Routes:
    """The routes on which everything rests, by destination."""

    def __init__(self) -> None:
        self._routes: dict[IPAddress, Route] = {}
        self._asked: frozenset[IPAddress] = frozenset()

    def are_of(self, destinations: Collection[IPAddress]) -> bool:
        """Whether it was just these whose routes were looked for last."""
        return self._asked == set(destinations)

    def forget(self) -> None:
        """Everything was built anew: what is found next is what it rests on."""
        self._routes.clear()

    def compare(
        self,
        found: Mapping[IPAddress, Route | None],
        own: Collection[IPAddress],
        needed: Collection[IPAddress] = (),
    ) -> str:
        """Look at what was found now (None: no route there), with the host's ``own`` addresses.

        Returns:
            What is another now, in words, each time until ``forget``. Empty if nothing is that matters, or nothing can
            be reached at all, or none of those ``needed`` to begin anew: then it is best to go on with what still
            works, since the old routes may come back.
        """
        self._asked = frozenset(found)
        usable = {destination: route for destination, route in found.items() if route is not None}
        if not usable or (needed and not any(destination in usable for destination in needed)):
            return ""
        for destination, before in self._routes.items():
            if destination not in found:
                continue  # it is no portal and no relay of ours any more
            now = usable.get(destination)
            if now is None:
                return "a destination is out of reach"
            if difference := _difference(before, now, own):
                return difference
            usable[destination] = before  # a source that is still ours goes on to count
        self._routes = usable
        return ""


def _difference(before: Route, now: Route, own: Collection[IPAddress]) -> str:
    if before.link != now.link:
        return "another link"
    if before.gateway != now.gateway:
        return "another gateway"
    if before.source != now.source and before.source not in own:  # else it is only not preferred any more
        return "another source address"
    return ""


class Clocks:
    """Sees that the machine was asleep: the clock that counts on meanwhile, or the wall's, has run ahead."""

    def __init__(self, monotonic: Instant, boot: Instant, wall: WallTime) -> None:
        self._ahead = boot - monotonic, wall - monotonic

    def slept(self, monotonic: Instant, boot: Instant, wall: WallTime) -> Duration:
        """How long, since the last call; 0 if not at all."""
        before, self._ahead = self._ahead, (boot - monotonic, wall - monotonic)
        return max(0, *(now - then for now, then in zip(self._ahead, before, strict=True)))
