"""The client's DNS: what is answered here, what is passed on, and what waits."""

from ipaddress import ip_address
from typing import Any

import dns.flags
import dns.message
import dns.rcode
import pytest

from client.dns import datagram
from client.dns.actions import ForwardQuery, TcpReply, Transport
from client.dns.queries import MAX_QUERIES
from client.dns.records import DnsRecords
from client.drops import ClientDrop
from connectivity.clock import SECOND
from connectivity.endpoint import Endpoint
from connectivity.ip.checksum import refresh
from connectivity.ip.packet import parse
from connectivity.ip.protocols import PROTOCOL_TCP
from connectivity.tunnel import SendToPortal
from tests.unit.client.dns_bench import OWN, SENTINEL, WIKI, Bench, addresses, named, payload, query

FIRST = ["100.96.0.1", "100.96.0.2", "100.96.0.3", "100.96.0.4"]
FIRST_V6 = [f"fd00:2021:1111:8000::{suffix}" for suffix in ("", "1", "2", "3")]


def found(bench: Bench, message: bytes, version: int = 4) -> list[str]:
    answer = bench.ask(message, version)
    assert answer is not None
    return addresses(answer)


@pytest.mark.parametrize("version", [4, 6])
def test_a_name_of_a_resource_is_answered_with_four_addresses_of_each_family(version: int) -> None:
    bench = Bench([named("*.example.com")])
    assert found(bench, query("app.example.com"), version) == FIRST
    assert found(bench, query("app.example.com", "AAAA"), version) == FIRST_V6
    assert found(bench, query("APP.example.COM"), version) == FIRST
    assert found(bench, query("example.com"), version)[0] == "100.96.0.5"
    assert bench.take(ForwardQuery) == []


def test_an_answer_repeats_id_and_question_and_lasts_a_second() -> None:
    bench = Bench([named("app.example.com")])
    answer = bench.ask(query("App.Example.com", query_id=0xBEEF, use_edns=0, payload=1232))
    assert answer is not None
    parsed = dns.message.from_wire(answer)
    assert parsed.id == 0xBEEF
    assert parsed.flags == dns.flags.QR | dns.flags.RD | dns.flags.RA
    assert parsed.question[0].name.to_text() == "App.Example.com."
    assert parsed.answer[0].ttl == 1
    assert parsed.edns == 0


@pytest.mark.parametrize(("stack", "v4", "v6"), [("ipv4_only", FIRST, []), ("ipv6_only", [], FIRST_V6)])
def test_a_resource_of_one_stack_has_no_addresses_of_the_other(stack: str, v4: list[str], v6: list[str]) -> None:
    bench = Bench([named("app.example.com", ip_stack=stack)])
    assert found(bench, query("app.example.com")) == v4
    assert found(bench, query("app.example.com", "AAAA")) == v6
    bench.portal("resource_created_or_updated", named("app.example.com", ip_stack="dual"))
    assert found(bench, query("app.example.com")) == FIRST
    assert found(bench, query("app.example.com", "AAAA")) == FIRST_V6


def test_other_types_of_a_resources_name() -> None:
    bench = Bench([named("app.example.com")])
    assert found(bench, query("app.example.com", "HTTPS")) == []
    assert found(bench, query("app.example.com")) == FIRST
    for version, reverse in ((4, "2.0.96.100.in-addr.arpa"), (6, dns_reverse(FIRST_V6[3]))):
        assert found(bench, query(reverse, "PTR"), version) == ["app.example.com."]
    assert bench.take(ForwardQuery) == []
    for message in (query("app.example.com", "MX"), query("9.0.96.100.in-addr.arpa", "PTR"), query("other.test")):
        assert bench.ask(message) is None
        (forwarded,) = bench.take(ForwardQuery)
        assert forwarded.message[2:] == message[2:]


def dns_reverse(address: str) -> str:
    return ip_address(address).reverse_pointer


def test_browsers_are_told_to_ask_the_host() -> None:
    bench = Bench()
    for rdtype in ("A", "AAAA", "HTTPS"):
        answer = bench.ask(query("use-application-dns.net", rdtype))
        assert answer is not None
        assert dns.message.from_wire(answer).rcode() == dns.rcode.NXDOMAIN


def test_what_is_no_query_is_ignored() -> None:
    bench = Bench([named("**")])
    two = bytearray(query("a.example"))
    two[5] = 2
    answer = bytearray(query("a.example"))
    answer[2] |= 0x80
    ignored = (b"", b"short", query("a.example")[:20], bytes(two), bytes(answer), bytes(12))
    for message in ignored:
        assert bench.ask(message) is None
    assert bench.core.statistics().flow_drops[ClientDrop.DNS_IGNORED] == len(ignored)
    assert bench.take(ForwardQuery) == []


