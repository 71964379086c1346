"""A network in one process under virtual time: the real cores of client, gateway and relay, and a minimal portal.

Datagrams travel 5 ms. ``direct`` False drops what goes straight between client and gateway, which leaves the relay.
Packets that a core hands to its host are kept in ``host_received``.
"""

import base64
import hashlib
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
from connectivity.tunnel import ConfigureTun, ReconnectPortal, SendToPortal, TunnelCore
from connectivity.turn import credentials
from connectivity.wireguard import KeyPair
from gateway.core import GatewayCore
from relay.core.authentication import StampSecretCredentials
from relay.core.configuration import ServerSettings
from relay.core.nonce import NonceMint
from relay.core.outputs import InstallChannel, OpenRelayedPort, Relayed, ToClient, ToPeer
from relay.core.peers import PeerPolicy
from relay.core.server import Server

LATENCY: Final = 5 * MILLISECOND
EPOCH: Final = 1_800_000_000 * SECOND
CLIENT: Final = ("203.0.113.10", "2001:db8::10")
GATEWAY: Final = ("203.0.113.20", "2001:db8::20")
RELAY: Final = ("203.0.113.30", "2001:db8::30")
CLIENT_TUNNEL: Final = ("100.64.0.2", "fd00:2021:1111::2")
GATEWAY_TUNNEL: Final = ("100.64.0.3", "fd00:2021:1111::3")
RESOURCE: Final[dict[str, Any]] = {"type": "cidr", "id": "r-1", "name": "lan", "address": "10.20.0.0/24"}
PORT: Final = 52625


