"""A simulated network with names: gateways that resolve them from a table, and a client whose host asks for them."""

from collections import Counter
from ipaddress import ip_address
from typing import Any, Final

import dns.message

from client.core import ClientCore
from client.dns import datagram
from client.dns.actions import ForwardQuery, TcpReply
from connectivity.clock import SECOND
from connectivity.endpoint import Endpoint, IPAddress
from connectivity.ip.packet import Packet, parse
from gateway.actions import ResolveDomain
from gateway.core import GatewayCore
from tests.unit.world import CLIENT_TUNNEL, World
from tests.unit.world_ends import End

APP: Final = "00000000-0000-0000-0000-000000000001"
OTHER: Final = "00000000-0000-0000-0000-000000000002"
NAMES: Final[dict[str, Any]] = {"type": "dns", "id": APP, "name": "apps", "address": "*.internal.example"}
INTERNET: Final[dict[str, Any]] = {"type": "internet", "id": OTHER, "name": "all"}
LAN: Final[dict[str, Any]] = {"type": "cidr", "id": "r-1", "name": "lan", "address": "10.20.0.0/24"}
NAME: Final = "app.internal.example"
REAL: Final = ("10.50.0.7", "fd50::7")
SENTINEL: Final = {4: ip_address("100.100.111.1"), 6: ip_address("fd00:2021:1111:8000:100:100:111:0")}
PORT: Final = 5000


class NamesWorld(World):
    """``addresses``: what names resolve to at the gateways; a name that is missing does not, None answers never."""

    def __init__(self, *resources: dict[str, Any], **options: Any) -> None:
        self.addresses: dict[str, tuple[str, ...] | None] = {NAME: REAL}
        self.looked_up: Counter[str] = Counter()
        self.forwarded: list[ForwardQuery] = []
        self._handled = 0
        self._unheard: list[tuple[End, str, Any]] | None = None  # what the portal is sent while it is away
        self.replies: list[TcpReply] = []
        super().__init__(**options)
        self.resources = list(resources) or [NAMES]
        core = self.client_core
        core.set_system_resolvers((ip_address("192.0.2.53"), ip_address("2001:db8::53")), self.now)
        self.start()

    @property
    def client_core(self) -> ClientCore:
        """The first client's."""
        core = self.ends["client"].core
        assert isinstance(core, ClientCore)
        return core

    def drain(self, name: str) -> None:
        """Look names up, and keep what the client asks of its DNS driver."""
        super().drain(name)
        while self._handled < len(self.portal_log):
            end, _, action = self.portal_log[self._handled]
            self._handled += 1
            if isinstance(action, ResolveDomain):
                self._resolve(end, action.domain)
            elif isinstance(action, ForwardQuery):
                self.forwarded.append(action)
            elif isinstance(action, TcpReply):
                self.replies.append(action)

    def portal_away(self) -> None:
        """Nothing reaches the portal from now on."""
        self._unheard = []

    def portal_back(self) -> None:
        """What was sent meanwhile reaches it now."""
        unheard, self._unheard = self._unheard or [], None
        for sender, event, payload in unheard:
            self._portal(sender, event, payload)

    def _portal(self, sender: End, event: str, payload: Any) -> None:
        if self._unheard is None:
            super()._portal(sender, event, payload)
        else:
            self._unheard.append((sender, event, payload))

    def _resolve(self, name: str, domain: str) -> None:
        self.looked_up[domain] += 1
        found = self.addresses.get(domain, ())
        if found is None:
            return
        core = self.ends[name].core
        assert isinstance(core, GatewayCore)
        core.handle_resolution(domain, tuple(map(ip_address, found)) or None, self.now)
        self.drain(name)

    def ask(self, name: str = NAME, version: int = 4, rdtype: str = "") -> list[IPAddress]:
        """The client's host asks for a name."""
        rdtype = rdtype or ("A" if version == 4 else "AAAA")
        message = dns.message.make_query(name, rdtype, id=7).to_wire()
        client = Endpoint(ip_address(CLIENT_TUNNEL[0 if version == 4 else 1]), 40000)
        before = len(self.host_received["client"])
        self.send_from_client(datagram.build(client, Endpoint(SENTINEL[version], 53), message))
        answers = self.host_received["client"][before:]
        del self.host_received["client"][before:]
        parsed = [dns.message.from_wire(datagram.payload(parse(answer))) for answer in answers]
        return [ip_address(str(rdata)) for one in parsed for rrset in one.answer for rdata in rrset]

    def say(self, destination: IPAddress, data: bytes = b"hello", port: int = PORT) -> None:
        """The client's host sends a datagram."""
        source = Endpoint(ip_address(CLIENT_TUNNEL[0 if destination.version == 4 else 1]), port)
        self.send_from_client(datagram.build(source, Endpoint(destination, 80), data))

    def reply(self, data: bytes = b"answer", *, name: str = "gateway") -> None:
        """Who got the last datagram at the gateway's side answers it."""
        asked = parse(self.host_received[name][-1])
        source, destination = endpoints(asked)
        self.send_from_gateway(datagram.build(destination, source, data), name=name)

    def arrived(self, name: str = "gateway") -> list[tuple[str, bytes]]:
        """The datagrams that reached a host, each with where it went."""
        packets = map(parse, self.host_received[name])
        return [(str(one.destination), datagram.payload(one)) for one in packets]

    def established(self, version: int = 4) -> IPAddress:
        """A first datagram has gone to the name; returns its proxy address."""
        proxy = self.ask(version=version)[0]
        self.say(proxy, b"first")
        self.advance(2 * SECOND)
        assert self.arrived() == [(REAL[0 if version == 4 else 1], b"first")]
        self.host_received["gateway"].clear()
        return proxy


def endpoints(packet: Packet) -> tuple[Endpoint, Endpoint]:
    """Source and destination of a UDP packet."""
    ports = packet.ports
    source, destination = int.from_bytes(ports[:2], "big"), int.from_bytes(ports[2:], "big")
    return Endpoint(packet.source, source), Endpoint(packet.destination, destination)
