"""Two relays that live through the same: the core alone, and the driver's own code with the core behind it.

The driver's sockets are scripts, full at times and with an MTU for segments.
"""

import asyncio
import errno
import os
import socket
import struct
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any, NamedTuple
from unittest.mock import patch

from connectivity.endpoint import Endpoint
from connectivity.io.receive_buffer import SLOTS
from connectivity.io.udp import UdpSocket
from connectivity.io.udp_options import IP_PKTINFO, UDP_GRO, UDP_SEGMENT, control_messages
from connectivity.run import Run, Transmit
from relay.core import Output, Quotas, Relayed, ToClient, ToPeer
from relay.driver import service as service_module
from relay.driver.service import RelayService
from tests.unit.connectivity.test_io_udp import ScriptedBuffer, ScriptedSocket, opened
from tests.unit.relay.playbook import SERVER4, RelayUnderTest

CLIENT = Endpoint.parse("203.0.113.5:51000")
STRANGER = Endpoint.parse("198.51.100.99:9")
OTHER_PEER = Endpoint.parse("198.51.100.8:5")


class Sent(NamedTuple):
    """One system call: from which port, what, with which control messages, whither."""

    port: int
    data: bytes
    control: Any
    to: tuple[str, int]


def sent_of(output: Relayed | Output) -> Iterator[Sent]:
    """What a driver without any short cut makes of an output."""
    if not isinstance(output, ToClient | ToPeer):
        return
    source, destination, (data, segment), tos = output.transmit
    port = SERVER4.port if isinstance(output, ToClient) else output.relayed_port
    control = control_messages(4, source, tos, segment if len(data) > segment else 0)
    yield Sent(port, bytes(data), control, (str(destination.ip), destination.port))


Line = tuple[int, tuple[str, int], bytes]


def seen(log: list[Sent]) -> dict[Line, list[tuple[bytes, Any]]]:
    """What each destination sees of it: datagrams in order, with what came with them. Runs are the sender's affair.

    What comes to a client by different channels has different senders, and they no order.
    """
    found: dict[Line, list[tuple[bytes, Any]]] = {}
    for port, data, control, to in log:
        segment = segment_of(control) or len(data)
        others = tuple(message for message in control if message[1] != UDP_SEGMENT)
        datagrams = [data[start : start + segment] for start in range(0, len(data), segment)] if segment else [b""]
        channel = data[:2] if port == SERVER4.port else b""
        found.setdefault((port, to, channel), []).extend((datagram, others) for datagram in datagrams)
    return found


def segment_of(control: Any) -> int:
    """The size of the segments that a send is cut into; 0 if it is one datagram."""
    return next((int.from_bytes(value, sys.byteorder) for _, kind, value in control if kind == UDP_SEGMENT), 0)


class Datagram(NamedTuple):
    """What arrives at a port of the relay; as a run of segments if they have a size."""

    sender: Endpoint
    data: bytes
    segment: int = 0
    tos: int = 0

    @property
    def incoming(self) -> tuple[bytes, list[tuple[int, int, bytes]], int, tuple[str, int]]:
        """As a kernel tells it."""
        control = [(socket.IPPROTO_IP, IP_PKTINFO, struct.pack("=i4s4s", 1, bytes(4), SERVER4.ip.packed))]
        if self.tos:
            control.append((socket.IPPROTO_IP, socket.IP_TOS, bytes((self.tos,))))
        if self.segment:
            control.append((socket.IPPROTO_UDP, UDP_GRO, struct.pack("=i", self.segment)))
        return self.data, control, 0, (str(self.sender.ip), self.sender.port)

    @property
    def run(self) -> Run:
        """As the core takes it."""
        return Run(memoryview(self.data), self.segment or len(self.data))


class Wire(ScriptedSocket):
    """The socket of one port, which writes into the log of all."""

    def __init__(self, port: int, log: list[Sent]) -> None:
        super().__init__()
        self.port, self.log = port, log
        self.longest = 65_535  # segment; single datagrams are fragmented
        self._descriptor = os.eventfd(0)

    def fileno(self) -> int:
        return self._descriptor

    def getsockname(self) -> tuple[str, int]:
        return "0.0.0.0", self.port

    def sendmsg(self, data: Any, control: Any, _: int, to: Any) -> int:
        if self.answers:
            raise OSError(self.answers.pop(), "scripted")
        sent = Sent(self.port, b"".join(map(bytes, data)), control, to)
        if segment_of(control) > self.longest:
            raise OSError(errno.EMSGSIZE, "scripted")
        assert len(sent.data) <= 65_507
        assert len(sent.data) <= 64 * (segment_of(control) or 65_507)
        self.log.append(sent)
        return len(self.log[-1].data)

    def close(self) -> None:
        os.close(self._descriptor)


