"""The TURN server without its sockets (RFC 8489, RFC 8656): datagrams and time in, datagrams and wishes out.

Use: hand each received run to ``handle_client`` (listen socket) or ``handle_peer`` (a relayed port) and send what it
yields at once, for it borrows scratch memory; then take ``poll_output`` until None, and call ``handle_timeout`` at
``poll_timeout``. ``OpenRelayedPort`` wants its answer before the next input.

It never raises because of a packet. Same inputs, same outputs.
"""

import logging
from collections import deque
from collections.abc import Callable, Iterator
from typing import Final

from connectivity.clock import Instant, WallTime
from connectivity.endpoint import IPAddress
from connectivity.run import Received
from connectivity.stun import (
    HEADER_BYTES,
    MAGIC_COOKIE,
    Attribute,
    DecodeError,
    ErrorCode,
    Message,
    MessageClass,
    Method,
    UnknownAttributes,
    Username,
    XorMappedAddress,
    decode,
)
from relay.core.answers import AnswerMemory
from relay.core.authentication import Authenticator, NonceSource
from relay.core.channel_runs import ChannelRun, Malformed, split
from relay.core.configuration import ServerSettings
from relay.core.credentials import CredentialSource
from relay.core.data_path import DataPath
from relay.core.handlers import Answer, Handlers
from relay.core.outputs import FiveTuple, Output, Relayed
from relay.core.refusal import Refusal
from relay.core.request import Request, unknown_attributes, username_of
from relay.core.responder import Responder
from relay.core.statistics import DropReason, Snapshot, Statistics
from relay.core.table import AllocationTable

_AUTHENTICATED: Final = frozenset({Method.ALLOCATE, Method.REFRESH, Method.CREATE_PERMISSION, Method.CHANNEL_BIND})
_LAST_STUN_BYTE: Final = 0x03
_COOKIE: Final = MAGIC_COOKIE.to_bytes(4, "big")

_log = logging.getLogger("relay")


