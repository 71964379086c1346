"""A gateway's core over a node that neither encrypts nor connects: IP packets in and out, under virtual time."""

import base64
import random
import struct
from collections.abc import Callable
from ipaddress import ip_address
from typing import Any, cast
from uuid import UUID

from connectivity import p2p
from connectivity.clock import SECOND
from connectivity.data_path import DataPath
from connectivity.endpoint import Endpoint, IPAddress
from connectivity.ip.flow import PacketRun, split_flows
from connectivity.ip.packet import parse
from connectivity.node import Opened
from connectivity.node.statistics import Statistics
from connectivity.run import Received, Run, Transmit
from connectivity.tunnel import SendToPortal
from connectivity.wireguard import KeyPair
from gateway.actions import ResolveDomain
from gateway.core import GatewayCore
from tests.unit.connectivity.ip_oracle import checksums_are_right, with_checksums

WALL = 1_790_000_000 * SECOND
OWN = ("100.64.0.1", "fd00:2021:1111::1")
CLIENT = ("100.64.0.2", "fd00:2021:1111::2")
PROXIES_V4 = tuple(ip_address(f"100.96.0.{number}") for number in range(1, 5))
PROXIES_V6 = tuple(ip_address(f"fd00:2021:1111:8000::{number}") for number in range(4))
PROXIES = (*PROXIES_V4, *PROXIES_V6)
DNS = UUID(int=101)  # *.internal
LAN = UUID(int=102)  # 10.0.0.0/24
RESOURCES: dict[UUID, dict[str, Any]] = {
    DNS: {"id": str(DNS), "type": "dns", "name": "names", "address": "*.internal", "filters": []},
    LAN: {"id": str(LAN), "type": "cidr", "name": "lan", "address": "10.0.0.0/24", "filters": []},
}
TCP, UDP, ICMP, GRE = 6, 17, 1, 47
SYN, ACK, FIN, RST = 0x02, 0x10, 0x01, 0x04
V4, V6 = CLIENT
PROXY, PROXY_V6 = PROXIES_V4[0], PROXIES_V6[0]
REAL, REAL_V6 = "10.0.0.5", "2001:db8::5"
ACTIVE = p2p.DomainStatus(DNS, "app.internal", True)
INACTIVE = p2p.DomainStatus(DNS, "app.internal", False)
_PEER = Endpoint(ip_address("192.0.2.1"), 1)


class OpenNode:
    """Hands on what it is given."""

    def __init__(self) -> None:
        self.data_path = DataPath()  # which knows no peer
        self.sent: list[tuple[str, bytes]] = []
        self.closed: list[str] = []

    def open_others(self, received: Received, *rest: object) -> None:
        cast(Callable[[Opened], None], rest[2])(Opened(str(received.local.ip), received.run, received.tos))

    def seal(self, peer_id: str, run: Run, _tos: int, _now: int) -> Transmit:
        self.sent += [(peer_id, bytes(segment)) for segment in run.segments()]
        return Transmit(None, _PEER, run)

    def send(self, peer_id: str, packet: bytes, _tos: int, _now: int) -> None:
        self.sent.append((peer_id, packet))

    def close(self, peer_id: str, _goodbye: bytes, _now: int) -> None:
        self.closed.append(peer_id)

    def remove(self, peer_id: str, _reason: str) -> None:
        self.closed.append(peer_id)

    def upsert(self, *_: object, **__: object) -> None:
        pass

    def update_relays(self, *_: object) -> None:
        pass

    def poll_event(self) -> None:
        return None

    def poll_timeout(self) -> None:
        return None

    def handle_timeout(self, *_: object) -> None:
        pass

    def statistics(self) -> Statistics:
        return Statistics(waiting_packets=0, drops={})


