"""Two agents, a signalling path and an emulated network, all under one virtual clock.

A node's packets pass its NAT on the way out, and its peer's on the way in. Relays are part of the network: a relayed
address belongs to a node, which hears there only from peers it has sent to from there, as if channels were bound on
demand.
Nothing here is random: equal inputs give equal traces.
"""

import heapq
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from hashlib import blake2b
from itertools import count
from typing import Protocol

from connectivity.clock import MILLISECOND, SECOND, Instant
from connectivity.endpoint import Endpoint
from connectivity.ice import Agent, AgentState, Candidate, IceCredentials, Nominated, StateChanged, parse
from connectivity.ice.candidate import signalling_order
from connectivity.stun import Message, MessageClass, UseCandidate, decode

CLIENT = IceCredentials("clnt", "client-password-22-chr")
GATEWAY = IceCredentials("gate", "gatewa-password-22-chr")
START: Instant = 1_000 * SECOND


def counting_rng(seed: str) -> Callable[[int], bytes]:
    """Different bytes on each call, the same on each run."""
    calls = count()
    return lambda length: blake2b(f"{seed} {next(calls)}".encode(), digest_size=length).digest()


def endpoint(text: str) -> Endpoint:
    """Shorter to read in tables."""
    return Endpoint.parse(text)


class Nat(Protocol):
    """A filter between a node and the network."""

    def outbound(self, source: Endpoint, destination: Endpoint) -> Endpoint | None:
        """The source as the network sees it; None drops."""
        ...

    def inbound(self, source: Endpoint, destination: Endpoint) -> Endpoint | None:
        """Where a packet to ``destination`` goes inside; None drops."""
        ...


class Open:
    """No NAT at all."""

    def outbound(self, source: Endpoint, destination: Endpoint) -> Endpoint | None:  # noqa: ARG002  # interface of Nat
        return source

    def inbound(self, source: Endpoint, destination: Endpoint) -> Endpoint | None:  # noqa: ARG002  # interface of Nat
        return destination


class PortPreserving:
    """Endpoint-independent mapping that keeps the port, address-and-port-dependent filtering (RFC 4787)."""

    def __init__(self, public: str) -> None:
        self.public = endpoint(f"{public}:1").ip
        self._inside: dict[Endpoint, Endpoint] = {}
        self._allowed: set[tuple[Endpoint, Endpoint]] = set()

    def outbound(self, source: Endpoint, destination: Endpoint) -> Endpoint | None:
        outside = self.mapped(source)
        self._inside[outside] = source
        self._allowed.add((outside, destination))
        return outside

    def inbound(self, source: Endpoint, destination: Endpoint) -> Endpoint | None:
        return self._inside[destination] if (destination, source) in self._allowed else None

    def mapped(self, source: Endpoint) -> Endpoint:
        return Endpoint(self.public, source.port)


class Forwarding(PortPreserving):
    """As above, and an administrator forwards all ports to one inside host."""

    def __init__(self, public: str, inside: Endpoint) -> None:
        super().__init__(public)
        self._host = inside

    def inbound(self, source: Endpoint, destination: Endpoint) -> Endpoint | None:  # noqa: ARG002  # interface of Nat
        return Endpoint(self._host.ip, destination.port)


class Symmetric:
    """A new port for each destination: what a STUN server sees is of no use to anyone else."""

    def __init__(self, public: str) -> None:
        self.public = endpoint(f"{public}:1").ip
        self._ports: dict[tuple[Endpoint, Endpoint], int] = {}

    def outbound(self, source: Endpoint, destination: Endpoint) -> Endpoint | None:
        return Endpoint(self.public, self._ports.setdefault((source, destination), 40_000 + len(self._ports)))

    def inbound(self, source: Endpoint, destination: Endpoint) -> Endpoint | None:
        for (inside, peer), port in self._ports.items():
            if (peer, port) == (source, destination.port):
                return inside
        return None


@dataclass
class Node:
    """An agent at its addresses."""

    name: str
    agent: Agent
    host: Endpoint
    nat: Nat = field(default_factory=Open)
    relayed: list[Endpoint] = field(default_factory=list)
    channels: set[tuple[Endpoint, Endpoint]] = field(default_factory=set)  # relayed address, peer
    nominated: list[tuple[Instant, Nominated]] = field(default_factory=list)
    states: list[tuple[Instant, AgentState]] = field(default_factory=list)
    signalled: list[Candidate] = field(default_factory=list)
    arms: list[Instant | None] = field(default_factory=list)

    @property
    def path(self) -> tuple[str, str]:
        """The latest nominated (source, destination) as text."""
        return str(self.nominated[-1][1].source), str(self.nominated[-1][1].destination)

    @property
    def state(self) -> AgentState:
        return self.agent.state

    def stun_server_sees(self) -> Endpoint:
        """The mapping towards some third party."""
        outside = self.nat.outbound(self.host, endpoint("203.0.113.99:3478"))
        assert outside is not None
        return outside


@dataclass(frozen=True)
class Packet:
    """What crossed the network, addresses as sent."""

    at: Instant
    sender: str
    source: Endpoint
    destination: Endpoint
    message: Message

    @property
    def is_check(self) -> bool:
        return self.message.message_class is MessageClass.REQUEST

    @property
    def is_nominating(self) -> bool:
        return self.message.get(UseCandidate) is not None


