"""The shell around client and gateway: settings, portal link, TUN device, signals, an orderly end.

Start: settings → sockets → device → portal, or the portal first, where a process begins by asking it (``io.opening``).
The device gets its addresses with the portal's first ``init``, which waits for all the rest. End:
stop reading, say goodbye through the tunnels (at most a second), leave the portal, take device and rules away. A fatal
error ends the same way and is then reported.
"""

import asyncio
import logging
import os
import signal
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

from aiohttp import web

from connectivity import native
from connectivity.errors import chain
from connectivity.io import (
    extension,
    logs,
    process_metrics,
    service_manager,
    status_document,
    tunnel_metrics,
    wire_log,
)
from connectivity.io.buffers import raise_limits
from connectivity.io.device import ConfiguredDevice
from connectivity.io.extension import Extension, ExtensionHost, NoExtension
from connectivity.io.local_socket import LocalServer
from connectivity.io.metric import Metric
from connectivity.io.metric_export import serve_metrics
from connectivity.io.metrics import Sources, counters, exporting, read
from connectivity.io.opening import Opening, heed_signals, settle
from connectivity.io.peer_log import PeerLog
from connectivity.io.portal import Disconnected, PortalLink
from connectivity.io.status import serve
from connectivity.io.status_document import Identity, PortalState
from connectivity.io.status_socket import SOCKET_NAME
from connectivity.io.tracing import Journeys, Spans, exporting_traces
from connectivity.io.tunnel import TunnelDriver
from connectivity.io.tunnel_settings import TunnelSettings
from connectivity.io.tunnel_sockets import bind_sockets
from connectivity.io.udp import UdpSocket
from connectivity.io.udp_options import SOCKET_MARK
from connectivity.io.workers.device import open_device
from connectivity.milestones import Milestone
from connectivity.phoenix.channel import Joined, MessageReceived
from connectivity.phoenix.login import PortalLogin
from connectivity.tunnel import ConfigureTun, ReconnectPortal, SendToPortal, TunnelCore
from connectivity.wireguard import KeyPair

if TYPE_CHECKING:
    from connectivity.io.roam import Roaming
    from connectivity.io.workers.fleet import Fleet

log = logging.getLogger("connectivity.io")

DEVICE: Final = "tun-firezone"


@dataclass(frozen=True, slots=True)
class Role:
    """What makes a client a client and a gateway a gateway."""

    topic: str
    make_core: Callable[..., TunnelCore]  # of keys and the time
    make_login: Callable[[TunnelSettings, KeyPair], PortalLogin]
    peer_field: str  # "gid" or "cid"
    max_partition_seconds: float | None
    on_configured: Callable[[ConfigureTun], None] | None = None
    make_extension: Callable[[ExtensionHost], Extension] | None = None
    roams: bool = False  # begins anew where the network is another one, and on SIGHUP
    stays: bool = True  # else the run ends once the device is configured
    workers: int = 1  # processes that carry packets; with more than one, ``make_core`` is given their data path, too


async def run_tunnel(
    settings: TunnelSettings, role: Role, stop: asyncio.Event | None = None, opening: Opening | None = None
) -> None:
    """Serve until ``stop`` is set, where that is given: then the process with its signals is somebody else's.

    Without it, serve until a signal. ``opening`` is a link that dials already.
    Either way, this returns or raises after the goodbye.

    Raises:
        FatalError, PortalFatal: what ended the service before.
    """
    owns_process = stop is None
    if stop is None:
        stop = heed_signals() if opening is None else opening.stop
    if settings.raise_limits:
        raise_limits()
    native.choose(settings.native)
    keys = KeyPair.generate(os.urandom) if opening is None else opening.keys
    workers = None
    if role.workers > 1:
        from connectivity.io.workers.fleet import Fleet

        workers = Fleet(role.workers, native=settings.native)
    shared = () if workers is None else (workers.lending,)
    core = role.make_core(keys, time.monotonic_ns(), *shared)
    login = role.make_login(settings, keys) if opening is None else opening.login
    sockets = _bind(settings)
    try:
        with open_device(DEVICE, settings, sockets, workers) as tun:
            sources = Sources(
                sockets,
                tun,
                core.statistics,
                extension=lambda: service.counters(),
                others=lambda: service.metrics(),
            )
            service = _Service(
                settings, role, core, sources, login, stop, owns_process=owns_process, workers=workers, opening=opening
            )
            tun.hold()
            reads_tun = workers is None or not workers.is_open
            driver = TunnelDriver(core, sockets, tun, service.act, sources.refusals, reads_tun=reads_tun)
            service.extend(driver)
            traces = exporting_traces(settings.telemetry, role.topic)
            with exporting(settings.metrics, sources, role.topic, login), traces as spans:
                service.tell_of_peers(spans)
                try:
                    await service.run(driver)
                finally:
                    service.device.leave_host()
    finally:
        for opened in sockets.values():
            opened.close()


