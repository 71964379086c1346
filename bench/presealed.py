"""Load from many clients that costs its sender next to nothing: sealed before the clock starts.

All clients are in this process, each a core of ours with a socket of its own in the client's namespace. They join the
portal and connect to the gateway as any client does; then datagrams to the resource are sealed in advance, their
counters rising, and sent in bursts, 48 a system call. At the resource they end in a socket that nobody reads: what the
kernel counts as lost there is what arrived.
"""

import asyncio
import os
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from socket import AF_INET, SO_RCVBUF, SOCK_DGRAM, SOL_SOCKET, socket
from typing import Final, TextIO, cast

from bench.scale_stage import BULK, run_of, udp
from client.core import ClientCore
from connectivity.endpoint import IPAddress
from connectivity.io.portal import PortalLink
from connectivity.io.tun import Tun
from connectivity.io.tunnel import TunnelDriver
from connectivity.io.udp import UdpSocket
from connectivity.ip.flow import PacketRun
from connectivity.phoenix.channel import MessageReceived
from connectivity.phoenix.login import SystemInfo, client_login, user_agent
from connectivity.run import Run, Transmit
from connectivity.tunnel import ConfigureTun, ReconnectPortal, SendToPortal
from connectivity.wireguard import KeyPair
from lab.errors import LabError
from lab.network import entered
from lab.plan import CLIENT, GATEWAY, RESOURCE
from lab.stack import API_URL, Stack

CLIENTS: Final = 64
BURST: Final = 48  # what a UDP length field can say of datagrams that carry 1,280 bytes each
_SETTLE_SECONDS: Final = 0.3
_POLL_SECONDS: Final = 0.01
_AHEAD: Final = 2000  # bursts under way at most: a sender that loses half of them takes the receiver's time
_TURN_SECONDS: Final = 0.002
_QUIET_SECONDS: Final = 1.0  # after which nothing more is on its way
_PATIENCE_SECONDS: Final = 60.0
_SINK_PORT: Final = 9


class _NoDevice:
    """In a TUN device's place: the host sends nothing, and what comes for it is nobody's."""

    def __init__(self) -> None:
        self._never = os.eventfd(0)

    def fileno(self) -> int:
        return self._never

    def read(self, _limit: int = 0) -> Iterator[PacketRun]:
        return iter(())

    def write(self, _packets: PacketRun) -> None:
        pass

    def write_packet(self, _packet: bytes) -> None:
        pass

    def take_errors(self) -> list[Exception]:
        return []

    def close(self) -> None:
        os.close(self._never)


class _Client:
    """One of the crowd; made where its namespace is entered and a loop runs."""

    def __init__(self, token: str, number: int) -> None:
        keys = KeyPair.generate(os.urandom)
        self._core = ClientCore(keys=keys, rng=os.urandom)
        self._device = _NoDevice()
        self.socket = UdpSocket.bind(CLIENT.address, 0)
        self.address: IPAddress | None = None
        login = client_login(
            API_URL,
            token=token,
            device_id=str(uuid.uuid4()),
            name=f"load-{number}",
            public_key=keys.public,
            user_agent=user_agent("headless-client", SystemInfo()),
        )
        self._link = PortalLink(login, "client", on_event=self._hear)
        self._driver = TunnelDriver(self._core, {4: self.socket}, cast(Tun, self._device), self._act)
        self._driver.start()
        self._running = asyncio.get_running_loop().create_task(self._link.run())

    @property
    def is_connected(self) -> bool:
        """Whether data goes straight to the gateway; asking for it is what makes it so."""
        if self.address is None:
            return False
        transmit = self._seal(1)
        return transmit is not None and transmit.destination.ip == GATEWAY.ipv4.ip

    def sealed(self) -> Transmit:
        """One burst to the resource, never sent before, and this one's own.

        Raises:
            LabError: the connection is gone.
        """
        transmit = self._seal(BURST)
        if transmit is None:
            raise LabError("a client of the load has no connection any more")
        source, destination, (data, size), tos = transmit
        return Transmit(source, destination, Run(memoryview(bytes(data)), size), tos)

    async def leave(self) -> None:
        self._driver.stop()
        await self._driver.say_goodbye()
        await self._driver.leave_relays()
        self._running.cancel()
        await asyncio.gather(self._running, return_exceptions=True)
        self.socket.close()
        self._device.close()

    def _seal(self, count: int) -> Transmit | None:
        packet = udp(self.address, RESOURCE.ipv4.ip, (5000, _SINK_PORT), size=BULK)  # type: ignore[arg-type]
        found: list[Transmit | None] = []
        self._driver.call(
            lambda: found.append(self._core.handle_packets(run_of(packet, count), time.monotonic_ns(), []))
        )
        return found[0]

    def _hear(self, event: object) -> None:
        if isinstance(event, MessageReceived):
            self._driver.handle_portal(event.event, event.payload)

    def _act(self, action: object) -> None:
        match action:
            case SendToPortal(event, payload):
                self._link.send(event, payload)
            case ConfigureTun(interface):
                self.address = interface.ipv4
            case ReconnectPortal():
                self._link.reconnect()
            case _:
                pass  # names, which nobody asks for here


