"""What the client adds to its tunnel's driver: the sockets of its DNS, and the control of the host's."""

import logging
import os
import time
from collections.abc import Mapping
from functools import partial
from typing import Final

from client.core import ClientCore
from client.dns.actions import FlushNames, ForwardQuery, TcpReply
from client.dns.system_servers import SystemServer
from client.dns_io.forwarder import Forwarder
from client.dns_io.loop_check import LoopCheck
from client.dns_io.tcp_listener import TcpListener
from client.system_dns import modes
from client.system_dns.control import SystemDns, Wanted
from client.system_dns.keeper import SystemDnsKeeper
from connectivity.endpoint import IPAddress
from connectivity.io.extension import ExtensionHost, Tasks
from connectivity.tunnel import ConfigureTun

_LOOP: Final = (
    "A DNS server of this host asks us what we ask it: it is not used. Give it servers of its own "
    "instead of those of resolv.conf or systemd-resolved, or let the portal name the DNS servers"
)

_log = logging.getLogger("client.dns")


def make_extension(mode: str, host: ExtensionHost) -> "ClientExtension":
    """The extension for a mode of ``FIREZONE_DNS_CONTROL``."""
    return ClientExtension(host, modes.make(mode, host.device))


class ClientExtension:
    """One run's. ``dns`` is the mode in which the host's DNS is controlled."""

    def __init__(self, host: ExtensionHost, dns: SystemDns) -> None:
        assert isinstance(host.core, ClientCore), "the client's extension needs the client's core"
        self._core = host.core
        self._call = host.call
        self._tasks = Tasks(host.fail)
        self._servers: tuple[SystemServer, ...] = ()
        self._upstreams: tuple[IPAddress, ...] = ()
        self._loops = LoopCheck(ask=lambda query: self._forwarder.ask(query, _ignore), rng=os.urandom)
        self._forwarder = Forwarder(mark=host.mark, fail=host.fail, on_silence=self._loops.suspect)
        self._listener = TcpListener(
            device=host.device,
            query=lambda query_id, sentinel, message: self._call(
                self._core.handle_tcp_query, query_id, sentinel, message, time.monotonic_ns()
            ),
            serve=lambda ports: self._call(self._core.serve_dns_over_tcp, ports),
            fail=host.fail,
        )
        self._keeper = SystemDnsKeeper(dns, told=self._told, in_place=self._in_place, fail=host.fail)

    async def start(self) -> None:
        """Undo what a run that was killed left, and tell the core which servers the host uses."""
        await self._keeper.start()
        self._tasks.start(self._keeper.run())

    def act(self, action: object) -> bool:
        """Queries, answers over TCP, and names that changed."""
        match action:
            case ForwardQuery():
                self._forward(action)
            case TcpReply(query_id, message):
                self._listener.reply(query_id, message)
            case FlushNames():
                self._keeper.flush()
            case _:
                return False
        return True

    async def configured(self, configuration: ConfigureTun) -> None:
        """The device has its addresses: names may be asked there."""
        sentinels = tuple(sentinel for sentinel, _ in configuration.sentinels)
        self._upstreams = tuple(server.ip for _, server in configuration.sentinels)
        self._listener.configure((configuration.interface.ipv4, configuration.interface.ipv6), sentinels)
        self._keeper.want(Wanted(sentinels, configuration.search_domain))

    async def reset(self) -> None:
        """Queries that went out by the network before get no answer any more."""
        await self._forwarder.give_up()

    async def close(self) -> None:
        """The host's DNS first: nothing else is left behind."""
        self._loops.stop()
        await self._keeper.close()
        await self._tasks.cancel()
        await self._listener.close()
        await self._forwarder.give_up()

    def counters(self) -> Mapping[str, Mapping[str, int]]:
        """Queries by how they ended, connections for DNS."""
        return {"dns_queries": self._forwarder.counts, "dns_connections": self._listener.counts}

    def _forward(self, query: ForwardQuery) -> None:
        done = partial(self._answered, query.query_id)
        went_round = self._loops.came_back(query.message)
        if went_round is not None and went_round not in self._loops.looping:
            self._loops.looping.add(went_round)
            _log.warning(_LOOP, extra={"fields": {"server": went_round}})
            self._tell()
        if query.server.ip in self._loops.looping:
            self._forwarder.refuse(done)
        else:
            self._forwarder.ask(query, done)

    def _answered(self, query_id: int, message: bytes | None) -> None:
        self._call(self._core.handle_dns_answer, query_id, message, time.monotonic_ns())

    def _told(self, servers: tuple[SystemServer, ...]) -> None:
        """The host uses other servers: what was found out about the ones before counts no more."""
        self._servers = servers
        self._loops.forget()
        self._forwarder.set_zones(servers)
        self._tell()
        self._in_place()

    def _tell(self) -> None:
        servers = tuple(server.ip for server in self._servers if server.ip not in self._loops.looping)
        self._call(self._core.set_system_resolvers, servers, time.monotonic_ns())

    def _in_place(self) -> None:
        """The host asks us now: does what we ask come back?"""
        self._loops.watch(self._upstreams)


def _ignore(message: bytes | None) -> None:
    """The answer to a question that was not about its answer."""
    del message
