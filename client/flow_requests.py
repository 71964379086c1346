"""When the portal is asked for flows to resources, and when it is asked again.

Only one request about a resource is open at a time. One without an answer counts as open for 2 s; then the next packet
asks again. When no gateway is online and something waits, the portal is asked again after 0.1 s, 0.2 s and three times
0.4 s, within which a gateway that is replaced starts, then more and more seldom up to 2 s; after that the next packet
asks.
"""

from typing import Final

from connectivity.clock import MILLISECOND, SECOND, Duration, Instant

REQUEST_INTERVAL: Final = 2 * SECOND
NAME_FAILED_INTERVAL: Final = 30 * SECOND  # programs ask for names that do not exist as often as they like
RETRY_DELAYS: Final = tuple(delay * MILLISECOND for delay in (100, 200, 400, 400, 400, 800, 1600, 2000))
FRESH_AFTER: Final = 30 * SECOND  # after this long without a request, retries begin quickly again


class FlowRequests:
    """The requests about all resources; there is at most one entry for each that a packet went to."""

    def __init__(self) -> None:
        self._requests: dict[str, _Request] = {}
        self._retries: dict[str, Instant] = {}

    def ask(self, resource_id: str, now: Instant) -> bool:
        """Something is to go there, and no gateway is known: whether to ask the portal. A True counts as asked."""
        request = self._requests.setdefault(resource_id, _Request())
        if resource_id in self._retries or (request.is_open and now - request.asked_at < REQUEST_INTERVAL):
            return False
        return self._asked(request, now)

    def ask_again(self, resource_id: str, now: Instant, interval: Duration = REQUEST_INTERVAL) -> bool:
        """A gateway refused what it should let through: whether to ask the portal, at most once in an interval."""
        request = self._requests.setdefault(resource_id, _Request())
        if request.was_asked and now - request.asked_at < interval:
            return False
        return resource_id not in self._retries and self._asked(request, now)

    def is_open(self, resource_id: str) -> bool:
        """Whether the portal was asked and has given no flow yet."""
        request = self._requests.get(resource_id)
        return request is not None and request.is_open

    def created(self, resource_id: str) -> None:
        """The portal has given a flow."""
        request = self._requests[resource_id]
        request.is_open, request.tries = False, 0
        self._retries.pop(resource_id, None)

    def offline(self, resource_id: str, now: Instant) -> bool:
        """No gateway is online, and something waits: whether it is worth while to wait on."""
        request = self._requests.get(resource_id)
        if request is None or request.tries >= len(RETRY_DELAYS):
            return False
        self._retries[resource_id] = now + RETRY_DELAYS[request.tries]
        request.tries += 1
        return True

    def forget(self, resource_id: str) -> None:
        """Nothing was asked about this resource."""
        self._requests.pop(resource_id, None)
        self._retries.pop(resource_id, None)

    def clear(self) -> None:
        """Nothing was asked at all."""
        self._requests.clear()
        self._retries.clear()

    def take_due(self, now: Instant) -> list[str]:
        """The resources about which to ask again if something waits still."""
        due = [resource_id for resource_id, at in self._retries.items() if at <= now]
        for resource_id in due:
            del self._retries[resource_id]
            self._requests[resource_id].is_open = False
        return due

    def poll_timeout(self) -> Instant | None:
        """When to ask again."""
        return min(self._retries.values(), default=None)

    def _asked(self, request: "_Request", now: Instant) -> bool:
        if request.was_asked and now - request.asked_at >= FRESH_AFTER:
            request.tries = 0
        request.asked_at, request.was_asked, request.is_open = now, True, True
        return True


class _Request:
    """``tries``: how often it was asked again since it began."""

    __slots__ = ("asked_at", "is_open", "tries", "was_asked")

    def __init__(self) -> None:
        self.asked_at: Instant = 0
        self.was_asked = False
        self.is_open = False
        self.tries = 0
