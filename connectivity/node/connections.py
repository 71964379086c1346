"""The connections of a node by everything that names one, and when each of them wants to wake up.

A node may have a thousand connections, each with a deadline of its own, so nothing here looks at all of them but a
change of the relays, and an answer to a check from where none came before. A connection that was called is *touched*,
and only the deadlines of touched ones are read again.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import Final, TypeVar

from connectivity.clock import Instant
from connectivity.deadlines import DeadlineQueue
from connectivity.endpoint import Endpoint
from connectivity.ice.policy import CandidateRefusal
from connectivity.node.connection import Connection
from connectivity.node.statistics import Statistics
from connectivity.stun import Message, MessageClass, Username
from connectivity.wireguard import DropReason

K = TypeVar("K", bytes, str)

_REMEMBERED_SENDERS: Final = 4096


class ConnectionTable:
    """Invariant: a connection is in all tables or in none, and its deadline is known unless it was touched since."""

    def __init__(self, rng: Callable[[int], bytes]) -> None:
        self._rng = rng
        self._by_id: dict[str, Connection] = {}
        self._by_index: dict[int, Connection] = {}
        self._by_key: dict[bytes, dict[Connection, None]] = {}
        self._by_username: dict[str, dict[Connection, None]] = {}  # what checks for it name
        self._senders: dict[Endpoint, Connection] = {}  # a guess whose checks come from where; never more than a guess
        self._deadlines: DeadlineQueue[Connection] = DeadlineQueue()
        self._touched: dict[Connection, None] = {}
        self._past_drops: Counter[DropReason] = Counter()  # of connections that are gone
        self._past_refused: Counter[CandidateRefusal] = Counter()  # likewise
        self._past_sent_bytes = self._past_received_bytes = 0

    def __iter__(self) -> Iterator[Connection]:
        return iter(self._by_id.values())

    def __contains__(self, connection_id: str) -> bool:
        return connection_id in self._by_id

    def get(self, connection_id: str) -> Connection | None:
        """The connection to this peer; the caller is expected to change it."""
        connection = self._by_id.get(connection_id)
        if connection is not None:
            self._touched[connection] = None
        return connection

    def at_index(self, index: int) -> Connection | None:
        """The connection that a receiver index names."""
        connection = self._by_index.get(index >> 8)
        if connection is not None:
            self._touched[connection] = None
        return connection

    def of_key(self, public_key: bytes) -> Connection | None:
        """The connection to the peer with this static key."""
        connection = next(iter(self._by_key.get(public_key, ())), None)
        if connection is not None:
            self._touched[connection] = None
        return connection

    def accepting(self, message: Message, source: Endpoint) -> Connection | None:
        """The connection whose agent accepts a STUN message; the one that did last time is asked first."""
        last = self._senders.get(source)
        if last is not None and last.agent.accepts(message):
            self._touched[last] = None
            return last
        for connection in self._named(message):
            if connection is not last and connection.agent.accepts(message):
                if len(self._senders) >= _REMEMBERED_SENDERS:
                    self._senders.clear()
                self._senders[source] = connection
                self._touched[connection] = None
                return connection
        return None

    def _named(self, message: Message) -> Iterable[Connection]:
        """Whose a message may be: a check says whose it is, an answer to one does not."""
        if message.message_class not in (MessageClass.REQUEST, MessageClass.INDICATION):
            return self._by_id.values()
        username = message.get(Username)
        return () if username is None else self._by_username.get(username.value, ())

    def has_heard_from(self, source: Endpoint) -> bool:
        """Whether some agent has accepted a STUN message from there, signed by its peer."""
        return source in self._senders

    def unused_index(self, welcomes: Callable[[int], bool]) -> int:
        """24 bits that name no connection; unguessable, so that they tell nothing about how many there are.

        ``welcomes`` says whether an index will do, of every few at least one.
        """
        while True:
            index = int.from_bytes(self._rng(3), "big")
            if index not in self._by_index and welcomes(index):
                return index

    def add(self, connection: Connection) -> None:
        """Put in a connection whose id and index are free."""
        self._by_id[connection.connection_id] = connection
        self._by_index[connection.index] = connection
        self._by_key.setdefault(connection.parameters.public_key, {})[connection] = None
        self._by_username.setdefault(_username(connection), {})[connection] = None
        self._touched[connection] = None

    def remove(self, connection: Connection) -> None:
        """Take one out, with everything that names it."""
        del self._by_id[connection.connection_id]
        del self._by_index[connection.index]
        _take_out(self._by_key, connection.parameters.public_key, connection)
        _take_out(self._by_username, _username(connection), connection)
        self._deadlines.cancel(connection)
        self._touched.pop(connection, None)
        connection.close()
        self._past_drops.update(connection.tunnel.drops)
        self._past_refused.update(connection.agent.refused)
        self._past_sent_bytes += connection.tunnel.sent_bytes
        self._past_received_bytes += connection.tunnel.received_bytes
        self._senders = {source: held for source, held in self._senders.items() if held is not connection}

    def clear(self) -> None:
        """Take all of them out."""
        for connection in list(self._by_id.values()):
            self.remove(connection)

    def statistics(self) -> Statistics:
        """Of all connections, those that are gone too; looks at each of them."""
        drops, refused = self._past_drops.copy(), self._past_refused.copy()
        for connection in self._by_id.values():
            drops.update(connection.tunnel.drops)
            refused.update(connection.agent.refused)
        tunnels = [connection.tunnel for connection in self._by_id.values()]
        return Statistics(
            sum(connection.waiting_packets for connection in self._by_id.values()),
            drops,
            refused,
            sent_bytes=self._past_sent_bytes + sum(tunnel.sent_bytes for tunnel in tunnels),
            received_bytes=self._past_received_bytes + sum(tunnel.received_bytes for tunnel in tunnels),
        )

    def relays_in_use(self) -> set[str | None]:
        """The relays that some connection's path leads through; None for paths without one of ours."""
        return {connection.socket.relay_id for connection in self._by_id.values() if connection.socket is not None}

    def touch_all(self) -> None:
        """Something that all of them rest on has changed."""
        self._touched = dict.fromkeys(self._by_id.values())

    def touched(self) -> Iterator[Connection]:
        """The connections that were called since their deadlines were read."""
        return iter(self._touched)

    def due(self, now: Instant) -> list[Connection]:
        """The connections that want to wake up by now."""
        self._read_deadlines()
        due = list(self._deadlines.pop_due(now))
        self._touched = dict.fromkeys(due)
        return due

    def poll_timeout(self) -> Instant | None:
        """The first deadline of all, or one that has moved later since."""
        self._read_deadlines()
        return self._deadlines.next_deadline()

    def _read_deadlines(self) -> None:
        for connection in self._touched:
            deadline = connection.poll_timeout()
            if deadline is None:
                self._deadlines.cancel(connection)
            else:
                self._deadlines.schedule(connection, deadline)
        self._touched.clear()


def _username(connection: Connection) -> str:
    """What a peer's checks are for (RFC 8445 §7.2.2)."""
    return f"{connection.parameters.local.username}:{connection.parameters.remote.username}"


def _take_out(table: dict[K, dict[Connection, None]], name: K, connection: Connection) -> None:
    held = table[name]
    del held[connection]
    if not held:
        del table[name]
