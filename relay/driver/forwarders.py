"""Forwarders: each relays one kind of arrival of a channel, from one socket to another.

A forwarder is of one channel in one direction, for single datagrams or for runs that the kernel has made. It asks the
core each time whether the channel lets them pass, and counts what has gone.
"""

import struct
from collections.abc import Sequence
from typing import ClassVar, Final

from connectivity.clock import Instant
from connectivity.io.prepared_sender import Part, PreparedSender
from connectivity.io.receive_buffer import Arrival
from connectivity.run import Run
from connectivity.turn.channel_data import HEADER_BYTES
from relay.core import Channel, DataPath, Direction
from relay.core.channel_runs import MOST_PADDING, SCRATCH_BYTES, frame, strip_uniform
from relay.core.statistics import Volume

HEADER: Final = struct.Struct("!HH")  # of ChannelData: number, length
# Where runs are built; each is sent before the next is begun.
SCRATCH: Final = memoryview(bytearray(SCRATCH_BYTES))


class Waiting(list[tuple["Forwarder", Arrival]]):
    """What is to go by the forwarders of one channel in one direction, in order. It lives as long as one of them."""

    __slots__ = ("__weakref__",)


class Passed:
    """What is not in the totals yet; ``merged`` datagrams of it went behind another in a run."""

    __slots__ = ("merged", "volume")

    def __init__(self) -> None:
        self.volume = Volume()
        self.merged = 0


class Forwarder:
    """What they have in common: asking, sending, counting.

    ``arriving`` and ``leaving`` are the sizes in which the segments of a run come and go; 0: of single datagrams.
    """

    __slots__ = ("_data_path", "_moved", "_passed", "_sender", "arriving", "channel", "leaving", "waiting")

    direction: ClassVar[Direction]
    merges: ClassVar[bool]  # whether ``relay_many`` may be asked

    def __init__(
        self,
        data_path: DataPath,
        channel: Channel,
        sender: PreparedSender,
        passed: Passed,
        waiting: Waiting,
        arriving: int,
        leaving: int,
    ) -> None:
        self.channel = channel
        self.waiting = waiting
        self.arriving = arriving
        self.leaving = leaving
        self._data_path = data_path
        self._sender = sender
        self._moved = channel.allocation.moved(self.direction)
        self._passed = passed

    def relay(self, data: memoryview, now: Instant) -> bool:
        """Relay what arrived; False if it has not gone."""
        raise NotImplementedError

    def relay_many(self, arrivals: Sequence[Arrival], now: Instant) -> bool:
        """Relay single datagrams of one size as one run; False if none of them has gone."""
        raise NotImplementedError

    def _send(self, datagram: Part, size: int, now: Instant) -> bool:
        """Send what has so many bytes of payload."""
        if not self._data_path.lets_pass(self.channel, self.direction, size, size, now):
            return False
        if not self._sender.send(datagram):
            self._data_path.returns_tokens(self.channel, self.direction, size)
            return False
        moved, passed = self._moved, self._passed.volume
        moved.packets += 1
        moved.size += size
        passed.packets += 1
        passed.size += size
        return True

    def _send_run(self, parts: Sequence[Part], size: int, segment: int, leaving: int, now: Instant) -> bool:
        """Send a run: ``segment`` bytes of payload a datagram, ``leaving`` bytes of what goes."""
        if not self._data_path.lets_pass(self.channel, self.direction, size, segment, now):
            return False
        if not self._sender.send_run(parts, leaving):
            self._data_path.returns_tokens(self.channel, self.direction, size)
            return False
        count = -(-size // segment)
        self._moved.add(count, size)
        self._passed.volume.add(count, size)
        self._passed.merged += count - 1
        return True


class DatagramsToPeer(Forwarder):
    """Single messages of a client, without their headers."""

    __slots__ = ()
    direction = Direction.TO_PEER
    merges = True

    def relay(self, data: memoryview, now: Instant) -> bool:
        _, size = HEADER.unpack_from(data)
        end = HEADER_BYTES + size
        return end <= len(data) <= end + MOST_PADDING and self._send(data[HEADER_BYTES:end], size, now)

    def relay_many(self, arrivals: Sequence[Arrival], now: Instant) -> bool:
        _, first = arrivals[0]
        _, length = HEADER.unpack_from(first)
        end = HEADER_BYTES + length
        if not HEADER_BYTES < end <= len(first) <= end + MOST_PADDING:
            return False
        payloads = [data[HEADER_BYTES:end] for _, data in arrivals if HEADER.unpack_from(data)[1] == length]
        return len(payloads) == len(arrivals) and self._send_run(payloads, length * len(payloads), length, length, now)


class DatagramsToClient(Forwarder):
    """Single datagrams of a peer, with headers."""

    __slots__ = ()
    direction = Direction.TO_CLIENT
    merges = True

    def relay(self, data: memoryview, now: Instant) -> bool:
        size = len(data)
        # One copy takes less than to send from two places.
        return self._send(HEADER.pack(self.channel.binding.number, size) + data, size, now)

    def relay_many(self, arrivals: Sequence[Arrival], now: Instant) -> bool:
        _, first = arrivals[0]
        length = len(first)
        header = HEADER.pack(self.channel.binding.number, length)
        parts = [part for _, data in arrivals for part in (header, data)]
        return length > 0 and self._send_run(parts, length * len(arrivals), length, HEADER_BYTES + length, now)


class RunsToPeer(Forwarder):
    """Runs of a client's messages, without their headers."""

    __slots__ = ()
    direction = Direction.TO_PEER
    merges = False

    def relay(self, data: memoryview, now: Instant) -> bool:
        payloads = strip_uniform(data, self.arriving, self.leaving, SCRATCH)
        return payloads is not None and self._send_run((payloads,), len(payloads), self.leaving, self.leaving, now)


class RunsToClient(Forwarder):
    """Runs of a peer's datagrams, with headers."""

    __slots__ = ()
    direction = Direction.TO_CLIENT
    merges = False

    def relay(self, data: memoryview, now: Instant) -> bool:
        framed, _ = frame(Run(data, self.arriving), self.channel.binding.number, SCRATCH)
        return self._send_run((framed,), len(data), self.arriving, self.leaving, now)
