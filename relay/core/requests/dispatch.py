"""Requests in, answers out (RFC 8489 §6.3.1, §9.2.4; RFC 8656 §5), whatever they are about.

A request is authenticated first. A copy of one that was answered already gets the same answer again and changes
nothing; that goes for refusals, too, because what was refused might be granted by now.
"""

from typing import Final

from connectivity.clock import Instant, WallTime
from connectivity.stun import (
    Attribute,
    DecodeError,
    ErrorCode,
    Message,
    Method,
    UnknownAttributes,
    Username,
    XorMappedAddress,
)
from relay.core.answers import AnswerMemory
from relay.core.authentication import Authenticator
from relay.core.outputs import FiveTuple
from relay.core.peer_access import PeerAccess
from relay.core.refusal import Refusal
from relay.core.requests.allocate import Allocator, Answer
from relay.core.requests.channel_bind import channel_bind
from relay.core.requests.create_permission import create_permission
from relay.core.requests.refresh import refresh
from relay.core.requests.request import Request, username_of
from relay.core.responder import Responder
from relay.core.signature import Signature
from relay.core.table import AllocationTable

_AUTHENTICATED: Final = frozenset({Method.ALLOCATE, Method.REFRESH, Method.CREATE_PERMISSION, Method.CHANNEL_BIND})


class RequestDispatch:
    """Finds out who asks for what, has it done, and answers."""

    def __init__(
        self,
        authenticator: Authenticator,
        table: AllocationTable,
        peer_access: PeerAccess,
        allocator: Allocator,
        responder: Responder,
    ) -> None:
        self._authenticator = authenticator
        self._table = table
        self._peer_access = peer_access
        self._allocator = allocator
        self._responder = responder
        self._answers = AnswerMemory()

    def handle_request(self, five_tuple: FiveTuple, message: Message, now: Instant, wall_now: WallTime) -> None:
        """Answer a request, now or when the port it needs is open."""
        if message.method == Method.BINDING:
            is_refused = message.unknown_required and not self._authenticator.is_firezone(message)
            answer = _refuse_unknown(message) if is_refused else (XorMappedAddress(five_tuple.client),)
            self._respond(five_tuple, message, answer, None)
            return
        if message.method not in _AUTHENTICATED:
            username = message.get(Username)
            signature = self._authenticator.signature_for(None if username is None else username.value)
            self._respond(five_tuple, message, Refusal(ErrorCode.BAD_REQUEST), signature)
            return
        allocation = self._table.get(five_tuple)
        holder = None if allocation is None else allocation.username
        user = self._authenticator.authenticate(message, five_tuple.client, now, wall_now, holder=holder)
        if isinstance(user, Refusal):
            self._respond(five_tuple, message, user, user.signature)
            return
        stored = self._answers.recall(five_tuple, message.method, message.transaction_id, now)
        if stored is not None:
            self._responder.repeat(five_tuple, stored)
            return
        is_firezone = self._authenticator.is_firezone(message)
        request = Request(message, five_tuple, user.username, user.name, user.signature, now, is_firezone)
        self.finish((request, self._dispatch(request)))

    def finish(self, finished: tuple[Request, Answer] | None) -> None:
        """Send the answer of an authenticated request, if it has one by now, and remember it."""
        if finished is None:
            return
        request, answer = finished
        if answer is None:
            return
        message = request.message
        encoded = self._respond(request.five_tuple, message, answer, request.signature)
        self._answers.remember(request.five_tuple, message.method, message.transaction_id, encoded, request.now)

    def refuse_malformed(self, five_tuple: FiveTuple, data: memoryview, error: DecodeError) -> None:
        """400 to a request whose header could be read."""
        if error.method is None or error.transaction_id is None:
            return
        is_binding = error.method == Method.BINDING
        signature = None if is_binding else self._authenticator.signature_for(username_of(data))
        refusal = Refusal(ErrorCode.BAD_REQUEST)
        self._responder.respond(five_tuple, error.method, error.transaction_id, refusal, signature)

    def forget_expired(self, now: Instant) -> None:
        """Drop the answers that nobody will ask for again."""
        self._answers.forget_expired(now)

    def _dispatch(self, request: Request) -> Answer:
        if request.message.unknown_required and not request.is_firezone:
            return _refuse_unknown(request.message)
        match request.message.method:
            case Method.ALLOCATE:
                return self._allocator.allocate(request)
            case Method.REFRESH:
                return refresh(self._table, self._allocator, request)
            case Method.CREATE_PERMISSION:
                return create_permission(self._table, self._peer_access, request)
            case _:
                return channel_bind(self._table, self._peer_access, request)

    def _respond(
        self,
        five_tuple: FiveTuple,
        message: Message,
        answer: tuple[Attribute, ...] | Refusal,
        signature: Signature | None,
    ) -> bytes:
        return self._responder.respond(
            five_tuple, message.method, message.transaction_id, answer, signature, fingerprint=message.has_fingerprint
        )


def _refuse_unknown(message: Message) -> Refusal:
    """Never for Firezone's peers, who take a 420 for the end."""
    return Refusal(ErrorCode.UNKNOWN_ATTRIBUTE, (UnknownAttributes(message.unknown_required),))
