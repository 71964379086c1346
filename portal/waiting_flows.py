"""Flows that wait because no gateway of their site is here, though one was a moment ago: who is replaced is back soon.

A client that is told ``offline`` asks again after a while, and on the average misses the return by half of that. Here
its request is answered the moment a gateway has joined. It waits for less than the two seconds after which a client
takes a request for lost; then it is answered as ever, and the next one waits again, until the gateway left long ago.
"""

from collections import Counter, deque
from collections.abc import Callable, Collection
from typing import Final, NamedTuple

from connectivity.clock import MILLISECOND, SECOND, Duration, Instant
from connectivity.phoenix.message import Json
from portal.session import Session

WAIT_NS: Final[Duration] = 1_500 * MILLISECOND
BACK_WITHIN_NS: Final[Duration] = 10 * SECOND  # a busy machine starts programs slowly
MAXIMUM_WAITING: Final = 4096
MAXIMUM_WAITING_PER_CLIENT: Final = 128


class FlowRequest(NamedTuple):
    """What a client asked for in this session."""

    session: Session
    resource_id: Json
    connected: Collection[str] = ()
    site_ids: Collection[str] = ()  # of the resource, once it has waited for a gateway
    has_waited: bool = False


class _Held(NamedTuple):
    flow: FlowRequest
    until: Instant


class WaitingFlows:
    """Requests that wait for a gateway, in the order in which they are due, and sites whose gateway has just left."""

    def __init__(self) -> None:
        self._held: deque[_Held] = deque()
        self._by_client: Counter[str] = Counter()
        self._back_until: dict[str, Instant] = {}  # by site; until when a gateway that left may come back

    def __len__(self) -> int:
        return len(self._held)

    def gateway_left(self, site_id: str, now: Instant) -> None:
        """A gateway of this site is gone."""
        self._back_until[site_id] = now + BACK_WITHIN_NS

    def hold(self, flow: FlowRequest, now: Instant) -> bool:
        """Whether it is worth while to wait, for the first time, and there is room to."""
        if flow.has_waited or not any(now < self._back_until.get(site_id, now) for site_id in flow.site_ids):
            return False
        client_id = flow.session.party.id
        if len(self._held) >= MAXIMUM_WAITING or self._by_client[client_id] >= MAXIMUM_WAITING_PER_CLIENT:
            return False
        self._held.append(_Held(flow._replace(has_waited=True), now + WAIT_NS))
        self._by_client[client_id] += 1
        return True

    def begin_anew(self, flow: FlowRequest, now: Instant) -> None:
        """One whose gateway left before it had confirmed; there are no more of them than may be pending."""
        self._held.appendleft(_Held(flow, now))
        self._by_client[flow.session.party.id] += 1

    def gateway_joined(self, site_id: str) -> list[FlowRequest]:
        """Take those that waited for this."""
        return self._take(lambda held: site_id in held.flow.site_ids)

    def take_due(self, now: Instant) -> list[FlowRequest]:
        """Take those out that have waited long enough."""
        self._back_until = {site_id: until for site_id, until in self._back_until.items() if now < until}
        return self._take(lambda held: held.until <= now)

    def poll_timeout(self) -> Instant | None:
        """When the first has waited long enough."""
        return self._held[0].until if self._held else None

    def _take(self, is_meant: Callable[[_Held], bool]) -> list[FlowRequest]:
        taken = [held.flow for held in self._held if is_meant(held)]
        if taken:
            self._held = deque(held for held in self._held if not is_meant(held))
            self._by_client = Counter(held.flow.session.party.id for held in self._held)
        return taken