def test_all_else_goes_on_with_an_id_of_its_own_and_comes_back_with_the_askers() -> None:
    bench = Bench()
    message = query("other.test", query_id=7)
    assert bench.ask(message) is None
    (forwarded,) = bench.take(ForwardQuery)
    assert forwarded.server == Endpoint(ip_address("192.168.1.1"), 53)
    assert forwarded.transport is Transport.UDP
    assert not forwarded.through_tunnel
    assert forwarded.message[:2] != message[:2]
    response = dns.message.make_response(dns.message.from_wire(forwarded.message)).to_wire()
    bench.core.handle_dns_answer(forwarded.query_id, response, bench.now)
    answer = payload(bench.received(), Endpoint(SENTINEL[4], 53), Endpoint(OWN[4], 40000))
    assert answer == message[:2] + response[2:]
    bench.core.handle_dns_answer(forwarded.query_id, response, bench.now)  # again: nobody waits
    assert bench.received() == []


def test_ids_cannot_be_guessed_from_one_another() -> None:
    bench = Bench()
    ids = set()
    for number in range(64):
        bench.ask(query("other.test", query_id=number))
        (forwarded,) = bench.take(ForwardQuery)
        ids.add(forwarded.message[:2])
    assert len(ids) > 60
    assert {int.from_bytes(one, "big") for one in ids} - set(range(64)) != set()


@pytest.mark.parametrize("message", [None, b"", b"\0\0 not the id", bytes(12)])
def test_who_asks_by_udp_hears_of_a_failure_but_not_of_a_timeout(message: bytes | None) -> None:
    bench = Bench()
    for waited, is_told in ((SECOND, True), (5 * SECOND, False)):
        bench.ask(query("other.test"))
        (forwarded,) = bench.take(ForwardQuery)
        bench.advance(waited)
        bench.core.handle_dns_answer(forwarded.query_id, message, bench.now)
        told = payload(bench.received(), Endpoint(SENTINEL[4], 53), Endpoint(OWN[4], 40000))
        assert (told is not None) is is_told
        if told is not None:
            parsed = dns.message.from_wire(told)
            assert parsed.rcode() == dns.rcode.SERVFAIL
            assert parsed.question[0].name.to_text() == "other.test."


def test_a_long_answer_is_cut_for_udp_and_whole_for_tcp() -> None:
    bench = Bench()
    message = query("other.test", "TXT")
    bench.ask(message)
    bench.core.handle_tcp_query(99, SENTINEL[4], message, bench.now)
    bench.drain()
    for forwarded in bench.take(ForwardQuery):
        response = dns.message.make_response(dns.message.from_wire(forwarded.message))
        response.answer = dns.message.from_text(
            "id 1\n;ANSWER\n" + "\n".join(f'other.test. 60 IN TXT "{n:0200}"' for n in range(8))
        ).answer
        bench.core.handle_dns_answer(forwarded.query_id, response.to_wire(), bench.now)
    bench.drain()
    cut = payload(bench.received(), Endpoint(SENTINEL[4], 53), Endpoint(OWN[4], 40000))
    assert cut is not None
    parsed = dns.message.from_wire(cut)
    assert parsed.flags & dns.flags.TC
    assert parsed.answer == []
    assert parsed.question[0].name.to_text() == "other.test."
    (reply,) = bench.take(TcpReply)
    assert reply.query_id == 99
    assert len(addresses(reply.message)) == 8


def test_queries_over_tcp_are_answered_or_refused_by_the_same_rules() -> None:
    bench = Bench([named("app.example.com")])
    bench.core.handle_tcp_query(1, SENTINEL[4], query("app.example.com"), bench.now)
    bench.core.handle_tcp_query(2, SENTINEL[4], b"not a query", bench.now)
    bench.core.handle_tcp_query(3, SENTINEL[4], query("other.test"), bench.now)
    bench.core.handle_tcp_query(4, ip_address("100.100.111.77"), query("other.test"), bench.now)
    bench.drain()
    (forwarded,) = bench.take(ForwardQuery)
    assert forwarded.transport is Transport.TCP
    bench.advance(5 * SECOND)
    bench.core.handle_dns_answer(forwarded.query_id, None, bench.now)
    bench.drain()
    replies = {reply.query_id: reply.message for reply in bench.take(TcpReply)}
    assert addresses(replies[1]) == FIRST
    assert replies[2] is None
    for query_id in (3, 4):
        assert dns.message.from_wire(replies[query_id]).rcode() == dns.rcode.SERVFAIL


