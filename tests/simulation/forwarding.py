"""How a client's driver asks name servers in the simulation: from outside the tunnel, or through it as a program would.

A query over TCP goes on in a datagram here as well: what tells the two apart ends at the client's core.
"""

from collections.abc import Callable
from ipaddress import ip_address
from typing import Final

from client.core import ClientCore
from client.dns import datagram
from client.dns.actions import QUERY_TIMEOUT, ForwardQuery
from client.dns.service import SITE_DNS_PORT
from connectivity.clock import MILLISECOND
from connectivity.endpoint import Endpoint, IPAddress
from connectivity.ip import packet
from connectivity.tunnel import ConfigureTun
from tests.simulation.names import DNS_PORT, answer_of_the_internet
from tests.simulation.network import Network
from tests.simulation.questions import ports_of

LOOK_UP: Final = 15 * MILLISECOND
PORTS: Final = range(20_000, 30_000)
#: What clients' hosts may have in their resolv.conf, the first of them at first.
SYSTEM_SERVERS: Final[tuple[tuple[str, ...], ...]] = (
    ("198.51.100.253", "2001:db8:ffff:53::1"),
    ("192.168.1.1",),
    ("2001:db8:ffff:53::2", "192.168.1.1", "198.51.100.253"),
    (),
)
#: What the portal may name, nothing at first: servers on the Internet, one of a resource, of both families.
UPSTREAM_SERVERS: Final[tuple[tuple[str, ...], ...]] = (
    (),
    ("10.20.0.53:53",),
    ("93.184.216.53:53", "[2001:db8:20::53]:53"),
)


class Forwarding:
    """One client's process: its sockets in the tunnel, by their port."""

    def __init__(
        self,
        network: Network,
        core: ClientCore,
        *,
        send: Callable[[bytes], None],
        drain: Callable[[], None],
        runs: Callable[[], bool],
    ) -> None:
        self._network = network
        self._core = core
        self._send = send
        self._drain = drain
        self._runs = runs
        self._asked = 0
        self._sockets: dict[int, tuple[int, Endpoint]] = {}  # the query and the server that it was sent to

    def ask(self, query: ForwardQuery, own: ConfigureTun, system: tuple[IPAddress, ...], *, is_cut: bool) -> None:
        """Send a query on; the answer, or that there is none, comes later."""
        if query.through_tunnel:
            self._ask_through_tunnel(query, own)
            return
        server = query.server
        known = {Endpoint(address, DNS_PORT) for address in system} | {one for _, one in own.sentinels}
        assert server in known, f"{server} is asked, which is none of {known}"
        answer = None if is_cut else answer_of_the_internet(query.message)
        self._network.at(LOOK_UP, lambda: self._told(query.query_id, answer))

    def takes(self, data: bytes) -> bool:
        """Whether a packet to the client's host is for one of these sockets; then it has been taken."""
        ports = ports_of(data)
        if ports is None or ports[1] not in PORTS:
            return False
        parsed = packet.parse(memoryview(bytearray(data)))
        query_id, server = self._sockets.pop(ports[1], (None, None))
        if query_id is not None:  # else it was given up
            assert Endpoint(parsed.source, ports[0]) == server, f"{parsed.source} answers for {server}"
            self._told(query_id, datagram.payload(parsed))
        return True

    def _ask_through_tunnel(self, query: ForwardQuery, own: ConfigureTun) -> None:
        port = PORTS[self._asked % len(PORTS)]
        self._asked += 1
        self._sockets[port] = query.query_id, query.server
        address = own.interface.ipv4 if query.server.ip.version == 4 else own.interface.ipv6
        data = datagram.build(Endpoint(address, port), query.server, query.message)
        self._network.at(0, lambda: self._send(data) if self._runs() else None)
        self._network.at(QUERY_TIMEOUT, lambda: self._give_up(port, query.query_id))

    def _give_up(self, port: int, query_id: int) -> None:
        if self._sockets.get(port, (None, None))[0] == query_id:
            del self._sockets[port]
            self._told(query_id, None)

    def _told(self, query_id: int, message: bytes | None) -> None:
        if self._runs():
            self._core.handle_dns_answer(query_id, message, self._network.now)
            self._drain()


def is_query(data: bytes) -> bool:
    """Whether a packet that a gateway lets out is a query of a client's driver."""
    ports = ports_of(data)
    return ports is not None and ports[0] in PORTS and ports[1] in (DNS_PORT, SITE_DNS_PORT)


def servers(texts: tuple[str, ...]) -> tuple[IPAddress, ...]:
    """Addresses of servers."""
    return tuple(map(ip_address, texts))