def _bind(settings: TunnelSettings, previous: Mapping[int, UdpSocket] = MappingProxyType({})) -> dict[int, UdpSocket]:
    return bind_sockets(
        offloads=settings.udp_offloads,
        send_buffer_bytes=settings.send_buffer_bytes,
        receive_buffer_bytes=settings.receive_buffer_bytes,
        previous=previous,
    )


class _Service:
    """A client or gateway that runs: its driver, portal link, device and extension."""

    driver: TunnelDriver
    extension: Extension
    roaming: "Roaming | None" = None

    def __init__(
        self,
        settings: TunnelSettings,
        role: Role,
        core: TunnelCore,
        sources: Sources,
        login: PortalLogin,
        stop: asyncio.Event,
        *,
        owns_process: bool,
        workers: "Fleet | None" = None,
        opening: Opening | None = None,
    ) -> None:
        self._settings = settings
        self._workers = workers
        self._role = role
        self._core = core
        self._sources = sources
        self._tun = sources.tun
        self._opening = opening
        self._link = (
            opening.link
            if opening is not None
            else PortalLink(
                login,
                role.topic,
                mark=SOCKET_MARK,
                max_partition_seconds=role.max_partition_seconds,
                on_event=self._portal_event,
            )
        )
        self._identity = Identity(
            service=role.topic,
            peer_field=role.peer_field,
            name=settings.name,
            device_id=dict(login.parameters)["external_id"],
            portal_url=f"{login.scheme}://{login.host}:{login.port}",
        )
        self._portal = PortalState(since=time.monotonic_ns())
        self._local = LocalServer(SOCKET_NAME, [web.get("/status", self._show_status)], self._set_filter)
        self.device = ConfiguredDevice(self._tun.name, configured=self._device_configured, fail=self._fail)
        self._owns_process = owns_process
        self._stop = stop
        self._failed: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def extend(self, driver: TunnelDriver) -> None:
        """Take the driver, and make what the role adds to it."""
        self.driver = driver
        driver.trace(wire_log.active())
        make = self._role.make_extension
        given = ExtensionHost(self._core, driver.call, driver.fail, SOCKET_MARK, self._tun.name)
        self.extension = NoExtension() if make is None else make(given)
        if self._role.roams:
            from connectivity.io.roam import Roaming

            self.roaming = Roaming(
                core=self._core,
                driver=driver,
                link=self._link,
                extension=self.extension,
                make_login=partial(self._role.make_login, self._settings),
                bind=partial(_bind, self._settings, self._sources.sockets),
            )

    def tell_of_peers(self, spans: Spans | None) -> None:
        """Lines for people about who comes and goes; spans where they are wanted."""
        tell = PeerLog(self._settings.name, self._role.peer_field).tell
        if spans is None:
            self._core.listen(tell)
            return
        is_client = self._role.peer_field == "gid"
        journeys = Journeys(spans, lambda: self._core.public_key, is_client=is_client)

        def tell_both(milestone: Milestone) -> None:
            tell(milestone)
            journeys.tell(milestone)

        self._core.listen(tell_both)

    async def run(self, driver: TunnelDriver) -> None:
        if self._owns_process:
            asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, self._switch_wire_log)
        status = self._settings.status_address
        shown = []
        if status is not None:
            shown.append(await serve(status, self._status, ready=lambda: self.device.configuration is not None))
        if self._settings.metrics_address is not None:
            address = self._settings.metrics_address
            shown.append(await serve_metrics(address, lambda: read(self._sources), self.device.addresses))
        stopped = asyncio.ensure_future(self._stop.wait())
        link: asyncio.Future[None] | None = None
        try:
            await self._local.start(self._settings.status_socket)
            await self.extension.start()
            link = self._reach_portal()
            driver.start()
            self._start_workers(driver)
            if self.roaming is not None:
                self.roaming.start(by_hand=self._owns_process)
            watched: set[asyncio.Future[Any]] = {link, stopped, driver.failed, self._failed}
            try:
                done, _ = await asyncio.wait(watched, return_when=asyncio.FIRST_COMPLETED)
            finally:  # whoever embeds us may cancel, too
                await self._say_goodbye(driver)
                await self.device.settle()
            for future in done:
                future.result()  # what ended us, if it was not a signal
        finally:
            stopped.cancel()
            settled = [] if link is None else [settle(self._link, link)]
            settled += [] if self._workers is None else [self._workers.close()]
            await asyncio.gather(*settled, extension.close(self.extension))
            await self._local.close()
            for server in shown:
                await server.close()
        log.info("Goodbye!")

    def _reach_portal(self) -> "asyncio.Future[None]":
        if self._opening is None:
            return asyncio.ensure_future(self._link.run())
        self._link.hear(self._portal_event)
        return self._opening.running

    def _start_workers(self, driver: TunnelDriver) -> None:
        if self._workers is not None and self._workers.is_open:
            from connectivity.data_path.worker_requests import WorkerRequests

            lending, flows = self._workers.lending, self._core.flows
            requests = WorkerRequests(lending, self._core, flows, driver.write, driver.send)
            self._workers.start(driver, requests, self._sources.sockets, self._tun)

    def counters(self) -> Mapping[str, Mapping[str, int]]:
        """What is counted beside sockets, device and core."""
        ours = {} if self._workers is None else {"workers": self._workers.counters()}
        return {**self.extension.counters(), **ours}

    def _switch_wire_log(self) -> None:
        self._set_filter(wire_log.toggled(logs.filter_in_use()))

    async def _say_goodbye(self, driver: TunnelDriver) -> None:
        """Never hides what ended the service."""
        if self._owns_process:
            service_manager.tell(service_manager.STOPPING)
        try:
            if self.roaming is not None:
                await self.roaming.close()
            driver.stop()
            await driver.say_goodbye()
            if self._workers is not None:  # they send the goodbyes to their peers, through the relays where these lead
                self._workers.stop()
                await self._workers.close()
            await driver.leave_relays()
        except Exception as error:  # noqa: BLE001  # the service ends for another reason, which is to be told
            log.warning("Cannot say goodbye", extra={"fields": {"error": chain(error)}})

    def act(self, action: object) -> None:
        match action:
            case SendToPortal(event, payload):
                wire_log.told_portal(event)
                self._link.send(event, payload)
            case ReconnectPortal():
                self._link.reconnect()
            case ConfigureTun():
                self.device.configure(action)
            case _:
                if not self.extension.act(action):
                    raise AssertionError(f"nobody carries out {type(action).__name__}")

    async def _device_configured(self, action: ConfigureTun) -> None:
        if self._role.on_configured is not None:
            self._role.on_configured(action)
        await self.extension.configured(action)
        if self._tun.release() and self._owns_process:
            service_manager.tell(service_manager.READY)
        if not self._role.stays:
            self._stop.set()

    def _fail(self, error: BaseException) -> None:
        if not self._failed.done():
            self._failed.set_exception(error)

    def _portal_event(self, event: object) -> None:
        match event:
            case MessageReceived(name, payload):
                wire_log.portal_said(name)
                self.driver.handle_portal(name, payload)
            case Joined():
                self._portal.changed(time.monotonic_ns(), joined=True)
            case Disconnected(reason):  # the link has logged it, and data goes on without it
                self._portal.changed(time.monotonic_ns(), joined=False, away_reason=reason)
            case _:
                raise AssertionError(f"nobody handles {type(event).__name__}")

    def _set_filter(self, directives: str) -> None:
        """Another log filter from now on.

        Raises:
            ValueError: it is none.
        """
        logs.set_filter(directives)
        self.driver.trace(wire_log.active())
        log.info("Log filter changed", extra={"fields": {"filter": directives}})

    def metrics(self) -> list[Metric]:
        """What is counted of connections and of the process, beside the sources' counters."""
        joined = self._link.joined
        told = tunnel_metrics.collect(self._core.connections(), self._core.status(), joined=joined)
        return [*told, *process_metrics.collect(self._role.topic)]

    async def _show_status(self, _: web.Request) -> web.Response:
        return web.json_response(self._status())

    def _status(self) -> dict[str, Any]:
        if self._portal.joined and not self._link.joined:  # we left it ourselves
            self._portal.changed(time.monotonic_ns(), joined=False)
        return status_document.build(
            self._identity,
            self._portal,
            self.device.configuration,
            self._core.connections(),
            self._core.status(),
            counters(self._sources),
            time.monotonic_ns(),
        )
