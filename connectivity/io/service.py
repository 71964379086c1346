"""The shell around client and gateway: settings, portal link, TUN device, signals, an orderly end.

Start: settings → sockets → device → portal. The device gets its addresses with the portal's first ``init``. End:
stop reading, say goodbye through the tunnels (at most a second), leave the portal, take device and rules away. A fatal
error ends the same way and is then reported.
"""

import asyncio
import logging
import os
import signal
import socket
import time
import uuid
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, Final

from connectivity.clock import Instant
from connectivity.endpoint import Endpoint
from connectivity.errors import FatalError, chain
from connectivity.io import extension, host, logs
from connectivity.io.buffers import RECEIVE_BUFFER_BYTES, SEND_BUFFER_BYTES, raise_limits
from connectivity.io.extension import Extension, ExtensionHost, NoExtension
from connectivity.io.metrics import MetricsSettings, Sources, counters, exporting, read_metrics_settings
from connectivity.io.portal import PortalLink
from connectivity.io.status import serve
from connectivity.io.tun import Tun
from connectivity.io.tunnel import SOCKET_MARK, TunnelDriver, bind_sockets
from connectivity.phoenix.channel import Joined, MessageReceived
from connectivity.phoenix.login import PortalLogin, parse_api_url
from connectivity.settings import SettingsReader, integer, text_value, token_or_file
from connectivity.tunnel import ConfigureTun, ReconnectPortal, SendToPortal, TunnelCore
from connectivity.wireguard import KeyPair

log = logging.getLogger("connectivity.io")

DEVICE: Final = "tun-firezone"
_buffer_size: Final = integer(1, (1 << 31) - 1)  # a C int
_UDP_OFFLOADS: Final = frozenset({"gso", "gro"})
_TUN_OFFLOADS: Final = frozenset({"tso", "uso"})


@dataclass(frozen=True, slots=True)
class TunnelSettings:
    """What client and gateway have in common."""

    api_url: str
    token: str = field(repr=False)
    name: str
    device_id: str
    status_address: Endpoint | None
    log_filter: str
    log_format: str
    raise_limits: bool
    send_buffer_bytes: int
    receive_buffer_bytes: int
    udp_offloads: frozenset[str]
    tun_offloads: frozenset[str]
    metrics: MetricsSettings | None


def read_tunnel_settings(
    reader: SettingsReader, *, token: str | None, default_api_url: str, raise_limits_by_default: bool
) -> TunnelSettings:
    """Declare and read the common settings; ``token`` None takes it from ``FIREZONE_TOKEN``."""
    if token is None:
        token = reader.required("FIREZONE_TOKEN", None, token_or_file, "the token, or the path of a file that holds it")
    api_url = reader.optional("FIREZONE_API_URL", "--api-url", parse_api_url, default_api_url, "URL of the portal")
    name = reader.optional("FIREZONE_NAME", "--firezone-name", text_value, "", "display name; default the host's name")
    device_id = reader.optional("FIREZONE_ID", "--firezone-id", text_value, "", "identity of this device")
    keep = reader.switch("FIREZONE_NO_INC_BUF", "--no-inc-buf", "leave rmem_max and wmem_max as they are")
    raised = reader.switch("FIREZONE_INC_BUF", "--inc-buf", "raise rmem_max and wmem_max", raise_limits_by_default)
    status = reader.optional("POSTERN_STATUS_ADDR", "--status-addr", _endpoint, None, "address:port for /status (JSON)")
    log_filter = reader.optional("RUST_LOG", "--log", _log_filter, "info", "such as info or debug,wire=trace")
    log_format = reader.optional("LOG_FORMAT", "--log-format", logs.read_form, logs.HUMAN, "human, json, google-cloud")
    reader.switch("FIREZONE_NO_TELEMETRY", "--no-telemetry", "accepted; there is no telemetry to turn off")
    return TunnelSettings(
        api_url=api_url,
        token=token,
        name=name or socket.gethostname() or str(uuid.uuid4()),
        device_id=device_id,
        status_address=status,
        log_filter=log_filter,
        log_format=log_format,
        raise_limits=raised and not keep,
        send_buffer_bytes=reader.optional(
            "FIREZONE_UDP_SEND_BUFFER_SIZE", None, _buffer_size, SEND_BUFFER_BYTES, "bytes to ask for"
        ),
        receive_buffer_bytes=reader.optional(
            "FIREZONE_UDP_RECV_BUFFER_SIZE", None, _buffer_size, RECEIVE_BUFFER_BYTES, "bytes to ask for"
        ),
        udp_offloads=reader.optional(
            "POSTERN_UDP_OFFLOADS", None, _words(_UDP_OFFLOADS), _UDP_OFFLOADS, "all, none or some"
        ),
        tun_offloads=reader.optional(
            "POSTERN_TUN_OFFLOADS", None, _words(_TUN_OFFLOADS), _TUN_OFFLOADS, "all, none or some"
        ),
        metrics=read_metrics_settings(reader),
    )


