"""How far the set-up of address translation at gateways is, by gateway, resource and name (§11).

| state | meaning | packets to the name |
|---|---|---|
| (none) | nothing was said yet | the assigned addresses are sent, then as holding |
| holding | they were sent, for the first time or after a failure | wait; sent again every 2 s |
| passing | they were sent to refresh what was confirmed | pass; sent again every 2 s as flows begin |
| confirmed | the gateway translates | pass |
| failed | the gateway does not resolve the name | pass, and the gateway refuses them |

A query for the name that is answered here refreshes it: confirmed becomes passing, failed becomes holding. So each
query has the gateway resolve the name anew, without an interruption.
"""

from dataclasses import dataclass
from enum import Enum, auto
from typing import Final, NamedTuple
from uuid import UUID

from client.dns.records import Record
from connectivity.clock import SECOND, Instant
from connectivity.endpoint import IPAddress
from connectivity.p2p import AssignedIps, DomainStatus

REPEAT_INTERVAL: Final = 2 * SECOND
HOLD_LIMIT: Final = 20 * SECOND  # without a packet or a query; a gateway gives the resolution of a name 10 s


class NatKey(NamedTuple):
    """What is translated: a name of a resource, at a gateway."""

    gateway_id: str
    resource: UUID
    domain: str


class NatState(Enum):
    """See the module's table."""

    HOLDING = auto()
    PASSING = auto()
    CONFIRMED = auto()
    FAILED = auto()


@dataclass(slots=True)
class _Entry:
    message: AssignedIps
    state: NatState
    sent_at: Instant
    wanted_at: Instant


class NatStates:
    """The states of all translations. They are as many as names that were asked for, which are bounded."""

    def __init__(self) -> None:
        self._entries: dict[NatKey, _Entry] = {}
        self._holding: dict[NatKey, _Entry] = {}  # the few of the above that time matters for

    def state(self, key: NatKey) -> NatState | None:
        """How far it is; None if nothing was said yet."""
        entry = self._entries.get(key)
        return None if entry is None else entry.state

    def want(self, key: NatKey, addresses: tuple[IPAddress, ...], now: Instant) -> AssignedIps | None:
        """A packet is to go to the name: what to tell the gateway, if anything. Afterwards ``state`` is not None."""
        entry = self._entries.get(key)
        if entry is None:
            return self._begin(key, addresses, now)
        entry.wanted_at = now
        if entry.state in (NatState.HOLDING, NatState.PASSING):
            return self._repeat(entry, now)
        return None

    def refresh(self, key: NatKey, addresses: tuple[IPAddress, ...], now: Instant) -> AssignedIps | None:
        """The host asked for the name: what to tell the gateway."""
        entry = self._entries.get(key)
        if entry is None or set(entry.message.proxy_ips) != set(addresses):
            return self._begin(key, addresses, now)
        entry.wanted_at = now
        if entry.state is NatState.CONFIRMED:
            entry.state = NatState.PASSING
        elif entry.state is NatState.FAILED:
            entry.state = NatState.HOLDING
            self._holding[key] = entry
        else:
            return self._repeat(entry, now)
        entry.sent_at = now
        return entry.message

    def settle(self, gateway_id: str, status: DomainStatus) -> NatKey | None:
        """The gateway's word; what it is about, None if nobody asked for that."""
        key = NatKey(gateway_id, status.resource, status.domain.lower())
        entry = self._entries.get(key)
        if entry is None:
            return None
        entry.state = NatState.CONFIRMED if status.active else NatState.FAILED
        self._holding.pop(key, None)
        return key

    def renew(self, key: NatKey, now: Instant) -> AssignedIps | None:
        """The gateway may have forgotten the name, or may serve it now: what to tell it."""
        entry = self._entries.get(key)
        return None if entry is None else self.refresh(key, entry.message.proxy_ips, now)

    def forget(self, *, gateway_id: str | None = None, resource: UUID | None = None) -> list[NatKey]:
        """Nothing was said yet to this gateway, or about this resource; returns what was held up."""
        gone = [key for key in self._entries if gateway_id == key.gateway_id or resource == key.resource]
        for key in gone:
            del self._entries[key]
        return [key for key in gone if self._holding.pop(key, None) is not None]

    def handle_timeout(self, now: Instant) -> tuple[list[tuple[str, AssignedIps]], list[NatKey]]:
        """What to tell which gateway again, and what nobody waits for any more."""
        repeated, given_up = [], []
        for key, entry in list(self._holding.items()):
            if now - entry.wanted_at >= HOLD_LIMIT:
                given_up.append(key)
                del self._entries[key], self._holding[key]
            elif (message := self._repeat(entry, now)) is not None:
                repeated.append((key.gateway_id, message))
        return repeated, given_up

    def poll_timeout(self) -> Instant | None:
        """When something is to be repeated or given up."""
        dues = (min(entry.sent_at + REPEAT_INTERVAL, entry.wanted_at + HOLD_LIMIT) for entry in self._holding.values())
        return min(dues, default=None)

    def _begin(self, key: NatKey, addresses: tuple[IPAddress, ...], now: Instant) -> AssignedIps:
        message = AssignedIps(key.resource, key.domain, addresses)
        self._entries[key] = self._holding[key] = _Entry(message, NatState.HOLDING, now, now)
        return message

    def _repeat(self, entry: _Entry, now: Instant) -> AssignedIps | None:
        if now - entry.sent_at < REPEAT_INTERVAL:
            return None
        entry.sent_at = now
        return entry.message


def key_of(gateway_id: str, record: Record) -> NatKey:
    """The translation of a name at a gateway."""
    return NatKey(gateway_id, UUID(record.resource_id), record.domain)
