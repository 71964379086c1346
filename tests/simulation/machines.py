"""The machines of the simulation: what runs the real cores as their drivers do, with a host on the network."""

from collections.abc import Callable
from ipaddress import ip_address
from typing import Final, TypeAlias

from client.core import ClientCore
from client.dns.actions import FlushNames, ForwardQuery, TcpReply
from client.dns.records import DnsRecords
from connectivity.clock import Instant
from connectivity.endpoint import Endpoint, IPAddress
from connectivity.ip.flow import PacketRun, split_flows
from connectivity.node import NodeError
from connectivity.phoenix.login import SystemInfo, client_login, gateway_login, relay_login, user_agent
from connectivity.phoenix.message import Json
from connectivity.run import Received, Run, Transmit
from connectivity.tunnel import ConfigureTun, ReconnectPortal, SendToPortal, TunnelCore
from connectivity.wireguard import KeyPair
from gateway.actions import ResolveDomain
from gateway.core import GatewayCore
from portal.configuration import TokenType
from relay.core.configuration import ServerSettings
from relay.core.credentials import StampSecretCredentials
from relay.core.nonce import NonceMint
from relay.core.outputs import OpenRelayedPort, Relayed, ToClient, ToPeer
from relay.core.peers import PeerPolicy
from relay.core.server import Server
from tests.simulation.control import Link, Portal
from tests.simulation.forwarding import LOOK_UP, SYSTEM_SERVERS, Forwarding, servers
from tests.simulation.network import Host, Network, Place

API: Final = "wss://portal.example/"
PORT: Final = 52625
RELAY_PORT: Final = 3478
NEVER: Final[Instant] = 1 << 62
MOST_REPEATS: Final = 3  # of a wake-up at one moment

Arrived: TypeAlias = Callable[["Tunneller", bytes], None]
Resolve: TypeAlias = Callable[[str], tuple[IPAddress, ...] | None]
Replied: TypeAlias = Callable[[str, int, bytes | None], None]  # to a client, over TCP, to a query


