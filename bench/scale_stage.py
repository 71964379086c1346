"""A gateway's core with many connected clients, all in this process under virtual time.

Clients are nodes without a role: they connect, encrypt what they are told to and decrypt nothing. Candidates are handed
over here instead of being learnt from a relay, so that the only relay is one that never answers.
"""

import base64
import struct
import tracemalloc
from collections import deque
from collections.abc import Callable
from functools import partial
from ipaddress import IPv4Address, ip_address
from random import Random
from typing import Any, Final
from uuid import UUID

from connectivity import p2p
from connectivity.clock import MILLISECOND, SECOND
from connectivity.endpoint import Endpoint
from connectivity.ice import Candidate, IceCredentials
from connectivity.ip.checksum import ones_sum, store, transport_sum
from connectivity.ip.flow import PacketRun
from connectivity.ip.packet import parse
from connectivity.ip.protocols import PROTOCOL_UDP
from connectivity.node import Node
from connectivity.node.relays import RelayServer
from connectivity.phoenix.message import Message, decode, encode
from connectivity.run import Received, Run
from connectivity.tunnel import SendToPortal
from connectivity.wireguard import KeyPair
from gateway.actions import ResolveDomain
from gateway.core import GatewayCore

OWN: Final = "100.64.0.1"
LAN: Final = UUID(int=1)
NAMES: Final = UUID(int=2)
PROXIES: Final = tuple(IPv4Address(f"100.96.0.{number}") for number in range(1, 5))
REAL: Final = IPv4Address("10.1.0.5")
HOST: Final = IPv4Address("10.0.0.5")
FORBIDDEN: Final = IPv4Address("192.0.2.77")  # of no resource
SMALL: Final = 92  # bytes of a packet
BULK: Final = 1280
_EPOCH: Final = 1_790_000_000 * SECOND
_STEP: Final = 10 * MILLISECOND
_STEPS: Final = 2_000
_GATEWAY: Final = Endpoint(ip_address("203.0.113.1"), 52625)
_RELAY: Final = Endpoint(ip_address("203.0.113.2"), 3478)
_RESOURCES: Final[dict[UUID, dict[str, Any]]] = {
    LAN: {"id": str(LAN), "type": "cidr", "name": "lan", "address": "10.0.0.0/24", "filters": []},
    NAMES: {"id": str(NAMES), "type": "dns", "name": "names", "address": "*.internal", "filters": []},
}


class Client:
    """One client: its node, its tunnel address and where it sends from."""

    def __init__(self, number: int, rng: Callable[[int], bytes]) -> None:
        self.client_id = f"client-{number}"
        self.keys = KeyPair.generate(rng)
        self.node = Node(keys=self.keys, controlling=True, rng=rng)
        self.tunnel = IPv4Address(OWN) + number
        self.tunnel_ipv6 = ip_address("fd00:2021:1111::1") + number
        self.endpoint = Endpoint(ip_address("203.0.114.0") + number, 52625)
        self.credentials = IceCredentials(f"c{number:07}", f"password-of-client-{number:07}")
        self.gateways = IceCredentials(f"g{number:07}", f"password-of-gateway-{number:06}")