class Stage:
    """One gateway; its clients are called client, client-2 and so on, and have all resources from the start."""

    def __init__(self, *resources: UUID, clients: int = 1) -> None:
        rng = random.Random(13)
        self.now = 1_000 * SECOND
        self.core = GatewayCore(keys=KeyPair.generate(rng.randbytes), rng=rng.randbytes, now=self.now)
        self.node = OpenNode()
        cast(Any, self.core)._tunnel.node = self.node
        self.host: list[bytes] = []
        self.lookups: list[str] = []
        self.resources = {resource_id: dict(RESOURCES[resource_id]) for resource_id in RESOURCES}
        self.portal("init", {"interface": dict(zip(("ipv4", "ipv6"), OWN, strict=True)), "relays": []})
        for number in range(1, clients + 1):
            for resource_id in resources or (DNS,):
                self.authorize(resource_id, client(number))

    # Inputs --------------------------------------------------------------------------------------------------------

    def portal(self, event: str, payload: object) -> None:
        self.core.handle_portal(event, payload, self.now, WALL + self.now)
        self._drain()

    def authorize(
        self, resource_id: UUID, client_id: str = "client", *, expires_in: int | None = None, number: int = 0
    ) -> None:
        """``number`` is that of the client's key."""
        key = base64.b64encode(bytes((number,)) * 32).decode()
        credentials = {"username": "user", "password": "p" * 22}
        ipv4, ipv6 = addresses_of(client_id)
        peer = {"id": client_id, "public_key": key, "preshared_key": key, "ipv4": ipv4, "ipv6": ipv6}
        expires_at = None if expires_in is None else (WALL + self.now) // SECOND + expires_in
        message = {"ref": "1", "resource": self.resources[resource_id], "client": peer, "expires_at": expires_at}
        ice = {"client_ice_credentials": credentials, "gateway_ice_credentials": credentials}
        self.portal("authorize_flow", message | ice)

    def from_client(self, *packets: bytes, client_id: str = "client") -> list[bytes]:
        """Packets of a client, equally long; what the host is given of them."""
        before = len(self.host)
        run = Run(memoryview(bytearray(b"".join(packets))), len(packets[0]))
        errors: list[Exception] = []

        def take(packets: PacketRun) -> None:
            self.host += map(bytes, packets.run.segments())

        local = cast(Any, Endpoint(cast(Any, client_id), 0))  # our node's only way to tell peers apart
        self.core.handle_datagrams(Received(local, _PEER, run), self.now, WALL + self.now, take, errors)
        assert not errors
        self._drain()
        return self.host[before:]

    def from_host(self, *packets: bytes) -> list[bytes]:
        """Packets of the host; what clients are sent for them."""
        before = len(self.node.sent)
        errors: list[Any] = []
        for runs in split_flows(Run(memoryview(bytearray(b"".join(packets))), len(packets[0])), errors):
            self.core.handle_packets(runs, self.now, errors)
        assert not errors
        self._drain()
        return [packet for _, packet in self.node.sent[before:]]

    def assign(
        self,
        domain: str = "app.internal",
        proxies: tuple[IPAddress, ...] = PROXIES,
        *,
        resource: UUID = DNS,
        client_id: str = "client",
    ) -> list[p2p.ControlEvent]:
        """A client sets up a name; what it is told at once."""
        before = len(self.node.sent)
        self.from_client(p2p.build(p2p.AssignedIps(resource, domain, proxies)), client_id=client_id)
        return self._told(before)

    def resolve(self, domain: str, *real: str, failed: bool = False) -> list[p2p.ControlEvent]:
        """A name is looked up; what clients are told."""
        before = len(self.node.sent)
        found = None if failed else tuple(map(ip_address, real))
        self.core.handle_resolution(domain, found, self.now)
        self._drain()
        return self._told(before)

    def set_up(self, *real: str, domain: str = "app.internal", proxies: tuple[IPAddress, ...] = PROXIES) -> None:
        """A name that works."""
        self.assign(domain, proxies)
        assert self.resolve(domain, *real) == [p2p.DomainStatus(DNS, domain, True)]

    def advance(self, duration: int) -> None:
        until = self.now + duration
        while (due := self.core.poll_timeout()) is not None and due <= until:
            self.now = max(self.now, due)
            self.core.handle_timeout(self.now, WALL + self.now)
            self._drain()
            after = self.core.poll_timeout()
            assert after is None or after > self.now
        self.now = until

    # Findings ------------------------------------------------------------------------------------------------------

    @property
    def drops(self) -> dict[str, int]:
        """What was dropped so far, by reason."""
        return {str(reason): count for reason, count in self.core.statistics().flow_drops.items() if count}

    def _told(self, before: int) -> list[p2p.ControlEvent]:
        return [p2p.parse(packet) for _, packet in self.node.sent[before:] if p2p.is_control(packet)]

    def _drain(self) -> None:
        while (action := self.core.poll_action()) is not None:
            if isinstance(action, ResolveDomain):
                self.lookups.append(action.domain)
            else:
                assert not isinstance(action, SendToPortal) or action.event == "flow_authorized"