def test_queries_at_servers_are_bounded() -> None:
    bench = Bench()
    for number in range(MAX_QUERIES):
        assert bench.ask(query(f"n{number}.test")) is None
    first = bench.take(ForwardQuery)[0]
    assert bench.ask(query("more.test")) is None
    bench.core.handle_tcp_query(1, SENTINEL[4], query("more.test"), bench.now)
    bench.drain()
    assert bench.take(ForwardQuery) == []
    (reply,) = bench.take(TcpReply)
    assert dns.message.from_wire(reply.message).rcode() == dns.rcode.SERVFAIL
    assert bench.core.statistics().flow_drops[ClientDrop.DNS_FULL] == 2
    bench.core.handle_dns_answer(first.query_id, None, bench.now)
    bench.ask(query("more.test"))
    assert len(bench.take(ForwardQuery)) == 1


@pytest.mark.parametrize(
    ("resources", "upstream", "is_through"),
    [
        ([], [], False),
        ([], ["10.0.0.53:53"], False),
        ([{"type": "cidr", "address": "10.0.0.0/8"}], ["10.0.0.53:5353"], True),
        ([{"type": "cidr", "address": "192.168.0.0/16"}], [], False),  # the host's own is never sent there
        ([{"type": "internet"}], ["9.9.9.9:53"], True),
        ([{"type": "internet"}], ["10.0.0.53:53"], False),  # the Internet has no such address
        ([{"type": "internet"}], [], False),
    ],
)
def test_a_server_of_the_portals_that_a_resource_includes_is_asked_through_the_tunnel(
    resources: list[Any], upstream: list[str], is_through: bool
) -> None:
    shared = {"id": "r", "name": "n", "gateway_groups": []}
    servers = [{"protocol": "ip_port", "address": address} for address in upstream]
    bench = Bench([resource | shared for resource in resources], upstream_dns=servers)
    bench.ask(query("other.test"))
    (forwarded,) = bench.take(ForwardQuery)
    assert forwarded.through_tunnel is is_through
    assert str(forwarded.server) == (upstream or ["192.168.1.1:53"])[0]


def test_without_servers_there_are_no_sentinels() -> None:
    bench = Bench([named("app.example.com")], system=())
    assert bench.configured.sentinels == ()
    assert bench.ask(query("app.example.com")) is None
    assert bench.core.statistics().flow_drops[ClientDrop.NO_SENTINEL] == 1


def test_other_servers_get_other_sentinels() -> None:
    bench = Bench(system=())
    servers = tuple(map(ip_address, ("192.0.2.1", "2001:db8::1", "192.0.2.2")))
    bench.core.set_system_resolvers(servers, bench.now)
    bench.drain()
    assert [(str(sentinel), str(server)) for sentinel, server in bench.configured.sentinels] == [
        ("100.100.111.1", "192.0.2.1:53"),
        ("fd00:2021:1111:8000:100:100:111:0", "[2001:db8::1]:53"),
        ("100.100.111.2", "192.0.2.2:53"),
    ]
    before = bench.configured
    bench.actions.clear()
    bench.core.set_system_resolvers(servers[::-1], bench.now)  # the same set
    bench.drain()
    assert bench.actions == []
    interface = {"ipv4": str(OWN[4]), "ipv6": str(OWN[6]), "search_domain": "corp.example"}
    named_servers = [{"protocol": "ip_port", "address": "192.0.2.9:5353"}]
    bench.portal("config_changed", {"interface": interface | {"upstream_dns": named_servers}})
    assert [(str(sentinel), str(server)) for sentinel, server in bench.configured.sentinels] == [
        ("100.100.111.3", "192.0.2.9:5353")
    ]
    assert bench.configured.search_domain == "corp.example"
    bench.portal("config_changed", {"interface": interface})
    sentinels = [[sentinel for sentinel, _ in configured.sentinels] for configured in (before, bench.configured)]
    assert sorted(map(str, sentinels[0])) == sorted(map(str, sentinels[1]))
    assert bench.ask(query("other.test"), sentinel=ip_address("100.100.111.3")) is None
    assert bench.core.statistics().flow_drops[ClientDrop.NO_SENTINEL] == 1


def test_our_own_sentinels_are_nobodys_servers() -> None:
    bench = Bench(system=(SENTINEL[4], ip_address("192.0.2.1"), SENTINEL[6]))
    assert [str(server) for _, server in bench.configured.sentinels] == ["192.0.2.1:53"]


