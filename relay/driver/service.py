"""The relay's core with its sockets: bytes in, outputs out, one timer.

Nothing that a client, a peer or the system does ends it: their errors are counted. A defect of ours does, in words.
"""

import asyncio
import logging
import time
from collections.abc import Sequence
from typing import Final, assert_never

from connectivity.clock import Instant, WallTime
from connectivity.io.guard import Guard, Timer
from connectivity.io.receive_buffer import SLOTS, Arrival
from connectivity.io.udp import UdpSocket
from relay.core import (
    AllocationView,
    CloseRelayedPort,
    CloseStream,
    FiveTuple,
    IcmpError,
    InstallChannel,
    NoteChannel,
    OpenRelayedPort,
    Relayed,
    RemoveChannel,
    Server,
    SetBucket,
    ToClient,
    ToPeer,
    Transport,
)
from relay.core.own import NO_ADDRESSES
from relay.driver.fast_path import FastPath
from relay.driver.offload import FlowCount, Offload
from relay.driver.request_queue import RequestQueue
from relay.driver.sockets import MOST_ARRIVALS, RelaySockets
from relay.driver.streams import Streams
from relay.driver.tracing import Tracing

# Full batches that one listen socket may hand in before the others get their turn.
_BATCHES_PER_TURN: Final = 2
# On average: single datagrams rather than runs of them.
_SMALL_BYTES: Final = 4096
_MOST_INDIRECT: Final = 16
# Requests that others than clients may have answered before sockets are read again.
REQUESTS_PER_TURN: Final = 64
# ICMP errors that one socket may hand in before the others get their turn.
_ERRORS_PER_TURN: Final = 32

_log = logging.getLogger("relay")


