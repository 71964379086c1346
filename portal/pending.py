"""Flows that wait for their gateway's word, bounded so that no client keeps others waiting or drowns a gateway.

A client has a bounded number of them, and so has a gateway. When there is no room, the oldest flow of whoever has the
most makes room for one of whoever has fewer.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from connectivity.clock import SECOND, Instant
from connectivity.phoenix.message import Json
from portal.session import Device

PENDING_LIFETIME_NS: Final = 60 * SECOND
MAXIMUM_PENDING: Final = 4096
MAXIMUM_PENDING_PER_CLIENT: Final = 128  # what a person opens at once, and some
MAXIMUM_PENDING_PER_GATEWAY: Final = 512


@dataclass(frozen=True, slots=True)
class Pending:
    """An ``authorize_flow`` that its gateway has not confirmed."""

    client: Device
    client_key: str
    gateway: Device
    resource_id: str
    created_at: Instant
    answer: Json = field(repr=False)


class PendingFlows:
    """These flows under their references, oldest first."""

    def __init__(self) -> None:
        self._flows: dict[str, Pending] = {}
        self._by_client: dict[str, dict[str, str]] = {}  # client -> resource -> reference

    def __len__(self) -> int:
        return len(self._flows)

    def make_room(self, client: Device, gateway: Device, resource_id: str) -> bool:
        """Whether one more may wait; an earlier one of this client for the same resource is given up."""
        earlier = self._by_client.get(client.id, {}).get(resource_id)
        if earlier is not None:
            self._remove(earlier)
        if len(self._by_client.get(client.id, ())) >= MAXIMUM_PENDING_PER_CLIENT:
            return False
        if len(self._flows) >= MAXIMUM_PENDING and not self._displace(client, lambda _held: True):
            return False
        at_gateway = sum(held.gateway is gateway for held in self._flows.values())
        return at_gateway < MAXIMUM_PENDING_PER_GATEWAY or self._displace(client, lambda held: held.gateway is gateway)

    def add(self, reference: str, pending: Pending) -> None:
        """One more, for which there is room."""
        self._flows[reference] = pending
        self._by_client.setdefault(pending.client.id, {})[pending.resource_id] = reference

    def take(self, reference: str, gateway: Device) -> Pending | None:
        """The flow that this gateway confirms; None if it is not one of its own."""
        pending = self._flows.get(reference)
        if pending is None or pending.gateway is not gateway:
            return None
        return self._remove(reference)

    def take_all(self, gateway: Device) -> list[Pending]:
        """All flows that this gateway has not confirmed."""
        return [self._remove(ref) for ref, held in list(self._flows.items()) if held.gateway is gateway]

    def handle_timeout(self, now: Instant) -> None:
        """Forget those that no gateway confirmed; the client asks again by itself."""
        while self._flows:
            reference, pending = next(iter(self._flows.items()))
            if now - pending.created_at < PENDING_LIFETIME_NS:
                return
            self._remove(reference)

    def _displace(self, client: Device, is_meant: Callable[[Pending], bool]) -> bool:
        """Give up the oldest flow of the client with the most of those meant, if it has more than this one."""
        counts = Counter(held.client.id for held in self._flows.values() if is_meant(held))
        greediest, most = counts.most_common(1)[0]
        if most <= counts[client.id] + 1:
            return False
        oldest = (
            reference for reference, held in self._flows.items() if held.client.id == greediest and is_meant(held)
        )
        self._remove(next(oldest))
        return True

    def _remove(self, reference: str) -> Pending:
        pending = self._flows.pop(reference)
        references = self._by_client[pending.client.id]
        del references[pending.resource_id]
        if not references:
            del self._by_client[pending.client.id]
        return pending