class Tunneller:
    """A client or a gateway: its machine stays, its process comes and goes."""

    def __init__(
        self,
        name: str,
        kind: TokenType,
        entry: str,
        network: Network,
        portal: Portal,
        arrived: Arrived,
        resolve: Resolve,
        replied: Replied,
    ) -> None:
        self.name = name
        self.kind = kind
        self.entry = entry  # of the portal's tokens: a client's own, a gateway's site
        self.network = network
        self.portal = portal
        self.host = Host(name, self._receive)
        self.core: TunnelCore | None = None
        self.link: Link | None = None
        self.configured: ConfigureTun | None = None
        self.addresses: set[IPAddress] = set()  # in the tunnel, now and ever
        self.records: DnsRecords | None = None  # of a client's process, over sign-outs
        self.resolvers = servers(SYSTEM_SERVERS[0])  # of a client's host
        self.forwarding: Forwarding | None = None
        self.is_control_cut = False
        self.started_at: Instant = 0
        self.errors: list[Exception] = []
        self.due: Instant = NEVER
        self._arrived = arrived
        self._resolve = resolve
        self._replied = replied
        self._repeats = 0

    def __str__(self) -> str:
        paths = [] if self.core is None else [str(row) for row in self.core.connections()]
        return f"{self.name}: link {'live' if self.link is not None and self.link.is_live else 'away'}, {paths}"

    # Life ------------------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """A process with a new key; the device is the same."""
        random = self.network.random
        keys = KeyPair.generate(random.randbytes)
        now = self.started_at = self.network.now
        agent = user_agent("gateway" if self.kind is TokenType.GATEWAY else "headless-client", SystemInfo())
        if self.kind is TokenType.GATEWAY:
            self.core = GatewayCore(keys=keys, rng=random.randbytes, now=now)
            login_of = gateway_login
        else:
            self.core = client = ClientCore(keys=keys, rng=random.randbytes, records=self.records)
            client.set_system_resolvers(self.resolvers, now)
            self.forwarding = Forwarding(
                self.network, client, send=self.send, drain=self.drain, runs=lambda: self.core is client
            )
            self.records = client.records
            login_of = client_login
        login = login_of(
            API,
            token=token_of(self.entry),
            device_id=self.name,
            name=self.name,
            public_key=keys.public,
            user_agent=agent,
        )
        self.link = Link(self.portal, self.kind, login, None, self._told, self._is_cut, random)
        self.drain()

    def stop(self) -> None:
        """It ends in order: goodbye to its peers, then to the portal. A client's process may go on without it."""
        assert self.core is not None, "only what runs is stopped"
        self.core.close(self.network.now)
        self.drain()
        self.core.leave_relays(self.network.now)
        self.drain()
        records = self.records
        self.kill()
        self.records = records

    def kill(self) -> None:
        """The process is gone; the kernel closes its connections."""
        assert self.link is not None, "only what runs is killed"
        self.link.close()
        self.core = self.link = self.configured = self.records = self.forwarding = None
        self.due = NEVER

    def move(self, place: Place, addresses: tuple[str, ...]) -> None:
        """The machine is somewhere else now."""
        self.network.move(self.host, place, addresses)

    def reset(self, *, moved: bool) -> None:
        """Begin anew with another key and other sockets, as on SIGHUP or when the network has changed."""
        if self.core is None or self.link is None:
            return
        keys = KeyPair.generate(self.network.random.randbytes)
        self.core.reset(keys, self.network.now)
        self.link.reconnect(self.link.login.with_public_key(keys.public), moved=moved)
        self.drain()

    def use_resolvers(self, resolvers: tuple[IPAddress, ...]) -> None:
        """A client's host has other name servers now."""
        self.resolvers = resolvers
        if isinstance(self.core, ClientCore):
            self.core.set_system_resolvers(resolvers, self.network.now)
            self.drain()

    def ask_over_tcp(self, query_id: int, sentinel: IPAddress, message: bytes) -> None:
        """A program asks a sentinel over a connection, from which the driver has read this."""
        if isinstance(self.core, ClientCore):
            self.core.handle_tcp_query(query_id, sentinel, message, self.network.now)
            self.drain()

    # Inputs ----------------------------------------------------------------------------------------------------------

    def handle_timeout(self) -> None:
        """Run what is due."""
        if self.core is not None:
            self.core.handle_timeout(self.network.now, self.network.wall_now)
            self.drain()
            self._repeats = self._repeats + 1 if self.due <= self.network.now else 0
            assert self._repeats < MOST_REPEATS, f"{self.name} wants to wake up again and again"

    def send(self, packet: bytes) -> None:
        """The machine's kernel routes a packet into the tunnel."""
        if self.core is None:
            return
        problems: list[Exception] = []
        for packets in split_flows(Run.single(bytearray(packet)), problems):  # type: ignore[arg-type]  # errors of ip only
            transmit = self.core.handle_packets(packets, self.network.now, self.errors)
            if transmit is not None:
                self._transmit(transmit)
        assert not problems, f"what hosts of the simulation send are packets: {problems}"
        self.drain()

    def _receive(self, received: Received) -> None:
        if self.core is None or received.local.port != PORT:
            return
        network = self.network
        self.core.handle_datagrams(received, network.now, network.wall_now, self._take, self.errors)
        self.drain()

    def _take(self, packets: PacketRun) -> None:
        """The machine's kernel gets packets out of the tunnel."""
        for segment in packets.run.segments():
            self._arrived(self, bytes(segment))

    def _told(self, event: str, payload: Json) -> None:
        if self.core is not None:
            self.core.handle_portal(event, payload, self.network.now, self.network.wall_now)
            self.drain()

    # Outputs ---------------------------------------------------------------------------------------------------------

    def drain(self) -> None:
        """The drain law."""
        core, link = self.core, self.link
        assert core is not None, "only what runs has outputs"
        assert link is not None, "what runs has a link"
        while (transmit := core.poll_transmit()) is not None:
            self._transmit(transmit)
        while (packet := core.poll_host_packet()) is not None:
            self._arrived(self, packet)
        while (action := core.poll_action()) is not None:
            match action:
                case SendToPortal(event, payload):
                    link.send(event, payload)
                case ConfigureTun():
                    self.configured = action
                    self.addresses |= {action.interface.ipv4, action.interface.ipv6}
                case ReconnectPortal():
                    link.reconnect()
                case ResolveDomain(domain):
                    self.network.at(LOOK_UP, self._look_up(core, domain))
                case ForwardQuery():
                    assert self.forwarding is not None, "a client has a driver"
                    assert self.configured is not None, "who can be asked has addresses"
                    self.forwarding.ask(action, self.configured, self.resolvers, is_cut=self.host.is_cut)
                case TcpReply(query_id, message):
                    self._replied(self.name, query_id, message)
                case FlushNames():
                    pass  # the programs here ask every time, and the others keep what they were told
                case other:
                    raise AssertionError(f"nobody here knows {other}")
        due = core.poll_timeout()
        self.due = NEVER if due is None else due
        self._check_errors()

    def _look_up(self, core: TunnelCore, domain: str) -> Callable[[], None]:
        def conclude() -> None:
            if self.core is core and isinstance(core, GatewayCore):
                core.handle_resolution(domain, self._resolve(domain), self.network.now)
                self.drain()

        return conclude

    def _check_errors(self) -> None:
        """What peers and networks cause are errors of the batch; anything else is a defect."""
        for error in self.errors:
            if not isinstance(error, (NodeError, ValueError)):
                raise error
        self.errors.clear()

    def _transmit(self, transmit: Transmit) -> None:
        source, destination, run, tos = transmit
        if source is None:
            address = self.host.addresses.get(destination.ip.version)
            if address is None:
                return
            source = Endpoint(address, PORT)
        self.network.send(self.host, source, destination, run, tos)

    def _is_cut(self) -> bool:
        return self.host.is_cut or self.is_control_cut or self.host.place is None


