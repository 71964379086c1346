"""Packets that wait for a gateway, by resource. None waits for long: who sent it has sent another one, or given up."""

from collections import OrderedDict
from typing import Final

from connectivity.clock import SECOND, Instant
from connectivity.packet_queue import PacketQueue
from connectivity.run import Run

WAIT_LIMIT: Final = 20 * SECOND  # without a further packet; as long as a handshake may take


class WaitingPackets:
    """The queues of all resources, that which was used last at the end."""

    def __init__(self) -> None:
        self._queues: OrderedDict[str, PacketQueue] = OrderedDict()
        self._pushed_at: dict[str, Instant] = {}

    def __contains__(self, resource_id: str) -> bool:
        return resource_id in self._queues

    def __len__(self) -> int:
        """How many packets wait."""
        return sum(map(len, self._queues.values()))

    def resources(self) -> list[str]:
        """The resources that packets wait for."""
        return list(self._queues)

    def push(self, resource_id: str, run: Run, tos: int, now: Instant) -> int:
        """Keep packets; returns how many older ones had to go."""
        queue = self._queues.setdefault(resource_id, PacketQueue())
        self._queues.move_to_end(resource_id)
        self._pushed_at[resource_id] = now
        return queue.push(run, tos)

    def take(self, resource_id: str) -> list[tuple[bytes, int]]:
        """All that wait for this resource, in order."""
        queue = self._queues.pop(resource_id, None)
        self._pushed_at.pop(resource_id, None)
        return [] if queue is None else queue.take()

    def take_overdue(self, now: Instant) -> int:
        """Let go what has waited too long; returns how many packets that were."""
        overdue = [resource_id for resource_id, at in self._pushed_at.items() if at + WAIT_LIMIT <= now]
        return sum(len(self.take(resource_id)) for resource_id in overdue)

    def poll_timeout(self) -> Instant | None:
        """When the first of them has."""
        return next((self._pushed_at[resource_id] + WAIT_LIMIT for resource_id in self._queues), None)
