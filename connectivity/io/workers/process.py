"""The process of one worker: sockets, a queue of the device and the link to the core around a ``Worker``.

The core starts it as a module with one argument, JSON: its number, how many there are, and the descriptors that it
inherits (``Start``). It ends when told to, with the link, or with the core's process; it has no signals of its own, for
a service manager sends them to all processes of a service and the core says goodbye first. It gives up its privileges,
for whatever takes one was done by the core.
"""

import contextlib
import ctypes
import json
import mmap
import os
import select
import signal
import socket
import sys
import time
from dataclasses import astuple, dataclass
from functools import partial
from typing import Any, Final

from connectivity import native
from connectivity.clock import SECOND, Instant
from connectivity.data_path import messages
from connectivity.data_path.messages import Message
from connectivity.data_path.worker import Worker
from connectivity.errors import chain
from connectivity.io.tun import Tun
from connectivity.io.udp import UdpSocket
from connectivity.io.workers.link import Link, LinkError
from connectivity.io.workers.steering import owner_of_connection
from connectivity.ip.flow import PacketRun
from connectivity.run import Transmit

# linux/prctl.h, linux/capability.h
_PR_SET_PDEATHSIG: Final = 1
_PR_SET_NO_NEW_PRIVS: Final = 38
_CAPABILITY_VERSION_3: Final = 0x20080522

_MESSAGES_PER_TURN: Final = 256
_RECEIVES_PER_TURN: Final = 8
_PACKETS_PER_TURN: Final = 100
_FLUSH_NS: Final = SECOND // 2
_REPORT_EVERY: Final = SECOND


@dataclass(frozen=True, slots=True)
class Start:
    """What a worker is started with; numbers are descriptors but for the first three."""

    native: str  # whether to use the compiled helper
    parent: int
    number: int
    workers: int
    link: int
    memory: int
    inbox: int
    others: list[int]  # where to hand over, by worker; one's own is not used
    sockets: list[tuple[int, bool, bool]]  # with GSO and GRO
    tun: tuple[int, str, bool, bool]  # its name, TSO and USO


