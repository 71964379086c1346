"""Trains: what is joined, how long they get, and that no flow overtakes itself."""

from connectivity.data_path import Path, Peer
from connectivity.data_path.trains import MAX_JOINED, Trains
from connectivity.ip.flow import PacketRun
from connectivity.run import Run
from connectivity.wireguard import Workspace
from tests.property.test_data_path_property import OURS

PEER, OTHER = (Peer(name, number, Workspace(), 0) for number, name in enumerate("ab"))
PATH = Path(None, OURS)


def lengths(*runs: tuple[bytes, Peer, int, int], tos: int = 0) -> list[list[int]]:
    """Of the segments of each train; a run is flow, peer, segment size and bytes in all."""
    trains = Trains()
    for flow, peer, size, total in runs:
        trains.add(flow, peer, PATH, PacketRun(Run(memoryview(bytes(total)), size), flow, tos))
    return [[len(segment) for segment in train.run.segments()] for train in trains.take()]


def test_flows_to_one_peer_share_a_train_by_size() -> None:
    assert lengths((b"f", PEER, 52, 52), (b"g", PEER, 64, 64), (b"h", PEER, 52, 104), (b"i", OTHER, 52, 52)) == [
        [52, 52, 52],
        [64],
        [52],
    ]


def test_a_flow_does_not_overtake_itself() -> None:
    sizes = (52, 64, 52)
    assert lengths(*((b"f", PEER, size, size) for size in sizes)) == [[52], [64], [52]]


def test_a_shorter_packet_ends_a_train() -> None:
    assert lengths((b"f", PEER, 100, 100), (b"g", PEER, 100, 150), (b"h", PEER, 100, 100)) == [[100, 100, 50], [100]]


def test_a_train_has_as_many_segments_as_one_send_takes_and_long_runs_are_not_copied() -> None:
    assert [len(train) for train in lengths(*[(b"f", PEER, 52, 52)] * 70)] == [64, 6]
    assert [len(train) for train in lengths((b"f", PEER, 52, 52), (b"g", PEER, 52, 52 * (MAX_JOINED + 1)))] == [1, 17]
    almost = [(b"f", PEER, 52, 52 * 16)] * 3 + [(b"f", PEER, 52, 52 * 15), (b"f", PEER, 52, 52 + 1)]
    assert [len(train) for train in lengths(*almost)] == [63, 2]