class Relay:
    """A relay's machine, on the open Internet."""

    def __init__(self, name: str, network: Network, portal: Portal) -> None:
        self.name = name
        self.network = network
        self.portal = portal
        self.host = Host(name, self._receive)
        self.core: Server | None = None
        self.link: Link | None = None
        self.is_control_cut = False
        self.due: Instant = NEVER

    def start(self, stamp_secret: str) -> None:
        """A process without memory."""
        random = self.network.random
        public: dict[int, IPAddress] = dict(self.host.addresses)
        policy = PeerPolicy(under_portal=True, own=frozenset(public.values()), allow=(), deny=())
        self.core = Server(
            ServerSettings(public=public, policy=policy),
            source=StampSecretCredentials(stamp_secret),
            nonces=NonceMint(random.randbytes(32)),
            rng=random.randbytes,
        )
        ipv4, ipv6 = (ip_address(str(public[version])) for version in (4, 6))
        login = relay_login(
            API,
            token=token_of("relay"),
            user_agent=user_agent("relay", SystemInfo()),
            ipv4=ipv4,  # type: ignore[arg-type]  # the one of version 4
            ipv6=ipv6,  # type: ignore[arg-type]  # the one of version 6
            name=self.name,
        )
        payload = {"stamp_secret": stamp_secret}
        self.link = Link(self.portal, TokenType.RELAY, login, payload, self._told, self._is_cut, random)
        self._drain()

    def kill(self) -> None:
        """The process is gone."""
        assert self.link is not None, "only what runs is killed"
        self.link.close()
        self.core = self.link = None
        self.due = NEVER

    def handle_timeout(self) -> None:
        """Run what is due."""
        if self.core is not None:
            self.core.handle_timeout(self.network.now)
            self._drain()

    def _told(self, event: str, payload: Json) -> None:
        assert event == "init", f"relays are told nothing else than {payload}"

    def _receive(self, received: Received) -> None:
        core, network = self.core, self.network
        if core is None:
            return
        if received.local.port == RELAY_PORT:
            relayed = core.handle_client(received, network.now, network.wall_now)
        else:
            relayed = core.handle_peer(received.local.port, received, network.now)
        for output in relayed:
            self._send(output)
        self._drain()

    def _send(self, output: Relayed) -> None:
        transmit = output.transmit
        port = output.relayed_port if isinstance(output, ToPeer) else RELAY_PORT
        source = Endpoint(self.host.addresses[transmit.destination.ip.version], port)
        self.network.send(self.host, source, transmit.destination, transmit.run, transmit.tos)

    def _drain(self) -> None:
        assert self.core is not None, "only what runs has outputs"
        while (output := self.core.poll_output()) is not None:
            match output:
                case ToClient():
                    self._send(output)
                case OpenRelayedPort(port):
                    self.core.relayed_port_opened(port, self.network.now)
                case _:
                    pass  # closing ports and removing channels has no effect on this network
        due = self.core.poll_timeout()
        self.due = NEVER if due is None else due

    def _is_cut(self) -> bool:
        return self.host.is_cut or self.is_control_cut


def token_of(entry: str) -> str:
    """The token of an entry."""
    return f"{entry}-token-long-enough"
