"""Asks DNS servers on behalf of programs of this host, each query from a socket of its own (``dns_exchange``).

The sockets carry the mark that keeps them out of the tunnel, unless the server is to be reached through it. Answers are
passed on as they are, truncated ones too.
"""

import asyncio
import logging
from collections.abc import Callable, Iterable
from ipaddress import IPv6Address
from typing import Final

from client.dns.actions import QUERY_TIMEOUT, ForwardQuery, Transport
from client.dns.sentinels import is_sentinel
from client.dns.system_servers import SystemServer
from connectivity.clock import SECOND
from connectivity.endpoint import Endpoint, IPAddress
from connectivity.errors import chain
from connectivity.io.dns_exchange import exchange
from connectivity.io.extension import Tasks

ANSWER_SECONDS: Final = QUERY_TIMEOUT / SECOND
QUERIES_IN_FLIGHT: Final = 1000  # a descriptor each; whoever asks more waits for servers that are silent

_log = logging.getLogger("client.dns")


class Forwarder:
    """Queries in flight.

    Args:
        mark: what sockets carry that leave outside the tunnel.
        fail: ends the service for a defect.
        on_silence: gets a server that did not answer in time, or that more is asked than there is room for.
    """

    def __init__(
        self, *, mark: int, fail: Callable[[Exception], None], on_silence: Callable[[IPAddress], None]
    ) -> None:
        self._mark = mark
        self._on_silence = on_silence
        self._tasks = Tasks(fail)
        self._zoned: dict[IPAddress, IPAddress] = {}
        self.counts = {"answered": 0, "timed_out": 0, "failed": 0, "refused": 0}

    def set_zones(self, servers: Iterable[SystemServer]) -> None:
        """By which interfaces link-local servers are reached; the core knows addresses alone."""
        self._zoned = {one.ip: IPv6Address(f"{one.ip}%{one.zone}") for one in servers if one.zone is not None}

    def ask(self, query: ForwardQuery, done: Callable[[bytes | None], None]) -> None:
        """Send the query; ``done`` gets the answer, or None, and never before this has returned."""
        server = query.server.ip
        if len(self._tasks) >= QUERIES_IN_FLIGHT or is_sentinel(server):
            self.refuse(done)
            self._on_silence(server)
            return
        self._tasks.start(self._ask(query, done))

    def refuse(self, done: Callable[[bytes | None], None]) -> None:
        """Send nothing."""
        self.counts["refused"] += 1
        asyncio.get_running_loop().call_soon(done, None)

    async def give_up(self) -> None:
        """End all queries without an answer."""
        await self._tasks.cancel()

    async def _ask(self, query: ForwardQuery, done: Callable[[bytes | None], None]) -> None:
        ip, port = query.server
        answer = None
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                answer = await exchange(
                    query.message,
                    Endpoint(self._zoned.get(ip, ip), port),
                    over_tcp=query.transport is Transport.TCP,
                    mark=None if query.through_tunnel else self._mark,
                )
            self.counts["answered"] += 1
        except TimeoutError as error:
            self.counts["timed_out"] += 1
            self._note(query, error)
            self._on_silence(ip)
        except OSError as error:
            self.counts["failed"] += 1
            self._note(query, error)
        finally:
            done(answer)

    def _note(self, query: ForwardQuery, error: Exception) -> None:
        _log.debug("No answer of a DNS server", extra={"fields": {"server": query.server, "error": chain(error)}})