@dataclass(frozen=True, slots=True)
class Arrived:
    """What came of a flood: packets a second as long as any arrived, of how many sent, and the receiver's CPU time."""

    per_second: float
    packets: int
    sent: int
    cpu_seconds: float


class _Arrivals:
    """Packets at the resource since this was made, and when the last of them was seen."""

    def __init__(self, errors: TextIO) -> None:
        self._errors = errors
        self._before = self._counted()
        self.packets = 0
        self.began = self.last = time.monotonic()

    def look(self) -> bool:
        """Whether more have arrived since the last look."""
        packets = self._counted() - self._before
        if packets == self.packets:
            return False
        self.packets, self.last = packets, time.monotonic()
        return True

    def silence(self) -> float:
        """Seconds since the last one."""
        return time.monotonic() - self.last

    def _counted(self) -> int:
        self._errors.seek(0)
        return lost_datagrams(self._errors.read())


class Load:
    """A connected crowd. ``errors`` are the counters of the resource's namespace, which stay open."""

    def __init__(self, clients: list[_Client], runner: asyncio.Runner, errors: TextIO) -> None:
        self._clients = clients
        self._runner = runner
        self._errors = errors

    def flood(self, bursts: int, cpu_seconds: Callable[[], float] = lambda: 0.0) -> Arrived:
        """Send so many bursts, or a few more, as fast as they are taken, by turns, and wait until no more arrive.

        ``cpu_seconds`` tells what the receiver has used so far; what it uses after the last packet does not count.
        """
        self._answer(_SETTLE_SECONDS)
        sealed: list[tuple[UdpSocket, Transmit]] = []
        while len(sealed) < bursts:
            sealed += [(client.socket, client.sealed()) for client in self._clients]
            self._answer(0)
        used_before = used = cpu_seconds()
        arrivals = _Arrivals(self._errors)
        for count, (opened, transmit) in enumerate(sealed):
            while (count - _AHEAD) * BURST > arrivals.packets and arrivals.silence() < _QUIET_SECONDS:
                time.sleep(_TURN_SECONDS)  # a second or two without an answer of the clients end no connection
                arrivals.look()
            opened.send(transmit)
            if opened.backlogged:
                opened.flush()
        while arrivals.silence() < (_QUIET_SECONDS if arrivals.packets else _PATIENCE_SECONDS):
            self._answer(_POLL_SECONDS)
            if arrivals.look():
                used = cpu_seconds()
        packets, seconds = arrivals.packets, max(arrivals.last - arrivals.began, _POLL_SECONDS)
        return Arrived(packets / seconds, packets, len(sealed) * BURST, used - used_before)

    def _answer(self, seconds: float) -> None:
        """The clients take in what comes for so long: who never answers has no connection for long."""
        self._runner.run(asyncio.sleep(seconds))


def lost_datagrams(snmp: str) -> int:
    """UDP's InErrors of ``/proc/net/snmp``: a line of names, a line of numbers."""
    names, numbers = (line.split() for line in snmp.splitlines() if line.startswith("Udp:"))
    return int(numbers[names.index("InErrors")])


@contextmanager
def presealed(stack: Stack, count: int = CLIENTS) -> Iterator[Load]:
    """So many clients beside the stack's own, connected.

    Raises:
        LabError: not all come to be in time.
    """
    lab = stack.lab
    with asyncio.Runner() as runner, ExitStack() as opened:
        with entered(lab.resource):
            sink = opened.enter_context(socket(AF_INET, SOCK_DGRAM))
            errors = opened.enter_context(Path("/proc/thread-self/net/snmp").open(encoding="ascii"))
            sink.setsockopt(SOL_SOCKET, SO_RCVBUF, 1)
            sink.bind((RESOURCE.address, _SINK_PORT))
        with entered(lab.client):
            clients = runner.run(_connect(stack.tokens.client, count))
        try:
            load = Load(clients, runner, errors)
            load.flood(len(clients))  # fills the socket that nobody reads
            yield load
        finally:
            runner.run(_leave(clients))


async def _connect(token: str, count: int) -> list[_Client]:
    clients = [_Client(token, number) for number in range(count)]
    until = time.monotonic() + _PATIENCE_SECONDS
    while waiting := [client for client in clients if not client.is_connected]:
        if time.monotonic() > until:
            await _leave(clients)
            raise LabError(f"{len(waiting)} of {count} clients of the load are not connected")
        await asyncio.sleep(0.1)
    return clients


async def _leave(clients: list[_Client]) -> None:
    for client in clients:
        await client.leave()
