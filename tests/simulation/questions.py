"""Questions to DNS in the simulation: what programs ask, over UDP and TCP, of their client's sentinels, and are told.

*Always:* a question has one answer at most, which comes to who asked from where it was asked, and is true.
*While nothing disturbs it:* it has one in time, and no failure.
"""

import struct
from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import Final

import dns.flags
import dns.message
import dns.rcode
import dns.reversename

from client.dns import datagram
from client.dns.stub_resolver import MAX_UDP_ANSWER_BYTES
from connectivity.clock import SECOND, Instant
from connectivity.endpoint import Endpoint, IPAddress
from connectivity.ip import packet
from connectivity.ip.protocols import PROTOCOL_UDP
from connectivity.ranges import is_proxy
from connectivity.tunnel import ConfigureTun
from tests.simulation.names import DNS_PORT, FIRST, INTERNET_HOST, LONG, LONG_TEXTS, PUBLIC, text_of

PROXIES_PER_NAME: Final = 4
ASKING_PORT: Final = 5300
ANSWERED_WITHIN: Final = 3 * SECOND
OUTSIDE: Final = "8.8.4.4"  # whose name nobody here knows
ADDRESSES: Final = {4: "A", 6: "AAAA"}
TYPES: Final = ("A", "AAAA", "TXT", "SRV", "MX", "PTR")


@dataclass(slots=True)
class Question:
    """One that a program asks, under a number of its own."""

    number: int
    client: str
    name: str
    type: str
    sentinel: IPAddress
    over_tcp: bool
    answers: int = 0
    failed: bool = False
    is_cut: bool = False  # there was more than UDP has room for

    def message(self) -> dns.message.Message:
        """As it is asked; for a name by its address, for PTR."""
        name = dns.reversename.from_address(self.name) if self.type == "PTR" else self.name
        return dns.message.make_query(name, self.type, id=self.number)

    def __str__(self) -> str:
        return f"{self.client} asked {self.sentinel} for {self.name} {self.type}{' by TCP' if self.over_tcp else ''}"


@dataclass(slots=True)
class Program:
    """What the programs of one client's machine know."""

    proxies: dict[tuple[str, int], tuple[IPAddress, ...]] = field(default_factory=dict)  # by name and IP version
    open: dict[int, Question] = field(default_factory=dict)


