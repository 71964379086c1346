"""A network in one process under virtual time: the real cores of clients, gateways and relay, and a minimal portal.

Datagrams travel 5 ms. ``direct`` False drops what goes straight between client and gateway, which leaves the relay.
``nat`` rewrites source addresses on the way. Packets that a core hands to its host are kept in ``host_received``.

The ends are called client, gateway, client-2, gateway-2 and so on. The portal gives a flow to a gateway that the client
is connected to, else to the first of those ``online``.
"""

import base64
import heapq
from collections.abc import Iterator
from ipaddress import IPv4Address, ip_address
from random import Random
from typing import Any, Final

from client.core import ClientCore
from connectivity.clock import MILLISECOND, SECOND
from connectivity.endpoint import Endpoint
from connectivity.ip.flow import PacketRun, split_flows
from connectivity.run import Received, Run, Transmit
from connectivity.tunnel import SendToPortal, TunnelCore
from connectivity.turn import credentials
from connectivity.wireguard import KeyPair
from gateway.core import GatewayCore
from relay.core.configuration import ServerSettings
from relay.core.credentials import StampSecretCredentials
from relay.core.nonce import NonceMint
from relay.core.outputs import InstallChannel, OpenRelayedPort, Relayed, ToClient, ToPeer
from relay.core.peers import PeerPolicy
from relay.core.server import Server
from tests.unit.world_ends import End, ice, preshared_key

LATENCY: Final = 5 * MILLISECOND
EPOCH: Final = 1_800_000_000 * SECOND
CLIENT: Final = ("203.0.113.10", "2001:db8::10")
GATEWAY: Final = ("203.0.113.20", "2001:db8::20")
RELAY: Final = ("203.0.113.30", "2001:db8::30")
CLIENT_TUNNEL: Final = ("100.64.0.2", "fd00:2021:1111::2")
GATEWAY_TUNNEL: Final = ("100.64.0.3", "fd00:2021:1111::3")
RESOURCE: Final[dict[str, Any]] = {"type": "cidr", "id": "r-1", "name": "lan", "address": "10.20.0.0/24"}
SECOND_RESOURCE: Final[dict[str, Any]] = {"type": "cidr", "id": "r-2", "name": "lab", "address": "10.30.0.0/24"}
PORT: Final = 52625