def client(number: int) -> str:
    return "client" if number == 1 else f"client-{number}"


def addresses_of(client_id: str) -> tuple[str, str]:
    number = int(client_id.removeprefix("client").removeprefix("-") or 1)
    return str(ip_address(CLIENT[0]) + number - 1), str(ip_address(CLIENT[1]) + number - 1)


def packet(
    protocol: int,
    source: IPAddress | str,
    destination: IPAddress | str,
    ports: tuple[int, int] = (5000, 80),
    *,
    payload: bytes = b"payload!",
    flags: int = 0x10,
) -> bytes:
    """TCP, UDP, an echo request (``ports`` are then identifier and 0; a reply if that is 1), or another protocol."""
    ends = ip_address(source), ip_address(destination)
    version = ends[0].version
    if protocol == 6:
        body = struct.pack(">HHIIBBHHH", *ports, 1, 1, 5 << 4, flags, 500, 0, 0) + payload
    elif protocol == 17:
        body = struct.pack(">HHHH", *ports, 8 + len(payload), 0) + payload
    elif protocol in (1, 58):
        kinds = (8, 0) if version == 4 else (128, 129)
        protocol = 1 if version == 4 else 58
        body = struct.pack(">BBHHH", kinds[ports[1]], 0, 0, ports[0], 1) + payload
    else:
        body = payload
    if version == 4:
        head = struct.pack(">BBHHHBBH", 0x45, 0, 20 + len(body), 7, 0x4000, 64, protocol, 0)
    else:
        head = struct.pack(">IHBB", 6 << 28, len(body), protocol, 64)
    built = head + ends[0].packed + ends[1].packed + body
    if protocol in (1, 6, 17, 58):
        built = with_checksums(built)
        assert checksums_are_right(built)
    return built


def key(data: bytes) -> tuple[str, str, int, int]:
    """Addresses and ports."""
    read = parse(data)
    return str(read.source), str(read.destination), *struct.unpack(">HH", read.ports)


def is_icmp(data: bytes, kind: int, code: int) -> bool:
    read = parse(data)
    return read.protocol in (1, 58) and (data[read.l4], data[read.l4 + 1]) == (kind, code)


def about(
    sent: bytes, router: str, *, kind: int | None = None, code: int = 1, rest: bytes = bytes(4), to: str | None = None
) -> bytes:
    """An ICMP error of a router about a packet that left the tunnel."""
    version = sent[0] >> 4
    source = str(parse(sent).source) if to is None else to
    quoted = rest + sent
    kind = kind if kind is not None else (3 if version == 4 else 1)
    built = bytearray(packet(1, router, source, (0, 0), payload=quoted[4:]))
    at = 20 if version == 4 else 40
    built[at : at + 2] = bytes((kind, code))
    built[at + 4 : at + 8] = rest
    return with_checksums(bytes(built))
