"""Runs a role's core: two UDP sockets, one TUN device, one timer, the portal's messages.

Each loop iteration of asyncio takes a bounded batch from every ready source, so no busy source starves another. The
drain law lives in ``_drain``: after any input the control path's output leaves, packets of the core itself go to the
host, and the timer is set again. Data that the core need not be asked about drains nothing and sets no timer: while it
flows, timers are looked at once a second, which every WireGuard timer allows.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from typing import Final

from connectivity.clock import SECOND
from connectivity.io.guard import Guard, Timer
from connectivity.io.refusals import Refusals
from connectivity.io.tun import Tun
from connectivity.io.udp import UdpSocket
from connectivity.io.wire_log import WireLog
from connectivity.ip.flow import PacketRun
from connectivity.portal.values import MessageError
from connectivity.run import Transmit
from connectivity.tunnel import TunnelCore

log = logging.getLogger("connectivity.io")

_RECEIVES_PER_TURN: Final = 8
_PACKETS_PER_TURN: Final = 100
_LATEST_WAKE_UP: Final = SECOND
_FLUSH_SECONDS: Final = 1.0


class TunnelDriver:
    """Owns sockets, device and timer of one core. ``act`` carries out what the core asks for beyond packets."""

    def __init__(
        self,
        core: TunnelCore,
        sockets: dict[int, UdpSocket],
        tun: Tun,
        act: Callable[[object], None],
        refusals: Refusals | None = None,
        *,
        reads_tun: bool = True,
    ) -> None:
        """``reads_tun`` False: others read the device, and this driver what it is told to (``read_beside``)."""
        self._core = core
        self._sockets = sockets
        self._tun = tun
        self._act = act
        self._refusals = refusals or Refusals()
        self._loop = asyncio.get_running_loop()
        self._guard = Guard(self._loop, self.stop)
        self._timer = Timer(self._loop, self._guard, self._timer_fired)
        self._queues = [tun] if reads_tun else []
        self._beside: dict[int, UdpSocket] = {}  # by descriptor; nothing is sent by them
        self._reading_tun = False
        self._may_be_backlogged = False  # some socket, since all of them were not
        self._asked = self._waiting = False  # in this turn of the device: the core was, packets are
        self._is_stopped = False
        self._firewall_hint_given = False
        self._wire: WireLog | None = None

    @property
    def failed(self) -> asyncio.Future[None]:
        """Ends with what ended the service, if that was a defect."""
        return self._guard.failed

    def start(self) -> None:
        """Begin to read."""
        self._read_sockets()
        self._read_tun(True)
        self._drain()

    def read_beside(self, sockets: Mapping[int, UdpSocket], tun: Tun) -> None:
        """Read these sockets and this queue, too: the worker that should does not run."""
        if self._is_stopped:
            return
        for socket in sockets.values():
            self._beside[socket.fileno()] = socket
            self._loop.add_reader(socket.fileno(), self._guarded, self._socket_readable, socket)
        self._queues.append(tun)
        if self._reading_tun:
            self._loop.add_reader(tun.fileno(), self._tun_readable, tun)

    def leave_beside(self, sockets: Mapping[int, UdpSocket], tun: Tun) -> None:
        """Read these no more: their worker does."""
        for socket in sockets.values():
            if self._beside.pop(socket.fileno(), None) is not None:
                self._loop.remove_reader(socket.fileno())
        if tun in self._queues:
            self._queues.remove(tun)
            self._loop.remove_reader(tun.fileno())

    def rebind(self, sockets: dict[int, UdpSocket]) -> None:
        """Go on with other sockets, all of them; the present ones are closed, and what they had not sent is lost.

        The core has been reset, so that nothing it holds rests on them.
        """
        if self._is_stopped:
            for socket in sockets.values():
                socket.close()
            return
        self._leave_sockets()
        for socket in self._sockets.values():
            socket.close()
        self._sockets.clear()  # the same dictionary: who counts what sockets do looks at it, too
        self._sockets.update(sockets)
        self._read_sockets()
        self._read_tun(True)  # what the old sockets could not send holds it back no more
        self._drain()

    def stop(self) -> None:
        """Stop reading, for good; sockets and device stay open."""
        self._is_stopped = True
        self._refusals.tell()
        self._leave_sockets()
        self._read_tun(False)
        for descriptor in self._beside:
            self._loop.remove_reader(descriptor)
        self._timer.cancel()

    async def say_goodbye(self) -> None:
        """Close every connection and push what is left to the network, for at most a second."""
        self._core.close(time.monotonic_ns())
        await self._flush()

    async def leave_relays(self) -> None:
        """Give back what the relays lend us, in the same way; nobody waits for their answers."""
        self._core.leave_relays(time.monotonic_ns())
        await self._flush()

    async def _flush(self) -> None:
        self._send_control()
        deadline = self._loop.time() + _FLUSH_SECONDS
        while self._backlogged() and self._loop.time() < deadline:
            for socket in self._sockets.values():
                socket.flush()
            await asyncio.sleep(0.01)

    def handle_portal(self, event: str, payload: object) -> None:
        """Hand a message of the portal to the core; one that cannot be read is a warning."""
        if self._is_stopped:  # who has said goodbye takes nobody on
            return
        try:
            self._core.handle_portal(event, payload, time.monotonic_ns(), time.time_ns())
        except MessageError as error:
            log.warning("Ignoring portal message", extra={"fields": {"event": event, "reason": str(error)}})
        self._drain()

    def call(self, function: Callable[..., object], *arguments: object) -> None:
        """Call a method of the core and send what comes of it."""
        if self._is_stopped:
            return
        with self._guard:
            function(*arguments)
            self._drain()

    def trace(self, wire: WireLog | None) -> None:
        """Log all that passes from now on, or nothing of it."""
        self._wire = wire

    def fail(self, error: Exception) -> None:
        """Stop, and give this reason to whoever waits for ``failed``."""
        self._guard.fail(error)

    # Inputs --------------------------------------------------------------------------------------------------------

    def _guarded(self, handler: Callable[[UdpSocket], None], socket: UdpSocket) -> None:
        with self._guard:
            handler(socket)

    def _read_sockets(self) -> None:
        for socket in self._sockets.values():
            self._loop.add_reader(socket.fileno(), self._guarded, self._socket_readable, socket)

    def _leave_sockets(self) -> None:
        for socket in self._sockets.values():
            self._loop.remove_reader(socket.fileno())
            self._loop.remove_writer(socket.fileno())

    def _socket_readable(self, socket: UdpSocket) -> None:
        errors: list[Exception] = []
        now, wall_now = time.monotonic_ns(), time.time_ns()
        core, tun, wire = self._core, self._tun, self._wire
        sink = tun.write if wire is None else self._traced_write
        busy = False
        for received in socket.receive(_RECEIVES_PER_TURN):
            if wire is not None:
                wire.received(received)
            busy |= core.handle_datagrams(received, now, wall_now, sink, errors)
        errors += socket.take_errors()
        errors += tun.take_errors()
        if busy:
            self._drain(now)
        if errors:
            self._report(errors)

    def _tun_readable(self, tun: Tun) -> None:
        now = time.monotonic_ns()
        self._asked, self._waiting = False, False
        with self._guard:
            left = _PACKETS_PER_TURN
            while left > 0 and (batch := tun.read_batch(left)):
                for packets in batch:
                    left -= packets.run.segment_count
                    if self._wire is not None:
                        self._wire.from_host(packets)
                self._core.handle_batch(batch, now, self.send, self._ask)
                if tun.is_drained:
                    break
            errors = tun.take_errors()
            if self._asked:
                self._drain(None if self._waiting else now)  # what waits may want a handshake at once
            if errors:
                self._report(errors)
            if self._backlogged():  # push back: read nothing more from the host until the network took what there is
                self._read_tun(False)

    def _ask(self, packets: PacketRun) -> None:
        """Packets of the host about which the core has to be asked."""
        errors: list[Exception] = []
        self._asked = True
        transmit = self._core.handle_packets(packets, time.monotonic_ns(), errors)
        if transmit is not None:
            self.send(transmit)
        else:
            self._waiting = True
            self._write_to_host()
            self._send_control()  # a channel may have been asked for: its request goes ahead of its data
        if errors:
            self._report(errors)

    def _timer_fired(self) -> None:
        now = time.monotonic_ns()
        self._core.handle_timeout(now, time.time_ns())
        self._refusals.tell(now)
        self._drain()

    def _socket_writable(self, socket: UdpSocket) -> None:
        socket.flush()
        if not socket.backlogged:
            self._loop.remove_writer(socket.fileno())
        if not self._backlogged():
            self._may_be_backlogged = False
            self._read_tun(True)

    # Outputs -------------------------------------------------------------------------------------------------------

    def _drain(self, now: int | None = None) -> None:
        """Send the control path's output, act, and set the timer if something other than data happened."""
        busy = self._send_control() or now is None
        self._write_to_host()
        while (action := self._core.poll_action()) is not None:
            busy = True
            self._act(action)
        if busy or not self._timer.is_set:
            self._arm(time.monotonic_ns())

    def _write_to_host(self) -> None:
        """Write what the core itself has for the host."""
        while (packet := self._core.poll_host_packet()) is not None:
            if self._wire is not None:
                self._wire.own_to_host(packet)
            self._tun.write_packet(packet)

    def write(self, packets: PacketRun) -> None:
        """Give packets to the host."""
        (self._tun.write if self._wire is None else self._traced_write)(packets)

    def _traced_write(self, packets: PacketRun) -> None:
        if self._wire is not None:
            self._wire.to_host(packets)
        self._tun.write(packets)

    def _send_control(self) -> bool:
        """Send what the core itself wants sent; whether there was anything."""
        found = False
        while (transmit := self._core.poll_transmit()) is not None:
            found = True
            self.send(transmit)
        return found

    def _arm(self, now: int) -> None:
        due = self._core.poll_timeout()
        due = now + _LATEST_WAKE_UP if due is None else min(due, now + _LATEST_WAKE_UP)
        self._timer.set(due)

    def send(self, transmit: Transmit) -> None:
        """Send to the network, or keep a copy until the socket is writable."""
        socket = self._sockets.get(transmit.destination.ip.version)
        if socket is None:
            log.debug("No socket for this family", extra={"fields": {"destination": str(transmit.destination)}})
            return
        if self._wire is not None:
            self._wire.sent(transmit)
        error = socket.send(transmit)
        if error is not None:
            self._report([error])
        if not socket.backlogged:
            return
        self._may_be_backlogged = True
        if not self._is_stopped:
            self._loop.add_writer(socket.fileno(), self._guarded, self._socket_writable, socket)

    def _backlogged(self) -> bool:
        return self._may_be_backlogged and any(socket.backlogged for socket in self._sockets.values())

    def _read_tun(self, wanted: bool) -> None:
        for queue in self._queues if wanted is not self._reading_tun else ():
            if wanted:
                self._loop.add_reader(queue.fileno(), self._tun_readable, queue)
            else:
                self._loop.remove_reader(queue.fileno())
        self._reading_tun = wanted

    def _report(self, errors: list[Exception]) -> None:
        """Every error of a batch is looked at and counted."""
        now = time.monotonic_ns()
        for error in errors:
            if isinstance(error, PermissionError) and error.errno is not None:
                if not self._firewall_hint_given:
                    self._firewall_hint_given = True
                    log.info("Sending was not permitted: check the firewall for outbound UDP")
                self._refusals.counts["eperm"] += 1
            else:
                self._refusals.note(error, now)
