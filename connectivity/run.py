"""The unit that crosses every hot interface: a run of equal segments in one contiguous buffer.

A run is what one ``UDP_SEGMENT`` send or one ``UDP_GRO`` receive moves: every segment has ``segment_size`` bytes, the
last may be shorter (never empty). A single packet is a run of one. A single *empty* packet is a run whose segment size
is 0; an empty run with any other segment size holds nothing.

Ownership: a run *borrows* the buffer of whoever handed it out. It is valid until that object is called again; whoever
wants to keep it longer copies it (``bytes(run.data)``). This is what keeps the hot path free of allocation.
"""

from collections.abc import Iterator
from typing import Final, NamedTuple

from connectivity.endpoint import Endpoint

MAX_SEGMENTS: Final = 64  # of one UDP_SEGMENT send: UDP_MAX_SEGMENTS of linux/udp.h before Linux 6.9


class Run(NamedTuple):
    """``data`` is contiguous and holds segments of ``segment_size`` bytes, the last one possibly shorter."""

    data: memoryview
    segment_size: int

    @classmethod
    def single(cls, packet: bytes | bytearray | memoryview) -> "Run":
        """A run of one."""
        view = memoryview(packet)
        return cls(view, len(view))

    @property
    def segment_count(self) -> int:
        """How many segments the run has."""
        return -(-len(self.data) // self.segment_size) if self.segment_size else 1

    def segments(self) -> Iterator[memoryview]:
        """Each segment in turn, as a view into ``data``."""
        data, size = self.data, self.segment_size
        for offset in range(0, len(data) or not size, size or 1):
            yield data[offset : offset + size]


class Received(NamedTuple):
    """Datagrams that arrived from one ``remote`` at one ``local`` address, equal in all 8 bits of ``tos``."""

    local: Endpoint
    remote: Endpoint
    run: Run
    tos: int = 0


class Transmit(NamedTuple):
    """Datagrams to send; ``source`` None lets the kernel choose. ``tos`` is the whole TOS or traffic class byte."""

    source: Endpoint | None
    destination: Endpoint
    run: Run
    tos: int = 0


def owned(transmit: Transmit) -> Transmit:
    """A copy that outlives the scratch memory its run was built in."""
    return transmit._replace(run=Run(memoryview(bytes(transmit.run.data)), transmit.run.segment_size))