def test_names_keep_their_addresses_when_somebody_signs_out_and_in() -> None:
    records = DnsRecords()
    first = Bench([named("*.example.com")], records=records)
    assert found(first, query("b.example.com"))[0] == "100.96.0.1"
    assert found(first, query("a.example.com"))[0] == "100.96.0.5"
    second = Bench([named("*.example.com")], records=records)
    assert found(second, query("a.example.com"))[0] == "100.96.0.5"
    assert found(second, query("c.example.com"))[0] == "100.96.0.9"
    second.portal("resource_deleted", WIKI)
    second.portal("resource_created_or_updated", named("*.example.com"))
    assert found(second, query("b.example.com"))[0] == "100.96.0.1"


def test_a_packet_to_a_names_address_asks_for_a_gateway_while_the_resource_exists() -> None:
    bench = Bench([named("app.example.com")])
    found(bench, query("app.example.com"))
    bench.send(datagram.build(Endpoint(OWN[4], 5000), Endpoint(ip_address(FIRST[2]), 80), b"hello"))
    (asked,) = bench.take(SendToPortal)
    assert asked.payload == {"resource_id": WIKI, "connected_gateway_ids": []}
    bench.portal("resource_deleted", WIKI)
    bench.send(datagram.build(Endpoint(OWN[4], 5000), Endpoint(ip_address(FIRST[2]), 80), b"hello"))
    bench.send(datagram.build(Endpoint(OWN[4], 5000), Endpoint(ip_address("100.96.7.7"), 80), b"hello"))
    assert bench.take(SendToPortal) == []
    assert bench.core.statistics().flow_drops[ClientDrop.NO_RESOURCE] == 2


@pytest.mark.parametrize(("version", "group"), [(4, "224.0.0.252"), (6, "ff02::1:3")])
def test_llmnr_is_answered_for_names_of_resources_only(version: int, group: str) -> None:
    bench = Bench([named("app")])
    client = Endpoint(OWN[version], 40000)

    def ask(message: bytes, port: int = 5355) -> bytes | None:
        sent = datagram.build(client, Endpoint(ip_address(group), port), message)
        return payload(bench.send(sent), Endpoint(SENTINEL[version], 5355), client)

    answer = ask(query("app"))
    assert answer is not None
    assert addresses(answer) == FIRST
    assert not answer[3] & 0x80  # LLMNR has no "recursion available"
    for message in (query("printer"), query("use-application-dns.net"), query("app", "SRV"), b"?"):
        assert ask(message) is None
    assert ask(query("app"), port=53) is None
    assert bench.take(ForwardQuery) == []


@pytest.mark.parametrize("version", [4, 6])
def test_tcp_to_a_sentinel_is_turned_to_the_listener_and_back(version: int) -> None:
    bench = Bench()
    program, sentinel = Endpoint(OWN[version], 50000), Endpoint(SENTINEL[version], 53)
    listener = Endpoint(OWN[version], 32853)
    assert bench.send(tcp(program, sentinel)) == []  # nobody listens yet
    bench.core.serve_dns_over_tcp({4: 32853, 6: 32853})
    assert bench.send(tcp(program, sentinel)) == [tcp(Endpoint(sentinel.ip, 50000), listener)]
    assert bench.send(tcp(listener, Endpoint(sentinel.ip, 50000))) == [tcp(sentinel, program)]
    assert bench.send(tcp(program, Endpoint(sentinel.ip, 80))) == []
    stranger = ip_address("192.0.2.1" if version == 4 else "2001:db8::1")
    assert bench.send(tcp(Endpoint(stranger, 50000), sentinel)) == []
    bench.core.set_system_resolvers((ip_address("192.0.2.9"), ip_address("2001:db8::9")), bench.now)
    assert bench.send(tcp(program, sentinel)) == []  # nobody is behind it any more
    sentinel = Endpoint(next(one for one, _ in bench.configured.sentinels if one.version == version), 53)
    assert len(bench.send(tcp(program, sentinel))) == 1
    bench.core.serve_dns_over_tcp({})
    assert bench.send(tcp(program, sentinel)) == []


def tcp(source: Endpoint, destination: Endpoint) -> bytes:
    """A SYN."""
    size = 20 if source.ip.version == 4 else 40
    segment = source.port.to_bytes(2, "big") + destination.port.to_bytes(2, "big") + bytes(8) + b"\x50\x02" + bytes(6)
    if size == 20:
        header = bytes((0x45, 0, 0, 40, 0, 0, 0, 0, 64, PROTOCOL_TCP, 0, 0))
    else:
        header = bytes((0x60, 0, 0, 0, 0, 20, PROTOCOL_TCP, 64))
    built = bytearray(header + source.ip.packed + destination.ip.packed + segment)
    refresh(memoryview(built), size, PROTOCOL_TCP)
    assert parse(bytes(built)).protocol == PROTOCOL_TCP
    return bytes(built)
