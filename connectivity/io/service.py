"""The shell around client and gateway: settings, portal link, TUN device, signals, an orderly end.

Start: settings → sockets → device → portal. The device gets its addresses with the portal's first ``init``. End:
stop reading, say goodbye through the tunnels (at most a second), leave the portal, take device and rules away. A fatal
error ends the same way and is then reported.
"""

import asyncio
import logging
import os
import signal
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

from aiohttp import web

from connectivity.clock import Instant
from connectivity.errors import FatalError, chain
from connectivity.io import extension, logs, service_manager, status_document, wire_log
from connectivity.io.buffers import raise_limits
from connectivity.io.extension import Extension, ExtensionHost, NoExtension
from connectivity.io.local_socket import LocalServer
from connectivity.io.metrics import Sources, counters, exporting
from connectivity.io.portal import Disconnected, PortalLink
from connectivity.io.status import serve
from connectivity.io.status_document import Identity, PortalState
from connectivity.io.status_view import SOCKET_NAME
from connectivity.io.tun import Tun
from connectivity.io.tunnel import SOCKET_MARK, TunnelDriver, bind_sockets
from connectivity.io.tunnel_settings import TunnelSettings
from connectivity.io.udp import UdpSocket
from connectivity.phoenix.channel import Joined, MessageReceived
from connectivity.phoenix.login import PortalLogin
from connectivity.tunnel import ConfigureTun, ReconnectPortal, SendToPortal, TunnelCore
from connectivity.wireguard import KeyPair

if TYPE_CHECKING:
    from connectivity.io.roam import Roaming

log = logging.getLogger("connectivity.io")

DEVICE: Final = "tun-firezone"


@dataclass(frozen=True, slots=True)
class Role:
    """What makes a client a client and a gateway a gateway."""

    topic: str
    make_core: Callable[[KeyPair, Instant], TunnelCore]
    make_login: Callable[[TunnelSettings, KeyPair], PortalLogin]
    peer_field: str  # "gid" or "cid"
    max_partition_seconds: float | None
    on_configured: Callable[[ConfigureTun], None] | None = None
    make_extension: Callable[[ExtensionHost], Extension] | None = None
    roams: bool = False  # begins anew where the network is another one, and on SIGHUP
    stays: bool = True  # else the run ends once the device is configured


async def run_tunnel(settings: TunnelSettings, role: Role, stop: asyncio.Event | None = None) -> None:
    """Serve until ``stop`` is set, where that is given: then the process with its signals is somebody else's.

    Without it, serve until a signal. Either way, this returns or raises after the goodbye.

    Raises:
        FatalError, PortalFatal: what ended the service before.
    """
    owns_process = stop is None
    if stop is None:
        stop = asyncio.Event()
        _heed_signals(stop)
    if settings.raise_limits:
        raise_limits()
    keys = KeyPair.generate(os.urandom)
    core = role.make_core(keys, time.monotonic_ns())
    login = role.make_login(settings, keys)
    sockets = _bind(settings)
    try:
        with Tun.create(DEVICE, offloads=settings.tun_offloads) as tun:
            sources = Sources(sockets, tun, core.statistics, extension=lambda: service.extension.counters())
            service = _Service(settings, role, core, sources, login, stop, owns_process=owns_process)
            driver = TunnelDriver(core, sockets, tun, service.act, sources.refusals)
            service.extend(driver)
            with exporting(settings.metrics, sources, role.topic, login):
                try:
                    await service.run(driver)
                finally:
                    service.leave_host()
    finally:
        for opened in sockets.values():
            opened.close()


def _heed_signals(stop: asyncio.Event) -> None:
    """SIGINT and SIGTERM end the service in order from its first moment on."""
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)  # until there is a wire log to switch


def _bind(settings: TunnelSettings, previous: Mapping[int, UdpSocket] = MappingProxyType({})) -> dict[int, UdpSocket]:
    return bind_sockets(
        offloads=settings.udp_offloads,
        send_buffer_bytes=settings.send_buffer_bytes,
        receive_buffer_bytes=settings.receive_buffer_bytes,
        previous=previous,
    )


