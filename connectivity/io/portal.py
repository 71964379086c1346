"""The portal link: drives a ``PhoenixChannel`` over WebSockets, dials again by the rules of the back-off.

Use, inside a TaskGroup::

    link = PortalLink(login, topic="gateway", join_payload=None, mark=0xFD002021, max_partition_seconds=900)
    group.create_task(link.run())
    async for event in link.events():
        match event:
            case Joined(): ...                          # init follows as a MessageReceived
            case MessageReceived(name, payload): ...    # payload is JSON
            case Disconnected(reason, retry_in_ns): ...
    link.send("create_flow", {...})                     # at any time: waits for the join
    link.reconnect(login.with_public_key(key))          # roaming; also without argument, for a fresh init
    await link.close()                                  # closing handshake within 1 s, then events() and run() end

With ``on_event`` given, it is called with each event in the loop's thread instead, and ``events()`` stays empty.
Without ``is_heard`` events wait for ``hear``, which names it.
``run`` raises ``PortalFatal``, whose text is one line, when the portal refuses us for good, when the back-off is
exhausted, or when the host does not resolve at start. ``events()`` ends then too.
"""

import asyncio
import logging
import os
import platform
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final, TypeAlias, TypeVar

import aiohttp

from connectivity.clock import SECOND, Duration, Instant
from connectivity.endpoint import IPAddress
from connectivity.errors import chain
from connectivity.io.portal_dial import Dialler, WebSocket
from connectivity.phoenix.backoff import Backoff
from connectivity.phoenix.channel import Joined, LoginFailed, Lost, MessageReceived, PhoenixChannel
from connectivity.phoenix.failure import PortalFatal, Transient, remedy
from connectivity.phoenix.login import PortalLogin, SystemInfo, three_number_version
from connectivity.phoenix.message import Json

HURRY_INTERVAL: Final = SECOND  # between attempts that begin before the back-off ends
EVENT_QUEUE_LIMIT: Final = 128  # a slow reader stops us reading from the socket

_logger = logging.getLogger("connectivity.phoenix")
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Disconnected:
    """The connection is lost or was not made; the next attempt starts after ``retry_in_ns``."""

    reason: str
    retry_in_ns: Duration


PortalEvent: TypeAlias = Joined | MessageReceived | Disconnected


