"""The model of what happens to packets: what was sent, what may arrive where, what is owed to whom.

It knows resources and sites, and nothing of connections, paths or relays.
"""

import struct
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

from client.dns import datagram
from client.dns.service import SITE_DNS_PORT
from connectivity.clock import MILLISECOND, SECOND, Instant
from connectivity.endpoint import Endpoint, IPAddress
from connectivity.ip import packet
from tests.simulation.book import Book, Wish
from tests.simulation.names import FIRST, Zone, answer_of_the_internet, answer_of_the_site, name_in
from tests.simulation.network import START
from tests.simulation.traffic import Kind, Letter, is_icmp_error, number_of, quoted_flow, read_ends

ANSWERED_WITHIN: Final = 3 * SECOND
PORTAL_SLACK: Final = 1_500 * MILLISECOND  # between the portal's file and what a gateway does


@dataclass(slots=True)
class Sent:
    """A packet, and what became of it."""

    letter: Letter
    client: str
    request: bytes
    at: Instant
    name: str | None = None  # what the address stands for, if it is a proxy's
    is_spoofed: bool = False
    arrivals: int = 0
    answers: int = 0
    errors: int = 0


@dataclass(frozen=True, slots=True)
class Debt:
    """Something that has to have happened by then."""

    sent: Sent
    by: Instant
    is_refusal: bool  # an ICMP error rather than an answer