class Questions:
    """All of a case."""

    def __init__(self, clients: tuple[str, ...]) -> None:
        self.programs = {client: Program() for client in clients}
        self._asked = 0
        self.owed: dict[int, tuple[Question, Instant]] = {}  # by number, with the moment by which it is to be answered

    def ask(self, client: str, own: ConfigureTun, name: str, type_: str, *, over_tcp: bool, of_last: bool) -> Question:
        """A new question to the first or the last of its sentinels. PTR is of a name's address."""
        program = self.programs[client]
        self._asked += 1
        if type_ == "PTR":
            known = [found for (known, _), found in program.proxies.items() if known == name]
            name = str(known[0][0]) if known else OUTSIDE
        question = Question(self._asked, client, name, type_, own.sentinels[-of_last][0], over_tcp)
        program.open[question.number] = question
        return question

    def packet(self, question: Question, own: ConfigureTun) -> bytes:
        """What a program sends that asks by UDP."""
        source = own.interface.ipv4 if question.sentinel.version == 4 else own.interface.ipv6
        asked = Endpoint(question.sentinel, DNS_PORT)
        return datagram.build(Endpoint(source, ASKING_PORT), asked, question.message().to_wire())

    def owe(self, question: Question, now: Instant) -> None:
        """It is to have a true answer, unless something disturbs the world before."""
        self.owed[question.number] = question, now + ANSWERED_WITHIN

    def disturbed(self) -> None:
        """From here on nothing is owed."""
        self.owed.clear()

    def forget(self, client: str) -> None:
        """Another process: what its programs were told means nothing to it."""
        self.programs[client] = Program()

    def check(self, now: Instant) -> None:
        """What is owed by now must have been answered."""
        for question in [question for question, by in self.owed.values() if by <= now]:
            del self.owed[question.number]
            assert question.answers, f"nothing was wrong, and yet no answer: {question}"
            assert not question.failed, f"nothing was wrong, and yet a failure: {question}"

    def told_by_packet(self, client: str, data: bytes) -> None:
        """A packet with an answer reached the client's host."""
        parsed = packet.parse(memoryview(bytearray(data)))
        message = datagram.payload(parsed)
        assert len(message) <= MAX_UDP_ANSWER_BYTES, f"{len(message)} bytes by UDP"
        question = self._told(client, message, over_tcp=False)
        assert parsed.source == question.sentinel, f"answered by {parsed.source}: {question}"

    def told_over_tcp(self, client: str, number: int, message: bytes | None) -> None:
        """The listener of a client's driver got what it is to write; None ends the connection."""
        assert message is not None, "these questions can be read"
        question = self._told(client, message, over_tcp=True)
        assert question.number == number, f"on the connection of question {number}: {question}"

    def _told(self, client: str, message: bytes, *, over_tcp: bool) -> Question:
        answer = dns.message.from_wire(message)
        question = self.programs[client].open.pop(answer.id, None)
        assert question is not None, f"{client} was told what it did not ask, or again: {answer}"
        assert question.over_tcp is over_tcp, f"answered on another way: {question}"
        assert answer.question == question.message().question, f"{question}: {answer}"
        assert answer.flags & dns.flags.QR, f"{question}: {answer}"
        question.answers += 1
        question.failed = answer.rcode() in (dns.rcode.SERVFAIL, dns.rcode.REFUSED)
        question.is_cut = bool(answer.flags & dns.flags.TC)
        assert question.is_cut <= (not over_tcp and question.name == LONG), f"it has room: {question}"
        if not question.failed and not question.is_cut:
            self._learn(question, answer)
        return question

    def _learn(self, question: Question, answer: dns.message.Message) -> None:
        """What it says is true; addresses of a name never change while the records last."""
        found = [str(rdata) for rrset in answer.answer for rdata in rrset]
        if answer.rcode() == dns.rcode.NXDOMAIN:
            assert not found, f"{question}: {answer}"
            exists = question.name in (PUBLIC, LONG) or question.type == "PTR"
            assert not exists or question.name == OUTSIDE, f"{question}: {answer}"
            return
        match question.type:
            case "PTR":
                names = {
                    name for (name, _), held in self._proxies(question).items() if ip_address(question.name) in held
                }
                assert set(found) == {f"{name}." for name in names}, f"{question}: {answer}"
            case "A" | "AAAA" if question.name in FIRST:
                self._learn_addresses(question, [ip_address(text) for text in found])
            case "TXT" | "SRV" if question.name in FIRST:
                assert found == [text_of(question.name, question.type)], f"{question}: {answer}"
            case "A":
                assert found == [INTERNET_HOST], f"{question}: {answer}"
            case "TXT" if question.name == LONG:
                assert len(found) == LONG_TEXTS, f"{question}: {answer}"
            case _:
                assert not found, f"{question}: {answer}"

    def _learn_addresses(self, question: Question, found: list[IPAddress]) -> None:
        version = 4 if question.type == ADDRESSES[4] else 6
        told = f"{question}: {found}"
        assert len(set(found)) == PROXIES_PER_NAME, told
        assert all(is_proxy(address) and address.version == version for address in found), told
        known = self._proxies(question).setdefault((question.name, version), tuple(found))
        assert known == tuple(found), f"{told}, and before {known}"

    def _proxies(self, question: Question) -> dict[tuple[str, int], tuple[IPAddress, ...]]:
        return self.programs[question.client].proxies


def is_answer(data: bytes) -> bool:
    """Whether a packet to a client's host is the answer of a sentinel to its programs."""
    return ports_of(data) == (DNS_PORT, ASKING_PORT)


def ports_of(data: bytes) -> tuple[int, int] | None:
    """Source and destination port of a UDP packet; None for all others."""
    parsed = packet.parse(memoryview(bytearray(data)))
    if parsed.protocol != PROTOCOL_UDP:
        return None
    source, destination = struct.unpack(">HH", parsed.ports)
    return source, destination
