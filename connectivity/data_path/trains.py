"""Packets of many flows to the same peers leave in as few sends as there are sizes: a train is one run of them.

Acknowledgements and other small packets come one at a time, each of another flow. What of them lies together and goes
to one peer with one TOS byte is joined by size, so that it is sealed by one call and sent by one. Packets of a flow
never overtake each other: one that would join a train which leaves before that of its predecessor begins another.
"""

from typing import Final

from connectivity.data_path.peer import Path, Peer
from connectivity.ip.flow import FlowKey, PacketRun
from connectivity.run import MAX_SEGMENTS, Run

MAX_JOINED: Final = 16  # segments of a run that is worth copying to join others


class Train:
    """One run in the making: packets to one peer, equally long but the last, with one TOS byte."""

    __slots__ = ("count", "is_open", "number", "parts", "path", "peer", "size", "tos")

    def __init__(self, number: int, peer: Peer, path: Path, packets: PacketRun) -> None:
        (data, size), _, tos = packets
        self.number = number
        self.peer = peer
        self.path = path
        self.tos = tos
        self.size = size
        self.parts = [data]
        self.count = packets.run.segment_count
        self.is_open = not len(data) % size and self.count <= MAX_JOINED

    @property
    def run(self) -> Run:
        """All of it; what is not joined is not copied."""
        parts = self.parts
        return Run(parts[0] if len(parts) == 1 else memoryview(b"".join(parts)), self.size)


class Trains:
    """The trains of one batch of the host's packets, in the order in which they leave."""

    __slots__ = ("_latest", "_open", "_trains")

    def __init__(self) -> None:
        self._trains: list[Train] = []
        self._open: dict[tuple[Peer, int, int], Train] = {}
        self._latest: dict[FlowKey, int] = {}  # the last train that has packets of a flow

    def add(self, flow: FlowKey, peer: Peer, path: Path, packets: PacketRun) -> None:
        """Packets of a flow, by the key that it had when it came."""
        (data, size), _, tos = packets
        key = (peer, tos, size)
        train = self._open.get(key)
        count = packets.run.segment_count
        if (
            train is None
            or train.number < self._latest.get(flow, 0)
            or count > MAX_JOINED
            or train.count + count > MAX_SEGMENTS
        ):
            train = Train(len(self._trains), peer, path, packets)
            self._trains.append(train)
            if train.is_open:
                self._open[key] = train
        else:
            train.parts.append(data)
            train.count += count
            if len(data) % size:  # a shorter one is the last
                del self._open[key]
        self._latest[flow] = train.number

    def take(self) -> list[Train]:
        """Take all trains out."""
        trains = self._trains
        self._trains, self._open, self._latest = [], {}, {}
        return trains