class Server:
    """One relay: all its allocations, on all its addresses."""

    def __init__(
        self,
        settings: ServerSettings,
        *,
        source: CredentialSource,
        nonces: NonceSource,
        rng: Callable[[int], bytes],
    ) -> None:
        self._settings = settings
        self._authenticator = Authenticator(realm=settings.realm, source=source, nonces=nonces)
        self._outputs: deque[Output] = deque()
        self._statistics = Statistics()
        self._table = AllocationTable(self._outputs)
        self._handlers = Handlers(settings, self._table, self._outputs, rng)
        self._data_path = DataPath(settings, self._table, self._statistics, rng)
        self._answers = AnswerMemory()
        self._responder = Responder(settings.software, self._outputs, self._statistics)

    def handle_client(self, received: Received, now: Instant, wall_now: WallTime) -> Iterator[Relayed]:
        """Datagrams that came to a listen socket; yields relayed data, each valid until the next."""
        if not received.remote.port:
            # Scanners do this; an answer could not be sent.
            self._statistics.drops[DropReason.SOURCE_PORT_ZERO] += received.run.segment_count or 1
            return
        five_tuple = FiveTuple(received.remote, received.local)
        for part in split(received.run):
            if isinstance(part, ChannelRun):
                yield from self._data_path.relay_channel(five_tuple, part, received.tos, now)
            elif isinstance(part, Malformed):
                self._statistics.drops[DropReason.MALFORMED_CHANNEL_DATA] += part.datagrams
            else:
                yield from self._handle_datagram(five_tuple, part.data, received.tos, now, wall_now)

    def handle_peer(self, port: int, received: Received, now: Instant) -> Iterator[Relayed]:
        """Datagrams that came to a relayed port; yields relayed data, each valid until the next."""
        return self._data_path.relay_from_peer(port, received.remote, received.run, received.tos, now)

    def relayed_port_opened(self, port: int, now: Instant) -> None:
        """``OpenRelayedPort`` succeeded."""
        self._finish(self._handlers.port_opened(port, now))

    def relayed_port_failed(self, port: int, *, may_retry: bool) -> None:
        """``OpenRelayedPort`` failed; ``may_retry`` if another port may be free where this one is not."""
        self._finish(self._handlers.port_failed(port, may_retry=may_retry))

    def handle_own_addresses(self, own: frozenset[IPAddress]) -> None:
        """The host's addresses are these now, the public ones included."""
        self._settings.policy.own = own

    @property
    def allocation_count(self) -> int:
        """Allocations that live now."""
        return len(self._table)

    def stop_allocating(self) -> None:
        """Answer 508 to whoever wants an allocation from now on (RFC 8656 §7.2); those that live are served on."""
        self._handlers.takes_allocations = False

    def poll_output(self) -> Output | None:
        """The next thing to do; None when there is nothing left."""
        return self._outputs.popleft() if self._outputs else None

    def poll_timeout(self) -> Instant | None:
        """When ``handle_timeout`` wants to be called."""
        return self._table.next_deadline()

    def handle_timeout(self, now: Instant) -> None:
        """Expire what is due."""
        self._answers.forget_expired(now)
        for allocation in self._table.handle_timeout(now):
            self._handlers.release_port(allocation.port)
            _log.info("Deleted allocation", extra={"fields": {"port": allocation.port, "reason": "expired"}})

    def statistics(self) -> Snapshot:
        """The counters now."""
        return self._statistics.snapshot(allocations=len(self._table), channels=self._table.bound_channel_count)

    def _handle_datagram(
        self, five_tuple: FiveTuple, datagram: memoryview, tos: int, now: Instant, wall_now: WallTime
    ) -> Iterator[Relayed]:
        """One datagram that is not ChannelData."""
        if not _looks_like_stun(datagram):
            self._statistics.drops[DropReason.NOT_TURN] += 1
            return
        try:
            message = decode(datagram)
        except DecodeError as error:
            self._refuse_malformed(five_tuple, datagram, error)
            return
        if message.has_fingerprint and not message.verify_fingerprint():
            self._statistics.drops[DropReason.BAD_FINGERPRINT] += 1
        elif message.message_class is MessageClass.REQUEST:
            self._statistics.consumed += 1
            self._handle_request(five_tuple, message, now, wall_now)
        elif message.message_class is MessageClass.INDICATION and message.method == Method.SEND:
            yield from self._data_path.relay_send(five_tuple, message, tos, now)
        else:
            self._statistics.drops[DropReason.UNEXPECTED_CLASS] += 1

    def _handle_request(self, five_tuple: FiveTuple, message: Message, now: Instant, wall_now: WallTime) -> None:
        if message.method == Method.BINDING:
            unknown = unknown_attributes(message)
            answer = _refuse_unknown(unknown) if unknown else (XorMappedAddress(five_tuple.client),)
            self._respond(five_tuple, message, answer, None)
            return
        if message.method not in _AUTHENTICATED:
            username = message.get(Username)
            key = self._authenticator.key_of(None if username is None else username.value)
            self._respond(five_tuple, message, Refusal(ErrorCode.BAD_REQUEST), key)
            return
        user = self._authenticator.authenticate(message, five_tuple.client, now, wall_now)
        if isinstance(user, Refusal):
            self._respond(five_tuple, message, user, user.key)
            return
        stored = self._answers.recall(five_tuple, message.method, message.transaction_id, now)
        if stored is not None:
            self._responder.repeat(five_tuple, stored)
            return
        request = Request(message, five_tuple, user.username, user.key, now)
        self._finish((request, self._dispatch(request)))

    def _dispatch(self, request: Request) -> Answer:
        unknown = unknown_attributes(request.message)
        if unknown:
            return _refuse_unknown(unknown)
        match request.message.method:
            case Method.ALLOCATE:
                return self._handlers.allocate(request)
            case Method.REFRESH:
                return self._handlers.refresh(request)
            case Method.CREATE_PERMISSION:
                return self._handlers.create_permission(request)
            case _:
                return self._handlers.channel_bind(request)

    def _finish(self, finished: tuple[Request, Answer] | None) -> None:
        """Send the answer of an authenticated request, if it has one by now, and remember a success."""
        if finished is None:
            return
        request, answer = finished
        if answer is None:
            return
        message = request.message
        encoded = self._respond(request.five_tuple, message, answer, request.key)
        if not isinstance(answer, Refusal):
            self._answers.remember(request.five_tuple, message.method, message.transaction_id, encoded, request.now)

    def _respond(
        self, five_tuple: FiveTuple, message: Message, answer: tuple[Attribute, ...] | Refusal, key: bytes | None
    ) -> bytes:
        return self._responder.respond(
            five_tuple, message.method, message.transaction_id, answer, key, fingerprint=message.has_fingerprint
        )

    def _refuse_malformed(self, five_tuple: FiveTuple, datagram: memoryview, error: DecodeError) -> None:
        """400 to a request whose header could be read, signed where its USERNAME is legible."""
        if error.method is None or error.transaction_id is None or error.message_class is not MessageClass.REQUEST:
            self._statistics.drops[DropReason.MALFORMED_STUN] += 1
            return
        self._statistics.consumed += 1
        is_binding = error.method == Method.BINDING
        key = None if is_binding else self._authenticator.key_of(username_of(datagram))
        self._responder.respond(five_tuple, error.method, error.transaction_id, Refusal(ErrorCode.BAD_REQUEST), key)


def _looks_like_stun(datagram: memoryview) -> bool:
    return len(datagram) >= HEADER_BYTES and datagram[0] <= _LAST_STUN_BYTE and datagram[4:8] == _COOKIE


def _refuse_unknown(types: tuple[int, ...]) -> Refusal:
    return Refusal(ErrorCode.UNKNOWN_ATTRIBUTE, (UnknownAttributes(types),))