class _Service:
    """One run of a role."""

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
    ) -> None:
        self._settings = settings
        self._role = role
        self._core = core
        self._sources = sources
        self._tun = sources.tun
        self._link = PortalLink(
            login,
            role.topic,
            mark=SOCKET_MARK,
            max_partition_seconds=role.max_partition_seconds,
            on_event=self._portal_event,
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
        self._configuration: ConfigureTun | None = None  # what the device has
        self._host_changed = False
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

    async def run(self, driver: TunnelDriver) -> None:
        if self._owns_process:
            asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, self._switch_wire_log)
        status = self._settings.status_address
        shown = (
            None if status is None else await serve(status, self._status, ready=lambda: self._configuration is not None)
        )
        stopped = asyncio.ensure_future(self._stop.wait())
        link: asyncio.Future[None] | None = None
        try:
            await self._local.start(self._settings.status_socket)
            await self.extension.start()
            link = asyncio.ensure_future(self._link.run())
            driver.start()
            if self.roaming is not None:
                self.roaming.start(by_hand=self._owns_process)
            watched: set[asyncio.Future[Any]] = {link, stopped, driver.failed, self._failed}
            try:
                done, _ = await asyncio.wait(watched, return_when=asyncio.FIRST_COMPLETED)
            finally:  # whoever embeds us may cancel, too
                await self._say_goodbye(driver)
            for future in done:
                future.result()  # what ended us, if it was not a signal
        finally:
            stopped.cancel()
            settled = [] if link is None else [self._settle(link)]
            await asyncio.gather(*settled, extension.close(self.extension))
            await self._local.close()
            if shown is not None:
                await shown.close()
        log.info("Goodbye!")

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
        except Exception as error:  # noqa: BLE001  # the service ends for another reason, which is to be told
            log.warning("Cannot say goodbye", extra={"fields": {"error": chain(error)}})

    async def _settle(self, link: "asyncio.Future[None]") -> None:
        if not link.done():
            closing: Awaitable[None] = self._link.close()
            try:
                async with asyncio.timeout(1.5):
                    await closing
            except TimeoutError:
                log.debug("The portal did not close in time")
            link.cancel()
        await asyncio.wait({link})
        if not link.cancelled():
            link.exception()  # reported already, or of no interest any more

    def act(self, action: object) -> None:
        match action:
            case SendToPortal(event, payload):
                wire_log.told_portal(event)
                self._link.send(event, payload)
            case ReconnectPortal():
                self._link.reconnect()
            case ConfigureTun():
                self._configure(action)
            case _:
                if not self.extension.act(action):
                    raise AssertionError(f"nobody carries out {type(action).__name__}")

    def leave_host(self) -> None:
        """Take back what the device does not take along when it goes. Never hides what ended the service."""
        if not self._host_changed:
            return
        from connectivity.io import host

        try:
            host.remove_policy_routing()
        except OSError as error:
            log.warning("Cannot remove the policy rules", extra={"fields": {"error": chain(error)}})

    def _configure(self, action: ConfigureTun) -> None:
        from connectivity.io import host  # pyroute2: a tenth of a second that the portal need not wait for

        self._host_changed = True
        try:
            host.configure(self._tun.name, action.interface.ipv4, action.interface.ipv6)
            held = () if self._configuration is None else self._configuration.routes
            host.set_routes(self._tun.name, action.routes, held, action.excluded)
        except OSError as error:
            failure = FatalError(f"cannot configure {self._tun.name}")
            failure.__cause__ = error
            if not self._failed.done():
                self._failed.set_exception(failure)
            return
        log.info(
            "Tunnel ready" if self._configuration is None else "Tunnel updated",
            extra={"fields": {"ipv4": action.interface.ipv4, "ipv6": action.interface.ipv6}},
        )
        if self._configuration is None and self._owns_process:
            service_manager.tell(service_manager.READY)
        self._configuration = action
        if self._role.on_configured is not None:
            self._role.on_configured(action)
        self.extension.configured(action)
        if not self._role.stays:
            self._stop.set()

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

    async def _show_status(self, _: web.Request) -> web.Response:
        return web.json_response(self._status())

    def _status(self) -> dict[str, Any]:
        if self._portal.joined and not self._link.joined:  # we left it ourselves
            self._portal.changed(time.monotonic_ns(), joined=False)
        return status_document.build(
            self._identity,
            self._portal,
            self._configuration,
            self._core.connections(),
            self._core.status(),
            counters(self._sources) | dict(self.extension.counters()),
            time.monotonic_ns(),
        )