class Process:
    """A worker's event loop, over epoll: what the core says is handled before anything else."""

    def __init__(self, start: Start) -> None:
        self._link = Link(socket.socket(fileno=start.link))
        self._inbox = Link(socket.socket(fileno=start.inbox))
        self._others = [Link(socket.socket(fileno=descriptor)) for descriptor in start.others]
        self._sockets: dict[int, UdpSocket] = {}
        for descriptor, gso, gro in start.sockets:
            bound = socket.socket(fileno=descriptor)
            self._sockets[4 if bound.family == socket.AF_INET else 6] = UdpSocket(bound, gso=gso, gro=gro)
        descriptor, name, tso, uso = start.tun
        self._tun = Tun(descriptor, name, tso=tso, uso=uso)
        memory = memoryview(mmap.mmap(start.memory, 0))
        now = time.monotonic_ns()
        self._worker = Worker(start.number, partial(owner_of_connection, workers=start.workers), memory, self, now)
        self._poll = select.epoll()
        for source in (self._link, self._inbox):
            self._poll.register(source, select.EPOLLIN)
        self._by_descriptor = {opened.fileno(): opened for opened in self._sockets.values()}
        self._reading = False
        self._reading_tun = False
        self._report_at = now + _REPORT_EVERY
        self._counted: list[tuple[int, ...]] = []
        self.count = self._worker.counts

    def run(self) -> None:
        """Read link, sockets and device until told to stop.

        Raises:
            LinkError: the core is gone.
        """
        self._link.send(messages.Ready())
        while not self._worker.stopped:
            self._turn()
        self._flush()

    # Outside of the worker -----------------------------------------------------------------------------------------

    def tell_core(self, message: Message) -> bool:
        """Send a message to the core; False if it was dropped for want of room (``Outside``)."""
        sent = self._link.send(message)
        if self._link.backlogged:
            self._poll.modify(self._link, select.EPOLLIN | select.EPOLLOUT)
        return sent

    def hand_over(self, worker: int, message: Message) -> bool:
        """Send a message to another worker; False if it was dropped for want of room."""
        return self._others[worker].send(message)

    def send(self, transmit: Transmit) -> None:
        """Send datagrams to the network; what the socket does not take waits in it."""
        opened = self._sockets.get(transmit.destination.ip.version)
        if opened is None:
            self.count["unsent"] += transmit.run.segment_count
            return
        error = opened.send(transmit)
        self.count["errors"] += error is not None
        if opened.backlogged and self._reading:
            self._poll.modify(opened, select.EPOLLIN | select.EPOLLOUT)

    def write(self, packets: PacketRun) -> None:
        """Write packets to this worker's queue of the TUN device."""
        self._tun.write(packets)

    # The loop ------------------------------------------------------------------------------------------------------

    def _turn(self) -> None:
        now = time.monotonic_ns()
        ready = dict(self._poll.poll(max((self._report_at - now) / SECOND, 0)))
        now = time.monotonic_ns()
        link_events = ready.pop(self._link.fileno(), 0)
        if link_events & select.EPOLLOUT:
            self._link.flush()
            if not self._link.backlogged:
                self._poll.modify(self._link, select.EPOLLIN)
        if link_events & ~select.EPOLLOUT:
            self._hear(self._link, now)
        if ready.pop(self._inbox.fileno(), 0):
            self._hear(self._inbox, now)
        for descriptor, events in ready.items():
            opened = self._by_descriptor.get(descriptor)
            if opened is None:
                self._read_tun(now)
            else:
                self._read_socket(opened, events, now)
        self._watch_tun(self._reading and not any(opened.backlogged for opened in self._sockets.values()))
        if now >= self._report_at:
            self._report_at = now + _REPORT_EVERY
            self._report(now)

    def _hear(self, link: Link, now: Instant) -> None:
        for message in link.receive(_MESSAGES_PER_TURN):
            self._worker.handle_message(message, now)
        if self._worker.running and not self._reading:
            self._reading = True
            for opened in self._sockets.values():
                self._poll.register(opened, select.EPOLLIN)

    def _read_socket(self, opened: UdpSocket, events: int, now: Instant) -> None:
        if events & select.EPOLLOUT:
            opened.flush()
            if not opened.backlogged:
                self._poll.modify(opened, select.EPOLLIN)
        if events & ~select.EPOLLOUT:
            for received in opened.receive(_RECEIVES_PER_TURN):
                self._worker.handle_datagrams(received, now)
        self.count["errors"] += len(opened.take_errors())

    def _read_tun(self, now: Instant) -> None:
        left = _PACKETS_PER_TURN
        while left > 0 and (batch := self._tun.read_batch(left)):
            left -= sum(packets.run.segment_count for packets in batch)
            self._worker.handle_batch(batch, now)
            if self._tun.is_drained:
                break
        self.count["errors"] += len(self._tun.take_errors())

    def _watch_tun(self, wanted: bool) -> None:
        """Nothing more is read from the host until the network took what there is."""
        if wanted and not self._reading_tun:
            self._poll.register(self._tun, select.EPOLLIN)
        elif self._reading_tun and not wanted:
            self._poll.unregister(self._tun)
        self._reading_tun = wanted

    def _report(self, now: Instant) -> None:
        self._worker.report(now)
        now_counted: list[tuple[int, ...]] = [astuple(opened.counters) for opened in self._sockets.values()]
        now_counted.append(astuple(self._tun.counters))
        before = self._counted or [(0,) * len(counted) for counted in now_counted]
        self._counted = now_counted
        parts = [*self._sockets, messages.TUN]
        for part, now_values, then in zip(parts, now_counted, before, strict=True):
            if now_values != then:
                deltas = tuple(value - earlier for value, earlier in zip(now_values, then, strict=True))
                self.tell_core(messages.Counted(part, deltas))
        if any(self.count.values()):
            counts = tuple(self.count.pop(name, 0) for name in messages.WORKER_COUNTS)
            self.tell_core(messages.Counted(messages.WORKER, counts))

    def _flush(self) -> None:
        """The goodbyes, above all."""
        deadline = time.monotonic_ns() + _FLUSH_NS
        while any(not opened.flush() for opened in self._sockets.values()) and time.monotonic_ns() < deadline:
            time.sleep(0.01)
        self._report(time.monotonic_ns())
        self._link.flush()


def main() -> None:
    """Run a worker."""
    given: dict[str, Any] = json.loads(sys.argv[1])
    start = Start(**given)
    _settle_down(start.parent)
    native.choose(start.native)
    link = Link(socket.socket(fileno=os.dup(start.link)))
    try:
        Process(start).run()
    except LinkError:
        pass  # the core is gone, and so are we
    except Exception as error:  # noqa: BLE001  # the outermost frame: the core tells of it
        with contextlib.suppress(LinkError):
            link.send(messages.Failed(f"{type(error).__name__}: {chain(error)}".encode()[:4096]))
        os._exit(1)
    os._exit(0)  # there is nothing to be taken down, and the core waits


def _settle_down(parent: int) -> None:
    """No signals of our own, no longer than the parent, no privileges."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)
    libc = ctypes.CDLL(None, use_errno=True)
    # Version and process, then effective, permitted and inheritable capabilities, each of 64 bits in two halves.
    libc.capset((ctypes.c_uint32 * 2)(_CAPABILITY_VERSION_3, 0), (ctypes.c_uint32 * 6)())
    libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        sys.exit(1)


if __name__ == "__main__":
    main()
