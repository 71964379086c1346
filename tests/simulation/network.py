"""The network of the simulation under virtual time: places with hosts, and the routers between them and the Internet.

A *place* is a local network. Its hosts meet by their own addresses; everything else goes through its router, which
translates addresses, filters, or does neither. What leaves a host is on its way for as long as both places take, may
be lost, doubled or overtaken, and is looked at by the router of the place that it goes to when it arrives there.
"""

import heapq
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum
from ipaddress import ip_address
from random import Random
from typing import Final, NamedTuple, TypeAlias

from connectivity.clock import MILLISECOND, SECOND, Duration, Instant
from connectivity.endpoint import Endpoint, IPAddress
from connectivity.run import Received, Run

START: Final = 1_000 * SECOND
EPOCH: Final = 1_800_000_000 * SECOND
REMEMBERED: Final = 64  # datagrams that somebody on the way could send again
STRANGER: Final = Endpoint(ip_address("198.51.100.254"), 4444)
MOST_EVENTS: Final = 400_000  # of one case; more is a storm
_FIRST_PORT: Final = 20_000


class By(Enum):
    """What of the other end a mapping, or a filter, looks at (RFC 4787 §4.1, §5)."""

    ENDPOINT_INDEPENDENT = 0
    ADDRESS = 1
    ADDRESS_AND_PORT = 2

    def part(self, remote: Endpoint) -> object:
        """This part of the other end."""
        return (None, remote.ip, remote)[self.value]


class Behaviour(NamedTuple):
    """What a router does. ``translates`` is about IPv4; IPv6 is filtered, never translated."""

    translates: bool
    mapping: By
    filtering: By
    hairpins: bool = False
    timeout: Duration = 120 * SECOND
    only_port: int | None = None  # the one port that may be spoken to on the Internet


BEHAVIOURS: Final = {
    "full cone": Behaviour(True, By.ENDPOINT_INDEPENDENT, By.ENDPOINT_INDEPENDENT, hairpins=True),
    "restricted": Behaviour(True, By.ENDPOINT_INDEPENDENT, By.ADDRESS, hairpins=True),
    "port restricted": Behaviour(True, By.ENDPOINT_INDEPENDENT, By.ADDRESS_AND_PORT),
    "short memory": Behaviour(True, By.ENDPOINT_INDEPENDENT, By.ADDRESS_AND_PORT, timeout=30 * SECOND),
    "by address": Behaviour(True, By.ADDRESS, By.ADDRESS_AND_PORT),
    "symmetric": Behaviour(True, By.ADDRESS_AND_PORT, By.ADDRESS_AND_PORT),
    "firewall": Behaviour(False, By.ENDPOINT_INDEPENDENT, By.ADDRESS_AND_PORT),
    "only relays": Behaviour(True, By.ADDRESS_AND_PORT, By.ADDRESS_AND_PORT, only_port=3478),
}


@dataclass(slots=True)
class _Mapping:
    inside: Endpoint
    outside: Endpoint
    used_at: Instant
    remotes: dict[object, Instant] = field(default_factory=dict)  # who may answer


class Router:
    """Address translation and filter of one place. ``address`` is its own on the Internet, for IPv4."""

    def __init__(self, behaviour: Behaviour, address: IPAddress) -> None:
        self.behaviour = behaviour
        self.address = address
        self._outward: dict[tuple[Endpoint, object], _Mapping] = {}
        self._inward: dict[Endpoint, _Mapping] = {}
        self._next_port = _FIRST_PORT

    def reboot(self) -> None:
        """Forget every mapping; new ones have other ports."""
        self._outward.clear()
        self._inward.clear()

    def outward(self, inside: Endpoint, remote: Endpoint, now: Instant) -> Endpoint | None:
        """The source that a datagram leaves with; None if it may not leave."""
        behaviour = self.behaviour
        if behaviour.only_port not in (None, remote.port):
            return None
        translates = behaviour.translates and inside.ip.version == 4
        key = (inside, behaviour.mapping.part(remote) if translates else None)
        mapping = self._outward.get(key)
        if mapping is None or now - mapping.used_at > behaviour.timeout:
            outside = inside
            if translates:
                self._next_port += 1
                outside = Endpoint(self.address, self._next_port)
            if mapping is not None:
                self._inward.pop(mapping.outside, None)
            mapping = self._outward[key] = self._inward[outside] = _Mapping(inside, outside, now)
        mapping.used_at = mapping.remotes[behaviour.filtering.part(remote)] = now
        return mapping.outside

    def inward(self, outside: Endpoint, remote: Endpoint, now: Instant) -> Endpoint | None:
        """Where a datagram from the Internet goes; None if it may not come in."""
        mapping = self._inward.get(outside)
        timeout = self.behaviour.timeout
        if mapping is None or now - mapping.used_at > timeout:
            return None
        heard_at = mapping.remotes.get(self.behaviour.filtering.part(remote))
        return None if heard_at is None or now - heard_at > timeout else mapping.inside


class Place:
    """A local network, or with no router a part of the Internet."""

    def __init__(self, name: str, router: Router | None, latency: Duration) -> None:
        self.name = name
        self.router = router
        self.latency = latency
        self.loss = 0.0
        self.doubling = 0.0
        self.jitter: Duration = 0
        self.largest: int | None = None  # bytes of UDP payload; what is larger is lost without a word
        self.hosts: dict[IPAddress, Host] = {}


