"""Any packet, any flow table, both paths: what the program does is what the relay's core does, or nothing.

Each example plays a few clients against the core, takes over the channels that it hands to an offload, and then sends
frames through both: through the loaded program, and through a reading of the frame (``tests.bpf.frames``) into the core
with the answer built by the oracle. A frame that the program relays equals the core's, byte for byte of what D3 names;
one that it passes up is untouched; nothing that the core would relay by a channel in a plain frame goes up; and both
count the same.
"""

import os
import struct
import time
from dataclasses import dataclass, replace
from ipaddress import ip_address
from typing import Final

import pytest
from hypothesis import HealthCheck, Phase, event, given, note, settings
from hypothesis import strategies as st

from connectivity.clock import SECOND, Instant
from connectivity.endpoint import Endpoint
from connectivity.run import Run
from connectivity.stun import AdditionalAddressFamily, AddressFamily, Lifetime
from connectivity.turn import credentials
from ebpf.layout import Counter
from ebpf.oracle import HOP_LIMIT, ChecksumKind, Datagram, read_packet
from ebpf.outcomes import Direction, Outcome
from ebpf.settings import ChannelFlow
from lab.processes import PATIENCE
from relay.core import DropReason, Output, Quotas, Relayed, ToClient, ToPeer
from relay.core.nonce import NonceMint
from tests.bpf.frames import ODDITIES, Frame, Oddity, receive
from tests.bpf.relay_bench import LISTEN_PORT, OTHER_LISTEN_PORT, RELAY, Bench
from tests.unit.relay.playbook import INTERNAL, Client, RelayUnderTest

pytestmark = pytest.mark.root

CLIENTS: Final = tuple(
    Endpoint(ip_address(address), port) for address in ("192.0.2.10", "2001:db8::10") for port in (50_001, 60_002)
)
PEERS: Final = tuple(
    Endpoint(ip_address(address), port) for address in ("192.0.2.20", "2001:db8::20") for port in (50_001, 60_002)
)
LISTEN_PORTS: Final = (LISTEN_PORT, OTHER_LISTEN_PORT)  # of the clients by turns
CHANNELS: Final = (0x4000, 0x4001, 0x4FFF, 0x7FFF)
MTU: Final = 1500
LONG_AGO: Final = 700 * SECOND  # more than a channel lives
USERS: Final = ("one", "two", "three")
UNLIMITED: Final = Quotas()
RATES: Final = st.integers(8, 80)


class Caller(Client):
    """A client that speaks to the relay of the bench."""

    def send(self, data: bytes | Run, *, tos: int = 0) -> list[Relayed | Output]:
        server = Endpoint(RELAY[self.endpoint.ip.version], _listen_port(self.endpoint))
        return self.relay.from_client(self.endpoint, data, tos=tos, server=server)


def _listen_port(client: Endpoint) -> int:
    return LISTEN_PORTS[CLIENTS.index(client) % len(LISTEN_PORTS)]


@dataclass(frozen=True)
class Bind:
    """A client's wish for a channel: to a peer, or to the relayed address of another client (``meets``)."""

    client: int
    channel: int
    peer: Endpoint
    meets: int | None
    is_expired: bool


def _mostly(value: bool) -> st.SearchStrategy[bool]:
    return st.sampled_from((value,) * 5 + (not value,))


binds = st.builds(
    Bind,
    client=st.integers(0, len(CLIENTS) - 1),
    channel=st.sampled_from(CHANNELS),
    peer=st.sampled_from(PEERS),
    meets=st.none() | st.integers(0, len(CLIENTS) - 1),
    is_expired=_mostly(False),
)


