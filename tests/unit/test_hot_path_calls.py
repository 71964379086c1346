"""What the steady state costs, without a clock: how many functions are called for a run of a known flow.

Fewer is better: then lower the number here. More has to be worth it. A run of fifty packets costs what one of ten does,
for nothing is done packet by packet but by calls that run in C.
"""

import logging

import pytest

from bench.scale_stage import BULK, HOST, Stage, run_of
from bench.tunnel_price import SHAPES, Shape, count_calls, opening, sealing, tcp
from connectivity.run import Transmit

# Functions of Python and of C, of a run of 50 packets and of one packet.
MOST = {("seal", 50): 38, ("open", 50): 78, ("seal", 1): 23, ("open", 1): 42}
# Of 32 single packets of 8 flows to one client that lie together, which leave by one send.
MOST_TOGETHER = 377


@pytest.fixture(scope="module")
def stage() -> Stage:
    logging.disable(logging.INFO)
    stage = Stage(1)
    logging.disable(logging.NOTSET)
    return stage


@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: shape.name)
@pytest.mark.parametrize("way", ["seal", "open"])
def test_a_run_costs_no_more_calls_than_before(stage: Stage, shape: Shape, way: str) -> None:
    assert calls(stage, shape, way) <= MOST[way, shape.packets]


@pytest.mark.parametrize("way", ["seal", "open"])
def test_a_long_run_costs_as_many_calls_as_a_short_one(stage: Stage, way: str) -> None:
    ten, fifty = (calls(stage, Shape("", count, BULK, True), way) for count in (10, 50))
    assert ten == fifty


def test_packets_of_many_flows_to_one_client_leave_by_one_send(stage: Stage) -> None:
    (client,) = stage.clients
    sent: list[int] = []

    def send(transmit: Transmit) -> None:
        sent.append(transmit.run.segment_count)

    def ask(packets: object) -> None:
        raise AssertionError(f"all flows are known, but not that of {packets}")

    batch = [run_of(tcp(HOST, client.tunnel, (7000 + number % 8, 443), 52)) for number in range(32)]
    for packets in batch[:8]:
        assert stage.send(packets)
    costs = [count_calls(lambda: stage.core.handle_batch(batch, stage.now, send, ask)) for _ in range(2)]
    assert sent == [32, 32]
    assert costs[1] <= MOST_TOGETHER  # the first one makes what depends on sizes


def calls(stage: Stage, shape: Shape, way: str) -> int:
    """Of the third run: the first one has its flow judged, and what depends on sizes is made once."""
    (client,) = stage.clients
    operations = (sealing if way == "seal" else opening)(stage, client, shape)(3)
    return [count_calls(operation) for operation in operations][-1]
