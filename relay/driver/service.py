"""The relay's event loop: bytes in, outputs out, one timer, one task for the portal.

Order of start: sockets, health, offload, then traffic, then the portal. What fails before traffic is fatal and in one
line; what fails after it costs at most what it was for: the portal may be away, an offload may go, a socket may refuse.

Order of end, on SIGTERM: leave the portal, so that it names other relays to clients; refuse new allocations; end when
the last one is gone or the time for it has passed. SIGINT, or a second SIGTERM, ends at once.
"""

import asyncio
import logging
import os
import time
from contextlib import AsyncExitStack
from typing import Any, Final, assert_never

from connectivity.clock import SECOND, Instant
from connectivity.endpoint import IPAddress
from connectivity.errors import chain
from connectivity.io.portal import PortalLink, read_system_info
from connectivity.io.udp import UdpSocket
from connectivity.phoenix import PortalLogin, relay_login, user_agent
from relay.core import (
    CloseRelayedPort,
    CloseStream,
    InstallChannel,
    OpenRelayedPort,
    Relayed,
    RemoveChannel,
    Server,
    SetBucket,
    ToClient,
    ToPeer,
)
from relay.driver.addresses import always_own_addresses, host_addresses
from relay.driver.health import Health
from relay.driver.metrics import render
from relay.driver.offload import Offload
from relay.driver.sockets import RelaySockets
from relay.driver.stopping import Stopping
from relay.settings import RelaySettings

# Long, because leaving would drop allocations that are in use; clients hear of other relays from their portal anyway.
PORTAL_PATIENCE_SECONDS: Final = 24 * 60 * 60
STAMP_SECRET_BYTES: Final = 32
# Runs that one socket may hand in before the others get their turn.
_RUNS_PER_TURN: Final = 32
_MAINTENANCE_SECONDS: Final = 5.0
_ADDRESSES_SECONDS: Final = 60.0
_CLOSE_SECONDS: Final = 0.5

_log = logging.getLogger("relay")


class RelayService:
    """One core with its sockets. ``failed`` ends with an exception if the event loop's own work raised one."""

    def __init__(self, server: Server, loop: asyncio.AbstractEventLoop) -> None:
        self.server = server
        self.sockets = RelaySockets(loop, on_listen=self._read_listen, on_relayed=self._read_relayed)
        self.offload = Offload(None, "not loaded yet")
        self.failed: asyncio.Future[None] = loop.create_future()
        self._idle: asyncio.Event | None = None
        self._loop = loop
        self._timer: asyncio.TimerHandle | None = None
        self._timer_deadline: Instant | None = None

    def metrics(self) -> str:
        """All counters in Prometheus' text format."""
        return render(self.server.statistics(), self.offload, self.sockets.counters)

    async def drain(self) -> None:
        """Refuse new allocations; returns when none is left."""
        self.server.stop_allocating()
        self._idle = asyncio.Event()
        self._note_idle()
        await self._idle.wait()

    def close(self) -> None:
        """Stop at once; clients learn from their time-outs."""
        if self._timer is not None:
            self._timer.cancel()
        self.sockets.close()
        self.offload.close()

    def _read_listen(self, readable: UdpSocket) -> None:
        try:
            now, wall_now = time.monotonic_ns(), time.time_ns()
            for received in readable.receive(_RUNS_PER_TURN):
                for relayed in self.server.handle_client(received, now, wall_now):
                    self._send(relayed)
                self._drain(now)
            self._note_errors(readable)
        except Exception as error:  # noqa: BLE001 - outermost frame: a defect of ours ends the service, in words
            self._fail(error)

    def _read_relayed(self, port: int, readable: UdpSocket) -> None:
        try:
            now = time.monotonic_ns()
            for received in readable.receive(_RUNS_PER_TURN):
                for relayed in self.server.handle_peer(port, received, now):
                    self._send(relayed)
            self._note_errors(readable)
        except Exception as error:  # noqa: BLE001 - outermost frame: a defect of ours ends the service, in words
            self._fail(error)

    def _wake(self) -> None:
        self._timer = None
        try:
            now = time.monotonic_ns()
            self.server.handle_timeout(now)
            self._drain(now)
            self._arm()  # also where nothing came out of it
        except Exception as error:  # noqa: BLE001 - outermost frame: a defect of ours ends the service, in words
            self._fail(error)

    def _drain(self, now: Instant) -> None:
        """Do all that the core asks for, then set the one timer."""
        if (output := self.server.poll_output()) is None:
            return
        while output is not None:
            match output:
                case ToClient(transmit):
                    self.sockets.send_to_client(transmit)
                case OpenRelayedPort(port, families):
                    opened = self.sockets.open_relayed(port, families)
                    if opened:
                        self.server.relayed_port_opened(port, now)
                    else:
                        self.server.relayed_port_failed(port, may_retry=opened is False)
                case CloseRelayedPort(port, families):
                    self.sockets.close_relayed(port, families)
                case InstallChannel():
                    self.offload.install(output)
                case RemoveChannel():
                    self.server.count_offloaded(output.five_tuple, *self.offload.remove(output))
                case SetBucket():
                    self.offload.set_bucket(output)
                case CloseStream():
                    pass  # no streams are served yet
                case _:
                    assert_never(output)
            output = self.server.poll_output()
        self._note_idle()
        self._arm()

    def _arm(self) -> None:
        deadline = self.server.poll_timeout()
        if deadline == self._timer_deadline and self._timer is not None:
            return
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._timer_deadline = deadline
        if deadline is not None:
            delay = max(0, deadline - time.monotonic_ns()) / SECOND
            self._timer = self._loop.call_later(delay, self._wake)

    def _note_idle(self) -> None:
        if self._idle is not None and not self.server.allocation_count:
            self._idle.set()

    def _send(self, relayed: Relayed) -> None:
        if isinstance(relayed, ToPeer):
            self.sockets.send_to_peer(relayed.relayed_port, relayed.transmit)
        else:
            self.sockets.send_to_client(relayed.transmit)

    def _note_errors(self, used: UdpSocket) -> None:
        for error in used.take_errors():
            _log.debug("Socket error", extra={"fields": {"error": error}})

    def _fail(self, error: Exception) -> None:
        if not self.failed.done():
            self.failed.set_exception(error)


