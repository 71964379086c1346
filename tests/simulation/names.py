"""Names in the simulation: what they stand for in their sites, and what name servers say of them."""

from ipaddress import ip_address
from typing import Final

import dns.message
import dns.rcode
import dns.rdatatype
import dns.rrset

from connectivity.endpoint import IPAddress

DNS_PORT: Final = 53
PUBLIC: Final = "public.example"  # with one address
LONG: Final = "long.example"  # with more texts than UDP has room for
INTERNET_HOST: Final = "93.184.216.34"
LONG_TEXTS: Final = 24

#: Of what resource a name is, and what it stands for at first. Two stand for one address; one lies in another resource.
FIRST: Final[dict[str, tuple[str, tuple[str, ...]]]] = {
    "app.office.test": ("intranet", ("10.50.0.5", "2001:db8:50::5")),
    "mail.office.test": ("intranet", ("10.50.0.5",)),
    "db.lab.test": ("store", ("10.30.0.77", "2001:db8:60::5")),
}


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


def text_of(name: str, type_: str) -> str:
    """The one record of a name that only its site knows, as text."""
    return f'"of {name}"' if type_ == "TXT" else f"0 0 8443 {name}."


def answer_of_the_internet(message: bytes, *, in_packet: bool = False) -> bytes:
    """What a public server says: it knows none of our names, and two others, of which one has no room in a packet."""
    asked = dns.message.from_wire(message)
    answer = dns.message.make_response(asked)
    (question,) = asked.question
    name = question.name.to_text(omit_final_dot=True)
    if name not in (PUBLIC, LONG):
        answer.set_rcode(dns.rcode.NXDOMAIN)
    elif question.rdtype == dns.rdatatype.A:
        answer.answer.append(dns.rrset.from_text(question.name, 60, "IN", "A", INTERNET_HOST))
    elif name == LONG and question.rdtype == dns.rdatatype.TXT and in_packet:
        answer.set_rcode(dns.rcode.SERVFAIL)
    elif name == LONG and question.rdtype == dns.rdatatype.TXT:
        texts = [f'"{number:060}"' for number in range(LONG_TEXTS)]
        answer.answer.append(dns.rrset.from_text(question.name, 60, "IN", "TXT", *texts))
    return answer.to_wire()


def name_in(message: bytes) -> str:
    """What a query asks for."""
    return dns.message.from_wire(message).question[0].name.to_text(omit_final_dot=True)


def answer_of_the_site(message: bytes, *, may_ask: bool) -> bytes:
    """What the name server beside a gateway says of a name of its site."""
    asked = dns.message.from_wire(message)
    answer = dns.message.make_response(asked)
    (question,) = asked.question
    if may_ask:
        kind = dns.rdatatype.to_text(question.rdtype)
        text = text_of(name_in(message), kind)
        answer.answer.append(dns.rrset.from_text(question.name, 60, "IN", kind, text))
    else:
        answer.set_rcode(dns.rcode.REFUSED)
    return answer.to_wire()
