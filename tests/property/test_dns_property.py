"""DNS of the client: any bytes, from programs, servers and gateways, give a decision and never an exception."""

from ipaddress import ip_address

import dns.message
import dns.rdatatype
from hypothesis import given
from hypothesis import strategies as st

from client.dns import datagram
from client.dns.actions import ForwardQuery, TcpReply
from client.dns.records import DnsRecords
from client.dns.stub_resolver import (
    MAX_UDP_ANSWER_BYTES,
    Answered,
    AskSite,
    Ignore,
    PassOn,
    StubResolver,
    fit_udp,
    is_answer,
    servfail,
)
from client.resources import DnsResource, IpStack, ResourceTable
from connectivity.clock import SECOND
from connectivity.endpoint import Endpoint
from tests.unit.client.dns_bench import OWN, SENTINEL, Bench, named

RESOURCES = ResourceTable()
RESOURCES.put(DnsResource("r", "all", "**.example.com", IpStack.DUAL, ()))
RECORDS = DnsRecords()
RESOLVER = StubResolver(RESOURCES, RECORDS)

labels = st.binary(min_size=1, max_size=63)
names = st.lists(labels, max_size=4).map(lambda parts: [*parts, b"example", b"com"]) | st.lists(labels, max_size=4)
types = st.sampled_from([1, 28, 65, 16, 33, 12, 15, 255, 41, 250]) | st.integers(0, 0xFFFF)


@st.composite
def queries(draw: st.DrawFn) -> bytes:
    """Messages that look like queries, with anything behind the question."""
    header = draw(st.binary(min_size=4, max_size=4)) + b"\0\1" + draw(st.binary(min_size=6, max_size=6))
    name = b"".join(bytes((len(label),)) + label for label in draw(names)) + b"\0"
    tail = draw(types).to_bytes(2, "big") + draw(st.sampled_from([b"\0\1", b"\0\3"]))
    return header + name + tail + draw(st.binary(max_size=40))


messages = queries() | st.binary(max_size=80)


@given(messages)
def test_every_message_gets_a_decision(message: bytes) -> None:
    for decision in (RESOLVER.decide(message), RESOLVER.decide_multicast(message)):
        assert isinstance(decision, Answered | AskSite | PassOn | Ignore)
        if isinstance(decision, Answered):
            answer = dns.message.from_wire(decision.message)
            assert is_answer(decision.message, message)
            assert len(decision.message) < 512  # fits every program that asks by UDP
            assert len(answer.question) == 1
            assert decision.message[2] & 0x79 == message[2] & 0x79  # operation and "recursion desired" are copied


@given(messages)
def test_every_failure_and_every_long_answer_repeats_the_question_or_is_silent(message: bytes) -> None:
    failure = servfail(message)
    if failure is not None:
        assert is_answer(failure, message)
        assert failure[4:12] == b"\0\1" + bytes(6)
        assert message[12:].startswith(failure[12:])
    long = message + bytes(MAX_UDP_ANSWER_BYTES + 1)
    cut = fit_udp(long)
    if cut is not None:
        assert len(cut) <= MAX_UDP_ANSWER_BYTES
        assert cut[2] & 0x02
        assert long.startswith(cut[:2])
    assert fit_udp(message) == message


@given(st.lists(messages, max_size=3), st.lists(st.binary(max_size=40) | st.none(), max_size=3))
def test_a_core_takes_any_query_and_any_answer(asked: list[bytes], answers: list[bytes | None]) -> None:
    bench = Bench([named("**.example.com")])
    for number, message in enumerate(asked):
        bench.send(datagram.build(Endpoint(OWN[4], 40000), Endpoint(SENTINEL[4], 53), message))
        bench.send(datagram.build(Endpoint(OWN[6], 40000), Endpoint(ip_address("ff02::1:3"), 5355), message))
        bench.core.handle_tcp_query(number, SENTINEL[4], message, bench.now)
        bench.drain()
    forwarded = bench.take(ForwardQuery)
    for action, answer in zip(forwarded, answers, strict=False):
        shaped = None if answer is None else action.message[:2] + answer
        bench.core.handle_dns_answer(action.query_id, shaped, bench.now)
    for action in forwarded:
        bench.core.handle_dns_answer(action.query_id, None, bench.now)
    bench.advance(60 * SECOND)
    bench.drain()
    replied = [reply.query_id for reply in bench.take(TcpReply)]
    assert sorted(replied) == list(range(len(asked)))  # each once, whatever it was


@given(
    st.lists(st.sampled_from(["a", "b", "c", "d"]), max_size=12), st.lists(st.sampled_from(list(IpStack)), min_size=1)
)
def test_addresses_are_never_given_twice_and_never_change(asked: list[str], stacks: list[IpStack]) -> None:
    records = DnsRecords()
    known: dict[tuple[str, int], tuple[object, ...]] = {}
    for number, name in enumerate(asked):
        stack = stacks[number % len(stacks)]
        record = records.assign(name, DnsResource("r", "n", "**", stack, ()))
        assert record is not None
        for version in (4, 6):
            if stack.has(version):
                assert len(record.of(version)) == 4
                assert known.setdefault((name, version), record.of(version)) == record.of(version)
    given_out = [address for addresses in known.values() for address in addresses]
    assert len(given_out) == len(set(given_out))
    for (name, _), addresses in known.items():
        for address in addresses:
            found = records.at(address)  # type: ignore[arg-type]  # they are addresses
            assert found is not None
            assert found.domain == name
