"""An allocation under test, its clock, and the hand of a relay that the tests play with the codec."""

import itertools
from collections.abc import Callable

from connectivity.clock import SECOND
from connectivity.endpoint import Endpoint
from connectivity.stun import (
    Attribute,
    ChannelNumber,
    ErrorCodeAttribute,
    Lifetime,
    Message,
    MessageClass,
    Method,
    Nonce,
    Realm,
    XorMappedAddress,
    XorRelayedAddress,
    decode,
    encode,
    long_term_key,
)
from connectivity.turn.allocation import Allocation, CandidateAdded, CandidateRemoved

RELAY4, RELAY6 = Endpoint.parse("203.0.113.1:3478"), Endpoint.parse("[2001:db8::1]:3478")
LOCAL4, LOCAL6 = Endpoint.parse("10.0.0.2:52625"), Endpoint.parse("[fd00::2]:52625")
MAPPED4, MAPPED6 = Endpoint.parse("198.51.100.7:40000"), Endpoint.parse("[2001:db8:7::7]:40000")
RELAYED4, RELAYED6 = Endpoint.parse("203.0.113.1:50000"), Endpoint.parse("[2001:db8::1]:50000")
PEER, PEER2, PEER6 = (Endpoint.parse(t) for t in ("192.0.2.9:52625", "192.0.2.10:52625", "[2001:db8:9::9]:1"))
USERNAME, PASSWORD, SOFTWARE = "1893456000:salt", "secret", "snownet; session=AB"
KEY = long_term_key(USERNAME, "firezone", PASSWORD)
START = 1_000 * SECOND
MINUTE = 60 * SECOND


class Bench:
    """An allocation under test, its clock, and the relay's hand on the other end of the wire."""

    def __init__(self, *addresses: Endpoint) -> None:
        counter = itertools.count(1)
        self.now = START
        self._events: list[str] = []
        self.allocation = Allocation(
            relay_id="relay-1",
            addresses=addresses or (RELAY4,),
            username=USERNAME,
            password=PASSWORD,
            software=SOFTWARE,
            rng=lambda length: next(counter).to_bytes(length, "big"),
            now=self.now,
        )

    def sent(self) -> list[tuple[Message, Endpoint]]:
        found = []
        while (transmit := self.allocation.poll_transmit()) is not None:
            assert transmit.source is None
            found.append((decode(transmit.run.data), transmit.destination))
        return found

    def request(self, method: Method) -> Message:
        """The one request that was sent, of this method."""
        [(message, _)] = self.sent()
        assert message.method == method
        return message

    def events(self) -> list[str]:
        """The candidates that came (+) and went (-) since the last call."""
        self._drain_events()
        found, self._events = self._events, []
        return found

    def _drain_events(self) -> None:
        while (event := self.allocation.poll_event()) is not None:
            sign = {CandidateAdded: "+", CandidateRemoved: "-"}[type(event)]
            self._events.append(f"{sign}{event.candidate.kind.value} {event.candidate.address}")

    def advance(self, until: int) -> list[tuple[float, Message]]:
        """Wake the allocation whenever it wants, up to ``until``; what it sent, with seconds since the start."""
        found = []
        while (deadline := self.allocation.poll_timeout()) is not None and deadline <= until:
            assert deadline > self.now, "a wake-up must not ask for another one at once"
            self.now = deadline
            self.allocation.handle_timeout(self.now)
            found += [((self.now - START) / SECOND, message) for message, _ in self.sent()]
            self._drain_events()
            if self.allocation.freed_reason is not None:
                break
        self.now = max(self.now, until)
        return found

    def keep_alive(
        self, until: int, react: Callable[[float, Message], None] | None = None
    ) -> list[tuple[float, Message]]:
        """Advance with a relay that answers what the tests do not look at; ``react`` may answer first."""
        found: list[tuple[float, Message]] = []
        while (deadline := self.allocation.poll_timeout()) is not None and deadline <= until:
            for at, message in self.advance(deadline):
                found.append((at, message))
                if react is not None:
                    react(at, message)
                if message.method == Method.REFRESH:
                    self.answer(message, Lifetime(600))
                elif message.method in (Method.BINDING, Method.CHANNEL_BIND):
                    self.answer(message)
        self.now = max(self.now, until)
        return found

    def answer(
        self, request: Message, *attributes: Attribute, key: bytes | None = KEY, remote: Endpoint = RELAY4
    ) -> bool:
        is_error = any(isinstance(attribute, ErrorCodeAttribute) for attribute in attributes)
        kind = MessageClass.ERROR if is_error else MessageClass.SUCCESS
        key = None if request.method == Method.BINDING else key
        response = decode(encode(request.method, kind, request.transaction_id, attributes, integrity_key=key))
        local = LOCAL4 if remote.ip.version == 4 else LOCAL6
        return self.allocation.handle_message(local, remote, response, self.now)

    def refuse(self, request: Message, code: int, *attributes: Attribute, key: bytes | None = KEY) -> bool:
        return self.answer(request, ErrorCodeAttribute(code, "no"), *attributes, key=key)

    def answer_allocate(self, request: Message, lifetime: int = 600) -> None:
        assert self.answer(request, XorRelayedAddress(RELAYED4), XorRelayedAddress(RELAYED6), Lifetime(lifetime))

    def allocated(self) -> "Bench":
        """Play the whole opening."""
        self.answer(self.request(Method.BINDING), XorMappedAddress(MAPPED4))
        self.refuse(self.request(Method.ALLOCATE), 401, Realm("firezone"), Nonce("n1"))
        self.answer_allocate(self.request(Method.ALLOCATE))
        self.events()
        return self

    def bound(self, peer: Endpoint = PEER) -> int:
        self.allocation.bind_channel(peer, self.now)
        request = self.request(Method.CHANNEL_BIND)
        self.answer(request)
        number = request.get(ChannelNumber)
        assert number is not None
        return number.number