async def serve(settings: RelaySettings, server: Server, stamp_secret: str) -> None:
    """Serve until a signal asks to stop.

    Raises:
        FatalError: what ended the relay otherwise.
    """
    loop = asyncio.get_running_loop()
    stopping = Stopping(loop)
    async with AsyncExitStack() as stack:
        service = RelayService(server, loop)
        stack.callback(service.close)
        service.sockets.listen(settings.public, settings.listen_port)
        link = PortalLink(
            _login(settings),
            "relay",
            {"stamp_secret": stamp_secret},
            max_partition_seconds=PORTAL_PATIENCE_SECONDS,
            on_event=lambda _event: None,  # the link logs; a relay acts on nothing that a portal says
        )
        health = Health(link, offload=lambda: service.offload.status(), metrics=service.metrics)
        await health.start(settings.health_address)
        stack.push_async_callback(health.close)
        service.offload = Offload.load(settings.offload, settings.public, settings.listen_port)
        service.sockets.start()
        health.serving = True
        _log.info("Serving", extra={"fields": {"port": settings.listen_port, "families": len(settings.public)}})
        background = [
            asyncio.ensure_future(work)
            for work in (link.run(), _maintain(service), _follow_addresses(service, always_own_addresses(settings)))
        ]
        try:
            await stopping.asked_or_failed({*background, service.failed})
            if settings.drain_seconds and not stopping.at_once.is_set():
                health.draining = True
                await _drain(service, link, stopping, {*background[1:], service.failed}, settings.drain_seconds)
            _log.info("Stopping", extra={"fields": {"allocations": server.allocation_count}})
        finally:
            for task in background:
                task.cancel()
            await asyncio.wait(background, timeout=_CLOSE_SECONDS)


async def _drain(
    service: RelayService, link: PortalLink, stopping: Stopping, needed: set[asyncio.Future[Any]], seconds: int
) -> None:
    """Let the clients go on until they have left, the time is up, or a signal says that it is enough."""
    _log.info("Draining", extra={"fields": {"allocations": service.server.allocation_count, "seconds": seconds}})

    async def leave_and_drain() -> None:
        await link.close()
        await service.drain()

    await stopping.finished_or_at_once(leave_and_drain(), needed, seconds)


async def _maintain(service: RelayService) -> None:
    while True:
        await asyncio.sleep(_MAINTENANCE_SECONDS)
        await service.offload.maintain()


async def _follow_addresses(service: RelayService, always: frozenset[IPAddress]) -> None:
    """A network that the host joins later must not open the host to clients."""
    while True:
        await asyncio.sleep(_ADDRESSES_SECONDS)
        try:
            found = await asyncio.to_thread(host_addresses)
        except OSError as error:
            _log.warning("Cannot read the host's addresses", extra={"fields": {"error": chain(error)}})
            continue
        service.server.handle_own_addresses(always | found)


def _login(settings: RelaySettings) -> PortalLogin:
    return relay_login(
        settings.api_url,
        token=settings.token,
        user_agent=user_agent("relay", read_system_info()),
        ipv4=settings.public_ipv4,
        ipv6=settings.public_ipv6,
        port=settings.listen_port,
        name=settings.name,
    )


def make_stamp_secret() -> str:
    """A secret for the life of this process: it is what makes reconnects keep all allocations."""
    return os.urandom(STAMP_SECRET_BYTES).hex()
