"""The relay's core against a model of dictionaries, under virtual time (RFC 8656).

The model knows for each client: its port, when the allocation ends, until when each peer address is permitted, and for
each channel number its peer, the end of its binding and the end of its reservation. Everything else is invariants:

- numbers and peers of an allocation map one to one; installed channels are exactly those that relay now;
- nothing moves without a live permission or binding, and nothing after expiry;
- a copy of a request gets the same answer and changes nothing;
- every datagram that came in was relayed, consumed or counted as dropped;
- a handled time-out lies behind; freeing everything leaves every table empty.
"""

from dataclasses import dataclass, field

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from connectivity.clock import SECOND
from connectivity.endpoint import Endpoint
from connectivity.run import Run
from connectivity.stun import (
    AdditionalAddressFamily,
    AddressFamily,
    Attribute,
    ChannelNumber,
    Data,
    Lifetime,
    Message,
    MessageClass,
    Method,
    RequestedAddressFamily,
    RequestedTransport,
    XorPeerAddress,
    XorRelayedAddress,
    encode,
)
from relay.core import InstallChannel, RemoveChannel, ToClient, ToPeer
from relay.core.answers import ANSWER_LIFETIME
from tests.unit.relay.playbook import (
    PUBLIC,
    SERVER4,
    Client,
    RelayUnderTest,
    channel_message,
    datagrams,
    error_code,
    only_answer,
)

PEERS = tuple(
    Endpoint.parse(text)
    for text in ("198.51.100.7:1", "198.51.100.7:2", "198.51.100.8:1", "[2001:db8:1::7]:1", "[2001:db8:1::7]:2")
)
FORBIDDEN = Endpoint.parse("127.0.0.1:1")
NUMBERS = (0x4000, 0x4001, 0x7FFF)
PORTS = 3

clients = st.integers(0, 3)
peers = st.sampled_from(PEERS)
numbers = st.sampled_from(NUMBERS)


@dataclass
class Channel:
    peer: Endpoint
    bound_until: int
    reserved_until: int


