"""What an agent reports (RFC 8445 §6.1.3, §8)."""

from dataclasses import dataclass
from enum import Enum
from typing import TypeAlias

from connectivity.endpoint import Endpoint


class AgentState(Enum):
    """Which of two questions are open: is there a nominated pair, is there another one that may still succeed.

    | | a pair is nominated | none is |
    |---|---|---|
    | others are still possible | CONNECTED | CHECKING |
    | nothing else is | COMPLETED | DISCONNECTED |

    As long as there are no candidates at all on one side, something is possible. NEW lasts until the first wake-up.
    """

    NEW = "new"
    CHECKING = "checking"
    CONNECTED = "connected"
    COMPLETED = "completed"
    DISCONNECTED = "disconnected"


@dataclass(frozen=True, slots=True)
class Nominated:
    """Send to ``destination`` from ``source`` from now on. A relayed address as source means: over its channel."""

    source: Endpoint
    destination: Endpoint


@dataclass(frozen=True, slots=True)
class StateChanged:
    """The agent entered ``state``."""

    state: AgentState


Event: TypeAlias = Nominated | StateChanged