class Pair:
    """A client (controlling) and a gateway (controlled)."""

    def __init__(self, client_host: str, gateway_host: str, *, seed: str = "") -> None:
        self.now: Instant = START
        self.client = self._node("client", client_host, seed, controlling=True)
        self.gateway = self._node("gateway", gateway_host, seed, controlling=False)
        self.latency = 10 * MILLISECOND
        self.loses: Callable[[Packet], bool] = lambda _: False
        self.packets: list[Packet] = []
        self._queue: list[tuple[Instant, int, Node, Endpoint, Endpoint, Message]] = []
        self._order = count()

    def _node(self, name: str, host: str, seed: str, *, controlling: bool) -> Node:
        local, remote = (CLIENT, GATEWAY) if controlling else (GATEWAY, CLIENT)
        rng = counting_rng(name + seed)
        agent = Agent(controlling=controlling, local=local, remote=remote, rng=rng, now=self.now)
        return Node(name, agent, endpoint(host))

    def peer(self, node: Node) -> Node:
        return self.gateway if node is self.client else self.client

    def add_host(self, node: Node) -> None:
        """Add and signal the host candidate."""
        self._signal(node, node.agent.add_local_candidate(Candidate.host(node.host)))

    def add_reflexive(self, node: Node) -> None:
        """Signal the server-reflexive candidate, past the agent."""
        self._signal(node, Candidate.server_reflexive(node.stun_server_sees(), node.host))

    def add_relayed(self, node: Node, relayed: str) -> None:
        """Add and signal a relayed candidate."""
        node.relayed.append(endpoint(relayed))
        self._signal(node, node.agent.add_local_candidate(Candidate.relayed(endpoint(relayed), node.host)))

    def seed(self, *, relayed: bool = False) -> None:
        """What two real nodes begin with, gateway first."""
        for node, address in ((self.gateway, "203.0.113.1:50001"), (self.client, "203.0.113.2:50002")):
            self.add_host(node)
            self.add_reflexive(node)
            if relayed:
                self.add_relayed(node, address)

    def _signal(self, node: Node, candidate: Candidate | None) -> None:
        assert candidate is not None
        node.signalled.append(candidate)
        self.resignal(node, candidate)

    def resignal(self, node: Node, *candidates: Candidate) -> None:
        """Candidates travel as text, at once, best first."""
        other = self.peer(node)
        for candidate in signalling_order(candidates):
            other.agent.add_remote_candidate(parse(candidate.to_text()), self.now)
            self._drain(other)

    def invalidate(self, node: Node, candidate: Candidate) -> bool:
        """The node lost an address and tells its peer."""
        known = node.agent.remove_local_candidate(candidate)
        self.peer(node).agent.remove_remote_candidate(parse(candidate.to_text()), self.now)
        return known

    def run(self, duration: int) -> None:
        """Let this much time pass."""
        end = self.now + duration
        self._drain(self.client)
        self._drain(self.gateway)
        while (at := self._next_at()) is not None and at <= end:
            self.now = max(self.now, at)
            self._deliver()
            for node in (self.gateway, self.client):
                due = node.agent.poll_timeout()
                if due is not None and due <= self.now:
                    node.agent.handle_timeout(self.now)
                self._drain(node)
                node.arms.append(node.agent.poll_timeout())
        self.now = end

    def run_until(self, condition: Callable[[], bool], limit: int = 60 * SECOND) -> int:
        """Step by milliseconds until it holds; returns how long that took."""
        begin = self.now
        while not condition():
            assert self.now - begin < limit, "the condition never came true"
            self.run(MILLISECOND)
        return self.now - begin

    def sent(self, node: Node) -> Iterator[Packet]:
        """What a node sent, lost packets included."""
        return (packet for packet in self.packets if packet.sender == node.name)

    def _next_at(self) -> Instant | None:
        deadlines = [self.client.agent.poll_timeout(), self.gateway.agent.poll_timeout()]
        deadlines += [self._queue[0][0]] if self._queue else []
        return min((deadline for deadline in deadlines if deadline is not None), default=None)

    def _deliver(self) -> None:
        while self._queue and self._queue[0][0] <= self.now:
            _, _, node, source, destination, message = heapq.heappop(self._queue)
            if node.agent.accepts(message):
                node.agent.handle_message(message, source=source, destination=destination, now=self.now)
            self._drain(node)

    def _drain(self, node: Node) -> None:
        while (event := node.agent.poll_event()) is not None:
            match event:
                case Nominated():
                    node.nominated.append((self.now, event))
                case StateChanged(state):
                    node.states.append((self.now, state))
        while (transmit := node.agent.poll_transmit()) is not None:
            assert transmit.source is not None
            message = decode(transmit.run.data)
            packet = Packet(self.now, node.name, transmit.source, transmit.destination, message)
            self.packets.append(packet)
            if not self.loses(packet):
                self._route(node, packet)

    def _route(self, node: Node, packet: Packet) -> None:
        """Out through the sender's NAT unless it leaves from a relay; in through the receiver's unless by a relay."""
        source: Endpoint | None = packet.source
        if packet.source in node.relayed:
            node.channels.add((packet.source, packet.destination))
        else:
            source = node.nat.outbound(packet.source, packet.destination)
        other = self.peer(node)
        arrival: Endpoint | None
        if packet.destination in other.relayed:
            arrival = packet.destination if (packet.destination, source) in other.channels else None
        elif source is not None and self._is_outside(other, packet.destination):
            arrival = other.nat.inbound(source, packet.destination)
        else:
            return
        if source is not None and arrival is not None and (arrival == other.host or arrival in other.relayed):
            due = self.now + self.latency
            heapq.heappush(self._queue, (due, next(self._order), other, source, arrival, packet.message))

    def _is_outside(self, node: Node, address: Endpoint) -> bool:
        public = getattr(node.nat, "public", node.host.ip)
        return bool(address.ip == public)
