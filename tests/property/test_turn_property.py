"""The TURN client against relays that answer anything, late or never: no exception, no spinning, no stuck state."""

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from connectivity.clock import MILLISECOND
from connectivity.endpoint import Endpoint
from connectivity.stun import (
    ChannelNumber,
    ErrorCodeAttribute,
    Lifetime,
    Message,
    MessageClass,
    Method,
    Nonce,
    Realm,
    XorMappedAddress,
    XorPeerAddress,
    XorRelayedAddress,
)
from tests.unit.connectivity.turn_bench import MAPPED4, RELAY4, RELAY6, RELAYED4, RELAYED6, Bench

PEERS = [Endpoint.parse(text) for text in ("192.0.2.1:1", "192.0.2.2:1", "192.0.2.3:1", "[2001:db8::9]:1")]
CODES = st.sampled_from([300, 400, 401, 403, 420, 437, 438, 441, 443, 486, 500, 508])


class AnyRelay(RuleBasedStateMachine):
    """Random relays, random time; what a driver does after each input is done by the invariants."""

    def __init__(self) -> None:
        super().__init__()
        self.bench = Bench(RELAY4, RELAY6)
        self.open: list[tuple[Message, Endpoint]] = []
        self.known: set[str] = set()
        self.bound: dict[int, Endpoint] = {}

    @rule(data=st.data(), lifetime=st.sampled_from([0, 1, 600, 3600]), dual=st.booleans())
    @precondition(lambda self: self.open)
    def succeed(self, data: st.DataObject, lifetime: int, dual: bool) -> None:
        request, relay = self._take(data)
        held = self.bench.allocation.relayed_address(4) or self.bench.allocation.relayed_address(6)
        match request.method:
            case Method.BINDING:
                self.bench.answer(request, XorMappedAddress(MAPPED4), remote=relay)
            case Method.ALLOCATE:
                addresses = [XorRelayedAddress(RELAYED4), XorRelayedAddress(RELAYED6)][: 1 + dual]
                self.bench.answer(request, *addresses, Lifetime(lifetime), remote=relay)
            case Method.REFRESH:
                asked = request.get(Lifetime)
                self.bench.answer(request, Lifetime(lifetime if asked is None else 0), remote=relay)
            case _:
                number, peer = request.get(ChannelNumber), request.get(XorPeerAddress)
                assert number is not None
                assert peer is not None
                if self.bench.answer(request, remote=relay) and held is not None:
                    self.bound[number.number] = peer.endpoint

    @rule(data=st.data(), code=CODES, nonce=st.sampled_from(["n1", "n2"]))
    @precondition(lambda self: self.open)
    def refuse(self, data: st.DataObject, code: int, nonce: str) -> None:
        request, relay = self._take(data)
        offer = (Realm("firezone"), Nonce(nonce)) if code in (401, 438) else ()
        self.bench.answer(request, ErrorCodeAttribute(code), *offer, remote=relay)

    @rule(milliseconds=st.sampled_from([1, 300, 1000, 9000, 25_000, 300_000, 1_000_000]))
    def wait(self, milliseconds: int) -> None:
        self.bench.now += milliseconds * MILLISECOND
        self.bench.allocation.handle_timeout(self.bench.now)

    @rule()
    def wake(self) -> None:
        deadline = self.bench.allocation.poll_timeout()
        if deadline is not None:
            self.bench.now = max(self.bench.now, deadline)
            self.bench.allocation.handle_timeout(self.bench.now)

    @rule()
    def probe(self) -> None:
        self.bench.allocation.probe(self.bench.now)

    @rule()
    def delete(self) -> None:
        self.bench.allocation.delete(self.bench.now)

    @rule(peer=st.sampled_from(PEERS))
    def send(self, peer: Endpoint) -> None:
        found = self.bench.allocation.send_channel(peer, self.bench.now)
        if found is not None:
            number, destination = found
            assert 0x4000 <= number <= 0x4FFF
            assert destination == self.bench.allocation.active_socket
            assert self.bench.allocation.relayed_address(peer.ip.version) is not None

    @rule(offset=st.integers(0, 6))
    def receive(self, offset: int) -> None:
        number = 0x4000 + offset
        peer = self.bench.allocation.receive_channel(RELAY4, number, self.bench.now)
        if peer is not None:
            assert peer == self.bound[number], "a number never leads to a peer that it was not confirmed for"

    @invariant()
    def drain(self) -> None:
        """What the driver does; then nothing may be wanted at once, and candidates come and go in pairs."""
        allocation = self.bench.allocation
        for event in self.bench.events():
            if event[0] == "+":
                assert event[1:] not in self.known
                self.known.add(event[1:])
            else:
                self.known.remove(event[1:])
        assert self.known == {f"{c.kind.value} {c.address}" for c in allocation.candidates()}
        sent = self.bench.sent()
        binds = [attribute for message, _ in sent if (attribute := message.get(ChannelNumber)) is not None]
        assert len(binds) == len(set(binds))
        self.open = [*self.open, *sent][-20:]
        assert allocation.poll_transmit() is None
        if allocation.freed_reason is not None:
            self.open.clear()
            self.bench = Bench(RELAY4, RELAY6)
            self.known.clear()
            self.bound.clear()

    @invariant()
    def never_spins(self) -> None:
        self.bench.allocation.handle_timeout(self.bench.now)
        self.drain()
        deadline = self.bench.allocation.poll_timeout()
        assert deadline is None or deadline > self.bench.now

    def _take(self, data: st.DataObject) -> tuple[Message, Endpoint]:
        index = data.draw(st.integers(0, len(self.open) - 1))
        message, relay = self.open.pop(index)
        assert message.message_class is MessageClass.REQUEST
        return message, relay


AnyRelay.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestAnyRelay = AnyRelay.TestCase