@dataclass(frozen=True, slots=True)
class Role:
    """What makes a client a client and a gateway a gateway."""

    topic: str
    make_core: Callable[[KeyPair, Instant], TunnelCore]
    make_login: Callable[[TunnelSettings, KeyPair], PortalLogin]
    peer_field: str  # "gid" or "cid"
    max_partition_seconds: float | None
    on_configured: Callable[[], None] | None = None
    make_extension: Callable[[ExtensionHost], Extension] | None = None


async def run_tunnel(settings: TunnelSettings, role: Role) -> None:
    """Serve until a signal.

    Raises:
        FatalError, PortalFatal: what ended the service before.
    """
    if settings.raise_limits:
        raise_limits()
    keys = KeyPair.generate(os.urandom)
    core = role.make_core(keys, time.monotonic_ns())
    login = role.make_login(settings, keys)
    sockets = bind_sockets(
        offloads=settings.udp_offloads,
        send_buffer_bytes=settings.send_buffer_bytes,
        receive_buffer_bytes=settings.receive_buffer_bytes,
    )
    try:
        with Tun.create(DEVICE, offloads=settings.tun_offloads) as tun:
            sources = Sources(sockets, tun, core.statistics, extension=lambda: service.extension.counters())
            service = _Service(settings, role, core, sources, login)
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


class _Service:
    """One run of a role."""

    driver: TunnelDriver
    extension: Extension

    def __init__(
        self, settings: TunnelSettings, role: Role, core: TunnelCore, sources: Sources, login: PortalLogin
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
        self._configured = False
        self._host_changed = False
        self._routes: tuple[Any, ...] = ()
        self._failed: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def extend(self, driver: TunnelDriver) -> None:
        """Take the driver, and make what the role adds to it."""
        self.driver = driver
        make = self._role.make_extension
        given = ExtensionHost(self._core, driver.call, driver.fail, SOCKET_MARK, self._tun.name)
        self.extension = NoExtension() if make is None else make(given)

    async def run(self, driver: TunnelDriver) -> None:
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, stop.set)
        status = self._settings.status_address
        shown = None if status is None else await serve(status, self._status, ready=lambda: self._configured)
        stopped = asyncio.ensure_future(stop.wait())
        link: asyncio.Future[None] | None = None
        try:
            await self.extension.start()
            link = asyncio.ensure_future(self._link.run())
            driver.start()
            watched: set[asyncio.Future[Any]] = {link, stopped, driver.failed, self._failed}
            done, _ = await asyncio.wait(watched, return_when=asyncio.FIRST_COMPLETED)
            driver.stop()
            await driver.say_goodbye()
            for future in done:
                future.result()  # what ended us, if it was not a signal
            log.info("Goodbye!")
        finally:
            stopped.cancel()
            await extension.close(self.extension)
            if link is not None:
                await self._settle(link)
            if shown is not None:
                await shown.close()

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
        try:
            host.remove_policy_routing()
        except OSError as error:
            log.warning("Cannot remove the policy rules", extra={"fields": {"error": chain(error)}})

    def _configure(self, action: ConfigureTun) -> None:
        self._host_changed = True
        try:
            host.configure(self._tun.name, action.interface.ipv4, action.interface.ipv6)
            host.set_routes(self._tun.name, action.routes, self._routes, action.excluded)
        except OSError as error:
            failure = FatalError(f"cannot configure {self._tun.name}")
            failure.__cause__ = error
            if not self._failed.done():
                self._failed.set_exception(failure)
            return
        self._routes = action.routes
        log.info(
            "Tunnel ready" if not self._configured else "Tunnel updated",
            extra={"fields": {"ipv4": action.interface.ipv4, "ipv6": action.interface.ipv6}},
        )
        self._configured = True
        if self._role.on_configured is not None:
            self._role.on_configured()
        self.extension.configured(action)

    def _portal_event(self, event: object) -> None:
        match event:
            case MessageReceived(name, payload):
                self.driver.handle_portal(name, payload)
            case Joined():
                log.debug("Joined the portal")
            case _:
                pass  # the link has logged why it is away, and data goes on without it

    def _status(self) -> dict[str, Any]:
        rows = []
        for connection in self._core.connections():
            path = connection.socket
            rows.append(
                {
                    self._role.peer_field: connection.peer_id,
                    "state": connection.state,
                    "path": None if path is None else path.kind.value,
                    "local": None if path is None else str(path.source),
                    "remote": None if path is None else str(path.destination),
                }
            )
        return {
            "ready": self._configured,
            "portal": self._link.joined,
            "connections": rows,
            "counters": counters(self._sources),
        }


def _log_filter(text: str) -> str:
    logs.parse_filter(text)
    return text


def _endpoint(text: str) -> Endpoint | None:
    return Endpoint.parse(text)


def _words(known: frozenset[str]) -> Callable[[str], frozenset[str]]:
    def parse(text: str) -> frozenset[str]:
        if text in {"all", "none"}:
            return known if text == "all" else frozenset()
        words = frozenset(text.split(","))
        if not words <= known:
            raise ValueError(f"expected all, none or a list of {', '.join(sorted(known))}")
        return words

    return parse