class PortalLink:
    """One component's link to its portal, over as many connections as it takes."""

    def __init__(
        self,
        login: PortalLogin,
        topic: str,
        join_payload: Json = None,
        *,
        mark: int | None = None,
        max_partition_seconds: float | None = None,
        on_event: Callable[[PortalEvent], None] | None = None,
        is_heard: bool = True,
        rng: Callable[[int], bytes] = os.urandom,
        clock: Callable[[], Instant] = time.monotonic_ns,
    ) -> None:
        maximum_ns = None if max_partition_seconds is None else int(max_partition_seconds * SECOND)
        self._login = login
        self._on_event = on_event
        self._heard = asyncio.Event()
        if is_heard:
            self._heard.set()
        self._clock = clock
        self._channel = PhoenixChannel(topic, join_payload, clock())
        self._backoff = Backoff(maximum_ns=maximum_ns, rng=rng)
        self._dialler = Dialler(mark)
        self._events: asyncio.Queue[PortalEvent | None] = asyncio.Queue(EVENT_QUEUE_LIMIT)
        self._wake = asyncio.Event()
        self._wanted = asyncio.Event()
        self._hurried_at = clock() - HURRY_INTERVAL
        self._interrupt = asyncio.Event()
        self._finished = asyncio.Event()
        self._away_for: str | None = None
        self._closing = False
        self._dialling = False
        self._running = False
        self.joined = False

    async def run(self) -> None:
        """Keep the link up until ``close``.

        Raises:
            PortalFatal: see the module's text.
        """
        self._running = True
        try:
            await self._run()
        finally:
            self.joined = False
            self._channel.handle_disconnected()
            self._finished.set()
            if self._on_event is None:
                await self._events.put(None) if not self._events.full() else self._end_full_queue()

    async def events(self) -> AsyncIterator[PortalEvent]:
        """Each event in turn; ends with the link."""
        while (event := await self._events.get()) is not None:
            yield event

    def hear(self, on_event: Callable[[PortalEvent], None]) -> None:
        """Have it called with each event, and soon with the first one if that is there already."""
        self._on_event = on_event
        self._heard.set()

    def send(self, event: str, payload: Json) -> None:
        """Queue an application message; it leaves as soon as the topic is joined."""
        self._channel.send(event, payload)
        self._wake.set()
        self._wanted.set()

    def reconnect(self, login: PortalLogin | None = None) -> None:
        """Replace the connection without a closing handshake, forget the back-off and what waits to be sent."""
        unchanged = login is None or login == self._login
        if unchanged and self._dialling:
            return
        self._login = login or self._login
        self._channel.clear_queue()
        self._channel.handle_disconnected()  # what is sent from now on belongs to the next connection
        self.joined = False
        self._interrupt.set()

    def addresses(self) -> list[IPAddress]:
        """Where the portal is, by what its name resolved to last."""
        return self._dialler.resolver.known(self._login.host)

    async def close(self) -> None:
        """Close the WebSocket in good form, within a second, and end ``run`` and ``events``."""
        self._closing = True
        self._heard.set()
        self._interrupt.set()
        if self._running:
            await self._finished.wait()

    async def _run(self) -> None:
        if not self._closing:
            # None: asked to stop or to dial anew meanwhile.
            found = await self._until_interrupted(self._dialler.resolver.refresh(self._login.host, self._login.port))
            if found is False:
                raise PortalFatal(f"Failed to resolve portal host '{self._login.host}'")
        while not self._closing:
            self._interrupt.clear()
            failure = await self._until_interrupted(self._attempt())
            self.joined = False
            self._channel.handle_disconnected()
            if failure is None or self._closing:  # how an attempt ends that we end ourselves is no news
                self._backoff.reset()
                continue
            delay = self._backoff.next_delay(self._clock())
            if delay is None:
                raise PortalFatal(f"Giving up on the portal: {failure.reason}")
            delay = max(delay, failure.retry_after_ns)
            self._tell_away(failure.reason, delay)
            self._wanted.clear()
            await self._deliver(Disconnected(failure.reason, delay))
            await self._until_interrupted(self._rest(delay, may_end_early=not failure.retry_after_ns))
            if self._interrupt.is_set():
                self._backoff.reset()

    def _tell_away(self, reason: str, delay: Duration) -> None:
        """A reason is a warning once, until the portal has answered: attempts are many."""
        fields = {"error": reason, "retry_in_ms": delay // 1_000_000}
        level = logging.INFO if reason == self._away_for else logging.WARNING
        if level == logging.WARNING:
            fields["remedy"] = remedy(self._login.scheme, reason)
        self._away_for = reason
        _logger.log(level, "Portal is away", extra={"fields": fields})

    async def _rest(self, delay: Duration, *, may_end_early: bool) -> None:
        """Until the next attempt. What is to be sent meanwhile ends it, once in a while: the portal may be back.

        A gateway that said goodbye has often been told to by a portal that has just begun.
        """
        if not may_end_early or self._clock() - self._hurried_at < HURRY_INTERVAL:
            await asyncio.sleep(delay / SECOND)
            return
        with suppress(TimeoutError):  # nothing was to be sent
            await asyncio.wait_for(self._wanted.wait(), delay / SECOND)
            self._hurried_at = self._clock()

    async def _attempt(self) -> Transient:
        """Dial and serve one connection; returns why it ended."""
        self._dialling = True
        async with self._dialler.session() as session:
            try:
                websocket = await self._dialler.dial(session, self._login)
            finally:
                self._dialling = False
            if isinstance(websocket, Transient):
                return websocket
            self._backoff.reset()
            self._away_for = None
            if not self._closing:
                _logger.info("Portal answered", extra={"fields": {"host": self._login.host}})
            return await self._serve(websocket)

    async def _serve(self, websocket: WebSocket) -> Transient:
        self._channel.handle_connected(self._clock())
        reason, fatal = "", None
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._read(websocket))
                group.create_task(self._write(websocket))
        except* PortalFatal as refusal:
            fatal = refusal.exceptions[0]
        except* (_ConnectionOver, aiohttp.ClientError, OSError) as over:
            reason = chain(over.exceptions[0])
        finally:
            if self._closing:
                await websocket.close()
            websocket.abort()
        if fatal is not None:
            raise fatal
        return Transient(reason)

    async def _read(self, websocket: WebSocket) -> None:
        async for frame in websocket:  # pings are answered below us; close and error frames end the loop
            if frame.type is aiohttp.WSMsgType.TEXT:
                text = str(frame.data)
            elif frame.type is aiohttp.WSMsgType.BINARY:
                text = bytes(frame.data).decode("utf-8", "replace")
            else:
                continue
            if text:
                self._channel.handle_text(text)
            await self._drain_events()
            self._wake.set()
        reason = websocket.exception() or f"close code {websocket.close_code}"
        raise _ConnectionOver(f"The portal closed the connection: {reason}")

    async def _write(self, websocket: WebSocket) -> None:
        while True:
            self._wake.clear()
            while (text := self._channel.poll_transmit(self._clock())) is not None:
                await websocket.send_str(text)
            deadline = self._channel.poll_timeout()
            try:
                async with asyncio.timeout(None if deadline is None else max(0, deadline - self._clock()) / SECOND):
                    await self._wake.wait()
            except TimeoutError:
                self._channel.handle_timeout(self._clock())
                await self._drain_events()

    async def _drain_events(self) -> None:
        while (event := self._channel.poll_event()) is not None:
            match event:
                case Lost(reason):
                    raise _ConnectionOver(reason)
                case LoginFailed(reason, is_authentication):
                    raise PortalFatal(f"Failed to login to portal: {reason}", is_authentication=is_authentication)
                case Joined():
                    self.joined = True
                    _logger.info("Joined the portal", extra={"fields": {"host": self._login.host}})
                    await self._deliver(event)
                case MessageReceived():
                    await self._deliver(event)

    async def _deliver(self, event: PortalEvent) -> None:
        await self._heard.wait()
        if self._on_event is not None:
            self._on_event(event)
        else:
            await self._events.put(event)

    def _end_full_queue(self) -> None:
        # Whoever reads so slowly learns of the end at the price of the newest event; it is over anyway.
        self._events.get_nowait()
        self._events.put_nowait(None)

    async def _until_interrupted(self, work: Coroutine[Any, Any, T]) -> T | None:
        """The result of ``work``, or None when ``reconnect`` or ``close`` asked to stop it."""

        async def watch() -> None:
            await self._interrupt.wait()
            raise _Interrupted

        result: T | None = None
        fatal = None
        try:
            async with asyncio.TaskGroup() as group:
                watcher = group.create_task(watch())
                result = await work
                watcher.cancel()
        except* PortalFatal as refusal:
            fatal = refusal.exceptions[0]
        except* _Interrupted:
            result = None
        if fatal is not None:
            raise fatal
        return result


def read_system_info() -> SystemInfo:
    """What this machine says about itself in the User-Agent."""
    kernel = os.uname()
    try:
        release = platform.freedesktop_os_release()
    except OSError:
        release = {}
    name = release.get("NAME", kernel.sysname).removesuffix(" GNU/Linux")
    return SystemInfo(name, three_number_version(release.get("VERSION_ID", "")), kernel.machine, kernel.release)


class _Interrupted(Exception):
    """``reconnect`` or ``close`` was called."""


class _ConnectionOver(Exception):
    """This connection is of no more use; the text says why."""
