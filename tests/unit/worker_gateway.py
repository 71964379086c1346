"""A gateway with workers in one process, without IO: each message goes through its bytes, in the order of its queue.

The kernel's part is played, too: datagrams go to the slot that the BPF program chooses, packets of the host to the next
queue in turn, so mostly to a wrong one. It stands in for a ``GatewayCore`` in the tests' ``World``.
"""

from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any

from connectivity.data_path import messages
from connectivity.data_path.lending import Lending
from connectivity.data_path.messages import Message
from connectivity.data_path.shared import ROW_BYTES
from connectivity.data_path.worker import Worker
from connectivity.data_path.worker_requests import WorkerRequests
from connectivity.io.workers import steering
from connectivity.ip.flow import PacketRun
from connectivity.run import Received, Transmit, owned
from gateway.core import GatewayCore
from tests.unit.connectivity.test_workers_steering import run

SLOTS = 64


class Queues:
    """What one worker says and hears."""

    def __init__(self, gateway: "WorkerGateway") -> None:
        self.gateway = gateway
        self.inbox: deque[bytes] = deque()
        self.outbox: deque[bytes] = deque()

    def tell_core(self, message: Message) -> bool:
        self.outbox.append(messages.encode(message))
        return True

    def hand_over(self, worker: int, message: Message) -> bool:
        self.gateway.queues[worker].inbox.append(messages.encode(message))
        return True

    def send(self, transmit: Transmit) -> None:
        self.gateway.transmits.append(owned(transmit))

    def write(self, packets: PacketRun) -> None:
        self.gateway.host_packets += [bytes(segment) for segment in packets.run.segments()]


class WorkerGateway(GatewayCore):
    """A gateway core whose packets are carried by workers."""

    worker_count = 2

    def __init__(self, *, keys: Any, rng: Callable[[int], bytes], now: int) -> None:
        count = self.worker_count
        self.queues = [Queues(self) for _ in range(count)]
        self.transmits: deque[Transmit] = deque()
        self.host_packets: deque[bytes] = deque()
        self.memory = memoryview(bytearray(SLOTS * ROW_BYTES))
        owner = partial(_owner, count)
        self.lending = Lending(count, owner, self.memory, self._tell)
        super().__init__(keys=keys, rng=rng, now=now, data_path=self.lending)
        self.requests = WorkerRequests(
            self.lending,
            super_of(self),
            self._tunnel.flows,
            self._write,
            lambda sent: self.transmits.append(owned(sent)),
        )
        self.program = steering.program(count)
        self.workers: list[Worker | None] = [None] * count
        self.turn = 0
        self.now = now
        self.wall_now = 0
        for number in range(count):
            self.revive(number)

    def revive(self, number: int) -> None:
        """A worker starts, with nothing."""
        self.queues[number] = queues = Queues(self)
        self.workers[number] = Worker(number, partial(_owner, self.worker_count), self.memory, queues, self.now)
        self.lending.start(number)

    def kill(self, number: int) -> None:
        """A worker is gone, with all that it had been told and had not said."""
        self.workers[number] = None
        self.queues[number] = Queues(self)
        self.lending.end(number)

    def handle_datagrams(self, received: Received, now: int, wall_now: int, sink: Any, errors: list[Exception]) -> bool:
        del sink  # what a worker writes comes with the core's own packets, in their order
        self.now, self.wall_now = now, wall_now
        self._settle(errors)  # what the core says comes first
        slot = run(self.program, bytes(received.run.data[:16]))
        worker = self.workers[slot - 1] if slot else None
        if worker is None:
            super().handle_datagrams(received, now, wall_now, self._write, errors)
        else:
            worker.handle_datagrams(received, now)
        self._settle(errors)
        return True

    def handle_packets(self, packets: PacketRun, now: int, errors: list[Exception]) -> Transmit | None:
        self.now = now
        self._settle(errors)
        self.turn += 1
        worker = self.workers[self.turn % self.worker_count]
        transmit = None
        if worker is None:
            transmit = super().handle_packets(packets, now, errors)
        else:
            worker.handle_packets(packets, now)
        self._settle(errors)
        return transmit

    def handle_timeout(self, now: int, wall_now: int) -> None:
        self.now, self.wall_now = now, wall_now
        for worker in self.workers:
            if worker is not None:
                worker.report(now)
        errors: list[Exception] = []
        self._settle(errors)
        super().handle_timeout(now, wall_now)
        self._settle(errors)
        assert not errors

    def poll_transmit(self) -> Transmit | None:
        self._settle([])
        return self.transmits.popleft() if self.transmits else super().poll_transmit()

    def poll_host_packet(self) -> bytes | None:
        self._settle([])
        return self.host_packets.popleft() if self.host_packets else super().poll_host_packet()

    def _tell(self, worker: int, message: Message) -> None:
        self.queues[worker].inbox.append(messages.encode(message))

    def _write(self, packets: PacketRun) -> None:
        self.host_packets += [bytes(segment) for segment in packets.run.segments()]

    def _send(self, transmit: Transmit) -> None:
        self.transmits.append(owned(transmit))

    def _settle(self, errors: list[Exception]) -> None:
        """Until nobody has anything to say."""
        busy = True
        while busy:
            busy = False
            for number, queues in enumerate(self.queues):
                worker = self.workers[number]
                while worker is not None and queues.inbox:
                    busy = True
                    worker.handle_message(messages.decode(memoryview(bytearray(queues.inbox.popleft()))), self.now)
                while queues.outbox:
                    busy = True
                    said = messages.decode(memoryview(bytearray(queues.outbox.popleft())))
                    self.requests.handle(number, said, self.now, self.wall_now, errors)


class super_of:  # reads as what it is
    """A gateway's own core, without the workers around it."""

    def __init__(self, gateway: WorkerGateway) -> None:
        self._gateway = gateway

    def __getattr__(self, name: str) -> Any:
        return partial(getattr(GatewayCore, name), self._gateway)


def _owner(count: int, index: int) -> int:
    return steering.owner(index << 8, count)