class Stage:
    """``count`` clients with a network and a name each, connected and silent."""

    def __init__(self, count: int) -> None:
        self.random = Random(count)
        self.now = 1_000 * SECOND
        self.grown_bytes = 0  # what the gateway's calls left behind, while tracemalloc runs
        self.keys = KeyPair.generate(self.random.randbytes)
        self.core = GatewayCore(keys=self.keys, rng=self.random.randbytes, now=self.now)
        relay = {
            "id": "relay",
            "type": "turn",
            "addr": str(_RELAY),
            "username": "1:x",
            "password": "p",
            "expires_at": 1,
        }
        interface = {"ipv4": OWN, "ipv6": "fd00:2021:1111::1"}
        self.core.handle_portal(
            "init", {"interface": interface, "relays": [relay | {"expires_at": 1}]}, self.now, self.wall_now
        )
        self.clients = [Client(number, self.random.randbytes) for number in range(1, count + 1)]
        self._wire: deque[Received] = deque()
        for client in self.clients:
            self._introduce(client)
        self._run_until(lambda: all(status.handshake_at is not None for status in self.core.connections()))
        for client in self.clients:
            self._set_up_name(client)
            self.receive(self.from_client(client, udp(client.tunnel, PROXIES[0], (5000, 80))))  # begins a session

    @property
    def wall_now(self) -> int:
        """Wall clock."""
        return _EPOCH + self.now

    def authorization(self, client: Client, resource_id: UUID) -> str:
        """The frame of an ``authorize_flow``."""
        peer = {
            "id": client.client_id,
            "public_key": base64.b64encode(client.keys.public).decode(),
            "preshared_key": base64.b64encode(bytes(32)).decode(),
            "ipv4": str(client.tunnel),
            "ipv6": str(client.tunnel_ipv6),
        }
        payload = {
            "ref": "reference",
            "resource": _RESOURCES[resource_id],
            "client": peer,
            "client_ice_credentials": _as_json(client.credentials),
            "gateway_ice_credentials": _as_json(client.gateways),
            "expires_at": self.wall_now // SECOND + 86_400,
        }
        return encode(Message("gateway", "authorize_flow", payload, None))

    def grant(self, text: str) -> None:
        """What a gateway does with an ``authorize_flow``, from the frame that it comes in to those that it sends."""
        message = decode(text)
        self.core.handle_portal(message.event, message.payload, self.now, self.wall_now)
        self.drain()

    def drain(self) -> None:
        """All outputs, as a driver takes them."""
        while self.core.poll_transmit() is not None:
            pass
        while self.core.poll_host_packet() is not None:
            pass
        while (action := self.core.poll_action()) is not None:
            if isinstance(action, SendToPortal):
                encode(Message("gateway", action.event, action.payload, 1))
        self.core.poll_timeout()

    def from_client(self, client: Client, packets: bytes, size: int | None = None) -> Received:
        """Packets of this size, or one, as they come from the network, sealed."""
        transmit = client.node.seal("gateway", Run(memoryview(packets), size or len(packets)), 0, self.now)
        if transmit is None:
            raise AssertionError("a connected client has a session")
        copy = Run(memoryview(bytearray(transmit.run.data)), transmit.run.segment_size)
        return Received(_GATEWAY, client.endpoint, copy)

    def receive(self, received: Received) -> int:
        """The gateway takes a datagram in; how many packets its host gets."""
        host: list[PacketRun] = []
        errors: list[Exception] = []
        self.core.handle_datagrams(received, self.now, self.wall_now, host.append, errors)
        return len(host)

    def send(self, packets: PacketRun) -> bool:
        """The gateway's host sends to a client; whether it left."""
        return self.core.handle_packets(packets, self.now, []) is not None

    def look_at_the_clock(self) -> None:
        """The gateway runs what is due, and says when it wants to be asked again."""
        self.core.handle_timeout(self.now, self.wall_now)
        self.core.poll_timeout()

    # Private -------------------------------------------------------------------------------------------------------

    def _introduce(self, client: Client) -> None:
        """What the portal does for both, and the candidates of both."""
        client.node.update_relays((), [RelayServer("relay", (_RELAY,), "1:x", "p")], self.now)
        for resource_id in _RESOURCES:
            self._grow(partial(self.grant, self.authorization(client, resource_id)))
        client.node.upsert(
            "gateway",
            public_key=self.keys.public,
            preshared_key=bytes(32),
            local=client.credentials,
            remote=client.gateways,
            now=self.now,
            wall_now=self.wall_now,
        )
        self._give_candidates(client.node, "gateway", client.endpoint, _GATEWAY)
        gateway = self.core._tunnel.node
        self._grow(lambda: self._give_candidates(gateway, client.client_id, _GATEWAY, client.endpoint))

    def _give_candidates(self, node: Node, peer_id: str, ours: Endpoint, theirs: Endpoint) -> None:
        connection = node._connections.get(peer_id)
        if connection is None:
            raise AssertionError("both ends know the connection")
        connection.add_local_candidate("relay", Candidate.host(ours))
        node.add_remote_candidates(peer_id, [Candidate.host(theirs).to_text()], self.now, self.wall_now)

    def _set_up_name(self, client: Client) -> None:
        event = p2p.AssignedIps(NAMES, "app.internal", PROXIES)
        self._grow(lambda: self.receive(self.from_client(client, p2p.build(event))))
        self._grow(self._resolve)
        self._grow(self.drain)

    def _resolve(self) -> None:
        while (action := self.core.poll_action()) is not None:
            if isinstance(action, ResolveDomain):
                self.core.handle_resolution(action.domain, (REAL,), self.now)

    def _run_until(self, is_done: Callable[[], bool]) -> None:
        """Let time pass and carry datagrams until all are connected."""
        for _ in range(_STEPS):
            self._collect()
            while self._wire:
                self._deliver(self._wire.popleft())
                self._collect_touched()
            if is_done():
                return
            self.now += _STEP
            for client in self.clients:
                client.node.handle_timeout(self.now, self.wall_now)
            self._grow(lambda: self.core.handle_timeout(self.now, self.wall_now))
        raise AssertionError("not everybody is connected")

    def _collect(self) -> None:
        for client in self.clients:
            self._collect_from(client)
        self._collect_touched()

    def _collect_touched(self) -> None:
        while (transmit := self.core.poll_transmit()) is not None:
            self._wire.append(Received(_GATEWAY, transmit.destination, Run.single(bytearray(transmit.run.data))))

    def _collect_from(self, client: Client) -> None:
        while (transmit := client.node.poll_transmit()) is not None:
            if transmit.destination == _GATEWAY:
                self._wire.append(Received(client.endpoint, _GATEWAY, Run.single(bytearray(transmit.run.data))))
        while client.node.poll_event() is not None:
            pass

    def _deliver(self, sent: Received) -> None:
        """``local`` is who sent it, ``remote`` where it goes."""
        errors: list[Exception] = []
        received = Received(sent.remote, sent.local, sent.run)
        if sent.remote == _GATEWAY:
            self._grow(lambda: self.receive(received))
            return
        number = int(sent.remote.ip) - int(ip_address("203.0.114.0"))
        if 0 < number <= len(self.clients):
            client = self.clients[number - 1]
            if client.node.data_path.decrypt(received, self.now, client.node) is False:
                client.node.open_others(received, self.now, self.wall_now, lambda _opened: None, errors)
            self._collect_from(client)

    def _grow(self, call: Callable[[], object]) -> None:
        """Do something to the gateway, and count what it keeps of it."""
        before = tracemalloc.get_traced_memory()[0]
        call()
        self.grown_bytes += tracemalloc.get_traced_memory()[0] - before


def udp(source: IPv4Address, destination: IPv4Address, ports: tuple[int, int], *, size: int = SMALL) -> bytes:
    """A datagram of zeros."""
    built = bytearray(struct.pack(">BBHHHBBH", 0x45, 0, size, 0, 0, 64, PROTOCOL_UDP, 0))
    built += source.packed + destination.packed + struct.pack(">HHHH", *ports, size - 20, 0) + bytes(size - 28)
    view = memoryview(built)
    store(view, 26, transport_sum(view, 20, PROTOCOL_UDP))
    store(view, 10, ones_sum(view[:20]))
    return bytes(built)


def run_of(packet: bytes, count: int = 1) -> PacketRun:
    """Equal packets of the host's as they come from the TUN device."""
    read = parse(packet)
    return PacketRun(Run(memoryview(bytearray(packet * count)), len(packet)), read.key, read.tos)


def _as_json(credentials: IceCredentials) -> dict[str, str]:
    return {"username": credentials.username, "password": credentials.password}
