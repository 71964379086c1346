"""What one peer, or a stranger, sends in vain: counted by reason, bounded in memory and price, nothing to others."""

import cProfile
import gc
import logging
import tracemalloc
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address
from random import Random
from typing import Final

import pytest

from bench.scale_stage import BULK, FORBIDDEN, HOST, Client, Stage, udp
from connectivity.clock import SECOND
from connectivity.flow_table import FlowTable
from connectivity.io.refusals import Refusals
from connectivity.ip.flow import PacketRun
from connectivity.ip.packet import parse
from connectivity.run import Received, Run
from connectivity.verdict import Forward
from connectivity.wireguard import DropReason
from gateway.reasons import GatewayDrop

RUN: Final = 32
BATCHES: Final = 40
KEPT_BYTES: Final = 4096  # what counters and caches may grow by
RANDOM: Final = Random(4)


class Besieged:
    """A gateway with three clients, of which the first is up to no good; errors are counted as its driver does."""

    def __init__(self) -> None:
        self.stage = Stage(3)
        self.villain, self.other, _ = self.stage.clients
        self.refusals = Refusals()

    def take(self, received: Received) -> int:
        """How many packets the host gets of this."""
        host: list[PacketRun] = []
        errors: list[Exception] = []
        stage = self.stage
        stage.core.handle_datagrams(received, stage.now, stage.wall_now, host.append, errors)
        for error in errors:
            self.refusals.note(error, stage.now)
        return sum(packets.run.segment_count for packets in host)

    def flow_drops(self, reason: GatewayDrop) -> int:
        return self.stage.core.statistics().flow_drops[reason]

    def drops(self, reason: DropReason) -> int:
        return self.stage.core.statistics().drops[reason]


def bulk(stage: Stage, client: Client, source: IPv4Address, destination: IPv4Address) -> Received:
    return stage.from_client(client, udp(source, destination, (5000, 80), size=BULK) * RUN, BULK)


def changed(received: Received, change: Callable[[memoryview, int], None]) -> Received:
    """Each datagram of a run made different."""
    data, size = received.run
    for start in range(0, len(data), size):
        change(data[start : start + size], start)
    return received


def forged(at: Besieged) -> Received:
    def change(message: memoryview, _: int) -> None:
        message[-1] ^= 1

    return changed(bulk(at.stage, at.villain, at.villain.tunnel, HOST), change)


def rubbish(at: Besieged) -> Received:
    return at.stage.from_client(at.villain, b"\x99" * BULK * RUN, BULK)


def spoofed(at: Besieged) -> Received:
    return bulk(at.stage, at.villain, at.other.tunnel, HOST)


def forbidden(at: Besieged) -> Received:
    return bulk(at.stage, at.villain, at.villain.tunnel, FORBIDDEN)


def nobodys(at: Besieged) -> Received:
    def change(message: memoryview, start: int) -> None:
        message[4:8] = (0x7F000000 + start).to_bytes(4, "big")

    return changed(bulk(at.stage, at.villain, at.villain.tunnel, HOST), change)


def noise(at: Besieged) -> Received:
    received = bulk(at.stage, at.villain, at.villain.tunnel, HOST)
    return Received(
        received.local, received.remote, Run(memoryview(bytearray(b"\xee" + RANDOM.randbytes(1199)) * RUN), 1200)
    )


@dataclass(frozen=True, slots=True)
class Kind:
    """``make`` makes a run of it, ``counted`` is how many datagrams or packets of it were counted so far."""

    make: Callable[[Besieged], Received]
    counted: Callable[[Besieged], int]


KINDS: Final = {
    "forged": Kind(forged, lambda at: at.drops(DropReason.NOT_AUTHENTIC)),
    "rubbish": Kind(rubbish, lambda at: sum(n for word, n in at.refusals.counts.items() if word.endswith("_packet"))),
    "spoofed": Kind(spoofed, lambda at: at.flow_drops(GatewayDrop.SPOOFED)),
    "forbidden": Kind(forbidden, lambda at: at.flow_drops(GatewayDrop.FILTERED)),
    "nobody's": Kind(nobodys, lambda at: at.refusals.counts["unknown_connection"]),
    "noise": Kind(noise, lambda at: at.refusals.counts["stray_datagram"]),
}


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    logging.disable(logging.WARNING)
    yield
    logging.disable(logging.NOTSET)


def steps(call: Callable[[], object]) -> int:
    """Calls of functions, which no clock and no neighbour changes."""
    profile = cProfile.Profile()
    gc.collect()
    gc.disable()
    profile.enable()
    call()
    profile.disable()
    gc.enable()
    return sum(entry.callcount for entry in profile.getstats())


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_what_is_sent_in_vain_is_counted_and_reaches_nobody(kind: Kind) -> None:
    at = Besieged()
    before = kind.counted(at)
    for _ in range(BATCHES):
        assert at.take(kind.make(at)) == 0
        assert at.take(bulk(at.stage, at.other, at.other.tunnel, HOST)) == RUN  # another's passes meanwhile
    assert kind.counted(at) - before == BATCHES * RUN


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_it_costs_no_more_than_single_packets_that_pass_and_leaves_nothing_behind(kind: Kind) -> None:
    at = Besieged()
    single = at.stage.from_client(at.villain, udp(at.villain.tunnel, HOST, (5000, 80)))
    passed = steps(lambda: at.take(single))
    for _ in range(BATCHES):  # ICMP has told what it will
        at.take(kind.make(at))
        at.stage.drain()
    runs = [kind.make(at) for _ in range(BATCHES)]
    assert steps(lambda: [at.take(received) for received in runs]) <= passed * RUN * BATCHES
    runs = [kind.make(at) for _ in range(BATCHES)]
    tracemalloc.start()
    try:
        for received in runs:
            at.take(received)
        at.stage.drain()
        gc.collect()
        assert tracemalloc.get_traced_memory()[0] < KEPT_BYTES
    finally:
        tracemalloc.stop()


def test_refused_packets_are_told_of_by_icmp_up_to_a_rate_for_each_client() -> None:
    at = Besieged()
    stage = at.stage

    def told() -> int:
        count = 0
        while stage.core.poll_transmit() is not None:
            count += 1
        return count

    for _ in range(BATCHES):
        at.take(forbidden(at))
    assert told() == 100
    at.take(bulk(stage, at.other, at.other.tunnel, FORBIDDEN))
    assert told() == RUN  # each has its own
    stage.now += SECOND // 2
    for _ in range(BATCHES):
        at.take(forbidden(at))
    assert told() == 50


def test_a_full_table_of_flows_makes_no_new_flow_dearer() -> None:
    """A thousand new flows, each of which pushes an old one out: the table stays, and none takes longer for it."""
    table = FlowTable(200)
    verdicts = [Forward("peer", None, (("peer", number % 7),)) for number in range(1100)]
    keys = [parse(udp(IPv4Address("100.64.0.2"), HOST, (10_000 + number, 80))).key for number in range(1100)]

    def remember(start: int, end: int) -> None:
        for number in range(start, end):
            table.remember(("peer", keys[number]), verdicts[number])

    while_empty = steps(lambda: remember(0, 100))
    remember(100, 1000)
    while_full = steps(lambda: remember(1000, 1100))
    assert len(table) == 200
    assert while_full <= 2 * while_empty
