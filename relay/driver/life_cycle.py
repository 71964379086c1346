"""How a relay starts and ends.

Order of start: sockets; the portal, if there is one, and what is this host's own; traffic; what shows the relay to
people; beside that the offload is loaded, and a relay is ready when that is decided. Each is imported when it is its
turn: clients of a relay that was killed wait for the next one's start. What comes with the traffic waits in the sockets
that are bound. What fails before a relay says that it serves is fatal and in one line, and so is an offload that was
demanded; what else fails costs at most what it was for: the portal may be away, an offload may go, a socket may refuse.

Order of end, on SIGTERM: leave the portal, so that it names other relays to clients; refuse new allocations; end when
the last one is gone or the time for it has passed. SIGINT, or a second SIGTERM, ends at once.
"""

import asyncio
import gc
import importlib
import logging
import signal
import time
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from functools import partial
from ipaddress import IPv4Address, IPv6Address
from typing import TYPE_CHECKING, Any, Final

from connectivity.endpoint import IPAddress
from connectivity.errors import FatalError, chain
from connectivity.io import service_manager
from connectivity.phoenix import PortalLogin, relay_login, user_agent
from relay.configuration import Configuration
from relay.core import Server, Transport
from relay.core.own import OwnAddresses
from relay.driver.addresses import HostChanges, always_own_addresses
from relay.driver.advising import Advising
from relay.driver.core_settings import relayed_at
from relay.driver.offload import Offload
from relay.driver.service import RelayService
from relay.driver.stopping import Stopping
from relay.settings import PortalAccess, RelaySettings

if TYPE_CHECKING:
    from connectivity.io.portal import PortalLink
    from relay.driver.showing import Showing

# Long, because leaving would drop allocations that are in use; clients hear of other relays from their portal anyway.
PORTAL_PATIENCE_SECONDS: Final = 24 * 60 * 60
_MAINTENANCE_SECONDS: Final = 5.0
_ADDRESSES_SECONDS: Final = 60.0  # where the kernel tells of no change
_CHANGES_SECONDS: Final = 1.0  # routes may change all the time
_CLOSE_SECONDS: Final = 0.5

_log = logging.getLogger("relay")


async def serve(settings: RelaySettings, server: Server, stamp_secret: str) -> None:
    """Serve until a signal asks to stop.

    Raises:
        FatalError: what ended the relay otherwise.
    """
    loop = asyncio.get_running_loop()
    stopping = Stopping(loop)
    configuration = settings.configuration
    always = always_own_addresses(configuration)
    async with AsyncExitStack() as stack:
        service = RelayService(server, loop)
        advising = Advising(service, settings)
        _heed_hangups(service, settings, advising)
        stack.callback(service.close)
        _listen(service, configuration)
        link = None if settings.portal is None else _link(settings.portal, configuration, stamp_secret)
        joining = [] if link is None else [asyncio.ensure_future(link.run())]
        stack.push_async_callback(_end, joining)
        # In a thread: this imports pyroute2 and waits for the kernel, while the portal answers.
        on_host, service.offload = await asyncio.to_thread(_look_at_host, configuration)
        service.on_host = on_host
        service.sockets.relay_at(relayed_at(configuration, on_host))
        server.handle_own_addresses(on_host | always)
        service.offload.share_buckets(server.share_buckets)
        advising.say(configuration)
        if not settings.telemetry.is_wanted:  # else spans are to begin with the first allocation
            service.start()
        await asyncio.to_thread(importlib.import_module, "relay.driver.showing")
        from relay.driver.showing import Showing

        showing = await stack.enter_async_context(Showing(settings, service, link).serving())
        if settings.telemetry.is_wanted:
            service.start()
        _spare_the_collector()
        showing.health.serving = True
        service_manager.tell(service_manager.READY)
        _log.info("Serving", extra={"fields": _addresses(configuration)})
        works = [_maintain(service, showing, advising), advising.run(), _follow_addresses(service, always)]
        background = [asyncio.ensure_future(work) for work in works]
        stack.push_async_callback(_end, background)
        await stopping.asked_or_failed({*background, *joining, service.failed})
        if settings.drain_seconds and not stopping.at_once.is_set():
            showing.health.draining = True
            await _drain(service, link, stopping, {*background, service.failed}, settings.drain_seconds)
        service_manager.tell(service_manager.STOPPING)
        _log.info("Stopping", extra={"fields": {"allocations": server.allocation_count}})


