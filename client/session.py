"""A client within another program: signs in and out as often as its user does, in one process and one event loop.

Use::

    device = Device(settings)                  # identity and the addresses given to names last as long as it does
    async with device.sign_in(token) as session:
        async for event in session.events():   # Configured, ResourcesChanged
            ...                                # session.sign_out() from wherever: then the loop ends

``events`` ends, or raises what ended the session, only after the goodbye has left for every gateway and the host is as
it was. Each kind of event keeps its latest value only, so a slow reader misses what was in between, and fills nothing.
Signals are the program's own. One session at a time: the device and its routes have fixed names.
"""

import asyncio
import logging
import os
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Final, Self, TypeAlias

from client.core import ClientCore
from client.dns.records import DnsRecords
from client.extension import make_extension
from client.role import ClientRole
from client.system_dns import control
from connectivity.clock import Instant
from connectivity.errors import FatalError, chain
from connectivity.io.identity import load_or_create
from connectivity.io.portal import read_system_info
from connectivity.io.service import Role, run_tunnel
from connectivity.io.tunnel_settings import TunnelSettings
from connectivity.phoenix.login import PortalLogin, client_login, user_agent
from connectivity.status import ResourceStatus
from connectivity.tunnel import ConfigureTun
from connectivity.wireguard import KeyPair

LOOK_SECONDS: Final = 1.0  # how often resources are compared with those told last, while somebody reads the events
DEFAULT_ID_PATH: Final = Path("/var/lib/dev.firezone.client/config/firezone-id.json")

_log = logging.getLogger("client")


@dataclass(frozen=True, slots=True)
class Configured:
    """The tunnel's device has these addresses, routes and name servers."""

    configuration: ConfigureTun


@dataclass(frozen=True, slots=True)
class ResourcesChanged:
    """What the portal lets this device reach, or what is known about it, is another."""

    resources: tuple[ResourceStatus, ...]


SessionEvent: TypeAlias = Configured | ResourcesChanged


class Device:
    """This host as a client. ``settings.token`` is not used.

    Args:
        settings: as ``connectivity.io.tunnel_settings`` reads them.
        dns_control: how this host comes to ask us for names, a word of ``client.system_dns.control``.
        max_partition_seconds: give a session up after this time without the portal; None never.
        read_token: what reads the token again, when the client begins anew; None where it stays as it was given.
    """

    def __init__(
        self,
        settings: TunnelSettings,
        dns_control: str = control.DEFAULT,
        max_partition_seconds: float | None = None,
        read_token: Callable[[], str] | None = None,
    ) -> None:
        self._settings = settings
        self._dns_control = dns_control
        self._max_partition_seconds = max_partition_seconds
        self._read_token = read_token
        self._device_id = settings.device_id
        self._records = DnsRecords()
        self._session: Session | None = None

    def sign_in(self, token: str) -> "Session":
        """Begin a session; to be called in a running event loop.

        Raises:
            RuntimeError: there is one that has not ended.
        """
        if self._session is not None and not self._session.has_ended:
            raise RuntimeError("one session at a time: sign out and wait for the end of its events")
        self._session = Session(replace(self._settings, token=token), self)
        return self._session

    def role(
        self,
        on_core: Callable[[ClientCore], None] = lambda _: None,
        on_configured: Callable[[ConfigureTun], None] = lambda _: None,
        *,
        stays: bool = True,
    ) -> Role:
        """What a client is to the service.

        Args:
            on_core: gets the core of the run.
            on_configured: called each time that the device has other addresses or routes.
            stays: else the run ends with the first of them.
        """

        def make_core(keys: KeyPair, _now: Instant) -> ClientCore:
            core = ClientCore(keys=keys, rng=os.urandom, records=self._records)
            on_core(core)
            return core

        return Role(
            "client",
            make_core,
            self._make_login,
            ClientRole.peer_field,
            self._max_partition_seconds,
            on_configured=on_configured,
            make_extension=partial(make_extension, self._dns_control),
            roams=True,
            stays=stays,
        )

    def _make_login(self, settings: TunnelSettings, keys: KeyPair) -> PortalLogin:
        self._device_id = self._device_id or load_or_create(DEFAULT_ID_PATH)
        return client_login(
            settings.api_url,
            token=self._token(settings.token),
            device_id=self._device_id,
            name=settings.name,
            public_key=keys.public,
            user_agent=user_agent("headless-client", read_system_info()),
        )

    def _token(self, given: str) -> str:
        """As its file has it now; the one that was given where that cannot be read."""
        if self._read_token is None:
            return given
        try:
            return self._read_token() or given
        except FatalError as error:
            _log.warning("Cannot read the token again", extra={"fields": {"error": chain(error)}})
            return given


class Session:
    """One stay at the portal, from ``Device.sign_in`` on. Leaving the context signs out and waits for the end."""

    def __init__(self, settings: TunnelSettings, device: Device) -> None:
        self._stop = asyncio.Event()
        self._changed = asyncio.Event()
        self._core: ClientCore | None = None
        self._configuration: ConfigureTun | None = None
        self._resources: tuple[ResourceStatus, ...] = ()
        role = device.role(self._take_core, self._handle_configured)
        self._running = asyncio.ensure_future(run_tunnel(settings, role, self._stop))
        self._running.add_done_callback(lambda _: self._changed.set())

    @property
    def has_ended(self) -> bool:
        """Whether everything that belongs to it is gone."""
        return self._running.done()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.sign_out()
        await asyncio.wait({self._running})
        if not self._running.cancelled():
            self._running.exception()  # whoever reads the events has it; who does not, did not ask

    def sign_out(self) -> None:
        """Say goodbye and end; ``events`` tells when that is done."""
        self._stop.set()

    async def events(self) -> AsyncIterator[SessionEvent]:
        """What changed, each kind with its latest value; for one reader.

        Raises:
            FatalError, PortalFatal: what ended the session, if it was not ``sign_out``.
        """
        while not self._running.done():
            if (resources := self._fresh_resources()) is not None:
                yield ResourcesChanged(resources)
                continue
            if self._configuration is not None:
                configuration, self._configuration = self._configuration, None
                yield Configured(configuration)
                continue
            self._changed.clear()
            try:
                async with asyncio.timeout(LOOK_SECONDS):
                    await self._changed.wait()
            except TimeoutError:
                continue
        await self._running

    def _take_core(self, core: ClientCore) -> None:
        self._core = core

    def _handle_configured(self, configuration: ConfigureTun) -> None:
        self._configuration = configuration
        self._changed.set()

    def _fresh_resources(self) -> tuple[ResourceStatus, ...] | None:
        """The resources, if they are not those that were told last."""
        resources = None if self._core is None else self._core.status().resources
        if resources is None or resources == self._resources:
            return None
        self._resources = resources
        return resources
