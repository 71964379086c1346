"""How a relay starts and ends.

Order of start: sockets, health, then traffic and the portal if there is one; beside them the offload is loaded, and a
relay is ready when that is decided. What fails before traffic is fatal and in one line, and so is an offload that was
demanded; what else fails costs at most what it was for: the portal may be away, an offload may go, a socket may refuse.

Order of end, on SIGTERM: leave the portal, so that it names other relays to clients; refuse new allocations; end when
the last one is gone or the time for it has passed. SIGINT, or a second SIGTERM, ends at once.
"""

import asyncio
import gc
import logging
import signal
import time
from contextlib import AsyncExitStack
from ipaddress import IPv4Address, IPv6Address
from typing import Any, Final

from connectivity.endpoint import IPAddress
from connectivity.errors import FatalError, chain
from connectivity.io import service_manager
from connectivity.io.portal import PortalLink, read_system_info
from connectivity.phoenix import PortalLogin, relay_login, user_agent
from relay.configuration import Configuration
from relay.core import Server, Transport
from relay.core.own import OwnAddresses
from relay.driver.addresses import HostChanges, always_own_addresses, host_addresses
from relay.driver.admin import Admin
from relay.driver.advising import Advising
from relay.driver.core_settings import relayed_at
from relay.driver.health import Health
from relay.driver.metrics import Metric, Sources, collect
from relay.driver.offload import Offload
from relay.driver.reloading import Reloading
from relay.driver.service import RelayService
from relay.driver.stopping import Stopping
from relay.driver.telemetry import Telemetry
from relay.settings import PortalAccess, RelaySettings

# Long, because leaving would drop allocations that are in use; clients hear of other relays from their portal anyway.
PORTAL_PATIENCE_SECONDS: Final = 24 * 60 * 60
_MAINTENANCE_SECONDS: Final = 5.0
_ADDRESSES_SECONDS: Final = 60.0  # where the kernel tells of no change
_CHANGES_SECONDS: Final = 1.0  # routes may change all the time
_CLOSE_SECONDS: Final = 0.5

_log = logging.getLogger("relay")


async def serve(settings: RelaySettings, server: Server, stamp_secret: str, on_host: OwnAddresses) -> None:
    """Serve until a signal asks to stop.

    Raises:
        FatalError: what ended the relay otherwise.
    """
    loop = asyncio.get_running_loop()
    stopping = Stopping(loop)
    configuration = settings.configuration
    async with AsyncExitStack() as stack:
        service = RelayService(server, loop, on_host, relayed_at(configuration, on_host))
        advising = Advising(service, settings)
        if settings.file is not None:
            loop.add_signal_handler(signal.SIGHUP, Reloading(service, settings, settings.file, advising).reload)
        advising.say(configuration)
        stack.callback(service.close)
        _listen(service, configuration)
        link = None if settings.portal is None else _link(settings.portal, configuration, stamp_secret)
        telemetry = Telemetry(lambda: _collect(service, health))
        health = Health(link, offload=lambda: service.offload.status(), metrics=lambda: _collect(service, health))
        await health.start(settings.health_address)
        stack.push_async_callback(health.close)
        admin = Admin(service)
        stack.push_async_callback(admin.close)
        await admin.start(settings.admin_socket)
        listen_ports = [endpoint.port for endpoint in configuration.listen]
        service.offload = Offload.prepare(configuration.offload, configuration.public, listen_ports)
        service.offload.share_buckets(server.share_buckets)
        stack.enter_context(telemetry.exporting(settings.telemetry))
        service.tracing = telemetry.tracing
        _spare_the_collector()
        service.start()
        health.serving = True
        service_manager.tell(service_manager.READY)
        _log.info("Serving", extra={"fields": _addresses(configuration)})
        works = [
            _maintain(service, telemetry, advising),
            advising.run(),
            _follow_addresses(service, always_own_addresses(configuration)),
        ]
        background = [asyncio.ensure_future(work) for work in works]
        joining = [] if link is None else [asyncio.ensure_future(link.run())]
        try:
            await stopping.asked_or_failed({*background, *joining, service.failed})
            if settings.drain_seconds and not stopping.at_once.is_set():
                health.draining = True
                await _drain(service, link, stopping, {*background, service.failed}, settings.drain_seconds)
            service_manager.tell(service_manager.STOPPING)
            _log.info("Stopping", extra={"fields": {"allocations": server.allocation_count}})
        finally:
            for task in (*background, *joining):
                task.cancel()
            await asyncio.wait((*background, *joining), timeout=_CLOSE_SECONDS)


