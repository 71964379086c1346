"""One client without IO: the tunnel in its role, and what its DNS driver hands it."""

from collections.abc import Callable, Mapping

from client.dns.records import DnsRecords
from client.role import ClientRole
from connectivity.clock import Instant
from connectivity.endpoint import IPAddress
from connectivity.node import Node
from connectivity.role import RoleTunnel
from connectivity.tunnel import TunnelCore
from connectivity.wireguard import KeyPair


class ClientCore(TunnelCore):
    """The tunnel of a client, in the role ``ClientRole``.

    Args:
        records: the proxy addresses that were assigned already; who signs out and in again gives them on.
    """

    def __init__(self, *, keys: KeyPair, rng: Callable[[int], bytes], records: DnsRecords | None = None) -> None:
        tunnel = RoleTunnel(Node(keys=keys, controlling=True, rng=rng))
        self.records = DnsRecords() if records is None else records
        self.role = ClientRole(tunnel, self.records, rng)
        super().__init__(tunnel, self.role)

    def set_system_resolvers(self, servers: tuple[IPAddress, ...], _now: Instant) -> None:
        """The servers that the host uses, our own sentinels not counted."""
        self.role.dns.set_system(servers)
        self.role.device.configure()

    def serve_dns_over_tcp(self, ports: Mapping[int, int]) -> None:
        """The driver listens at these ports of our own tunnel addresses, by IP version."""
        self.role.dns.serve_over_tcp(dict(ports))

    def handle_dns_answer(self, query_id: int, message: bytes | None, now: Instant) -> None:
        """What came back for a ``ForwardQuery``; None if nothing did."""
        self.role.dns.handle_answer(query_id, message, now)

    def handle_tcp_query(self, query_id: int, sentinel: IPAddress, message: bytes, now: Instant) -> None:
        """A query read from a connection to a sentinel; a ``TcpReply`` of the same id follows."""
        self.role.dns.handle_tcp_query(query_id, sentinel, message, now)