class Host:
    """What sends and receives datagrams at one place; ``is_cut`` while its cable is out."""

    def __init__(self, name: str, receive: Callable[[Received], None]) -> None:
        self.name = name
        self.receive = receive
        self.addresses: dict[int, IPAddress] = {}
        self.place: Place | None = None
        self.is_cut = False


_Event: TypeAlias = tuple[Instant, int, Callable[[], None]]


class Network:
    """Places, hosts, what is on its way, and the clock."""

    def __init__(self, random: Random) -> None:
        self.now: Instant = START
        self.random = random
        self.places: dict[str, Place] = {}
        self.datagrams = 0
        self._by_address: dict[IPAddress, Place] = {}  # as the Internet sees it
        self._heard: deque[Callable[[Endpoint | None], None]] = deque(
            maxlen=REMEMBERED
        )  # what arrived, to happen again
        self._events: list[_Event] = []
        self._sequence = 0

    @property
    def wall_now(self) -> int:
        """The wall clock that everybody's machine shows."""
        return EPOCH + self.now

    def add_place(self, name: str, behaviour: Behaviour | None, latency: Duration, address: str = "") -> Place:
        """``behaviour`` None is the open Internet."""
        router = None if behaviour is None else Router(behaviour, ip_address(address))
        place = self.places[name] = Place(name, router, latency)
        if router is not None:
            self._by_address[router.address] = place
        return place

    def move(self, host: Host, place: Place | None, addresses: tuple[str, ...] = ()) -> None:
        """The host leaves where it is, and has these addresses at another place; None is nowhere."""
        if host.place is not None:
            for address in host.addresses.values():
                del host.place.hosts[address]
                if self._by_address.get(address) is host.place:
                    del self._by_address[address]
        host.place = place
        parsed = [ip_address(address) for address in addresses]
        host.addresses = {address.version: address for address in parsed}
        if place is None:
            return
        for address in parsed:
            place.hosts[address] = host
            if place.router is None or not (place.router.behaviour.translates and address.version == 4):
                self._by_address[address] = place

    def at(self, delay: Duration, act: Callable[[], None]) -> None:
        """Do something later, in order of time and then of asking."""
        self._sequence += 1
        assert self._sequence < MOST_EVENTS, "a storm: too much happens"
        heapq.heappush(self._events, (self.now + delay, self._sequence, act))

    def next_event(self) -> Instant:
        """When something arrives next."""
        return self._events[0][0] if self._events else 1 << 62

    def run_due(self) -> None:
        """All that is due now."""
        while self._events and self._events[0][0] <= self.now:
            heapq.heappop(self._events)[2]()

    def send(self, host: Host, source: Endpoint, destination: Endpoint, run: Run, tos: int) -> None:
        """Datagrams leave a host; its buffers are copied."""
        place = host.place
        if place is None or host.is_cut or place.hosts.get(source.ip) is not host:
            return
        self.datagrams += run.segment_count
        if destination.ip in place.hosts:
            self._carry(place, place, source, destination, run, tos)
            return
        if place.router is not None:
            translated = place.router.outward(source, destination, self.now)
            if translated is None:
                return
            source = translated
        target = self._by_address.get(destination.ip)
        if target is None or (target is place and not (place.router and place.router.behaviour.hairpins)):
            return
        self._carry(place, target, source, destination, run, tos)

    def _carry(self, origin: Place, target: Place, source: Endpoint, destination: Endpoint, run: Run, tos: int) -> None:
        """One run, or what the places leave of it."""
        places = (origin, target)
        largest = min((place.largest for place in places if place.largest is not None), default=None)
        if not any(place.loss or place.doubling or place.jitter for place in places) and largest is None:
            delay = origin.latency + target.latency if origin is not target else MILLISECOND
            self._post(delay, origin, target, source, destination, bytes(run.data), run.segment_size, tos)
            return
        random = self.random.random
        for segment in run.segments():
            if largest is not None and len(segment) > largest:
                continue
            copies = 1 + any(random() < place.doubling for place in places)
            for _ in range(copies):
                if any(random() < place.loss for place in places):
                    continue
                delay = origin.latency + target.latency + int(sum(place.jitter for place in places) * random())
                self._post(delay, origin, target, source, destination, bytes(segment), len(segment), tos)

    def _post(
        self,
        delay: Duration,
        origin: Place,
        target: Place,
        source: Endpoint,
        destination: Endpoint,
        data: bytes,
        segment_size: int,
        tos: int,
    ) -> None:
        def arrive(again_from: Endpoint | None = None) -> None:
            sender = again_from or source
            local: Endpoint | None = destination
            # The router looks at what comes from outside, and at what comes back to its own address.
            if target.router is not None and (origin is not target or destination.ip not in target.hosts):
                local = target.router.inward(destination, sender, self.now)
            host = None if local is None else target.hosts.get(local.ip)
            if local is not None and host is not None and not host.is_cut:
                host.receive(Received(local, sender, Run(memoryview(bytearray(data)), segment_size), tos))

        self._heard.append(arrive)
        self.at(delay, arrive)

    def replay(self, count: int, *, elsewhere: bool) -> None:
        """Somebody on the way sends again what he has heard, from where it came or from a place of his own."""
        for _ in range(min(count, len(self._heard))):
            self._heard[self.random.randrange(len(self._heard))](STRANGER if elsewhere else None)
