"""Keeps the host's DNS as it is wanted, beside the event loop's work: one task, and of all that is wanted the newest.

However many configurations come while one is carried out, the next turn takes the last of them. Every few seconds it
looks whether the host uses other servers by now, and whether somebody took away what was applied.
"""

import asyncio
import logging
from collections.abc import Callable
from typing import Final

from client.dns.system_servers import SystemServer
from client.system_dns.control import DnsControlError, SystemDns, Wanted, listed
from connectivity.errors import chain

POLL_SECONDS: Final = 5.0

_log = logging.getLogger("client.dns")


class SystemDnsKeeper:
    """Owns one ``SystemDns``.

    Args:
        told: gets the servers that the host uses, at the start and when they change.
        in_place: called when the host asks us from now on, or no longer.
        fail: gets the reason if DNS cannot be controlled the first time that it is wanted.
    """

    def __init__(
        self,
        dns: SystemDns,
        *,
        told: Callable[[tuple[SystemServer, ...]], None],
        in_place: Callable[[], None],
        fail: Callable[[Exception], None],
    ) -> None:
        self._dns = dns
        self._told = told
        self._in_place = in_place
        self._fail = fail
        self._servers: tuple[SystemServer, ...] | None = None
        self._wanted = Wanted()
        self._applied = Wanted()
        self._has_worked = False
        self._is_trouble_told = False
        self._flush_wanted = False
        self._is_closed = False
        self._woken = asyncio.Event()
        self._turn = asyncio.Lock()  # the end does not cut a turn in two

    async def start(self) -> None:
        """Undo what was left behind and learn the host's servers.

        Raises:
            DnsControlError: the mode cannot work on this host.
        """
        await self._dns.start()
        await self._look()

    def want(self, wanted: Wanted) -> None:
        """Carry this out, and nothing that was wanted before and has not been begun."""
        self._wanted = wanted
        self._woken.set()

    def flush(self) -> None:
        """Have the host forget names, once for any number of calls."""
        self._flush_wanted = True
        self._woken.set()

    async def run(self) -> None:
        """Until the end."""
        while not self._is_closed:
            try:
                async with asyncio.timeout(POLL_SECONDS):
                    await self._woken.wait()
            except TimeoutError:
                pass
            self._woken.clear()
            async with self._turn:
                if not self._is_closed:
                    await self._keep()

    async def close(self) -> None:
        """Put everything back, once what is being done is done."""
        self._is_closed = True
        async with self._turn:
            await self._dns.close()

    async def _keep(self) -> None:
        """One turn."""
        try:
            held = await self._look()
            if self._wanted != self._applied or not held:
                await self._apply(self._wanted)
            if self._flush_wanted and self._wanted == self._applied:
                self._flush_wanted = False
                await self._dns.flush()
        except DnsControlError as error:
            self._trouble(error)
        else:
            self._is_trouble_told = False

    async def _look(self) -> bool:
        found = await self._dns.look()
        if found.servers != self._servers:
            self._servers = found.servers
            _log.debug("The host's DNS servers", extra={"fields": {"servers": listed(s.ip for s in found.servers)}})
            self._told(found.servers)
        return found.is_in_place

    async def _apply(self, wanted: Wanted) -> None:
        await self._dns.apply(wanted)
        self._applied = wanted
        self._has_worked = True
        _log.info("DNS of this host", extra={"fields": {"asks": listed(wanted.sentinels)}})
        self._in_place()

    def _trouble(self, error: DnsControlError) -> None:
        """A host whose DNS never asked us is no place to work; one that stopped to is looked after."""
        if not self._has_worked:
            self._fail(error)
        elif not self._is_trouble_told:
            self._is_trouble_told = True
            _log.warning("Cannot control the host's DNS, trying again", extra={"fields": {"error": chain(error)}})
