"""Finds out which DNS server of this host asks us in turn, so that it is asked no more.

A forwarder on the host that takes its servers from ``resolv.conf`` or from systemd-resolved sends to us what we send to
it: with us in place it has no server of its own any more. As dnsmasq does with ``dns-loop-detect``, a question that
nobody else asks is put to it; if that comes back to one of our own addresses, it went round. Only servers at addresses
of this host are asked: from elsewhere nothing leads to our sentinels. They are asked again a little later, since a
forwarder may take its time to read what the host's servers are now.
"""

import asyncio
import socket
import time
from collections.abc import Callable, Iterable
from typing import Final

import dns.exception
import dns.message
import dns.rdatatype

from client.dns.actions import ForwardQuery, Transport
from client.dns.sentinels import DNS_PORT
from connectivity.clock import SECOND, Instant
from connectivity.endpoint import Endpoint, IPAddress
from connectivity.io.families import FAMILIES

# No resolver answers it from a table of its own, as many do for .test and .invalid; no resource's addresses either,
# since of those only A, AAAA, HTTPS, SRV, TXT and PTR are answered by the client itself.
_DOMAIN: Final = "example.com"
_TYPE: Final = dns.rdatatype.MX
_AGAIN_AFTER_SECONDS: Final = (1.0, 5.0, 30.0)
_REPEATED_AFTER: Final = 10 * SECOND  # a server that is just slow is asked no more often
_REMEMBERED: Final = 64  # questions under way; the host has fewer servers


class LoopCheck:
    """Which servers go round.

    Args:
        ask: sends a query; the answer is of no interest.
        rng: randomness for the names.
    """

    def __init__(
        self,
        *,
        ask: Callable[[ForwardQuery], None],
        rng: Callable[[int], bytes],
        clock: Callable[[], Instant] = time.monotonic_ns,
    ) -> None:
        self._ask = ask
        self._clock = clock
        self._asked = 0
        self._token = rng(8).hex()
        self._pattern = self._token.encode()
        self._names: dict[str, IPAddress] = {}
        self._checked: dict[IPAddress, Instant] = {}
        self._again: list[asyncio.TimerHandle] = []
        self.looping: set[IPAddress] = set()

    def forget(self) -> None:
        """The host uses other servers, or others for them."""
        self.stop()
        self.looping.clear()
        self._names.clear()
        self._checked.clear()

    def stop(self) -> None:
        """Ask nobody any more."""
        for handle in self._again:
            handle.cancel()
        self._again.clear()

    def watch(self, servers: Iterable[IPAddress]) -> None:
        """Ask those of this host, now and a few times later."""
        watched = tuple(servers)
        self.stop()
        self.check(watched)
        loop = asyncio.get_running_loop()
        self._again += [loop.call_later(seconds, self.check, watched) for seconds in _AGAIN_AFTER_SECONDS]

    def check(self, servers: Iterable[IPAddress]) -> None:
        """Ask those of this host."""
        now = self._clock()
        for server in servers:
            if server in self.looping or not is_local(server):
                continue
            self._checked[server] = now
            self._asked += 1
            name = f"loop-{self._asked}-{self._token}.{_DOMAIN}"
            while len(self._names) >= _REMEMBERED:
                del self._names[next(iter(self._names))]
            self._names[name] = server
            message = dns.message.make_query(name, _TYPE).to_wire()
            self._ask(ForwardQuery(0, Endpoint(server, DNS_PORT), message, Transport.UDP, through_tunnel=False))

    def suspect(self, server: IPAddress) -> None:
        """It does not answer: ask it again, now and then."""
        checked = self._checked.get(server)
        if checked is not None and self._clock() - checked >= _REPEATED_AFTER:
            self.check([server])

    def came_back(self, message: bytes) -> IPAddress | None:
        """The server that this question went to before, if it is one of ours."""
        if self._pattern not in message.lower():  # labels stand in it as they are, but for their case
            return None
        try:
            question = dns.message.from_wire(message, question_only=True).question
        except dns.exception.DNSException:
            return None
        name = question[0].name.to_text(omit_final_dot=True).lower() if question else ""
        return self._names.get(name)


def is_local(address: IPAddress) -> bool:
    """Whether this is an address of the host itself."""
    with socket.socket(FAMILIES[address.version], socket.SOCK_DGRAM) as tried:
        try:
            tried.bind((str(address), 0))
        except OSError:
            return False
    return True
