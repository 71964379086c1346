"""Sends one flood of UDP datagrams with forged sources, at a pace and for a time, and says which rate it reached.

``python -m bench.siege_flood KIND TARGET SOURCES RATE SECONDS [KEY]``, in a namespace of the lab: a process of its own,
so that whoever measures is not delayed by it. ``SOURCES`` is a network whose addresses take turns, each datagram with
a port of its own. Kinds: ``bindings``, ``allocates``, and ``initiations`` whose mac1 is right for the public ``KEY``
(hexadecimal) and whose rest is random, the cheapest that an attacker can make.

What is sent is made before; of ``SECONDS`` no more than ``LONGEST_SECONDS`` count.
"""

import hashlib
import itertools
import json
import os
import random
import socket
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from ipaddress import IPv4Address, IPv4Network
from typing import Final

from connectivity.endpoint import Endpoint
from connectivity.stun import Attribute, MessageClass, Method, RequestedTransport, encode
from connectivity.wireguard.cookie import mac1_key
from connectivity.wireguard.messages import INITIATION, INITIATION_BYTES, MAC_BYTES, MACS_BYTES
from ebpf.oracle import Datagram

LONGEST_SECONDS: Final = 60.0
HIGHEST_RATE: Final = 200_000
DIFFERENT: Final = 10_000  # datagrams that are made, and sent again from the first one on
_PAUSE_SECONDS: Final = 0.0005
_UDP: Final = 17


@dataclass(frozen=True, slots=True)
class Reached:
    """What was sent, in how long."""

    sent: int
    seconds: float

    @property
    def rate(self) -> float:
        return self.sent / max(self.seconds, 1e-9)


def payloads(kind: str, key: bytes, rng: Callable[[int], bytes]) -> Iterator[bytes]:
    """Datagrams of a kind without end, no two alike.

    Raises:
        ValueError: there is no such kind.
    """
    match kind:
        case "bindings":
            return _requests(Method.BINDING, (), rng)
        case "allocates":
            return _requests(Method.ALLOCATE, (RequestedTransport(_UDP),), rng)
        case "initiations":
            return _initiations(mac1_key(key), rng)
        case _:
            raise ValueError(f"no such flood: {kind}")


def packets(
    bodies: Iterator[bytes], target: Endpoint, sources: IPv4Network, count: int, chance: random.Random
) -> list[bytes]:
    """IP packets from addresses of a network by turns, each from a port of its own."""
    addresses = itertools.cycle(range(int(sources.network_address), int(sources.broadcast_address) + 1))
    if sources.num_addresses > 2:  # the network's own address and its broadcast are nobody's
        addresses = itertools.cycle(range(int(sources.network_address) + 1, int(sources.broadcast_address)))
    return [
        Datagram(Endpoint(IPv4Address(next(addresses)), chance.randrange(1024, 65536)), target, next(bodies)).packet()
        for _ in range(count)
    ]


def pace(
    send: Callable[[bytes], object],
    made: Sequence[bytes],
    rate: int,
    seconds: float,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> Reached:
    """Send what is due, sleep a moment, and so on; who comes late catches up at most one pause's worth of a second."""
    started = clock()
    sent, turn = 0, itertools.cycle(made)
    while (now := clock() - started) < seconds:
        due = min(int(now * rate) + 1, sent + max(1, rate // 20))
        for _ in range(sent, due):
            send(next(turn))
        sent = max(sent, due)
        sleep(_PAUSE_SECONDS)
    return Reached(sent, clock() - started)


def main(arguments: Sequence[str]) -> None:
    kind, target, sources, rate, seconds, *key = arguments
    to = Endpoint.parse(target)
    bodies = payloads(kind, bytes.fromhex(key[0]) if key else b"", os.urandom)
    made = packets(bodies, to, IPv4Network(sources), DIFFERENT, random.Random(1))
    with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW) as raw:
        address = (str(to.ip), 0)

        def send(packet: bytes) -> None:
            try:
                raw.sendto(packet, address)
            except OSError:  # a full queue of the link: what a wire would lose
                return

        print("sending", flush=True)
        reached = pace(send, made, min(int(rate), HIGHEST_RATE), min(float(seconds), LONGEST_SECONDS))
    print(json.dumps(asdict(reached)), flush=True)


def _requests(method: Method, attributes: Sequence[Attribute], rng: Callable[[int], bytes]) -> Iterator[bytes]:
    while True:
        yield encode(method, MessageClass.REQUEST, rng(12), attributes)


def _initiations(key: bytes, rng: Callable[[int], bytes]) -> Iterator[bytes]:
    head = bytes((INITIATION, 0, 0, 0))
    while True:
        body = head + rng(INITIATION_BYTES - MACS_BYTES - len(head))
        yield body + hashlib.blake2s(body, digest_size=MAC_BYTES, key=key).digest() + bytes(MAC_BYTES)


if __name__ == "__main__":
    main(sys.argv[1:])
