"""Names in the simulation: what they stand for in their sites, and what the clients' programs know of them.

Programs ask the sentinel, get proxy addresses, and keep them for as long as the client's process keeps its records.
"""

from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import Final

import dns.message
import dns.rcode
import dns.rdatatype
import dns.rrset

from client.dns import datagram
from connectivity.endpoint import Endpoint, IPAddress
from connectivity.ip import packet
from connectivity.ip.flow import Flow, split_flows
from connectivity.ranges import is_proxy
from connectivity.run import Run
from connectivity.tunnel import ConfigureTun

PROXIES_PER_NAME: Final = 4
ASKING_PORT: Final = 5300
DNS_PORT: Final = 53
_RDTYPE: Final = {4: "A", 6: "AAAA"}

#: Of what resource a name is, and what it stands for at first. Two stand for one address; one lies in another resource.
FIRST: Final[dict[str, tuple[str, tuple[str, ...]]]] = {
    "app.office.test": ("intranet", ("10.50.0.5", "2001:db8:50::5")),
    "mail.office.test": ("intranet", ("10.50.0.5",)),
    "db.lab.test": ("store", ("10.30.0.77", "2001:db8:60::5")),
}


@dataclass(slots=True)
class Program:
    """What the programs of one client's machine know."""

    proxies: dict[tuple[str, int], tuple[IPAddress, ...]] = field(default_factory=dict)  # by name and IP version
    open: dict[int, tuple[str, int]] = field(default_factory=dict)  # queries without an answer, by their id
    asked: int = 0


class Zone:
    """What names stand for, now and ever."""

    def __init__(self) -> None:
        self._now: dict[str, tuple[IPAddress, ...] | None] = {}
        self._ever: dict[str, set[IPAddress]] = {}
        for name, (_, addresses) in FIRST.items():
            self.put(name, addresses)

    def put(self, name: str, addresses: tuple[str, ...] | None) -> None:
        """A name stands for this from now on; None: it cannot be looked up."""
        parsed = None if addresses is None else tuple(map(ip_address, addresses))
        self._now[name] = parsed
        self._ever.setdefault(name, set()).update(parsed or ())

    def resolve(self, name: str) -> tuple[IPAddress, ...] | None:
        """What a gateway's resolver says."""
        return self._now.get(name)

    def has(self, name: str, version: int) -> bool:
        """Whether a name stands for an address of this IP version now."""
        return any(address.version == version for address in self._now.get(name) or ())

    def ever_stood_for(self, name: str, address: IPAddress) -> bool:
        """Whether it did at any time."""
        return address in self._ever[name]


def query(program: Program, own: ConfigureTun, name: str, version: int) -> bytes | None:
    """The packet of a program that asks for a name; None without a sentinel."""
    sentinel = next((address for address, _ in own.sentinels), None)
    if sentinel is None:
        return None
    program.asked += 1
    program.open[program.asked] = (name, version)
    source = own.interface.ipv4 if sentinel.version == 4 else own.interface.ipv6
    message = dns.message.make_query(name, _RDTYPE[version], id=program.asked).to_wire()
    return datagram.build(Endpoint(source, ASKING_PORT), Endpoint(sentinel, DNS_PORT), message)


def is_answer(data: bytes) -> bool:
    """Whether a packet to a client's host is the answer of a sentinel to its programs."""
    flow = _flow(data)
    return flow.protocol == 17 and (flow.source_port, flow.destination_port) == (DNS_PORT, ASKING_PORT)


def learn(program: Program, data: bytes) -> None:
    """An answer reached the program; addresses of a name never change while the records last."""
    answer = dns.message.from_wire(datagram.payload(packet.parse(memoryview(bytearray(data)))))
    asked = program.open.pop(answer.id, None)
    assert asked is not None, f"an answer to no question: {answer}"
    name, version = asked
    found = tuple(ip_address(str(rdata)) for rrset in answer.answer for rdata in rrset)
    if not found or not is_proxy(found[0]):
        return  # the name is of no resource that this client has now
    assert len(set(found)) == PROXIES_PER_NAME, f"{name} has {found}"
    assert all(is_proxy(address) and address.version == version for address in found), f"{name} has {found}"
    known = program.proxies.setdefault((name, version), found)
    assert known == found, f"{name} had {known}, and now has {found}"


def answer_of_the_internet(message: bytes) -> bytes:
    """What a public server says: it knows none of our names, and one address for all others."""
    asked = dns.message.from_wire(message)
    answer = dns.message.make_response(asked)
    (question,) = asked.question
    if question.name.to_text(omit_final_dot=True) in FIRST:
        answer.set_rcode(dns.rcode.NXDOMAIN)
    elif question.rdtype == dns.rdatatype.A:
        answer.answer.append(dns.rrset.from_text(question.name, 60, "IN", "A", "93.184.216.34"))
    return answer.to_wire()


def _flow(data: bytes) -> Flow:
    (packets,) = split_flows(Run.single(bytearray(data)), [])
    return Flow.from_key(packets.flow)
