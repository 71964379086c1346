"""Two tunnels joined under virtual time: every message of one is handed to the other until told otherwise."""

import hashlib
from collections.abc import Callable
from ipaddress import IPv4Address

from connectivity.clock import SECOND, Instant
from connectivity.run import Run
from connectivity.wireguard import DATA, KeyPair, RateLimiter, Tunnel, message_type

ADDRESS_A = IPv4Address("192.0.2.1")
ADDRESS_B = IPv4Address("192.0.2.2")
PRESHARED_KEY = bytes(range(32))
START: Instant = 1_000 * SECOND
WALL_START = 1_758_844_800 * SECOND


def stream(seed: bytes) -> Callable[[int], bytes]:
    """A deterministic source of "random" bytes."""
    counter = 0

    def take(count: int) -> bytes:
        nonlocal counter
        counter += 1
        return hashlib.shake_256(seed + counter.to_bytes(8, "big")).digest(count)

    return take


class Side:
    """One tunnel with what its node would hold for it."""

    def __init__(self, keys: KeyPair, peer: KeyPair, *, index: int, seed: bytes, preshared_key: bytes) -> None:
        self.keys = keys
        self.limiter = RateLimiter(keys.public, stream(b"limiter" + seed))
        self.tunnel = Tunnel(
            keys=keys,
            peer_public_key=peer.public,
            preshared_key=preshared_key,
            connection_index=index,
            limiter=self.limiter,
            rng=stream(seed),
            now=START,
        )
        self.received: list[bytes] = []
        self.completed = 0

    def drain(self) -> list[bytes]:
        """All messages that wait to be sent."""
        messages = []
        while (outgoing := self.tunnel.poll_transmit()) is not None:
            messages.append(outgoing.message)
        return messages


class Pair:
    """``a`` and ``b`` with a lossless link; ``now`` moves only by ``advance``."""

    def __init__(self, *, preshared_key_b: bytes = PRESHARED_KEY, seed: bytes = b"") -> None:
        keys_a, keys_b = KeyPair.generate(stream(b"key a")), KeyPair.generate(stream(b"key b"))
        self.now: Instant = START
        self.a = Side(keys_a, keys_b, index=0xAAAAAA, seed=b"a" + seed, preshared_key=PRESHARED_KEY)
        self.b = Side(keys_b, keys_a, index=0xBBBBBB, seed=b"b" + seed, preshared_key=preshared_key_b)

    @property
    def wall_now(self) -> int:
        return WALL_START + self.now - START

    def deliver(self, message: bytes, to: Side) -> None:
        """Hand one message to a side, as its node would."""
        if message_type(message) == DATA:
            opened = to.tunnel.open(Run.single(message), self.now)
            if opened is not None:
                to.received += [bytes(packet) for packet in opened.segments()]
            return
        source = ADDRESS_A if to is self.b else ADDRESS_B
        to.completed += to.tunnel.handle_handshake(message, source, self.now, self.wall_now)

    def settle(self) -> None:
        """Carry messages to and fro until none waits."""
        while True:
            to_b, to_a = self.a.drain(), self.b.drain()
            if not to_b and not to_a:
                return
            for message in to_b:
                self.deliver(message, self.b)
            for message in to_a:
                self.deliver(message, self.a)

    def send(self, source: Side, *packets: bytes) -> None:
        """Seal packets one by one; sealed ones arrive at once, others start a handshake."""
        destination = self.b if source is self.a else self.a
        for packet in packets:
            sealed = source.tunnel.seal(Run.single(packet), self.now)
            if sealed is not None:
                self.deliver(bytes(sealed.data), destination)
        self.wake(source)

    def wake(self, side: Side) -> None:
        """Run what is due, which must leave nothing due."""
        side.tunnel.handle_timeout(self.now, self.wall_now)
        deadline = side.tunnel.poll_timeout()
        assert deadline is None or deadline > self.now

    def connect(self) -> None:
        """A session that ``a`` initiated and both use."""
        self.a.tunnel.initiate(self.now, self.wall_now)
        self.settle()

    def advance(self, duration: int, *, link: bool = True) -> None:
        """Let time pass, each side woken exactly at its deadlines; without ``link`` all messages are lost."""
        end = self.now + duration
        while True:
            deadlines = [d for side in (self.a, self.b) if (d := side.tunnel.poll_timeout()) is not None]
            due = min(deadlines, default=end + 1)
            if due > end:
                break
            self.now = max(self.now, due)
            self.wake(self.a)
            self.wake(self.b)
            if link:
                self.settle()
            else:
                self.a.drain()
                self.b.drain()
        self.now = end