@dataclass(frozen=True)
class Sent:
    """A frame to be: who sends it to what, and what is odd about it."""

    is_from_client: bool
    is_of_flow: bool
    is_to_its_port: bool  # where the client has its allocation
    which: int
    channel: int
    size: int
    claimed: int  # the channel length's error
    kind: ChecksumKind
    tos: int
    oddities: tuple[tuple[Oddity, int], ...]

    def outcomes(self, frame: Frame) -> list[Outcome]:
        """What the program has to say, where one oddity decides alone."""
        if len(self.oddities) != 1 or not frame.is_odd:
            return []
        outcome = self.oddities[0][0].outcome
        return [] if outcome is None else [outcome]


sent = st.builds(
    Sent,
    is_from_client=st.booleans(),
    is_of_flow=_mostly(True),
    is_to_its_port=_mostly(True),
    which=st.integers(0, 99),
    channel=st.sampled_from((*CHANNELS, 0x3FFF, 0x8000)) | st.integers(0, 0xFFFF),
    size=st.integers(0, 64) | st.sampled_from((0, 1, 1400, 1424, 1425, 1444, 1445, 1452, 1453, 1472)),
    claimed=st.sampled_from((0,) * 20 + (-8, -4, -3, -2, -1, 1, 7)),
    kind=st.sampled_from(ChecksumKind),
    tos=st.integers(0, 255),
    oddities=st.just(())
    | st.lists(st.tuples(st.sampled_from(ODDITIES), st.integers(0, 0xFFFF)), max_size=2).map(tuple),
)


class EarlyNonces(NonceMint):
    """For a core whose history began before this machine did: a nonce holds no time before the clock's zero."""

    def mint(self, client: Endpoint, now: Instant) -> str:
        return super().mint(client, now + LONG_AGO)

    def is_valid(self, nonce: str, client: Endpoint, now: Instant) -> bool:
        return super().is_valid(nonce, client, now + LONG_AGO)