@dataclass
class PlainRelay(RelayUnderTest):
    """The core alone."""

    log: list[Sent] = field(default_factory=list)

    def from_client(
        self, client: Endpoint, data: bytes | Run, *, tos: int = 0, server: Endpoint | None = None
    ) -> list[Relayed | Output]:
        outputs = super().from_client(client, data, tos=tos, server=server)
        self.log += [sent for output in outputs for sent in sent_of(output)]
        return outputs

    def feed(self, port: int, batch: list[Datagram]) -> None:
        """Datagrams that lie in the socket of a port."""
        for datagram in batch:
            if port == SERVER4.port:
                self.from_client(datagram.sender, datagram.run, tos=datagram.tos)
            else:
                outputs = self.from_peer(port, datagram.sender, datagram.run, tos=datagram.tos)
                self.log += [sent for output in outputs for sent in sent_of(output)]


@dataclass
class DrivenRelay(RelayUnderTest):
    """The relay's driver with the core behind it."""

    log: list[Sent] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.loop = asyncio.new_event_loop()
        self.service = RelayService(self.server, self.loop)
        self.service.sockets.listen([SERVER4])

    def from_client(
        self, client: Endpoint, data: bytes | Run, *, tos: int = 0, server: Endpoint | None = None
    ) -> list[Relayed | Output]:
        assert isinstance(data, bytes)
        local = server or SERVER4
        before = len(self.log)
        self.feed(local.port, [Datagram(client, data, tos=tos)])
        answers = [(sent.to, sent.data) for sent in self.log[before:] if sent.port == local.port]
        return [
            ToClient(Transmit(local, Endpoint.parse(f"{ip}:{port}"), Run.single(data))) for (ip, port), data in answers
        ]

    def feed(self, port: int, batch: list[Datagram]) -> None:
        """Datagrams that lie in the socket of a port. Who comes first takes the tokens: then channels do not mix."""
        together = [batch]
        if self.quotas != Quotas():
            together = [
                list(group)
                for _, group in groupby(
                    batch, lambda datagram: (datagram.sender, datagram.data[:2] if port == SERVER4.port else b"")
                )
            ]
        for each in together:
            self.read(port, each)

    def read(self, port: int, batch: list[Datagram]) -> None:
        """Let the driver read them at once."""
        sockets = self.service.sockets
        listening = sockets.listening(Endpoint(SERVER4.ip, port))
        readable = listening or sockets.relayed(port, 4)
        assert readable is not None
        wire: Any = readable._socket
        wire.incoming += [datagram.incoming for datagram in batch]
        while wire.incoming:
            if listening is not None:
                self.service._read_listen(readable)
            else:
                self.service._read_relayed([(port, readable)])
        for sender in self.senders():
            while sender.backlogged:
                sockets._flush(sender)
        assert not self.service.failed.done()

    def hinder(self, refusals: int, longest: int) -> None:
        """The next sends meet full sockets; longer segments are refused from now on."""
        for sender in self.senders():
            wire: Any = sender._socket
            wire.answers, wire.longest = [errno.EAGAIN] * refusals, longest

    def senders(self) -> list[UdpSocket]:
        """All sockets."""
        sockets = self.service.sockets
        return [*sockets._listening.values(), *sockets._relayed.values()]

    def drain(self) -> list[Output]:
        self.service.settle(self.now)
        return []

    def close(self) -> None:
        self.service.close()
        self.loop.close()


@contextmanager
def twins(slots: int = SLOTS) -> Iterator[tuple[PlainRelay, DrivenRelay]]:
    """Two relays in the same state; the clock of both is the test's."""
    log: list[Sent] = []
    driven: DrivenRelay

    def bind(_: Any, port: int, **__: Any) -> UdpSocket:
        wire = Wire(port, log)
        return opened(wire, buffer=ScriptedBuffer(wire, slots))

    class Clock:
        monotonic_ns = staticmethod(lambda: driven.now)
        time_ns = staticmethod(lambda: driven.wall_now)

    with (
        patch.object(service_module, "time", Clock),
        patch.object(UdpSocket, "bind", bind),
    ):
        driven = DrivenRelay(log=log)
        try:
            yield PlainRelay(), driven
        finally:
            driven.close()