def _look_at_host(configuration: Configuration) -> tuple[OwnAddresses, Offload]:
    """What the host takes as its own, and what there is to offload to."""
    on_host = _host_addresses()
    listen_ports = [endpoint.port for endpoint in configuration.listen]
    return on_host, Offload.prepare(configuration.offload, configuration.public, listen_ports)


def _host_addresses() -> OwnAddresses:
    from relay.driver.host_addresses import host_addresses  # pyroute2

    return host_addresses()


def _heed_hangups(service: RelayService, settings: RelaySettings, advising: Advising) -> None:
    # Without a file, too: by default a hangup ends a process, and drops whom it serves.
    reload: Callable[[], None] = partial(_log.info, "Settings change only with a restart")
    if settings.file is not None:
        from relay.driver.reloading import Reloading  # with a parser of YAML: only where there is a file

        reload = Reloading(service, settings, settings.file, advising).reload
    asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, reload)


async def _end(tasks: Sequence[asyncio.Future[None]]) -> None:
    """What it ends with is told already, or something else has ended the relay before."""
    for task in tasks:
        task.cancel()
    done, _ = await asyncio.wait(tasks, timeout=_CLOSE_SECONDS) if tasks else (set(), set())
    for task in done:
        if not task.cancelled():
            task.exception()


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


def _spare_the_collector() -> None:
    """What is there now stays, and allocations end without a collector: it shall not look at them while packets wait.

    A collection of all of 15,000 allocations takes 0.1 s, and Python's own thresholds have five of them until so many
    are made. With these one comes when 700,000 objects are new, those of 40,000 allocations.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(700, 10, 100)


async def _drain(
    service: RelayService, link: "PortalLink | None", stopping: Stopping, needed: set[asyncio.Future[Any]], seconds: int
) -> None:
    """Let the clients go on until they have left, the time is up, or a signal says that it is enough."""
    _log.info("Draining", extra={"fields": {"allocations": service.server.allocation_count, "seconds": seconds}})

    async def leave_and_drain() -> None:
        if link is not None:
            await link.close()
        await service.drain()

    await stopping.finished_or_at_once(leave_and_drain(), needed, seconds)


async def _maintain(service: RelayService, showing: "Showing", advising: Advising) -> None:
    await service.offload.load()
    await advising.say_of_filters()
    while True:
        await asyncio.sleep(_MAINTENANCE_SECONDS)
        await service.maintain()
        advising.maintain()
        showing.telemetry.sample()


async def _follow_addresses(service: RelayService, always: frozenset[IPAddress]) -> None:
    """A network that the host joins later must not open the host to clients."""
    changes = HostChanges(asyncio.get_running_loop())
    try:
        while True:
            await changes.wait(_ADDRESSES_SECONDS)
            try:
                service.on_host = await asyncio.to_thread(_host_addresses)
            except OSError as error:
                _log.warning("Cannot read the host's addresses", extra={"fields": {"error": chain(error)}})
            else:
                service.server.handle_own_addresses(service.on_host | always)
                service.settle(time.monotonic_ns())
            await asyncio.sleep(_CHANGES_SECONDS)
    finally:
        changes.close()


def _link(portal: PortalAccess, configuration: Configuration, stamp_secret: str) -> "PortalLink":
    from connectivity.io.portal import PortalLink, read_system_info  # aiohttp: only now that the sockets are bound

    return PortalLink(
        _login(portal, configuration, user_agent("relay", read_system_info())),
        "relay",
        {"stamp_secret": stamp_secret},
        max_partition_seconds=PORTAL_PATIENCE_SECONDS,
        on_event=lambda _event: None,  # the link logs; a relay acts on nothing that a portal says
    )


def _login(portal: PortalAccess, configuration: Configuration, user_agent: str) -> PortalLogin:
    ipv4, ipv6 = configuration.public.get(4), configuration.public.get(6)
    assert not isinstance(ipv4, IPv6Address)
    assert not isinstance(ipv6, IPv4Address)
    return relay_login(
        portal.api_url,
        token=portal.token,
        user_agent=user_agent,
        ipv4=ipv4,
        ipv6=ipv6,
        port=configuration.listen[0].port,
        name=portal.name,
    )
