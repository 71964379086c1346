"""Who waits for the addresses of which name.

Each assignment of proxy addresses asks for a resolution, as a client repeats one for each query of its own. Asking
again while a look-up is under way adds nothing; one that is never answered is given up.
"""

from typing import Final, NamedTuple
from uuid import UUID

from connectivity.budget import Rate
from connectivity.clock import SECOND, Duration, Instant
from connectivity.endpoint import IPAddress

# Of one client: a page of a hundred names that is opened twice, then more than anybody types.
LOOKUPS: Final = Rate(256, 16)
# Longer than a look-up may take (10 s), so that this is a defect's end and not the usual one.
RESOLUTION_LIMIT: Final[Duration] = 15 * SECOND
MAX_WAITING: Final = 16_384  # of all clients; what budgets allow one is at most 496


class Assignment(NamedTuple):
    """What a client wants set up."""

    client_id: str
    resource: UUID
    domain: str  # as the client wrote it
    proxies: tuple[IPAddress, ...]


class Resolutions:
    """Assignments by the name that is being looked up."""

    def __init__(self) -> None:
        self._waiting: dict[str, dict[tuple[str, UUID], Assignment]] = {}  # oldest look-up first
        self._asked_at: dict[str, Instant] = {}
        self._count = 0

    def __len__(self) -> int:
        """How many assignments wait."""
        return self._count

    @property
    def is_full(self) -> bool:
        """Whether no further assignment can wait."""
        return self._count >= MAX_WAITING

    def add(self, assignment: Assignment, now: Instant) -> str | None:
        """Let an assignment wait; returns the name to be looked up if that is not under way."""
        name = normalized(assignment.domain)
        waiting = self._waiting.setdefault(name, {})
        key = assignment.client_id, assignment.resource
        self._count += key not in waiting
        waiting[key] = assignment
        if name in self._asked_at:
            return None
        self._asked_at[name] = now
        return name

    def take(self, domain: str) -> list[Assignment]:
        """What waited for this name."""
        name = normalized(domain)
        self._asked_at.pop(name, None)
        waiting = self._waiting.pop(name, {})
        self._count -= len(waiting)
        return list(waiting.values())

    def give_up(self, now: Instant) -> list[Assignment]:
        """What has waited too long."""
        late: list[Assignment] = []
        while self._asked_at:
            name = next(iter(self._asked_at))
            if now - self._asked_at[name] < RESOLUTION_LIMIT:
                break
            late += self.take(name)
        return late


def normalized(domain: str) -> str:
    """The form in which names are compared."""
    return domain.rstrip(".").lower()
