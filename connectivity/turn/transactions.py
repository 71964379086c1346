"""Requests under way to one relay: authentication, retransmission, matching of responses (RFC 8489 §6.2.1, §9.2).

- A Binding request is repeated byte by byte to the address it went to first.
- All others carry the long-term credential, and the nonce once one is known; each repetition is made anew (transaction
  id, nonce) and goes to the relay's address in use. An answer to an earlier copy is not recognised.
- Responses to requests with credentials count only with a MESSAGE-INTEGRITY of our own credential, errors included:
  an attacker off the path, or a relay that does not know us, cannot end an allocation.
"""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from connectivity.clock import Instant, earliest
from connectivity.endpoint import Endpoint
from connectivity.run import Run, Transmit
from connectivity.stun import (
    TRANSACTION_ID_BYTES,
    Attribute,
    Message,
    MessageClass,
    Nonce,
    Realm,
    Username,
    encode,
    long_term_key,
)
from connectivity.turn.credentials import REALM
from connectivity.turn.requests import BindChannel, Binding, Request, attributes_of, method_of
from connectivity.turn.retransmission import LIMIT_NS, Series

SINGLE_SHOT_NS: Final = 1_000_000_000  # limit of a request that proves within a second whether a relay is alive


@dataclass(frozen=True, slots=True)
class Credentials:
    """A long-term credential in the realm ``firezone``."""

    username: str
    password: str = field(repr=False)

    def key(self) -> bytes:
        """The key of its MESSAGE-INTEGRITY."""
        return long_term_key(self.username, REALM, self.password)


@dataclass(slots=True)
class Transaction:
    """One request that waits for its response."""

    request: Request
    destination: Endpoint
    series: Series
    attributes: tuple[Attribute, ...]
    datagram: bytes
    has_nonce: bool
    retry_count: int  # how often it was repeated because of its nonce
    key: bytes  # of the response's MESSAGE-INTEGRITY


class Transactions:
    """The pending requests of one allocation, and the datagrams that they want to send."""

    def __init__(self, *, credentials: Credentials, software: str, rng: Callable[[int], bytes]) -> None:
        self._credentials: Credentials | None = credentials
        self._key = credentials.key()
        self._software = software
        self._rng = rng
        self._pending: dict[bytes, Transaction] = {}
        self._transmits: deque[Transmit] = deque()
        self.nonce: str | None = None

    def __len__(self) -> int:
        return len(self._pending)

    @property
    def has_credentials(self) -> bool:
        """Whether requests that need credentials can be made."""
        return self._credentials is not None

    @property
    def has_transmits(self) -> bool:
        """Whether ``poll_transmit`` would return one."""
        return bool(self._transmits)

    def use_credentials(self, credentials: Credentials) -> None:
        """Make requests with others from now on; responses to earlier ones are still signed with the old ones."""
        self._credentials = credentials
        self._key = credentials.key()

    def forget_credentials(self) -> None:
        """They are wrong: make no request with them any more."""
        self._credentials = None
        self._key = b""
        self.nonce = None

    def start(
        self,
        request: Request,
        destination: Endpoint,
        now: Instant,
        *,
        limit: int = LIMIT_NS,
        retry_count: int = 0,
    ) -> None:
        """Send a request and wait for its response until the series of ``limit`` is over."""
        self._send(request, destination, Series(now, limit=limit), retry_count)

    def find(self, message: Message) -> Transaction | None:
        """The request that this response answers, if it may: still pending, same method, integrity right."""
        transaction = self._pending.get(message.transaction_id)
        if transaction is None or message.message_class not in (MessageClass.SUCCESS, MessageClass.ERROR):
            return None
        return transaction if message.method == method_of(transaction.request) else None

    def is_authentic(self, transaction: Transaction, message: Message) -> bool:
        """Whether the response carries our integrity where it has to."""
        if isinstance(transaction.request, Binding):
            return True
        return self.has_credentials and message.verify_integrity(transaction.key)

    def finish(self, message: Message) -> None:
        """The response was accepted."""
        del self._pending[message.transaction_id]

    def is_pending(self, *kinds: type[Request]) -> bool:
        """Whether a request of one of these kinds waits for its response."""
        return any(isinstance(transaction.request, kinds) for transaction in self._pending.values())

    def binds(self) -> dict[int, Endpoint]:
        """Channel number and peer of each binding under way."""
        requests = (transaction.request for transaction in self._pending.values())
        return {request.number: request.peer for request in requests if isinstance(request, BindChannel)}

    def discard(self, drop: Callable[[Transaction], bool]) -> None:
        """Stop waiting for some requests."""
        self._pending = {key: kept for key, kept in self._pending.items() if not drop(kept)}

    def handle_timeout(self, now: Instant, active: Endpoint | None) -> list[Transaction]:
        """Repeat what is due; returns the requests that were given up."""
        lost: list[Transaction] = []
        for key, transaction in list(self._pending.items()):
            if now < transaction.series.due_at:
                continue
            if transaction.series.is_over(now):
                del self._pending[key]
                lost.append(transaction)
            elif isinstance(transaction.request, Binding):
                transaction.series.advance(now)
                self._transmit(transaction.datagram, transaction.destination)
            else:
                del self._pending[key]
                transaction.series.advance(now)
                destination = active or transaction.destination
                self._send(transaction.request, destination, transaction.series, transaction.retry_count)
        return lost

    def poll_timeout(self) -> Instant | None:
        """When the next repetition, or the end of a series, is due."""
        if not self._pending:
            return None  # asked for after every datagram, and nearly always so
        return earliest(*(transaction.series.due_at for transaction in self._pending.values()))

    def poll_transmit(self) -> Transmit | None:
        """The next datagram to send; the operating system chooses its source."""
        return self._transmits.popleft() if self._transmits else None

    def _send(self, request: Request, destination: Endpoint, series: Series, retry_count: int) -> None:
        transaction_id = self._rng(TRANSACTION_ID_BYTES)
        attributes = attributes_of(request, self._software)
        credentials = None if isinstance(request, Binding) else self._credentials
        if credentials is not None:
            attributes += (Username(credentials.username), Realm(REALM))
            if self.nonce is not None:
                attributes += (Nonce(self.nonce),)
        datagram = encode(
            method_of(request),
            MessageClass.REQUEST,
            transaction_id,
            attributes,
            integrity_key=None if credentials is None else self._key,
        )
        has_nonce = credentials is not None and self.nonce is not None
        self._pending[transaction_id] = Transaction(
            request, destination, series, attributes, datagram, has_nonce, retry_count, self._key
        )
        self._transmit(datagram, destination)

    def _transmit(self, datagram: bytes, destination: Endpoint) -> None:
        self._transmits.append(Transmit(None, destination, Run.single(datagram)))
