"""The core's side of a worker's messages: asks the core for verdicts, paths and channels, and takes reports in.

A verdict that lasts is told to the worker, and its packets go on there; anything else the core carries out itself, so
its order is kept by the core. Packets of the host for a lent peer come back to whose it is, sealed there.
"""

from collections.abc import Callable
from typing import Protocol

from connectivity.clock import Instant, WallTime
from connectivity.data_path import messages
from connectivity.data_path.data_path import forwarded
from connectivity.data_path.lending import REASONS, Lending
from connectivity.data_path.messages import Message
from connectivity.endpoint import Endpoint
from connectivity.flow_table import FlowTable, Key
from connectivity.ip.flow import PacketRun
from connectivity.run import Received, Transmit
from connectivity.verdict import Forward


class Asked(Protocol):
    """The core, as far as workers need it."""

    def handle_packets(self, packets: PacketRun, now: Instant, errors: list[Exception]) -> Transmit | None:
        """Packets of one flow of the host."""

    def handle_datagrams(
        self,
        received: Received,
        now: Instant,
        wall_now: WallTime,
        sink: Callable[[PacketRun], None],
        errors: list[Exception],
    ) -> bool:
        """Datagrams from the network."""

    def judge_inbound(self, peer_id: str, packets: PacketRun, now: Instant) -> Forward | None:
        """Packets of a flow of a peer; None: they were seen to."""

    def peer_stirred(self, index: int, now: Instant) -> None:
        """The connection wants to know."""

    def renew_path(self, index: int, now: Instant) -> None:
        """Say how to send to a peer."""

    def renew_channel(self, server: Endpoint, number: int, now: Instant) -> None:
        """Say whether this is a channel."""


class WorkerRequests:
    """Handles the messages of all workers; ``errors`` of a call join the batch's list."""

    def __init__(
        self,
        lending: Lending,
        core: Asked,
        flows: FlowTable,
        write: Callable[[PacketRun], None],
        send: Callable[[Transmit], None],
    ) -> None:
        self._lending = lending
        self._core = core
        self._flows = flows
        self._write = write
        self._send = send
        flows.forgotten = lending.forget
        flows.cleared = lending.forget_all

    def handle(self, worker: int, message: Message, now: Instant, wall_now: WallTime, errors: list[Exception]) -> None:
        """Handle one message of this worker."""
        match message:
            case messages.Question():
                taken = self._answer(worker, message, now, errors)
                if message.question:
                    self._lending.tell(worker, messages.Answer(message.question, taken))
            case messages.Datagrams(local, remote, tos, _, run):
                received = Received(local, remote, run, tos)
                self._core.handle_datagrams(received, now, wall_now, self._write, errors)
            case messages.Stirred(index, local_index, data):
                self._stirred(index, local_index, now, data=data)
            case messages.Renew(index):
                self._core.renew_path(index, now)
            case messages.RenewChannel(server, number):
                self._core.renew_channel(server, number, now)
            case messages.Used():
                self._used(message)
            case messages.Dropped(index, reason, count):
                peer = self._lending.peer(index)
                if peer is not None:
                    peer.drops[REASONS[reason]] += count
            case _:
                raise AssertionError(f"not for the core: {type(message).__name__}")

    def _answer(self, worker: int, asked: messages.Question, now: Instant, errors: list[Exception]) -> bool:
        """Whether the packets are seen to; else the worker goes on with them."""
        packets = PacketRun(asked.run, asked.key, asked.tos)
        if not asked.inbound:
            transmit = self._core.handle_packets(packets, now, errors)
            if transmit is not None:
                self._send(transmit)
            self._tell(worker, asked.key)
            return True
        peer = self._lending.peer(asked.peer)
        if peer is None:
            return True
        flow = self._core.judge_inbound(peer.peer_id, packets, now)
        if flow is None:
            return True
        if asked.question and self._tell(worker, (peer.peer_id, asked.key)):
            return False
        self._write(forwarded(packets, flow, asked.outer_tos, now))
        return True

    def _tell(self, worker: int, key: Key) -> bool:
        """Tell the worker the flow's verdict, if it forwards; False if the worker cannot go on by it."""
        flow = self._flows.get(key)
        return isinstance(flow, Forward) and self._lending.remember(worker, key, flow)

    def _stirred(self, index: int, local_index: int, now: Instant, *, data: bool) -> None:
        peer = self._lending.peer(index)
        if peer is None:
            return
        peer.mirror.take(peer.activity)
        peer.used(local_index)
        if data:
            peer.activity.last_data_at = now
        self._core.peer_stirred(index, now)

    def _used(self, used: messages.Used) -> None:
        peer = self._lending.peer(used.peer)
        if peer is None:
            return
        flow = self._flows.get((peer.peer_id, used.key) if used.inbound else used.key)
        translation = flow.translation if isinstance(flow, Forward) else None
        if translation is not None:
            translation.last_used = max(used.at, translation.last_used or 0)
            translation.tcp_flags |= used.tcp_flags
