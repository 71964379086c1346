"""The client's DNS without IO: queries that arrive as packets or over TCP, and the ways that answers take.

Queries by UDP are taken out of the packets to a sentinel, and answers are written to the host as packets. Queries by
TCP are read by the driver from a kernel socket on our tunnel address: packets to a sentinel are turned round to it, and
its answers back. What has to go through the tunnel, the driver sends like any program of the host.
"""

import logging
from collections.abc import Callable
from ipaddress import IPv4Address, IPv6Address
from typing import Final, Protocol

from client.dns import datagram
from client.dns.actions import QUERY_TIMEOUT, TcpReply
from client.dns.queries import Asker, Queries, Query, TcpAsker, UdpAsker, WaitingQueries
from client.dns.records import DnsRecords, Record
from client.dns.sentinels import DNS_PORT, Mapping, Sentinels, effective_servers, is_sentinel
from client.dns.stub_resolver import Answered, AskSite, Decision, Ignore, PassOn, StubResolver, fit_udp, servfail
from client.drops import ClientDrop
from client.resources import ResourceTable
from connectivity.clock import Instant
from connectivity.endpoint import Endpoint, IPAddress
from connectivity.ip import packet
from connectivity.ip.flow import Flow, PacketRun
from connectivity.ip.protocols import PROTOCOL_TCP, PROTOCOL_UDP
from connectivity.role import RoleTunnel
from connectivity.verdict import HOLD, Drop, Reflect, Translation, Verdict

log = logging.getLogger("client")

SITE_DNS_PORT: Final = 53535
LLMNR_PORT: Final = 5355
LLMNR_GROUPS: Final = (IPv4Address("224.0.0.252"), IPv6Address("ff02::1:3"))
SENTINELS: Final = ("sentinels",)  # what turned flows rest on


class Routing(Protocol):
    """What DNS needs to know of the ways to resources."""

    def gateway_address(self, resource_id: str, version: int, now: Instant) -> IPAddress | None:
        """The own address of the gateway of a resource; None if it has none yet, and then the portal is asked."""

    def is_in_tunnel(self, address: IPAddress) -> bool:
        """Whether a resource includes a server's address."""

    def name_was_asked(self, record: Record, now: Instant) -> None:
        """The host was told a name's addresses."""


