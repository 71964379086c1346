"""What becomes of a DNS query: answered here, asked at a resource's site, passed on to a server, or ignored (§10.3).

Names of DNS resources are answered with their proxy addresses, which are assigned here. Nothing is sent from here, and
any bytes give a decision.

| query | decision |
|---|---|
| ``use-application-dns.net`` | no such name: browsers ask the host, not a server of their own |
| A, AAAA of a resource's name | its proxy addresses, none of a family that the resource has not |
| HTTPS of a resource's name | no records: the addresses are to be asked for |
| SRV, TXT of a resource's name | ask the site |
| PTR of a proxy address that is assigned | its name |
| all else | pass on |
"""

import re
from dataclasses import dataclass
from enum import StrEnum
from ipaddress import ip_address
from typing import Final, TypeAlias

import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.opcode
import dns.rcode
import dns.rdata
import dns.rdataclass
import dns.rdatatype
import dns.reversename
import dns.rrset

from client.dns.records import DnsRecords, Record
from client.resources import DnsResource, ResourceTable
from connectivity.endpoint import IPAddress

ANSWER_TTL_SECONDS: Final = 1
MAX_UDP_ANSWER_BYTES: Final = 1212  # what an IPv6 packet of 1,280 bytes has room for beside its headers and a margin
CANARY: Final = "use-application-dns.net"

_HEADER_BYTES: Final = 12
_QUESTION_TAIL_BYTES: Final = 4  # type and class
_LONGEST_LABEL: Final = 63
_PLAIN_LABEL: Final = re.compile(rb"[!-\-/-\[\]-~]+")  # printable ASCII without dot and backslash
_ADDRESS_TYPES: Final = {dns.rdatatype.A: 4, dns.rdatatype.AAAA: 6}


class Ignored(StrEnum):
    """Why a query gets no answer at all."""

    UNPARSABLE = "unparsable"
    NO_QUERY = "no_query"
    NOT_ONE_QUESTION = "not_one_question"
    NOT_OURS = "not_ours"  # LLMNR: somebody else's name


@dataclass(frozen=True, slots=True)
class Answered:
    """The answer, and the record that it tells of."""

    message: bytes
    record: Record | None = None


@dataclass(frozen=True, slots=True)
class AskSite:
    """The gateways of this resource know."""

    resource_id: str
    domain: str


@dataclass(frozen=True, slots=True)
class PassOn:
    """The server behind the sentinel knows."""


@dataclass(frozen=True, slots=True)
class Ignore:
    """No answer."""

    reason: Ignored


Decision: TypeAlias = Answered | AskSite | PassOn | Ignore


class StubResolver:
    """Decides about queries."""

    def __init__(self, resources: ResourceTable, records: DnsRecords) -> None:
        self._resources = resources
        self._records = records

    def decide(self, query: bytes) -> Decision:
        """About a query to a sentinel."""
        return self._decide(query, recursion_available=True)

    def decide_multicast(self, query: bytes) -> Decision:
        """About an LLMNR query (RFC 4795), to which only who has the name answers."""
        decision = self._decide(query, recursion_available=False)
        if isinstance(decision, Answered) and decision.record is None:
            return Ignore(Ignored.NOT_OURS)
        return decision if isinstance(decision, Answered | Ignore) else Ignore(Ignored.NOT_OURS)

    def _decide(self, query: bytes, *, recursion_available: bool) -> Decision:
        try:
            message = dns.message.from_wire(query, question_only=True, ignore_trailing=True)
        except (dns.exception.DNSException, ValueError):
            return Ignore(Ignored.UNPARSABLE)
        if message.flags & dns.flags.QR:
            return Ignore(Ignored.NO_QUERY)
        if int.from_bytes(query[4:6], "big") != 1:
            return Ignore(Ignored.NOT_ONE_QUESTION)
        question = message.question[0]
        name = _plain(question.name)
        if message.opcode() != dns.opcode.QUERY or question.rdclass != dns.rdataclass.IN or name is None:
            return PassOn()
        reply = _Reply(query, message, recursion_available=recursion_available)
        if name == CANARY:
            return Answered(reply.failure(dns.rcode.NXDOMAIN))
        if question.rdtype == dns.rdatatype.PTR:
            return self._decide_reverse(question.name, reply)
        resource = self._resources.match(name)
        return PassOn() if resource is None else self._decide_resource(name, resource, question.rdtype, reply)

    def _decide_resource(self, name: str, resource: DnsResource, rdtype: int, reply: "_Reply") -> Decision:
        if rdtype in _ADDRESS_TYPES:
            record = self._records.assign(name, resource)
            if record is None:
                return Answered(reply.failure(dns.rcode.SERVFAIL))
            version = _ADDRESS_TYPES[dns.rdatatype.RdataType.make(rdtype)]
            addresses = record.of(version) if resource.ip_stack.has(version) else ()
            return Answered(reply.records([str(address) for address in addresses]), record)
        if rdtype == dns.rdatatype.HTTPS:
            return Answered(reply.records([]), self._records.get(name, resource.resource_id))
        if rdtype in (dns.rdatatype.SRV, dns.rdatatype.TXT):
            return AskSite(resource.resource_id, name)
        return PassOn()

    def _decide_reverse(self, name: dns.name.Name, reply: "_Reply") -> Decision:
        address = _reversed(name)
        record = None if address is None else self._records.at(address)
        return PassOn() if record is None else Answered(reply.records([f"{record.domain}."]), record)