class World:
    """Start with ``World()``, then ``start()``; let time pass with ``advance``."""

    def __init__(
        self,
        *,
        seed: int = 1,
        direct: bool = True,
        versions: tuple[int, ...] = (4, 6),
        clients: int = 1,
        gateways: int = 1,
    ) -> None:
        self.now = 1_000 * SECOND
        self.direct = direct
        self.relay_alive = True
        self.random = Random(seed)
        self.versions = versions
        self.portal_log: list[tuple[str, str, Any]] = []
        self.errors: list[Exception] = []
        self.installed: list[InstallChannel] = []
        self.relayed_datagrams = 0
        self.carried: list[tuple[Endpoint, Endpoint, bytes]] = []  # every batch put on the wire, while ``is_recorded``
        self.is_recorded = True
        self.loss: dict[str, float] = {}  # which part of the datagrams from and to an end is lost, by its name
        self.ends: dict[str, End] = {}
        self.nat: dict[Endpoint, Endpoint] = {}
        self.resources: list[dict[str, Any]] = [RESOURCE]
        self.generation = 0  # the portal makes other keys and credentials when it changes
        for number in range(1, clients + 1):
            self._add_end("client", number)
        for number in range(1, gateways + 1):
            self._add_end("gateway", number)
        self.host_received: dict[str, list[bytes]] = {name: [] for name in self.ends}
        self.online = [end.name for end in self.ends.values() if not end.is_client]
        self.client, self.gateway = self.ends["client"].core, self.ends["gateway"].core
        self.client_keys, self.gateway_keys = self.ends["client"].keys, self.ends["gateway"].keys
        self.expires_at: int | None = None
        self.filters: list[Any] = []
        self.start_relay("secret-1")
        self._wire: list[tuple[int, int, Endpoint, Endpoint, bytes, int, int]] = []
        self._sequence = 0

    @property
    def wall_now(self) -> int:
        """Wall clock."""
        return EPOCH + self.now

    def start_relay(self, stamp_secret: str) -> None:
        """A relay process with this stamp secret and no state."""
        self.stamp_secret = stamp_secret
        public = {version: ip_address(RELAY[0 if version == 4 else 1]) for version in self.versions}
        policy = PeerPolicy(under_portal=True, own=frozenset(public.values()), allow=(), deny=())
        self.relay = Server(
            ServerSettings(public=public, policy=policy),
            source=StampSecretCredentials(stamp_secret),
            nonces=NonceMint(self.random.randbytes(32)),
            rng=self.random.randbytes,
        )
        self.relay_alive = True

    def start(self) -> None:
        """All ends get their ``init`` and allocate on the relay."""
        for end in self.ends.values():
            self.to(end.name, "init", self.client_init(end.name) if end.is_client else self.gateway_init(name=end.name))
        self.advance(SECOND)

    def client_init(self, name: str = "client") -> dict[str, Any]:
        """A client's ``init`` message."""
        end = self.ends[name]
        resources = [resource | {"gateway_groups": [{"id": "s", "name": "site"}]} for resource in self.resources]
        interface = {"ipv4": end.tunnel[0], "ipv6": end.tunnel[1]}
        return {"interface": interface, "resources": resources, "relays": self.relays(end.keys)}

    def gateway_init(self, authorizations: list[Any] | None = None, *, name: str = "gateway") -> dict[str, Any]:
        """A gateway's ``init`` message."""
        end = self.ends[name]
        interface = {"ipv4": end.tunnel[0], "ipv6": end.tunnel[1]}
        return {"interface": interface, "relays": self.relays(end.keys), "authorizations": authorizations or []}

    def relays(self, keys: KeyPair) -> list[dict[str, Any]]:
        """The relay list for one device."""
        public_key = base64.b64encode(keys.public).decode()
        expiry = self.wall_now // SECOND + 3600
        salt = credentials.salt(public_key)
        shared = {
            "id": "relay-1",
            "type": "turn",
            "username": credentials.username(expiry, salt),
            "password": credentials.password(expiry, self.stamp_secret, salt),
            "expires_at": expiry,
        }
        return [
            shared | {"addr": str(Endpoint(ip_address(RELAY[0 if version == 4 else 1]), 3478))}
            for version in self.versions
        ]

    def to(self, name: str, event: str, payload: Any) -> None:
        """A message of the portal."""
        self.ends[name].core.handle_portal(event, payload, self.now, self.wall_now)
        self.drain(name)

    def to_client(self, event: str, payload: Any) -> None:
        """A message of the portal to the first client."""
        self.to("client", event, payload)

    def to_gateway(self, event: str, payload: Any) -> None:
        """A message of the portal to the first gateway."""
        self.to("gateway", event, payload)

    def send_from_client(self, packet: bytes, *, name: str = "client") -> None:
        """The client's host sends a packet into the tunnel."""
        self._send(name, packet)

    def send_from_gateway(self, packet: bytes, *, name: str = "gateway") -> None:
        """A resource answers through the gateway."""
        self._send(name, packet)

    def close(self, name: str) -> None:
        """An end says goodbye and is never heard of again by the portal."""
        self.online = [other for other in self.online if other != name]
        self.ends[name].core.close(self.now)
        self.drain(name)
        self.ends[name].core.leave_relays(self.now)
        self.drain(name)

    def advance(self, duration: int) -> None:
        """Let time pass; every datagram and every timer in between happens, in order."""
        until = self.now + duration
        while (due := self._next_due()) <= until:
            self.now = max(self.now, due)
            while self._wire and self._wire[0][0] <= self.now:
                self._deliver(*heapq.heappop(self._wire)[2:])
            for end in self.ends.values():
                deadline = end.core.poll_timeout()
                if deadline is not None and deadline <= self.now:
                    end.core.handle_timeout(self.now, self.wall_now)
                    self.drain(end.name)
                    after = end.core.poll_timeout()
                    assert after is None or after > self.now, f"{end.name} wants to wake up in the past"
            deadline = self.relay.poll_timeout()
            if deadline is not None and deadline <= self.now:
                self.relay.handle_timeout(self.now)
                self._drain_relay()
        self.now = until

    def reset(self, name: str = "client", *, addresses: tuple[str, str] | None = None) -> None:
        """An end begins anew, somewhere else perhaps; the portal takes its new key."""
        end = self.ends[name]
        end.addresses = addresses or end.addresses
        end.keys = KeyPair.generate(self.random.randbytes)
        end.core.reset(end.keys, self.now)
        if name == "client":
            self.client_keys = end.keys
        self.to(name, "init", self.client_init(name) if end.is_client else self.gateway_init(name=name))

    def path(self, core: TunnelCore) -> str | None:
        """The path of the only connection; None without one."""
        rows = core.connections()
        return rows[0].socket.kind.value if rows and rows[0].socket is not None else None

    def drain(self, name: str) -> None:
        """Carry out what a core wants."""
        core = self.ends[name].core
        while (transmit := core.poll_transmit()) is not None:
            self._transmit(name, transmit)
        self.host_received[name] += iter(core.poll_host_packet, None)
        while (action := core.poll_action()) is not None:
            match action:
                case SendToPortal(event, payload):
                    self.portal_log.append((name, event, payload))
                    self._portal(self.ends[name], event, payload)
                case _:
                    self.portal_log.append((name, type(action).__name__, action))

    def sent(self, event: str, *, name: str = "client") -> list[Any]:
        """What an end told the portal under this event."""
        return [payload for sender, told, payload in self.portal_log if (sender, told) == (name, event)]

    # Private ---------------------------------------------------------------------------------------------------------

    def _next_due(self) -> int:
        deadlines = [self.relay.poll_timeout(), *(end.core.poll_timeout() for end in self.ends.values())]
        deadlines += [self._wire[0][0]] if self._wire else []
        return min((deadline for deadline in deadlines if deadline is not None), default=1 << 63)

    def _add_end(self, role: str, number: int) -> None:
        keys = KeyPair.generate(self.random.randbytes)
        last = (10 if role == "client" else 20) + number - 1
        tunnel = (2 if role == "client" else 3) + 10 * (number - 1)
        core: TunnelCore
        if role == "client":
            core = ClientCore(keys=keys, rng=self.random.randbytes)
        else:
            core = GatewayCore(keys=keys, rng=self.random.randbytes, now=self.now)
        name = role if number == 1 else f"{role}-{number}"
        addresses = (f"203.0.113.{last}", f"2001:db8::{last}")
        tunnel_addresses = (f"100.64.0.{tunnel}", f"fd00:2021:1111::{tunnel}")
        self.ends[name] = End(name, f"{role[0]}-{number}", core, keys, addresses, tunnel_addresses)

    def _send(self, name: str, packet: bytes) -> None:
        problems: list[Any] = []
        core = self.ends[name].core
        for packets in split_flows(Run.single(bytearray(packet)), problems):
            transmit = core.handle_packets(packets, self.now, self.errors)
            if transmit is not None:
                self._transmit(name, transmit)
        assert not problems
        self.drain(name)

    def _end(self, device_id: str) -> End:
        return next(end for end in self.ends.values() if end.device_id == device_id)

    def _portal(self, sender: End, event: str, payload: Any) -> None:
        match event:
            case "create_flow":
                self._create_flow(sender, payload["resource_id"], payload["connected_gateway_ids"])
            case "flow_authorized":
                client_id, resource_id = payload["ref"].split("/")
                client = self._end(client_id)
                self.to(client.name, "flow_created", self.flow(client, sender, resource_id))
            case "broadcast_ice_candidates" | "broadcast_invalidated_ice_candidates":
                forwarded = event.removeprefix("broadcast_").replace("invalidated", "invalidate")
                (peer_id,) = payload["gateway_ids" if sender.is_client else "client_ids"]
                field = "client_id" if sender.is_client else "gateway_id"
                message = {field: sender.device_id, "candidates": payload["candidates"]}
                self.to(self._end(peer_id).name, forwarded, message)
            case _:
                pass  # a portal ignores what it does not know

    def _create_flow(self, client: End, resource_id: str, connected: list[str]) -> None:
        online = [self.ends[name] for name in self.online]
        chosen = next((end for end in online if end.device_id in connected), online[0] if online else None)
        if chosen is None:
            self.to(client.name, "flow_creation_failed", {"resource_id": resource_id, "reason": "offline"})
        else:
            reference = f"{client.device_id}/{resource_id}"
            self.to(chosen.name, "authorize_flow", self.authorization(reference, name=chosen.name))

    def authorization(self, reference: str, *, name: str = "gateway") -> dict[str, Any]:
        """An ``authorize_flow`` for a gateway; the reference says client and resource."""
        client_id, resource_id = reference.split("/")
        client, gateway = self._end(client_id), self.ends[name]
        peer = {
            "id": client_id,
            "name": client.name,
            "public_key": base64.b64encode(client.keys.public).decode(),
            "preshared_key": preshared_key(self.generation, client, gateway),
            "ipv4": client.tunnel[0],
            "ipv6": client.tunnel[1],
        }
        (resource,) = (entry | {"filters": self.filters} for entry in self.resources if entry["id"] == resource_id)
        shared = {"ref": reference, "resource": resource, "client": peer, "expires_at": self.expires_at}
        return shared | ice(client, gateway)

    def flow(self, client: End, gateway: End, resource_id: str = "r-1") -> dict[str, Any]:
        """A ``flow_created`` for a client."""
        shared = {
            "resource_id": resource_id,
            "gateway_id": gateway.device_id,
            "gateway_name": gateway.name,
            "gateway_group_id": "s",
            "gateway_public_key": base64.b64encode(gateway.keys.public).decode(),
            "gateway_ipv4": gateway.tunnel[0],
            "gateway_ipv6": gateway.tunnel[1],
            "preshared_key": preshared_key(self.generation, client, gateway),
        }
        return shared | ice(client, gateway)

    def _transmit(self, name: str, transmit: Transmit) -> None:
        source, destination, run, tos = transmit
        if source is None:
            addresses = self.ends[name].addresses
            source = Endpoint(ip_address(addresses[0 if destination.ip.version == 4 else 1]), PORT)
        self._put(self.nat.get(source, source), destination, run, tos)

    def _put(self, source: Endpoint, destination: Endpoint, run: Run, tos: int) -> None:
        ends = {str(source.ip), str(destination.ip)}
        if destination.ip.version not in self.versions or (not self.direct and not ends & set(RELAY)):
            return
        if ends & set(RELAY) and not self.relay_alive:
            return
        if self.loss and self._is_lost(ends):
            return
        if self.is_recorded:
            self.carried.append((source, destination, bytes(run.data)))
        self._sequence += 1
        entry = (self.now + LATENCY, self._sequence, source, destination, bytes(run.data), run.segment_size, tos)
        heapq.heappush(self._wire, entry)

    def _is_lost(self, addresses: set[str]) -> bool:
        lossy = (part for name, part in self.loss.items() if addresses & set(self.ends[name].addresses))
        return any(self.random.random() < part for part in lossy)

    def _deliver(self, source: Endpoint, destination: Endpoint, data: bytes, segment_size: int, tos: int) -> None:
        received = Received(destination, source, Run(memoryview(bytearray(data)), segment_size), tos)
        address = str(destination.ip)
        if address in RELAY and self.relay_alive:
            self._relay(self._at_relay(destination, received))
        for end in self.ends.values():
            if address in end.addresses:
                self.receive(end.name, received)

    def _at_relay(self, destination: Endpoint, received: Received) -> Iterator[Relayed]:
        if destination.port == 3478:
            return self.relay.handle_client(received, self.now, self.wall_now)
        return self.relay.handle_peer(destination.port, received, self.now)

    def _relay(self, relayed: Iterator[Relayed]) -> None:
        for output in relayed:
            self.relayed_datagrams += output.transmit.run.segment_count
            self._from_relay(output)
        self._drain_relay()

    def _from_relay(self, output: Relayed) -> None:
        transmit = output.transmit
        relay = ip_address(RELAY[0 if isinstance(transmit.destination.ip, IPv4Address) else 1])
        port = output.relayed_port if isinstance(output, ToPeer) else 3478
        self._put(Endpoint(relay, port), transmit.destination, transmit.run, transmit.tos)

    def _drain_relay(self) -> None:
        while (output := self.relay.poll_output()) is not None:
            match output:
                case ToClient():
                    self._from_relay(output)
                case OpenRelayedPort(port):
                    self.relay.relayed_port_opened(port, self.now)
                case InstallChannel():
                    self.installed.append(output)
                case _:
                    pass  # closing ports and removing channels has no effect on this network

    def receive(self, name: str, received: Received) -> None:
        """Datagrams reach an end."""

        def take(packets: PacketRun) -> None:
            self.host_received[name] += [bytes(segment) for segment in packets.run.segments()]

        self.ends[name].core.handle_datagrams(received, self.now, self.wall_now, take, self.errors)
        self.drain(name)
