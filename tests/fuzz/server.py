"""A relay that is fed a script of bytes: what arrives from whom, and when.

A step is a kind, a who, a length of two bytes and a body. Kinds: what a sender's datagrams hold; a request that a
client signs itself, with the body's method and attributes; what a peer sends to a relayed port; bytes of a connection;
time; a change of policy and quotas; an ICMP error.

After each step: no allocation has come from somebody without credentials, all indices agree with each other, the
offload knows exactly the channels that relay, and nothing waits in the outputs.
"""

from collections import Counter
from collections.abc import Iterator
from typing import Final

from connectivity.clock import MILLISECOND
from connectivity.endpoint import Endpoint
from connectivity.run import Run
from connectivity.stun import DecodeError, Message, Method, Nonce, decode
from relay.core import FiveTuple, IcmpError, Quotas, Transport
from tests.unit.relay.playbook import PEER4, PEER6, PUBLIC, SERVER4, Client, RelayUnderTest

_MOST_STEPS: Final = 64
_LARGEST_LEAP: Final = 3600 * 1000 * MILLISECOND
_LOWEST_PORT: Final = 50_000
_PORTS: Final = 4
_LIMITS: Final = Quotas(2, 3, 8000, 16_000, 20)


class RelayUnderFire:
    """One relay, three clients who know the secret, and anybody else."""

    def __init__(self, script: bytes) -> None:
        self._script = script
        self.relay = RelayUnderTest(lowest_port=_LOWEST_PORT, highest_port=_LOWEST_PORT + _PORTS - 1)
        softwares = ("snownet", "a browser", "a browser")
        self.clients = [
            Client(self.relay, f"203.0.113.5:{1 + index}", software=software, salt=f"user {index % 2}")
            for index, software in enumerate(softwares)
        ]
        self._signed_allocates = 0

    def run(self) -> None:
        """Play the script, then let all that lives end."""
        for kind, who, body in self._steps():
            self._step(kind % 7, who, body)
            self._check()
        self.relay.advance(3600)
        self._check()
        assert (self.relay.open_ports, self.relay.installed) == ({}, {})
        assert len(self.relay.server._accounts) == 0

    def _steps(self) -> Iterator[tuple[int, int, bytes]]:
        at, script = 0, self._script
        for _ in range(_MOST_STEPS):
            if at + 4 > len(script):
                return
            length = int.from_bytes(script[at + 2 : at + 4], "big")
            yield script[at], script[at + 1], script[at + 4 : at + 4 + length]
            at += 4 + length

    def _step(self, kind: int, who: int, body: bytes) -> None:
        relay = self.relay
        client = self.clients[who % len(self.clients)]
        port = _LOWEST_PORT + who % _PORTS
        peer = (PEER4, PEER6, Endpoint(PUBLIC[4], port))[who % 3]
        if kind == 0:
            run = Run(memoryview(body), min(len(body), 1 + (who >> 2) * 16))
            relay.from_client(client.endpoint, run)
        elif kind == 1:
            self._sign(client, body)
        elif kind == 2 and body:
            relay.from_peer(port, peer, Run(memoryview(body), min(len(body), 1 + (who >> 2) * 16)))
        elif kind == 3:
            five_tuple = FiveTuple(client.endpoint, SERVER4, Transport.TCP)
            if who & 0x80:
                relay.server.stream_closed(five_tuple, relay.now)
                relay.drain()
            else:
                relay.from_stream(five_tuple, body)
        elif kind == 4:
            leap = int.from_bytes(body[:4], "big") * MILLISECOND % _LARGEST_LEAP
            if who & 1:
                relay.advance(leap / 10**9)
            else:  # the timers come late
                relay.now += leap
        elif kind == 5:
            relay.deny = (str(PEER4.ip),) if who & 1 else ()
            relay.quotas = _LIMITS if who & 2 else Quotas()
            relay.reconfigure()
        elif kind == 6:
            relay.icmp(port, IcmpError(peer, who, len(body) % 256))

    def _sign(self, client: Client, body: bytes) -> None:
        """The request that the body would be if this client had made it."""
        try:
            wanted = decode(body)
        except DecodeError:
            return
        client.nonce = self.relay.nonces.mint(client.endpoint, self.relay.now)
        self._signed_allocates += wanted.method == Method.ALLOCATE
        client.send(_request(client, wanted))

    def _check(self) -> None:
        server = self.relay.server
        table = server._table
        allocations = list(table.by_port.values())
        assert server.poll_output() is None
        assert len(allocations) <= self._signed_allocates, "an allocation without credentials"
        held = [reservation.account for reservation in server._allocator._reservations.values()]
        assert {allocation.port for allocation in allocations} <= self.relay.open_ports.keys()
        assert len(self.relay.open_ports) == len(allocations) + len(held)
        counted = Counter(account.user for account in [allocation.account for allocation in allocations] + held)
        accounts = server._accounts._accounts
        assert counted == {user: account.allocations for user, account in accounts.items()}
        buckets = [account.bucket for account in accounts.values() if account.bucket]
        assert len(buckets) == len(set(buckets))
        bound = 0
        relaying = set()
        for allocation in allocations:
            assert table.get(allocation.five_tuple) is allocation
            assert {channel.peer: channel for channel in allocation.channels.values()} == allocation.channels_by_peer
            for number, channel in allocation.channels.items():
                assert channel.number == number
                bound += channel.is_bound
                if channel.relays_until:
                    assert channel.is_bound
                    assert channel.relays_until <= min(channel.bound_until, allocation.expires_at)
                    if allocation.transport is Transport.UDP:
                        relaying.add((allocation.client, allocation.server, number))
        assert relaying == self.relay.installed.keys()
        assert server.statistics().channels == bound


def _request(client: Client, wanted: Message) -> bytes:
    attributes = [attribute for attribute in wanted.attributes if not isinstance(attribute, Nonce)]
    return client.request(Method(wanted.method) if wanted.method in set(Method) else Method.BINDING, *attributes)