@dataclass
class Held:
    port: int
    versions: frozenset[int]
    is_firezone: bool
    ends: int
    permitted: dict[object, int] = field(default_factory=dict)
    channels: dict[int, Channel] = field(default_factory=dict)

    def permit(self, ip: object, until: int) -> None:
        self.permitted[ip] = max(until, self.permitted.get(ip, 0))

    def relays_until(self, channel: Channel) -> int:
        return min(channel.bound_until, self.ends)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_no_datagram_makes_it_raise(data: st.DataObject) -> None:
    """Requests of an authenticated client with bytes changed, cut or added: each is accounted for, none raises."""
    relay = RelayUnderTest()
    client = Client(relay, software=data.draw(st.sampled_from(["snownet", "browser"])))
    port = client.allocate()
    client.bind(0x4000, PEERS[0])
    valid = [
        client.request(Method.ALLOCATE, RequestedTransport(17), Lifetime(600)),
        client.request(Method.REFRESH, Lifetime(600)),
        client.request(Method.CREATE_PERMISSION, *(XorPeerAddress(peer) for peer in PEERS)),
        client.request(Method.CHANNEL_BIND, XorPeerAddress(PEERS[1]), ChannelNumber(0x4001)),
        encode(Method.SEND, MessageClass.INDICATION, bytes(12), (XorPeerAddress(PEERS[0]), Data(b"data"))),
        channel_message(0x4000, b"payload"),
    ]
    fed = 3
    for _ in range(12):
        datagram = bytearray(data.draw(st.sampled_from(valid)))
        for _ in range(data.draw(st.integers(0, 3))):
            datagram[data.draw(st.integers(0, len(datagram) - 1))] = data.draw(st.integers(0, 255))
        del datagram[data.draw(st.integers(1, len(datagram))) :]
        datagram += data.draw(st.binary(max_size=4))
        size = data.draw(st.integers(max(1, len(datagram) // 4), len(datagram)))
        run = Run(memoryview(bytes(datagram)), size)
        fed += run.segment_count
        client.send(run)
        fed += 1
        relay.from_peer(port, data.draw(st.sampled_from(PEERS)), bytes(datagram))
    statistics = relay.server.statistics()
    accounted = sum(statistics.packets.values()) + statistics.consumed + sum(statistics.drops.values())
    assert accounted >= fed  # a datagram may hold several messages


class RelayMachine(RuleBasedStateMachine):
    """Clients 0 and 1 are Firezone's, 2 and 3 are standard ones."""

    def __init__(self) -> None:
        super().__init__()
        self.relay = RelayUnderTest(lowest_port=50_000, highest_port=50_000 + PORTS - 1)
        self.clients = [
            Client(self.relay, f"203.0.113.5:{5000 + index}", software="snownet" if index < 2 else "browser")
            for index in range(4)
        ]
        self.held: dict[int, Held] = {}
        self.fed = 0
        self.asked: list[tuple[int, int, bytes, bytes]] = []  # client, when, request, answer

    @initialize()
    def learn_nonces(self) -> None:
        for client in self.clients:
            self.fed += 2
            assert error_code(client.call(Method.REFRESH)) == 437

    @rule(client=clients, dual=st.booleans(), version=st.sampled_from([4, 6]), seconds=st.sampled_from([0, 700, 9999]))
    def allocate(self, client: int, dual: bool, version: int, seconds: int) -> None:
        family = AddressFamily.IPV4 if version == 4 else AddressFamily.IPV6
        attributes: tuple[Attribute, ...] = (RequestedTransport(17), Lifetime(seconds))
        wanted: Attribute = AdditionalAddressFamily(AddressFamily.IPV6) if dual else RequestedAddressFamily(family)
        answer = self._call(client, Method.ALLOCATE, *attributes, wanted)
        if client in self.held:
            assert error_code(answer) == 437
        elif len(self.held) == PORTS:
            assert error_code(answer) == 508
        else:
            relayed = answer.get_all(XorRelayedAddress)
            port = relayed[0].endpoint.port
            assert port not in {held.port for held in self.held.values()}
            versions = frozenset(attribute.endpoint.ip.version for attribute in relayed)
            assert versions == (frozenset({4, 6}) if dual else frozenset({version}))
            ends = self.relay.now + max(600, min(seconds, 3600)) * SECOND
            self.held[client] = Held(port, versions, client < 2, ends)

    @rule(client=clients, seconds=st.sampled_from([None, 0, 3600]))
    def refresh(self, client: int, seconds: int | None) -> None:
        answer = self._call(client, Method.REFRESH, *([] if seconds is None else [Lifetime(seconds)]))
        if client not in self.held:
            assert error_code(answer) == 437
        elif seconds == 0:
            del self.held[client]
        else:
            self.held[client].ends = self.relay.now + (seconds or 600) * SECOND

    @rule(client=clients, chosen=st.lists(st.sampled_from([*PEERS, FORBIDDEN]), max_size=3))
    def create_permission(self, client: int, chosen: list[Endpoint]) -> None:
        answer = self._call(client, Method.CREATE_PERMISSION, *(XorPeerAddress(peer) for peer in chosen))
        held = self.held.get(client)
        if held is None:
            assert error_code(answer) == 437
            return
        expected = 0 if chosen else 400
        for peer in chosen:
            if peer.ip.version not in held.versions:
                expected = 443
                break
            if peer == FORBIDDEN:
                expected = 403
                break
        assert error_code(answer) == expected
        if not expected:
            for peer in chosen:
                held.permit(peer.ip, self.relay.now + 300 * SECOND)

    @rule(client=clients, number=numbers, peer=peers)
    def bind(self, client: int, number: int, peer: Endpoint) -> None:
        answer = self._call(client, Method.CHANNEL_BIND, XorPeerAddress(peer), ChannelNumber(number))
        held = self.held.get(client)
        if held is None:
            assert error_code(answer) == 437
        elif peer.ip.version not in held.versions:
            assert error_code(answer) == 443
        elif any((key == number) != (channel.peer == peer) for key, channel in held.channels.items()):
            assert error_code(answer) == 400
        else:
            assert error_code(answer) == 0
            now = self.relay.now
            held.channels[number] = Channel(peer, now + 600 * SECOND, now + 900 * SECOND)
            held.permit(peer.ip, now + 600 * SECOND)

    @rule(which=st.integers(0, 20))
    def retransmit(self, which: int) -> None:
        """Invariants see to it that nothing changes."""
        recent = [asked for asked in self.asked if self.relay.now - asked[1] < ANSWER_LIFETIME]
        if not recent:
            return
        client, _, request, answer = recent[-1 - which % len(recent)]
        self.fed += 1
        (output,) = self.clients[client].send(request)
        assert isinstance(output, ToClient)
        assert datagrams(output) == [answer]

    @rule(client=clients, number=numbers, count=st.integers(1, 5))
    def send_channel_data(self, client: int, number: int, count: int) -> None:
        payloads = [bytes([65 + index]) * 10 for index in range(count)]
        messages = b"".join(channel_message(number, payload) for payload in payloads)
        self.fed += count
        outputs = self.clients[client].send(Run(memoryview(messages), 14))
        held = self.held.get(client)
        channel = None if held is None else held.channels.get(number)
        if held is None or channel is None or held.relays_until(channel) <= self.relay.now:
            assert outputs == []
            return
        (output,) = outputs
        assert isinstance(output, ToPeer)
        assert (output.relayed_port, output.transmit.destination) == (held.port, channel.peer)
        assert datagrams(output) == payloads

    @rule(client=clients, peer=peers)
    def send_indication(self, client: int, peer: Endpoint) -> None:
        self.fed += 1
        attributes = (XorPeerAddress(peer), Data(b"data"))
        outputs = self.clients[client].send(encode(Method.SEND, MessageClass.INDICATION, bytes(12), attributes))
        held = self.held.get(client)
        is_permitted = held is not None and held.permitted.get(peer.ip, 0) > self.relay.now
        assert [type(output) for output in outputs] == ([ToPeer] if is_permitted else [])

    @rule(port=st.integers(50_000, 50_000 + PORTS - 1), peer=peers, count=st.integers(1, 5))
    def receive_from_peer(self, port: int, peer: Endpoint, count: int) -> None:
        self.fed += count
        outputs = self.relay.from_peer(port, peer, Run(memoryview(b"x" * 10 * count), 10))
        holder = next(((client, held) for client, held in self.held.items() if held.port == port), None)
        if holder is None:
            assert outputs == []
            return
        client, held = holder
        number = next((key for key, channel in held.channels.items() if channel.peer == peer), None)
        if number is not None and held.relays_until(held.channels[number]) > self.relay.now:
            (output,) = outputs
            assert datagrams(output) == [channel_message(number, b"x" * 10)] * count
        elif not held.is_firezone and held.permitted.get(peer.ip, 0) > self.relay.now:
            assert len(outputs) == count
        else:
            assert outputs == []
            return
        for output in outputs:
            assert isinstance(output, ToClient)
            assert output.transmit.destination == self.clients[client].endpoint
            assert output.transmit.source == SERVER4

    @rule(sender=clients, receiver=clients)
    def bind_each_other(self, sender: int, receiver: int) -> None:
        """Only that our own addresses are peers while they are live; the data is in the unit tests."""
        held, other = self.held.get(sender), self.held.get(receiver)
        if held is None or 4 not in held.versions:
            return
        port = 50_000 if other is None else other.port
        is_live = any(one.port == port and 4 in one.versions for one in self.held.values())
        target = Endpoint(PUBLIC[4], port)
        answer = self._call(sender, Method.CREATE_PERMISSION, XorPeerAddress(target))
        assert error_code(answer) == (0 if is_live else 403)
        if is_live:
            held.permit(target.ip, self.relay.now + 300 * SECOND)

    @rule(seconds=st.one_of(st.integers(1, 1000), st.sampled_from([300, 600, 900])))
    def wait(self, seconds: int) -> None:
        for output in self.relay.advance(seconds):
            assert not isinstance(output, InstallChannel)
        now = self.relay.now
        self.held = {client: held for client, held in self.held.items() if held.ends > now}
        for held in self.held.values():
            held.permitted = {ip: until for ip, until in held.permitted.items() if until > now}
            held.channels = {key: one for key, one in held.channels.items() if one.reserved_until > now}
        for client in self.clients:
            # A nonce lives for an hour of uptime; ours start anew before that matters.
            client.nonce = self.relay.nonces.mint(client.endpoint, now)

    @rule(client=clients, data=st.binary(max_size=60))
    def send_noise(self, client: int, data: bytes) -> None:
        if not data:
            return
        self.fed += 1
        before = self.relay.server.statistics().allocations
        outputs = self.clients[client].send(data)
        assert not any(isinstance(output, ToPeer | RemoveChannel) for output in outputs)
        assert self.relay.server.statistics().allocations == before

    @invariant()
    def allocations_are_those_of_the_model(self) -> None:
        expected = {held.port: held.versions for held in self.held.values()}
        found = {port: {family.version for family in families} for port, families in self.relay.open_ports.items()}
        assert found == expected
        assert self.relay.server.statistics().allocations == len(expected)

    @invariant()
    def installed_channels_are_those_that_relay(self) -> None:
        now = self.relay.now
        expected = {
            (self.clients[client].endpoint, number): (channel.peer, held.port, held.relays_until(channel))
            for client, held in self.held.items()
            for number, channel in held.channels.items()
            if held.relays_until(channel) > now
        }
        found = {
            (client, number): (installed.peer, installed.relayed_port, installed.expires_at)
            for (client, _, number), installed in self.relay.installed.items()
        }
        assert found == expected

    @invariant()
    def every_datagram_is_accounted_for(self) -> None:
        statistics = self.relay.server.statistics()
        relayed = sum(statistics.packets.values())
        assert self.fed == relayed + statistics.consumed + sum(statistics.drops.values())

    @invariant()
    def nothing_is_overdue(self) -> None:
        deadline = self.relay.server.poll_timeout()
        assert deadline is None or deadline > self.relay.now
        assert self.relay.server.poll_output() is None

    def teardown(self) -> None:
        self.relay.advance(3600)
        self.held.clear()
        self.allocations_are_those_of_the_model()
        self.installed_channels_are_those_that_relay()
        assert self.relay.server.poll_timeout() is None
        assert self.relay.server.statistics().channels == 0

    def _call(self, client: int, method: Method, *attributes: Attribute) -> Message:
        self.fed += 1
        request = self.clients[client].request(method, *attributes)
        outputs = self.clients[client].send(request)
        answer = only_answer(outputs, self.clients[client].endpoint)
        assert answer.verify_integrity(self.clients[client].key)
        (datagram,) = datagrams(next(output for output in outputs if isinstance(output, ToClient)))
        self.asked.append((client, self.relay.now, request, datagram))
        return answer


TestRelayMachine = RelayMachine.TestCase
TestRelayMachine.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