class World:
    """The core, the program with what the core handed to it, and what both should have counted."""

    def __init__(self, bench: Bench, wishes: list[Bind], quotas: Quotas = UNLIMITED) -> None:
        self.bench = bench
        then = time.monotonic_ns() - LONG_AGO
        self.relay = RelayUnderTest(public=dict(RELAY), quotas=quotas, nonces=EarlyNonces(b"nonce secret"), now=then)
        # Firezone's peers know channels only; others get Data indications where there is a permission and no channel.
        self.callers = [
            Caller(self.relay, str(endpoint), software=software, salt=credentials.salt(USERS[number % len(USERS)]))
            for number, (endpoint, software) in enumerate(
                zip(CLIENTS, ("snownet; session=00", "other") * 2, strict=True)
            )
        ]
        self.ports = [
            caller.allocate(AdditionalAddressFamily(AddressFamily.IPV6), Lifetime(3600)) for caller in self.callers
        ]
        self._bind([wish for wish in wishes if wish.is_expired])
        self.relay.now = time.monotonic_ns()
        self._bind([wish for wish in wishes if not wish.is_expired])
        self.flows = [
            ChannelFlow(
                each.five_tuple.client,
                each.channel,
                each.peer,
                each.relayed_port,
                max(1, each.expires_at),  # what ended before this machine began has ended as well
                each.five_tuple.server.ip,
                each.bucket,
                each.five_tuple.server.port,
            )
            for each in self.relay.installed.values()
        ]
        bench.reset()
        bench.project(dict(RELAY), [*RELAY.values(), INTERNAL])
        for bucket, bytes_per_second in self.relay.buckets.items():
            bench.set_bucket(bucket, bytes_per_second)
        bench.install(*self.flows)
        self.forwarded: dict[tuple[Outcome, Direction], Counter] = {}
        self.by_binding = {(flow.client, flow.channel): [Counter(), Counter()] for flow in self.flows}

    def _bind(self, wishes: list[Bind]) -> None:
        """The core may refuse any of them."""
        for wish in wishes:
            peer = wish.peer
            if wish.meets is not None:
                peer = Endpoint(RELAY[peer.ip.version], self.ports[wish.meets])
            self.callers[wish.client].bind(wish.channel, peer)

    def frame(self, sent: Sent) -> Frame:
        """The frame of a wish, oddities included."""
        flow = self.flows[sent.which % len(self.flows)] if self.flows and sent.is_of_flow else None
        message = bytes((index * 37 + sent.tos) % 256 for index in range(sent.size))
        if sent.is_from_client:
            source = flow.client if flow else CLIENTS[sent.which % len(CLIENTS)]
            number = flow.channel if flow else sent.channel
            payload = struct.pack("!HH", number, max(0, sent.size + sent.claimed)) + message
            port = _listen_port(source)
            port = port if sent.is_to_its_port else sum(LISTEN_PORTS) - port
            destination = Endpoint(RELAY[source.ip.version], port)
        else:
            source = flow.peer if flow else PEERS[sent.which % len(PEERS)]
            port = flow.relayed_port if flow else self.ports[sent.which % len(self.ports)]
            payload, destination = message, Endpoint(RELAY[source.ip.version], port)
        packet = Datagram(source, destination, payload, sent.tos, 3).packet(sent.kind, identification=sent.which)
        frame = Frame(packet)
        for oddity, seed in sent.oddities:
            if oddity.version in (None, frame.version) and not (frame.tags or frame.is_odd):
                frame = replace(oddity.change(frame, seed), is_odd=oddity.outcome is not None)
        return frame

    def relayed(self, arriving: Datagram | None) -> list[tuple[Relayed, Datagram]]:
        """What the core sends for it, and that as the oracle says that it leaves."""
        own = RELAY.values()
        # With a source address of ours it came from nowhere, and the stack drops it.
        if arriving is None or arriving.destination.ip not in own or arriving.source.ip in own:
            return []
        if arriving.destination.port in LISTEN_PORTS:
            outputs = self.relay.from_client(
                arriving.source, arriving.payload, tos=arriving.tos, server=arriving.destination
            )
        elif arriving.destination.port in self.relay.open_ports:
            outputs = self.relay.from_peer(
                arriving.destination.port, arriving.source, arriving.payload, tos=arriving.tos
            )
        else:
            return []
        found: list[tuple[Relayed, Datagram]] = []
        for output in outputs:
            assert isinstance(output, ToPeer | ToClient)
            target, tos = output.transmit.destination, output.transmit.tos
            port = output.relayed_port if isinstance(output, ToPeer) else _listen_port(target)
            source = Endpoint(RELAY[target.ip.version], port)
            found += [
                (output, Datagram(source, target, bytes(segment), tos, HOP_LIMIT))
                for segment in output.transmit.run.segments()
            ]
        return found

    def count(self, arriving: Datagram, output: Relayed, leaving: Datagram) -> None:
        """What both ends of the way should have counted."""
        is_from_client = arriving.destination.port in LISTEN_PORTS
        is_to_client = isinstance(output, ToClient)
        one = Counter(1, len(arriving.payload) - 4 * is_from_client)
        if is_from_client:
            (number,) = struct.unpack_from("!H", arriving.payload)
            self.by_binding[arriving.source, number][0] += one
        if is_to_client:
            (number,) = struct.unpack_from("!H", leaving.payload)
            self.by_binding[leaving.destination, number][1] += one
        direction = Direction.TO_PEER
        if is_to_client:
            direction = Direction.BETWEEN_CLIENTS if is_from_client else Direction.TO_CLIENT
        key = (Outcome.FORWARD_ROUTE, direction)
        self.forwarded[key] = self.forwarded.get(key, Counter()) + one


def examples(count: int) -> int:
    """How many to try; fewer on an emulated machine, which asks for patience."""
    return max(10, int(count / float(os.environ.get(PATIENCE, "1"))))