class _Reply:
    """Answers to one query."""

    def __init__(self, query: bytes, question_only: dns.message.Message, *, recursion_available: bool) -> None:
        self._query = query
        self._question_only = question_only
        self._recursion_available = recursion_available

    def records(self, texts: list[str]) -> bytes:
        """Records of the type that was asked for."""
        response = self._start()
        question = response.question[0]
        if texts:
            rdatas = [dns.rdata.from_text(dns.rdataclass.IN, question.rdtype, text) for text in texts]
            response.answer.append(dns.rrset.from_rdata_list(question.name, ANSWER_TTL_SECONDS, rdatas))
        return _wire(response)

    def failure(self, code: dns.rcode.Rcode) -> bytes:
        """No records, for this reason."""
        response = self._start()
        response.set_rcode(code)
        return _wire(response)

    def _start(self) -> dns.message.Message:
        """With the query's id, operation, question and RD, and an OPT record if it has one (RFC 6891 §7)."""
        try:
            query = dns.message.from_wire(self._query, keyring=False, ignore_trailing=True)
        except (dns.exception.DNSException, ValueError):  # what stands behind the question is of no interest
            query = self._question_only
        return dns.message.make_response(query, recursion_available=self._recursion_available)


def _wire(response: dns.message.Message) -> bytes:
    """The records in their order: a core throws no dice."""
    return response.to_wire(max_size=0xFFFF, want_shuffle=False)


def servfail(query: bytes) -> bytes | None:
    """The answer to a query that nobody answered; None if it has no question that could be repeated."""
    head = _with_question(query)
    if head is None:
        return None
    opcode_and_rd = head[2] & 0x79
    head[2:4] = bytes((0x80 | opcode_and_rd, 0x80 | dns.rcode.SERVFAIL))  # an answer, recursion available
    return bytes(head)


def fit_udp(answer: bytes) -> bytes | None:
    """The answer as UDP can carry it; a longer one without its records and marked as truncated."""
    if len(answer) <= MAX_UDP_ANSWER_BYTES:
        return answer
    head = _with_question(answer)
    if head is None:
        return None
    head[2] |= 0x02  # TC
    return bytes(head)


def is_answer(answer: bytes, query: bytes) -> bool:
    """Whether a message can be the answer to a query, by its id; what it says is the asker's affair."""
    return len(answer) >= _HEADER_BYTES and answer[:2] == query[:2] and answer[2] & 0x80 != 0


def _with_question(message: bytes) -> bytearray | None:
    """Header and first question, and nothing that the header counted behind it."""
    at = _HEADER_BYTES
    while at < len(message) and 0 < message[at] <= _LONGEST_LABEL:
        at += 1 + message[at]
    end = at + 1 + _QUESTION_TAIL_BYTES
    if end > len(message) or message[at] != 0 or message[4:6] == b"\0\0":
        return None
    return bytearray(message[:4] + b"\0\1\0\0\0\0\0\0" + message[_HEADER_BYTES:end])


def _plain(name: dns.name.Name) -> str | None:
    """A name as resources write it; None if it has labels that no resource has."""
    labels = [label for label in name.labels if label]
    if not labels or not all(_PLAIN_LABEL.fullmatch(label) for label in labels):
        return None
    return b".".join(labels).decode("ascii").lower()


def _reversed(name: dns.name.Name) -> IPAddress | None:
    """The address that a PTR query is about."""
    try:
        return ip_address(dns.reversename.to_address(name))
    except (dns.exception.DNSException, ValueError):
        return None