def _listen(service: RelayService, configuration: Configuration) -> None:
    service.streams.trusted_proxies = configuration.trusted_proxies
    service.sockets.listen(configuration.listen)
    if configuration.serves_tcp:
        service.streams.listen(configuration.listen, Transport.TCP)
    if configuration.certificate is not None:
        try:
            service.streams.use_certificate(configuration.certificate.context())
        except OSError as error:
            raise FatalError(f"cannot use the certificate {configuration.certificate.certificate}") from error
        service.streams.listen(configuration.tls_listen, Transport.TLS)


def _addresses(configuration: Configuration) -> dict[str, str]:
    """Where clients may come, for the log."""
    found = {"listen": configuration.listen, "tls": configuration.tls_listen}
    return {name: ",".join(map(str, addresses)) for name, addresses in found.items() if addresses}


def _collect(service: RelayService, health: Health) -> list[Metric]:
    streams = service.streams
    sources = Sources(service.offload, service.sockets.counters, streams.counters, len(streams), health.counters)
    return collect(service.server.statistics(), sources)


def _spare_the_collector() -> None:
    """What is there now stays, and allocations end without a collector: it shall not look at them while packets wait.

    A collection of all of 15,000 allocations takes 0.1 s, and Python's own thresholds have five of them until so many
    are made. With these one comes when 700,000 objects are new, those of 40,000 allocations.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(700, 10, 100)


async def _drain(
    service: RelayService, link: PortalLink | None, stopping: Stopping, needed: set[asyncio.Future[Any]], seconds: int
) -> None:
    """Let the clients go on until they have left, the time is up, or a signal says that it is enough."""
    _log.info("Draining", extra={"fields": {"allocations": service.server.allocation_count, "seconds": seconds}})

    async def leave_and_drain() -> None:
        if link is not None:
            await link.close()
        await service.drain()

    await stopping.finished_or_at_once(leave_and_drain(), needed, seconds)


async def _maintain(service: RelayService, telemetry: Telemetry, advising: Advising) -> None:
    await service.offload.load()
    await advising.say_of_filters()
    while True:
        await asyncio.sleep(_MAINTENANCE_SECONDS)
        await service.maintain()
        advising.maintain()
        telemetry.sample()


async def _follow_addresses(service: RelayService, always: frozenset[IPAddress]) -> None:
    """A network that the host joins later must not open the host to clients."""
    changes = HostChanges(asyncio.get_running_loop())
    try:
        while True:
            await changes.wait(_ADDRESSES_SECONDS)
            try:
                service.on_host = await asyncio.to_thread(host_addresses)
            except OSError as error:
                _log.warning("Cannot read the host's addresses", extra={"fields": {"error": chain(error)}})
            else:
                service.server.handle_own_addresses(service.on_host | always)
                service.settle(time.monotonic_ns())
            await asyncio.sleep(_CHANGES_SECONDS)
    finally:
        changes.close()


def _link(portal: PortalAccess, configuration: Configuration, stamp_secret: str) -> PortalLink:
    return PortalLink(
        _login(portal, configuration),
        "relay",
        {"stamp_secret": stamp_secret},
        max_partition_seconds=PORTAL_PATIENCE_SECONDS,
        on_event=lambda _event: None,  # the link logs; a relay acts on nothing that a portal says
    )


def _login(portal: PortalAccess, configuration: Configuration) -> PortalLogin:
    ipv4, ipv6 = configuration.public.get(4), configuration.public.get(6)
    assert not isinstance(ipv4, IPv6Address)
    assert not isinstance(ipv6, IPv4Address)
    return relay_login(
        portal.api_url,
        token=portal.token,
        user_agent=user_agent("relay", read_system_info()),
        ipv4=ipv4,
        ipv6=ipv6,
        port=configuration.listen[0].port,
        name=portal.name,
    )
