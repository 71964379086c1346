"""A client core without a network, and DNS messages for it."""

from collections.abc import Sequence
from ipaddress import IPv4Address, IPv6Address, ip_address
from random import Random
from typing import Any, Final

import dns.flags
import dns.message
import dns.rdatatype

from client.core import ClientCore
from client.dns import datagram
from client.dns.records import DnsRecords
from connectivity.clock import SECOND, Instant
from connectivity.endpoint import Endpoint, IPAddress
from connectivity.ip.flow import split_flows
from connectivity.ip.packet import parse
from connectivity.run import Run
from connectivity.tunnel import ConfigureTun
from connectivity.wireguard import KeyPair

OWN: Final[dict[int, IPAddress]] = {4: IPv4Address("100.64.0.2"), 6: IPv6Address("fd00:2021:1111::2")}
SENTINEL: Final[dict[int, IPAddress]] = {
    4: IPv4Address("100.100.111.1"),
    6: IPv6Address("fd00:2021:1111:8000:100:100:111:0"),
}
SITES: Final = [{"id": "s", "name": "HQ"}]
WIKI: Final = "00000000-0000-0000-0000-000000000001"
SYSTEM: Final = (ip_address("192.168.1.1"), ip_address("2001:db8::53"))


def named(pattern: str, resource_id: str = WIKI, **changed: Any) -> dict[str, Any]:
    """A DNS resource as the portal sends it."""
    return {"type": "dns", "id": resource_id, "name": pattern, "address": pattern, "gateway_groups": SITES} | changed


def query(name: str, rdtype: str = "A", query_id: int = 0x1234, **changed: Any) -> bytes:
    """A query as programs send it."""
    return dns.message.make_query(name, rdtype, id=query_id, **changed).to_wire()


def addresses(message: bytes) -> list[str]:
    """The records of an answer, as text."""
    parsed = dns.message.from_wire(message)
    assert parsed.flags & dns.flags.QR
    return [str(rdata) for rrset in parsed.answer for rdata in rrset]


class Bench:
    """One client core under virtual time."""

    def __init__(
        self,
        resources: Sequence[dict[str, Any]] = (),
        *,
        system: tuple[IPAddress, ...] = SYSTEM,
        records: DnsRecords | None = None,
        **interface: Any,
    ) -> None:
        random = Random(1)
        self.now: Instant = 1000 * SECOND
        self.core = ClientCore(keys=KeyPair.generate(random.randbytes), rng=random.randbytes, records=records)
        self.actions: list[Any] = []
        self.core.set_system_resolvers(system, self.now)
        described = {"ipv4": str(OWN[4]), "ipv6": str(OWN[6])} | interface
        self.portal("init", {"interface": described, "resources": list(resources), "relays": []})

    def portal(self, event: str, payload: Any) -> None:
        """A message of the portal."""
        self.core.handle_portal(event, payload, self.now, self.now)
        self.drain()

    def drain(self) -> None:
        """Collect what the core asks for."""
        while (action := self.core.poll_action()) is not None:
            self.actions.append(action)

    def take(self, kind: type) -> list[Any]:
        """The actions of this kind since the last call."""
        found = [action for action in self.actions if isinstance(action, kind)]
        self.actions = [action for action in self.actions if not isinstance(action, kind)]
        return found

    @property
    def configured(self) -> ConfigureTun:
        """The last configuration of the device."""
        last: ConfigureTun = [action for action in self.actions if isinstance(action, ConfigureTun)][-1]
        return last

    def advance(self, duration: int) -> None:
        """Let time pass."""
        end = self.now + duration
        while (due := self.core.poll_timeout()) is not None and due <= end:
            self.now = max(self.now, due)
            self.core.handle_timeout(self.now, self.now)
            self.drain()
        self.now = end

    def send(self, packet: bytes) -> list[bytes]:
        """The host sends a packet; what it receives at once."""
        errors: list[Any] = []
        for packets in split_flows(Run.single(bytearray(packet)), errors):
            self.core.handle_packets(packets, self.now, errors)
        assert errors == []
        self.drain()
        return self.received()

    def received(self) -> list[bytes]:
        """What the host was sent."""
        found = []
        while (packet := self.core.poll_host_packet()) is not None:
            found.append(packet)
        return found

    def ask(self, message: bytes, version: int = 4, port: int = 53, sentinel: IPAddress | None = None) -> bytes | None:
        """A query by UDP to the first sentinel; the answer, if there is one at once."""
        asked = Endpoint(sentinel or SENTINEL[version], port)
        client = Endpoint(OWN[asked.ip.version], 40000)
        found = self.send(datagram.build(client, asked, message))
        return payload(found, asked, client)


def payload(found: list[bytes], source: Endpoint, destination: Endpoint) -> bytes | None:
    """What the one datagram of these carries, which has to go from there to there."""
    if not found:
        return None
    (packet,) = map(parse, found)
    assert (packet.source, packet.destination) == (source.ip, destination.ip)
    assert packet.ports == source.port.to_bytes(2, "big") + destination.port.to_bytes(2, "big")
    return datagram.payload(packet)