class Ledger:
    """All packets of a case under their numbers."""

    def __init__(self, book: Book, zone: Zone) -> None:
        self._book = book
        self._zone = zone
        self._sent: dict[int, Sent] = {}
        self._debts: list[Debt] = []
        self.reached: set[tuple[str, str]] = set()  # clients and what they reach, undisturbed since

    def has_reached(self, client: str, resource: str) -> bool:
        """Whether a client reaches a resource, perhaps by a name of it."""
        names = (name for name, (of, _) in FIRST.items() if of == resource)
        wanted = {resource, *(f"{name}/{version}" for name in names for version in (4, 6))}
        return any((client, what) in self.reached for what in wanted)

    @property
    def next_number(self) -> int:
        """Of the next packet."""
        return len(self._sent) + 1

    def send(
        self, letter: Letter, client: str, now: Instant, *, source: IPAddress | None = None, name: str | None = None
    ) -> Sent:
        """A client's host sends this, perhaps with another's address, perhaps to a name."""
        sent = Sent(letter, client, letter.request(source), now, name, is_spoofed=source is not None)
        self._sent[letter.number] = sent
        return sent

    def owe(self, sent: Sent, now: Instant, *, is_refusal: bool = False) -> None:
        """This must be answered, or refused, unless something disturbs the world before."""
        self._debts.append(Debt(sent, now + ANSWERED_WITHIN, is_refusal))

    def disturbed(self) -> None:
        """From here on nothing is owed until it has worked again."""
        self._debts.clear()
        self.reached.clear()

    def check(self, now: Instant) -> None:
        """What is owed by now must have been paid."""
        for debt in [debt for debt in self._debts if debt.by <= now]:
            self._debts.remove(debt)
            sent = debt.sent
            done, wanted = (sent.errors, "refused") if debt.is_refusal else (sent.answers, "answered")
            assert done, f"nothing was wrong, and yet was not {wanted}: {tell(sent)}"

    def arrived_at_gateway(self, name: str, site: str, heard: Instant, data: bytes, now: Instant) -> Letter:
        """A gateway lets a packet out into its site; it heard the portal last at ``heard``. Returns what to answer."""
        number = number_of(data)
        sent = None if number is None else self._sent.get(number)
        where = f"at {name}, {clock(now)}"
        assert sent is not None, f"{where}: a packet that nobody sent: {data.hex()}"
        letter = sent.letter
        assert not sent.is_spoofed, f"{where}: passed with another's address: {tell(sent)}"
        seen = letter if sent.name is None else self._translated(where, sent, sent.name, data)
        assert data == seen.request(), f"{where}: changed on the way: {tell(sent)}: {data.hex()}"
        sent.arrivals += 1
        assert sent.arrivals == 1, f"{where}: arrived twice: {tell(sent)}"
        named = None if sent.name is None else FIRST[sent.name][0]
        wish = Wish(sent.client, site, seen.resource, letter.kind, letter.port, named)
        is_allowed = self._book.allowed_since(heard - PORTAL_SLACK, wish, now)
        assert is_allowed, f"{where}: the book does not allow {tell(sent)}: {self._book.page}"
        return seen

    def asked_at_gateway(
        self,
        name: str,
        site: str,
        heard: Instant,
        data: bytes,
        now: Instant,
        *,
        client_at: Callable[[IPAddress], str],
        may_ask: Callable[[IPAddress, str], bool],
    ) -> bytes:
        """A gateway lets a query of a client's driver out, or to its own name server. Returns the answer."""
        where = f"at {name}, {clock(now)}"
        parsed = packet.parse(memoryview(bytearray(data)))
        own_port, port = struct.unpack(">HH", parsed.ports)
        message, client = datagram.payload(parsed), client_at(parsed.source)
        if port == SITE_DNS_PORT:
            asked = name_in(message)
            may = may_ask(parsed.source, asked)
            is_held = self._book.held_since(heard - PORTAL_SLACK, client, FIRST[asked][0], site, now)
            assert is_held or not may, f"{where}: {client} learns of {asked}"
            answer = answer_of_the_site(message, may_ask=may)
        else:
            wish = Wish(client, site, parsed.destination, Kind.UDP, port)
            assert self._book.allowed_since(heard - PORTAL_SLACK, wish, now), f"{where}: the book does not allow {wish}"
            answer = answer_of_the_internet(message, in_packet=True)
        return datagram.build(Endpoint(parsed.destination, port), Endpoint(parsed.source, own_port), answer)

    def _translated(self, where: str, sent: Sent, name: str, data: bytes) -> Letter:
        """What becomes of a packet to a proxy address: another destination, perhaps another port of its own."""
        address, port = read_ends(data)
        assert self._zone.ever_stood_for(name, address), f"{where}: {address} is not of {name}: {tell(sent)}"
        assert address.version == sent.letter.resource.version, f"{where}: of another family: {tell(sent)}"
        return replace(sent.letter, resource=address, own_port=port)

    def arrived_at_client(self, name: str, data: bytes, now: Instant) -> None:
        """A client's host gets an answer, or an ICMP error about what it sent."""
        where = f"at {name}, {clock(now)}"
        if is_icmp_error(data):
            self._refused(where, name, data)
            return
        number = number_of(data)
        sent = None if number is None else self._sent.get(number)
        assert sent is not None, f"{where}: a packet that nobody sent: {data.hex()}"
        assert sent.client == name, f"{where}: another's answer: {tell(sent)}"
        assert sent.arrivals == 1, f"{where}: an answer to what did not arrive: {tell(sent)}"
        assert data == sent.letter.answer(), f"{where}: changed on the way: {tell(sent)}"
        sent.answers += 1
        assert sent.answers == 1, f"{where}: answered twice: {tell(sent)}"

    def _refused(self, where: str, name: str, data: bytes) -> None:
        source, destination, port = quoted_flow(data)
        for sent in self._sent.values():
            letter = sent.letter
            if (letter.client, letter.resource, letter.own_port) == (source, destination, port):
                assert sent.client == name, f"{where}: an error about another's packet: {tell(sent)}"
                sent.errors += 1


def clock(now: Instant) -> str:
    """Virtual seconds since the start, for people."""
    return f"{(now - START) / SECOND:.3f} s"


def tell(sent: Sent) -> str:
    """A packet, for people."""
    letter = sent.letter
    whose = " with another's address" if sent.is_spoofed else ""
    whose += f" to {sent.name}" if sent.name else ""
    what = f"{letter.kind} from {letter.client} port {letter.own_port} to {letter.resource} port {letter.port}"
    return f"packet {letter.number} of {sent.client}{whose}, sent at {clock(sent.at)}: {what}"