@given(wishes=st.lists(binds, max_size=12), packets=st.lists(sent, min_size=1, max_size=30))
@settings(
    max_examples=examples(300),
    phases=(Phase.reuse, Phase.generate, Phase.shrink),
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large],
)
def test_the_program_does_what_the_core_does(bench: Bench, wishes: list[Bind], packets: list[Sent]) -> None:
    world = World(bench, wishes)
    damaged = 0
    for each in packets:
        frame = world.frame(each)
        encoded = frame.encode()
        arriving = receive(encoded)
        relayed = world.relayed(arriving)
        before = [bench.count(outcome) for outcome in each.outcomes(frame)]
        verdict, out = bench.run(encoded)
        note(f"{each} {verdict}")
        event(verdict)
        for outcome, earlier in zip(each.outcomes(frame), before, strict=True):
            assert bench.count(outcome) == earlier + 1, outcome
        if verdict == "pass":
            assert out == encoded
            assert not _must_be_forwarded(each, relayed), relayed
        elif arriving is None:
            # Damaged behind the IP header: the stack would drop it, here its receiver will.
            assert verdict == "redirect"
            damaged += 1
            with pytest.raises(ValueError, match="UDP checksum"):
                read_packet(_without_trailer(out))
        else:
            assert verdict == "redirect"
            ((output, leaving),) = relayed
            assert read_packet(_without_trailer(out)) == leaving
            world.count(arriving, output, leaving)
    counted = bench.outcomes()
    assert sum(counter.packets for counter in counted.values()) == len(packets)
    if not damaged:
        forwarded = {key: counter for key, counter in counted.items() if key[0].is_forward}
        assert forwarded == world.forwarded
        for flow in world.flows:
            assert list(bench.flow_counters(flow)) == world.by_binding[flow.client, flow.channel]


@given(
    wishes=st.lists(binds, min_size=3, max_size=12),
    packets=st.lists(sent, min_size=1, max_size=30),
    quotas=st.builds(Quotas, bandwidth_per_user=st.none() | RATES, bandwidth=st.none() | RATES),
)
@settings(
    max_examples=examples(100),
    deadline=None,
    phases=(Phase.reuse, Phase.generate, Phase.shrink),
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large],
)
def test_quotas_stop_the_same_packets(bench: Bench, wishes: list[Bind], packets: list[Sent], quotas: Quotas) -> None:
    """At rates of a few bytes a second, of which a datagram takes hours; only of what the program relays by itself."""
    world = World(bench, wishes, quotas)
    over_quota = 0
    for each in packets:
        encoded = world.frame(replace(each, oddities=(), claimed=0, size=1000 + each.size % 100)).encode()
        arriving = receive(encoded)
        verdict, out = bench.run(encoded)
        event(verdict)
        if verdict == "pass":
            continue
        before = world.relay.drops().get("over_quota", 0)
        relayed = world.relayed(arriving)
        refused = world.relay.drops().get("over_quota", 0) - before
        assert (len(relayed), refused) == ((0, 1) if verdict == "drop" else (1, 0))
        over_quota += refused
        assert verdict == "drop" or read_packet(_without_trailer(out)) == relayed[0][1]
    dropped = [counter.packets for (outcome, _), counter in bench.outcomes().items() if outcome.is_drop]
    assert sum(dropped) == over_quota
    assert Outcome.DROP_OVER_QUOTA.reason == DropReason.OVER_QUOTA.value


def _must_be_forwarded(sent: Sent, relayed: list[tuple[Relayed, Datagram]]) -> bool:
    """A plain datagram that the core relays by a channel, and that fits."""
    if sent.oddities or sent.claimed or len(relayed) != 1:
        return False
    output, leaving = relayed[0]
    is_by_channel = isinstance(output, ToPeer) or leaving.payload[0] >= 0x40
    return is_by_channel and len(leaving.packet()) <= MTU


def _without_trailer(out: bytes) -> bytes:
    """The IP packet of a frame that may have padding behind it."""
    packet = out[14:]
    length = (
        struct.unpack_from("!H", packet, 2)[0] if packet[0] >> 4 == 4 else 40 + struct.unpack_from("!H", packet, 4)[0]
    )
    return packet[:length]