class RelayService:
    """One core with its sockets. ``failed`` ends with an exception if the event loop's own work raised one."""

    def __init__(
        self,
        server: Server,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self.server = server
        self.on_host = NO_ADDRESSES  # what the host takes as its own, as it was found last
        self.sockets = RelaySockets(loop, on_listen=self._read_listen, on_relayed=self._read_relayed)
        self.streams = Streams(
            loop,
            on_data=self._read_stream,
            on_closed=self._stream_closed,
            has_allocation=server.has_allocation,
            admits=lambda source: server.admits_stream(source, time.monotonic_ns()),
        )
        self._fast_path = FastPath(server.data_path, self.sockets)
        self._requests = RequestQueue(server)
        self._answering: asyncio.Handle | None = None
        self.offload = Offload("not prepared yet")
        self.tracing: Tracing | None = None
        self._guard = Guard(loop)
        self._answers: list[ToClient] = []
        self._limits: dict[UdpSocket, int] = {}  # arrivals that are read from a listen socket at once
        self._idle: asyncio.Event | None = None
        self._loop = loop
        self._timer = Timer(loop, self._guard, self._wake)

    @property
    def failed(self) -> asyncio.Future[None]:
        """Ends with what ended the service, if that was a defect."""
        return self._guard.failed

    def start(self) -> None:
        """Begin to serve."""
        self.sockets.start()
        self.streams.start()

    async def drain(self) -> None:
        """Refuse new allocations; returns when none is left."""
        self.server.stop_allocating()
        self._idle = asyncio.Event()
        self._note_idle()
        await self._idle.wait()

    def settle(self, now: Instant) -> None:
        """Do all that the core asks for, then set the one timer; to be called after each change to the core."""
        self._drain(now)
        self._flush()
        self._timer.set(self.server.poll_timeout())

    async def maintain(self) -> None:
        """What is due every few seconds."""
        self.streams.maintain(time.monotonic_ns())
        await self.offload.maintain()

    def offloaded(self, view: AllocationView) -> FlowCount:
        """What the kernel has relayed so far for the channels that an allocation has now."""
        live = [self.offload.flow_counters(*flow) for flow in view.flows]
        return FlowCount(*map(sum, zip(FlowCount(), *live, strict=True)))

    def close(self) -> None:
        """Stop at once; clients learn from their time-outs."""
        self._timer.cancel()
        if self._answering is not None:
            self._answering.cancel()
        self._requests.clear()
        self.streams.close()
        self.sockets.close()
        self.offload.close()

    def _read_listen(self, readable: UdpSocket) -> None:
        with self._guard:
            now, wall_now = time.monotonic_ns(), time.time_ns()
            self._requests.begin_turn()
            for _ in range(_BATCHES_PER_TURN):
                limit, indirect = self._limits.get(readable, SLOTS), 0
                arrivals = readable.arrivals(limit)
                for arrival in self._fast_path.to_peers(readable, arrivals, now):
                    if self._requests.defers(readable, arrival, now):
                        continue
                    self._handle_client(readable, arrival, now, wall_now)
                    indirect += 1
                self._limits[readable] = _next_limit(limit, arrivals, indirect)
                if len(arrivals) < limit:
                    break
            if self._answering is None:
                self._answer_waiting(now, wall_now)
            self._flush()
            self._note_errors(readable)

    def _answer_waiting(self, now: Instant, wall_now: WallTime) -> None:
        """Some of the requests that wait; the others after all sockets had their turn."""
        left = REQUESTS_PER_TURN
        while left > 0:
            waiting = self._requests.take(now)
            if waiting is None:
                return
            left -= waiting.requests
            self._handle_client(waiting.readable, (waiting.envelope, memoryview(waiting.data)), now, wall_now)
        if self._requests:
            self._answering = self._loop.call_soon(self._go_on_answering)

    def _go_on_answering(self) -> None:
        self._answering = None
        with self._guard:
            self._answer_waiting(time.monotonic_ns(), time.time_ns())
            self._flush()

    def _handle_client(self, readable: UdpSocket, arrival: Arrival, now: Instant, wall_now: WallTime) -> None:
        received = readable.open(*arrival)
        if received is None:
            return
        for relayed in self.server.handle_client(received, now, wall_now):
            self._send(relayed)
        self._drain(now)
        envelope, _ = arrival
        self._fast_path.learn_to_peer(readable, envelope, received)
        self._requests.learn(readable, envelope, FiveTuple(received.remote, received.local))

    def _read_stream(self, five_tuple: FiveTuple, data: memoryview) -> None:
        with self._guard:
            now, wall_now = time.monotonic_ns(), time.time_ns()
            for relayed in self.server.handle_stream(five_tuple, data, now, wall_now):
                self._send(relayed)
            self._drain(now)
            self._flush()

    def _stream_closed(self, five_tuple: FiveTuple) -> None:
        with self._guard:
            now = time.monotonic_ns()
            self.server.stream_closed(five_tuple, now)
            self._drain(now)

    def _read_relayed(self, ready: list[tuple[int, UdpSocket]]) -> None:
        with self._guard:
            now = time.monotonic_ns()
            for port, readable, arrival in self._fast_path.to_clients(ready, now):
                if arrival is not None:
                    self._handle_peer(port, readable, arrival, now)
                else:  # something is in the error queue
                    self._handle_errors(port, readable, now)
            self.streams.flush()

    def _handle_errors(self, port: int, readable: UdpSocket, now: Instant) -> None:
        for error in self.sockets.icmp_errors(readable, _ERRORS_PER_TURN):
            for relayed in self.server.handle_icmp(port, IcmpError(*error), now):
                self._send(relayed)
        self._note_errors(readable)

    def _handle_peer(self, port: int, readable: UdpSocket, arrival: Arrival, now: Instant) -> None:
        received = readable.open(*arrival)
        if received is None:
            return
        for relayed in self.server.handle_peer(port, received, now):
            self._send(relayed)
        envelope, _ = arrival
        self._fast_path.learn_to_client(readable, port, envelope, received)

    def _wake(self) -> None:
        now = time.monotonic_ns()
        self.server.handle_timeout(now)
        self.settle(now)

    def _drain(self, now: Instant) -> None:
        """Do all that the core asks for, then set the one timer. Answers over UDP wait for ``_flush``."""
        if (output := self.server.poll_output()) is None:
            return
        while output is not None:
            match output:
                case ToClient(_, Transport.UDP):
                    self._answers.append(output)
                case ToClient():
                    self._send(output)
                case CloseStream(five_tuple):
                    self.streams.close_stream(five_tuple)
                case OpenRelayedPort():
                    self._open_relayed(output, now)
                case CloseRelayedPort(port, families):
                    self.sockets.close_relayed(port, families)
                    if self.tracing is not None:
                        self.tracing.closed(port, families)
                case SetBucket():
                    self.offload.set_bucket(output)
                case InstallChannel():
                    self.offload.install(output)
                    if self.tracing is not None:
                        self.tracing.relays(output)
                case RemoveChannel():
                    self.server.count_offloaded(output.five_tuple, *self.offload.remove(output))
                    if self.tracing is not None:
                        self.tracing.ends(output)
                case NoteChannel(relays=relays):
                    if self.tracing is not None:
                        (self.tracing.relays if relays else self.tracing.ends)(output)
                case _:
                    assert_never(output)
            output = self.server.poll_output()
        self._note_idle()
        self._timer.set(self.server.poll_timeout())

    def _open_relayed(self, output: OpenRelayedPort, now: Instant) -> None:
        opened = self.sockets.open_relayed(output.port, output.families)
        if not opened:
            self.server.relayed_port_failed(output.port, may_retry=opened is False)
            return
        self.server.relayed_port_opened(output.port, now)
        if self.tracing is not None:
            self.tracing.opened(output.port, output.families, self.server.allocation(output.port))

    def _note_idle(self) -> None:
        if self._idle is not None and not self.server.allocation_count:
            self._idle.set()

    def _send(self, relayed: Relayed) -> None:
        if isinstance(relayed, ToPeer):
            self.sockets.send_to_peer(*relayed)
            return
        transmit, transport = relayed
        if transport is Transport.UDP:
            self.sockets.send_to_client(transmit)
        elif transmit.source is not None:
            self.streams.send(FiveTuple(transmit.destination, transmit.source, transport), transmit.run.data)

    def _flush(self) -> None:
        """Send the answers of a turn in one go: whoever each of them wakes would get the processor in between."""
        for answer in self._answers:
            self._send(answer)
        self._answers.clear()
        self.streams.flush()

    def _note_errors(self, used: UdpSocket) -> None:
        for error in used.take_errors():
            _log.debug("Socket error", extra={"fields": {"error": error}})


def _next_limit(limit: int, arrivals: Sequence[Arrival], indirect: int) -> int:
    """How many to read next: the more small ones of channels are looked at together, the more of them leave together.

    Runs, and what goes through the core, would make a turn long.
    """
    if len(arrivals) < limit:
        return max(SLOTS, limit // 2)
    if indirect > _MOST_INDIRECT or sum(len(data) for _, data in arrivals) > _SMALL_BYTES * limit:
        return SLOTS
    return min(2 * limit, MOST_ARRIVALS)