class DnsService:
    """The DNS of one client: takes queries from the host, answers, forwards or holds them."""

    def __init__(
        self,
        tunnel: RoleTunnel,
        resources: ResourceTable,
        records: DnsRecords,
        routing: Routing,
        rng: Callable[[int], bytes],
    ) -> None:
        self._tunnel = tunnel
        self._routing = routing
        self._resolver = StubResolver(resources, records)
        self._sentinels = Sentinels()
        self._queries = Queries(rng)
        self._waiting = WaitingQueries()
        self._upstream: tuple[Endpoint, ...] = ()
        self._system: tuple[IPAddress, ...] = ()
        self._ports: dict[int, int] = {}

    # Configuration -------------------------------------------------------------------------------------------------

    @property
    def mapping(self) -> Mapping:
        """Each sentinel with the server behind it."""
        return self._sentinels.mapping

    def set_upstream(self, servers: tuple[Endpoint, ...]) -> None:
        """The servers that the portal names."""
        self._upstream = servers
        self._update_sentinels()

    def set_system(self, servers: tuple[IPAddress, ...]) -> None:
        """The servers of the host."""
        self._system = servers
        self._update_sentinels()

    def serve_over_tcp(self, ports: dict[int, int]) -> None:
        """The driver listens at these ports of our tunnel addresses, by IP version."""
        self._ports = dict(ports)
        self._tunnel.flows.forget(SENTINELS)

    def _update_sentinels(self) -> None:
        if self._tunnel.interface is None:
            return  # nobody would see them, and the portal may name others
        servers = effective_servers(self._upstream, self._system)
        if self._sentinels.update(servers):
            self._tunnel.flows.forget(SENTINELS)
            if not servers:
                log.info("No DNS servers are known, so names of resources cannot be asked for")

    # Packets of the host -------------------------------------------------------------------------------------------

    def judge(self, packets: PacketRun, flow: Flow, now: Instant) -> Verdict | None:
        """What becomes of packets to a sentinel or to the LLMNR group; None for all others."""
        if is_sentinel(flow.destination):
            if flow.protocol == PROTOCOL_TCP:
                return self._turn(flow)
            if flow.protocol != PROTOCOL_UDP or flow.destination_port != DNS_PORT:
                return Drop(ClientDrop.NO_SENTINEL)
            if self._sentinels.server(flow.destination) is None:
                return Drop(ClientDrop.NO_SENTINEL)
            self._take_queries(packets, flow, now)
            return HOLD
        if flow.destination in LLMNR_GROUPS:
            if flow.protocol != PROTOCOL_UDP or flow.destination_port != LLMNR_PORT:
                return Drop(ClientDrop.NO_RESOURCE)
            self._take_multicast(packets, flow, now)
            return HOLD
        return None

    def _turn(self, flow: Flow) -> Verdict:
        """Between a program and the driver's listener: the program meets the sentinel, the listener does too."""
        own, port = self._own(flow.version), self._ports.get(flow.version)
        if own is None or port is None or flow.source != own:
            return Drop(ClientDrop.NO_SENTINEL)
        if flow.source_port == port:
            back = Translation(source=flow.destination, source_port=DNS_PORT, destination=own)
            return Reflect(back, rests_on=(SENTINELS,))
        if flow.destination_port != DNS_PORT or self._sentinels.server(flow.destination) is None:
            return Drop(ClientDrop.NO_SENTINEL)
        there = Translation(source=flow.destination, destination=own, destination_port=port)
        return Reflect(there, rests_on=(SENTINELS,))

    def _own(self, version: int) -> IPAddress | None:
        interface = self._tunnel.interface
        if interface is None:
            return None
        return interface.ipv4 if version == 4 else interface.ipv6

    def _take_queries(self, packets: PacketRun, flow: Flow, now: Instant) -> None:
        client, asked = Endpoint(flow.source, flow.source_port), Endpoint(flow.destination, DNS_PORT)
        for segment in packets.run.segments():
            message = datagram.payload(packet.parse(segment))
            self._handle(Query(message, UdpAsker(client, asked), now), self._resolver.decide(message), now)

    def _take_multicast(self, packets: PacketRun, flow: Flow, now: Instant) -> None:
        """Answers come from a sentinel: no kernel takes packets from a multicast address."""
        sentinel = self._sentinels.first(flow.version)
        if sentinel is None:
            return
        asker = UdpAsker(Endpoint(flow.source, flow.source_port), Endpoint(sentinel, LLMNR_PORT))
        for segment in packets.run.segments():
            message = datagram.payload(packet.parse(segment))
            self._handle(Query(message, asker, now), self._resolver.decide_multicast(message), now)

    # Queries and answers -------------------------------------------------------------------------------------------

    def handle_tcp_query(self, query_id: int, sentinel: IPAddress, message: bytes, now: Instant) -> None:
        """A query that came over TCP."""
        query = Query(message, TcpAsker(query_id, Endpoint(sentinel, DNS_PORT)), now)
        self._handle(query, self._resolver.decide(message), now)

    def handle_answer(self, query_id: int, answer: bytes | None, now: Instant) -> None:
        """What the driver was told by a server; None if nothing."""
        finished = self._queries.finish(query_id, answer)
        if finished is None:
            return
        query, answer = finished
        if answer is not None:
            self._answer(query.asker, answer)
        else:
            self._fail(query, now)

    def _handle(self, query: Query, decision: Decision, now: Instant) -> None:
        match decision:
            case Answered(message, record):
                if record is not None:
                    self._routing.name_was_asked(record, now)
                self._answer(query.asker, message)
            case AskSite(resource_id, domain):
                self._ask_site(query, resource_id, domain, now)
            case PassOn():
                self._pass_on(query, now)
            case Ignore(reason):
                self._tunnel.drops[ClientDrop.DNS_IGNORED] += 1
                log.debug("Ignoring a DNS query", extra={"fields": {"reason": reason.value}})
                if isinstance(query.asker, TcpAsker):
                    self._tunnel.act(TcpReply(query.asker.query_id, None))

    def _pass_on(self, query: Query, now: Instant) -> None:
        server = self._sentinels.server(query.asker.asked.ip)
        if server is None:  # of a connection from before other servers were set
            self._fail(query, now)
            return
        self._forward(query, server, now, through_tunnel=bool(self._upstream) and self._routing.is_in_tunnel(server.ip))

    def _ask_site(self, query: Query, resource_id: str, domain: str, now: Instant) -> None:
        address = self._routing.gateway_address(resource_id, query.asker.asked.ip.version, now)
        if address is not None:
            self._forward(query, Endpoint(address, SITE_DNS_PORT), now, through_tunnel=True)
            return
        log.debug("A DNS query waits for a gateway", extra={"fields": {"rid": resource_id, "domain": domain}})
        for dropped in self._waiting.push(resource_id, query):
            self._tunnel.drops[ClientDrop.DNS_FULL] += 1
            self._fail(dropped, now)

    def _forward(self, query: Query, server: Endpoint, now: Instant, *, through_tunnel: bool) -> None:
        action = self._queries.forward(query, server, through_tunnel=through_tunnel)
        if action is not None:
            self._tunnel.act(action)
            return
        self._tunnel.drops[ClientDrop.DNS_FULL] += 1
        self._fail(query, now, is_quiet=True)

    def _answer(self, asker: Asker, message: bytes) -> None:
        if isinstance(asker, TcpAsker):
            self._tunnel.act(TcpReply(asker.query_id, message))
            return
        fitting = fit_udp(message)
        if fitting is not None:
            self._tunnel.write_to_host(datagram.build(asker.asked, asker.client, fitting))

    def _fail(self, query: Query, now: Instant, *, is_quiet: bool = False) -> None:
        """Say so; but who asks by UDP, and was kept until about when he asks again, hears nothing."""
        is_quiet = is_quiet or now - query.asked_at >= QUERY_TIMEOUT
        if is_quiet and isinstance(query.asker, UdpAsker):
            return
        message = servfail(query.message)
        if message is not None:
            self._answer(query.asker, message)
        elif isinstance(query.asker, TcpAsker):
            self._tunnel.act(TcpReply(query.asker.query_id, None))

    # Gateways ------------------------------------------------------------------------------------------------------

    def waits_for(self, resource_id: str) -> bool:
        """Whether a query waits for the gateway of this resource."""
        return resource_id in self._waiting

    def gateway_came(self, resource_id: str, now: Instant) -> None:
        """The resource has a gateway: what waited for it goes on."""
        for query in self._waiting.take(resource_id):
            address = self._routing.gateway_address(resource_id, query.asker.asked.ip.version, now)
            if address is None:
                self._fail(query, now)
            else:
                self._forward(query, Endpoint(address, SITE_DNS_PORT), now, through_tunnel=True)

    def no_gateway_comes(self, resource_id: str, now: Instant) -> None:
        """Whoever asked is told."""
        for query in self._waiting.take(resource_id):
            self._fail(query, now)

    def reset(self, now: Instant) -> None:
        """The driver's sockets are gone, and with them the answers."""
        for query in self._queries.take_all():
            self._fail(query, now, is_quiet=True)

    # Time ----------------------------------------------------------------------------------------------------------

    def handle_timeout(self, now: Instant) -> None:
        """Give up what has waited too long."""
        for query in self._waiting.take_overdue(now):
            self._fail(query, now)

    def poll_timeout(self) -> Instant | None:
        """When something has."""
        return self._waiting.poll_timeout()