class World:
    """Start with ``World()``, then ``start()``; let time pass with ``advance``."""

    def __init__(self, *, seed: int = 1, direct: bool = True, versions: tuple[int, ...] = (4, 6)) -> None:
        self.now = 1_000 * SECOND
        self.direct = direct
        self.relay_alive = True
        self.random = Random(seed)
        self.versions = versions
        self.portal_log: list[tuple[str, str, Any]] = []
        self.host_received: dict[str, list[bytes]] = {"client": [], "gateway": []}
        self.errors: list[Exception] = []
        self.installed: list[InstallChannel] = []
        self.relayed_datagrams = 0
        self.client_keys = KeyPair.generate(self.random.randbytes)
        self.gateway_keys = KeyPair.generate(self.random.randbytes)
        self.client = ClientCore(keys=self.client_keys, rng=self.random.randbytes)
        self.gateway = GatewayCore(keys=self.gateway_keys, rng=self.random.randbytes, now=self.now)
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
        """Both ends get their ``init`` and allocate on the relay."""
        interface = {"ipv4": CLIENT_TUNNEL[0], "ipv6": CLIENT_TUNNEL[1]}
        resource = RESOURCE | {"gateway_groups": [{"id": "s", "name": "site"}]}
        init = {"interface": interface, "resources": [resource], "relays": self.relays(self.client_keys)}
        self.to_client("init", init)
        self.to_gateway("init", self.gateway_init())
        self.advance(SECOND)

    def gateway_init(self, authorizations: list[Any] | None = None) -> dict[str, Any]:
        """The gateway's ``init`` message."""
        interface = {"ipv4": GATEWAY_TUNNEL[0], "ipv6": GATEWAY_TUNNEL[1]}
        relays = self.relays(self.gateway_keys)
        return {"interface": interface, "relays": relays, "authorizations": authorizations or []}

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

    def to_client(self, event: str, payload: Any) -> None:
        """A message of the portal."""
        self.client.handle_portal(event, payload, self.now, self.wall_now)
        self._drain(self.client, "client")

    def to_gateway(self, event: str, payload: Any) -> None:
        """A message of the portal."""
        self.gateway.handle_portal(event, payload, self.now, self.wall_now)
        self._drain(self.gateway, "gateway")

    def send_from_client(self, packet: bytes) -> None:
        """The client's host sends a packet into the tunnel."""
        self._send(self.client, "client", packet)

    def send_from_gateway(self, packet: bytes) -> None:
        """A resource answers through the gateway."""
        self._send(self.gateway, "gateway", packet)

    def advance(self, duration: int) -> None:
        """Let time pass; every datagram and every timer in between happens, in order."""
        end = self.now + duration
        while (due := self._next_due()) <= end:
            self.now = max(self.now, due)
            while self._wire and self._wire[0][0] <= self.now:
                self._deliver(*heapq.heappop(self._wire)[2:])
            for name, core in (("client", self.client), ("gateway", self.gateway)):
                deadline = core.poll_timeout()
                if deadline is not None and deadline <= self.now:
                    core.handle_timeout(self.now, self.wall_now)
                    self._drain(core, name)
                    after = core.poll_timeout()
                    assert after is None or after > self.now, f"{name} wants to wake up in the past"
            deadline = self.relay.poll_timeout()
            if deadline is not None and deadline <= self.now:
                self.relay.handle_timeout(self.now)
                self._drain_relay()
        self.now = end

    def path(self, core: TunnelCore) -> str | None:
        """The path of the only connection; None without one."""
        rows = core.connections()
        return rows[0].socket.kind.value if rows and rows[0].socket is not None else None

    # Private ---------------------------------------------------------------------------------------------------------

    def _next_due(self) -> int:
        deadlines = [self.client.poll_timeout(), self.gateway.poll_timeout(), self.relay.poll_timeout()]
        deadlines += [self._wire[0][0]] if self._wire else []
        return min((deadline for deadline in deadlines if deadline is not None), default=1 << 63)

    def _send(self, core: TunnelCore, name: str, packet: bytes) -> None:
        problems: list[Any] = []
        for packets in split_flows(Run.single(bytearray(packet)), problems):
            transmit = core.handle_packets(packets, self.now, self.errors)
            if transmit is not None:
                self._transmit(name, transmit)
        assert not problems
        self._drain(core, name)

    def _drain(self, core: TunnelCore, name: str) -> None:
        while (transmit := core.poll_transmit()) is not None:
            self._transmit(name, transmit)
        while (action := core.poll_action()) is not None:
            match action:
                case SendToPortal(event, payload):
                    self.portal_log.append((name, event, payload))
                    self._portal(name, event, payload)
                case ConfigureTun() | ReconnectPortal():
                    self.portal_log.append((name, type(action).__name__, action))

    def _portal(self, name: str, event: str, payload: Any) -> None:
        match event:
            case "create_flow":
                self.to_gateway("authorize_flow", self.authorization("ref-1"))
            case "flow_authorized":
                self.to_client("flow_created", self._flow())
            case "broadcast_ice_candidates" | "broadcast_invalidated_ice_candidates":
                forwarded = event.removeprefix("broadcast_").replace("invalidated", "invalidate")
                if name == "client":
                    self.to_gateway(forwarded, {"client_id": "c-1", "candidates": payload["candidates"]})
                else:
                    self.to_client(forwarded, {"gateway_id": "g-1", "candidates": payload["candidates"]})
            case _:
                pass  # a portal ignores what it does not know

    def authorization(self, reference: str) -> dict[str, Any]:
        """An ``authorize_flow`` for the one client and the one resource."""
        peer = {
            "id": "c-1",
            "public_key": base64.b64encode(self.client_keys.public).decode(),
            "preshared_key": self._preshared_key(),
            "ipv4": CLIENT_TUNNEL[0],
            "ipv6": CLIENT_TUNNEL[1],
        }
        resource = RESOURCE | {"filters": self.filters}
        shared = {"ref": reference, "resource": resource, "client": peer, "expires_at": self.expires_at}
        return shared | self._ice()

    def _flow(self) -> dict[str, Any]:
        shared = {
            "resource_id": "r-1",
            "gateway_id": "g-1",
            "gateway_group_id": "s",
            "gateway_public_key": base64.b64encode(self.gateway_keys.public).decode(),
            "gateway_ipv4": GATEWAY_TUNNEL[0],
            "gateway_ipv6": GATEWAY_TUNNEL[1],
            "preshared_key": self._preshared_key(),
        }
        return shared | self._ice()

    def _ice(self) -> dict[str, Any]:
        seed = hashlib.sha256(self.client_keys.public + self.gateway_keys.public).hexdigest()
        return {
            "client_ice_credentials": {"username": seed[:4], "password": seed[4:26]},
            "gateway_ice_credentials": {"username": seed[26:30], "password": seed[30:52]},
        }

    def _preshared_key(self) -> str:
        digest = hashlib.sha256(b"psk" + self.client_keys.public + self.gateway_keys.public).digest()
        return base64.b64encode(digest).decode()

    def _transmit(self, name: str, transmit: Transmit) -> None:
        source, destination, run, tos = transmit
        if source is None:
            addresses = CLIENT if name == "client" else GATEWAY
            source = Endpoint(ip_address(addresses[0 if destination.ip.version == 4 else 1]), PORT)
        self._put(source, destination, run, tos)

    def _put(self, source: Endpoint, destination: Endpoint, run: Run, tos: int) -> None:
        ends = {str(source.ip), str(destination.ip)}
        if destination.ip.version not in self.versions or (not self.direct and not ends & set(RELAY)):
            return
        if ends & set(RELAY) and not self.relay_alive:
            return
        self._sequence += 1
        entry = (self.now + LATENCY, self._sequence, source, destination, bytes(run.data), run.segment_size, tos)
        heapq.heappush(self._wire, entry)

    def _deliver(self, source: Endpoint, destination: Endpoint, data: bytes, segment_size: int, tos: int) -> None:
        received = Received(destination, source, Run(memoryview(bytearray(data)), segment_size), tos)
        address = str(destination.ip)
        if address in RELAY:
            if self.relay_alive:
                self._relay(self._at_relay(destination, received))
        elif address in CLIENT:
            self._receive(self.client, "client", received)
        elif address in GATEWAY:
            self._receive(self.gateway, "gateway", received)

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

    def _receive(self, core: TunnelCore, name: str, received: Received) -> None:
        packets: PacketRun
        for packets in core.handle_datagrams(received, self.now, self.wall_now, self.errors):
            self.host_received[name] += [bytes(segment) for segment in packets.run.segments()]
        self._drain(core, name)
