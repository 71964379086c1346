"""A gateway's worker processes, from the core's side: descriptors, start, death, return, end.

The core binds all sockets and opens all queues, so it can read for a worker that does not run: at the start, and when
one has died. A worker's end of its link closes with its process, so a death is noticed at once; its peers are the
core's own until it is back, which it is after a second, or longer if it dies again soon.
"""

import asyncio
import json
import logging
import mmap
import os
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from functools import partial
from typing import Final, Protocol

from connectivity.data_path import messages
from connectivity.data_path.lending import Lending
from connectivity.data_path.messages import Message
from connectivity.data_path.shared import ROW_BYTES
from connectivity.data_path.worker_requests import WorkerRequests
from connectivity.errors import chain
from connectivity.io.tun import Tun
from connectivity.io.udp import UdpSocket
from connectivity.io.workers import steering
from connectivity.io.workers.link import Link, LinkError, pair
from connectivity.io.workers.process import Start

MAX_PEERS: Final = 4096  # whoever finds no place is the core's own; 192 bytes each
FIRST_RESTART_SECONDS: Final = 1.0
LAST_RESTART_SECONDS: Final = 60.0
_STOP_SECONDS: Final = 1.0
_MESSAGES_PER_TURN: Final = 256

log = logging.getLogger("connectivity.io")


class Reader(Protocol):
    """The driver of the core's own sockets."""

    def read_beside(self, sockets: Mapping[int, UdpSocket], tun: Tun) -> None:
        """Read the sockets and the queue of a worker that does not run, too."""

    def leave_beside(self, sockets: Mapping[int, UdpSocket], tun: Tun) -> None:
        """Read them no more: their worker does."""

    def call(self, function: Callable[..., object], *arguments: object) -> None:
        """Call this, and send what comes of it."""


@dataclass(slots=True)
class _Slot:
    """What is a worker's, whether it runs or not."""

    sockets: dict[int, UdpSocket]
    tun: Tun
    inbox: tuple[socket.socket, socket.socket]  # the worker's end, and that of the others
    process: subprocess.Popen[bytes] | None = None
    link: Link | None = None
    is_running: bool = False
    started_at: float = 0.0
    delay: float = FIRST_RESTART_SECONDS
    timer: asyncio.TimerHandle | None = None
    restarts: int = 0
    reason: str = ""


