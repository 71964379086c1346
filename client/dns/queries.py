"""DNS queries that are under way: at a server, or waiting for the gateway of their resource.

Each goes on with an id of its own, which nobody can guess, and comes back with the one that it had. What is never
answered is given up by whoever sends it; what waits for a gateway is given up here.
"""

from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, TypeAlias

from client.dns.actions import QUERY_TIMEOUT, ForwardQuery, Transport
from client.dns.stub_resolver import is_answer
from connectivity.clock import Instant
from connectivity.endpoint import Endpoint

MAX_QUERIES: Final = 1000  # each has a socket of the driver's, and up to 64 KiB of answer
MAX_WAITING: Final = 128  # of one resource; the oldest goes
_ID_BYTES: Final = 2


@dataclass(frozen=True, slots=True)
class UdpAsker:
    """A program that asked by UDP, and the address at which it did."""

    client: Endpoint
    asked: Endpoint

    transport = Transport.UDP


@dataclass(frozen=True, slots=True)
class TcpAsker:
    """A query that the driver read from a TCP connection to a sentinel."""

    query_id: int
    asked: Endpoint

    transport = Transport.TCP


Asker: TypeAlias = UdpAsker | TcpAsker


@dataclass(frozen=True, slots=True)
class Query:
    """A query, who asked, and when."""

    message: bytes
    asker: Asker
    asked_at: Instant


@dataclass(frozen=True, slots=True)
class _Forwarded:
    query: Query
    message: bytes  # with the id that it left with


class Queries:
    """Queries that were forwarded to a server and have no answer yet, each under an id of its own."""

    def __init__(self, rng: Callable[[int], bytes], limit: int = MAX_QUERIES) -> None:
        self._rng = rng
        self._limit = limit
        self._next_id = 0
        self._forwarded: dict[int, _Forwarded] = {}

    def __len__(self) -> int:
        """How many have no answer yet."""
        return len(self._forwarded)

    def forward(self, query: Query, server: Endpoint, *, through_tunnel: bool) -> ForwardQuery | None:
        """What the driver is to do; None if there are too many."""
        if len(self._forwarded) >= self._limit:
            return None
        query_id, self._next_id = self._next_id, self._next_id + 1
        message = self._rng(_ID_BYTES) + query.message[_ID_BYTES:]
        self._forwarded[query_id] = _Forwarded(query, message)
        return ForwardQuery(query_id, server, message, query.asker.transport, through_tunnel)

    def finish(self, query_id: int, answer: bytes | None) -> tuple[Query, bytes | None] | None:
        """The query and its answer with its own id, if it is one; None if nobody waits for it (any more)."""
        forwarded = self._forwarded.pop(query_id, None)
        if forwarded is None:
            return None
        query = forwarded.query
        if answer is None or not is_answer(answer, forwarded.message):
            return query, None
        return query, query.message[:_ID_BYTES] + answer[_ID_BYTES:]

    def take_all(self) -> list[Query]:
        """Take all queries out; nobody waits for their answers any more."""
        queries = [forwarded.query for forwarded in self._forwarded.values()]
        self._forwarded.clear()
        return queries


class WaitingQueries:
    """Queries for SRV and TXT that wait for a gateway to ask at, by resource."""

    def __init__(self, limit: int = MAX_QUERIES) -> None:
        self._limit = limit
        self._by_resource: OrderedDict[str, deque[Query]] = OrderedDict()

    def __contains__(self, resource_id: str) -> bool:
        return resource_id in self._by_resource

    def __len__(self) -> int:
        """How many wait."""
        return sum(map(len, self._by_resource.values()))

    def push(self, resource_id: str, query: Query) -> list[Query]:
        """Keep a query; returns those that had to go for it."""
        waiting = self._by_resource.get(resource_id, ())
        if any(held.asker == query.asker and held.message == query.message for held in waiting):
            return []  # asked once more: one answer is enough
        if len(waiting) < MAX_WAITING and len(self) >= self._limit:
            return [query]
        kept = self._by_resource.setdefault(resource_id, deque())
        gone = [kept.popleft()] if len(kept) >= MAX_WAITING else []
        kept.append(query)
        return gone

    def take(self, resource_id: str) -> list[Query]:
        """All that wait for this resource."""
        return list(self._by_resource.pop(resource_id, ()))

    def take_overdue(self, now: Instant) -> list[Query]:
        """Take out the queries whose asker waits no longer."""
        overdue = []
        for resource_id, waiting in list(self._by_resource.items()):
            while waiting and waiting[0].asked_at + QUERY_TIMEOUT <= now:
                overdue.append(waiting.popleft())
            if not waiting:
                del self._by_resource[resource_id]
        return overdue

    def poll_timeout(self) -> Instant | None:
        """When the first one is overdue."""
        return min(
            (waiting[0].asked_at + QUERY_TIMEOUT for waiting in self._by_resource.values() if waiting), default=None
        )