class Fleet:
    """All workers of a gateway. Made before the core, whose data path is ``lending``; started after the driver."""

    def __init__(self, count: int, *, native: str) -> None:
        """``native`` says whether the workers use the compiled helper."""
        self.count = count
        self._native = native
        self._memory = os.memfd_create("postern-workers", os.MFD_CLOEXEC)
        os.ftruncate(self._memory, MAX_PEERS * ROW_BYTES)
        owner = partial(steering.owner_of_connection, workers=count)
        self.lending = Lending(count, owner, memoryview(mmap.mmap(self._memory, 0)), self._tell)
        self.counts: Counter[str] = Counter()
        self._slots: list[_Slot] = []
        self._stopping = False

    @property
    def is_open(self) -> bool:
        """Whether there is everything for workers to start with."""
        return len(self._slots) == self.count

    def open(self, sockets: Mapping[int, UdpSocket], tun: Tun, bind: Callable[[int, int], UdpSocket]) -> None:
        """Bind and open what the workers are going to have; ``bind`` takes IP version and port.

        ``tun`` is the first queue, and the first worker's.

        Raises:
            OSError, FatalError: the kernel cannot do this.
        """
        bound = {
            version: steering.share(opened, self.count, partial(bind, version)) for version, opened in sockets.items()
        }
        for number in range(self.count):
            queue = tun if number == 0 else tun.add_queue()
            mine = {version: shared[number] for version, shared in bound.items()}
            self._slots.append(_Slot(mine, queue, pair(socket.SOCK_DGRAM)))

    def start(self, driver: Reader, requests: WorkerRequests, sockets: Mapping[int, UdpSocket], tun: Tun) -> None:
        """Start all workers. What they count is counted with what these sockets and this device count."""
        self._driver, self._requests, self._sockets, self._tun = driver, requests, sockets, tun
        self._loop = asyncio.get_running_loop()
        for number in range(self.count):
            self._read(number)
            self._launch(number)

    def stop(self) -> None:
        """Let all workers send what is left and end."""
        self._stopping = True
        for slot in self._slots:
            if slot.timer is not None:
                slot.timer.cancel()
            if slot.link is not None:
                self._loop.remove_reader(slot.link)
                self._loop.remove_writer(slot.link)
                self._last_words(slot.link)

    async def close(self) -> None:
        """Wait until they have ended, a second at most; then they are killed."""
        running = [slot.process for slot in self._slots if slot.process is not None]
        await asyncio.to_thread(_end, running)

    def leave(self) -> None:
        """Close everything that the workers had."""
        for slot in self._slots:
            if slot.link is not None:
                slot.link.close()
            for opened in slot.sockets.values():
                opened.close()
            if slot.tun is not self._slots[0].tun:
                slot.tun.close()
            for end in slot.inbox:
                end.close()
        os.close(self._memory)

    def counters(self) -> dict[str, int]:
        """What the workers did beyond what sockets and device count."""
        names = {name: self.counts[name] for name in messages.WORKER_COUNTS}
        running = sum(slot.is_running for slot in self._slots)
        return names | {
            "running": running,
            "restarts": sum(slot.restarts for slot in self._slots),
            "handed_over_by_core": self.lending.handed_over["datagrams"],
        }

    # One worker ----------------------------------------------------------------------------------------------------

    def _launch(self, number: int) -> None:
        slot = self._slots[number]
        slot.timer = None
        ours, theirs = pair(socket.SOCK_SEQPACKET)
        descriptors = [theirs.fileno(), self._memory, slot.inbox[0].fileno(), slot.tun.fileno()]
        others = [other.inbox[1].fileno() for other in self._slots]
        shared = [(opened.fileno(), opened.gso, opened.gro) for opened in slot.sockets.values()]
        start = Start(
            native=self._native,
            parent=os.getpid(),
            number=number,
            workers=self.count,
            link=theirs.fileno(),
            memory=self._memory,
            inbox=slot.inbox[0].fileno(),
            others=others,
            sockets=shared,
            tun=(slot.tun.fileno(), slot.tun.name, slot.tun.tso, slot.tun.uso),
        )
        slot.reason = "it ended without a word"
        try:
            slot.process = subprocess.Popen(
                [sys.executable, "-m", "connectivity.io.workers.process", json.dumps(asdict(start))],
                stdin=subprocess.DEVNULL,
                pass_fds=[*descriptors, *others, *(descriptor for descriptor, _, _ in shared)],
            )
        except OSError as error:
            ours.close()
            self._again(number, chain(error))
            return
        finally:
            theirs.close()
        slot.link, slot.started_at = Link(ours), time.monotonic()
        self._loop.add_reader(slot.link, self._driver.call, self._hear, number)

    def _hear(self, number: int) -> None:
        """What a worker says; called in the driver's guard, which sends what comes of it."""
        slot = self._slots[number]
        if slot.link is None:
            return
        errors: list[Exception] = []
        now, wall_now = time.monotonic_ns(), time.time_ns()
        try:
            for message in slot.link.receive(_MESSAGES_PER_TURN):
                match message:
                    case messages.Ready():
                        self._leave(number)
                        slot.is_running = True
                        self.lending.start(number)
                        self._tell(number, messages.Start())
                        log.info("Worker runs", extra={"fields": {"worker": number, "pid": self._pid(slot)}})
                    case messages.Failed(text):
                        slot.reason = text.decode(errors="replace")
                    case messages.Counted(part, values):
                        self._counted(part, values)
                    case _:
                        self._requests.handle(number, message, now, wall_now, errors)
        except (LinkError, messages.UnreadableError) as error:
            log.debug("Link ended", extra={"fields": {"worker": number, "error": chain(error)}})
            self._ended(number)
        self.counts["errors"] += len(errors)

    def _tell(self, number: int, message: Message) -> None:
        slot = self._slots[number]
        if slot.link is None:
            return
        try:
            slot.link.send(message)
        except LinkError as error:  # the end of its link is going to be read, or it has hung
            if slot.process is not None and slot.process.poll() is None:
                log.warning("Worker hangs", extra={"fields": {"worker": number, "error": chain(error)}})
                slot.process.kill()
            return
        if slot.link.backlogged and not self._stopping:
            self._loop.add_writer(slot.link, self._driver.call, self._flush, number)

    def _flush(self, number: int) -> None:
        slot = self._slots[number]
        if slot.link is None:
            return
        try:
            slot.link.flush()
        except LinkError:
            self._loop.remove_writer(slot.link)  # its end is read as well, and handled there
            return
        if not slot.link.backlogged:
            self._loop.remove_writer(slot.link)

    def _ended(self, number: int) -> None:
        """A worker is gone: the core carries on alone for it."""
        slot = self._slots[number]
        assert slot.link is not None, "it was read from"
        assert slot.process is not None, "it had a link"
        self._loop.remove_reader(slot.link)
        self._loop.remove_writer(slot.link)
        slot.link.close()
        slot.link = None
        if slot.process.poll() is None:
            slot.process.kill()  # it has closed its link, and nothing it sends now is wanted
        slot.process.wait()
        slot.process = None
        if slot.is_running:
            slot.is_running = False
            self.lending.end(number)
            self._read(number)
        if time.monotonic() - slot.started_at > LAST_RESTART_SECONDS:
            slot.delay = FIRST_RESTART_SECONDS
        self._again(number, slot.reason)

    def _again(self, number: int, reason: str) -> None:
        slot = self._slots[number]
        fields = {"worker": number, "reason": reason, "again_in_seconds": slot.delay}
        log.warning("A worker ended, this process carries its packets", extra={"fields": fields})
        slot.restarts += 1
        slot.timer = self._loop.call_later(slot.delay, self._driver.call, self._launch, number)
        slot.delay = min(slot.delay * 2, LAST_RESTART_SECONDS)

    def _read(self, number: int) -> None:
        slot = self._slots[number]
        self._driver.read_beside(slot.sockets, slot.tun)

    def _leave(self, number: int) -> None:
        slot = self._slots[number]
        self._driver.leave_beside(slot.sockets, slot.tun)

    def _counted(self, part: int, values: tuple[int, ...]) -> None:
        if part == messages.WORKER:
            self.counts.update(dict(zip(messages.WORKER_COUNTS, values, strict=True)))
            return
        counters = self._tun.counters if part == messages.TUN else self._sockets[part].counters
        for field, value in zip(fields(counters), values, strict=True):
            setattr(counters, field.name, getattr(counters, field.name) + value)

    def _last_words(self, link: Link) -> None:
        try:
            link.send(messages.Stop())
            link.flush()
        except LinkError as error:
            log.debug("A worker is gone already", extra={"fields": {"error": chain(error)}})

    @staticmethod
    def _pid(slot: _Slot) -> int:
        return 0 if slot.process is None else slot.process.pid


def _end(running: list[subprocess.Popen[bytes]]) -> None:
    """Processes that were told to."""
    deadline = time.monotonic() + _STOP_SECONDS
    for process in running:
        try:
            process.wait(max(deadline - time.monotonic(), 0))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
