"""Records, sentinels, requests and states of the client, each alone."""

from ipaddress import IPv4Address, IPv6Address, ip_address
from itertools import pairwise
from uuid import UUID

import pytest

from client.dns.nat_states import HOLD_LIMIT, REPEAT_INTERVAL, NatKey, NatState, NatStates
from client.dns.portal_values import search_domain, upstream_servers
from client.dns.queries import MAX_WAITING, Query, UdpAsker, WaitingQueries
from client.dns.records import DnsRecords
from client.dns.sentinels import Sentinels, effective_servers
from client.dns.stub_resolver import Answered, StubResolver
from client.flow_requests import FRESH_AFTER, REQUEST_INTERVAL, RETRY_DELAYS, FlowRequests
from client.resources import CidrResource, DnsResource, IpStack, ResourceTable, Site
from client.sites import OFFLINE_COUNTS_FOR, Sites, SiteState
from client.targets import Targets
from connectivity.clock import SECOND
from connectivity.endpoint import Endpoint
from connectivity.p2p import AssignedIps, DomainStatus
from connectivity.portal.values import Interface, MessageError, network
from connectivity.ranges import is_proxy
from tests.unit.client.dns_bench import query

RESOURCE = DnsResource("r", "n", "**", IpStack.DUAL, ())
KEY = NatKey("g", UUID(int=1), "app.example")
PROXIES = tuple(ip_address(f"100.96.0.{number}") for number in range(1, 5))


def test_addresses_follow_one_another_but_for_the_sentinels() -> None:
    records = DnsRecords(limit=80_000)
    only_v4 = DnsResource("r", "n", "**", IpStack.IPV4_ONLY, ())
    found = [record.ipv4 for n in range(73_600) if (record := records.assign(str(n), only_v4)) is not None]
    flat = [int(address) for addresses in found for address in addresses]
    assert str(found[0][0]) == "100.96.0.1"
    gaps = [(before, after) for before, after in pairwise(flat) if after != before + 1]
    assert [str(ip_address(edge)) for gap in gaps for edge in gap] == ["100.100.110.255", "100.100.112.0"]
    assert is_proxy(ip_address(flat[-1]))


def test_names_are_bounded_and_those_that_have_addresses_keep_them() -> None:
    records = DnsRecords(limit=2)
    assert records.assign("a", RESOURCE) is not None
    assert records.assign("b", RESOURCE) is not None
    assert records.assign("c", RESOURCE) is None
    assert records.assign("a", RESOURCE) is not None
    resources = ResourceTable()
    resources.put(RESOURCE)
    decision = StubResolver(resources, records).decide(query("c"))
    assert isinstance(decision, Answered)
    assert decision.message[3] & 0xF == 2  # SERVFAIL


def test_the_same_name_of_another_resource_has_other_addresses() -> None:
    records = DnsRecords()
    first = records.assign("a", RESOURCE)
    second = records.assign("a", DnsResource("other", "n", "a", IpStack.DUAL, ()))
    assert first is not None
    assert second is not None
    assert not set(first.ipv4) & set(second.ipv4)
    assert records.at(second.ipv6[0]) is second


def test_sentinels_alternate_and_are_of_their_servers_family() -> None:
    sentinels = Sentinels()
    servers = [tuple(Endpoint(ip_address(f"192.0.2.{n}"), 53) for n in group) for group in ((1, 2), (3, 4), (5, 6))]
    shown: list[list[str]] = []
    for group in servers:
        assert sentinels.update(group)
        assert not sentinels.update(group[::-1])
        shown.append([str(sentinel) for sentinel, _ in sentinels.mapping])
    assert shown == [
        ["100.100.111.1", "100.100.111.2"],
        ["100.100.111.3", "100.100.111.4"],
        ["100.100.111.1", "100.100.111.2"],
    ]
    assert sentinels.update(())
    assert list(sentinels.mapping) == []
    assert sentinels.update(servers[0])
    assert [str(sentinel) for sentinel, _ in sentinels.mapping] == ["100.100.111.3", "100.100.111.4"]


def test_servers_of_the_portal_go_before_those_of_the_host() -> None:
    upstream, system = (Endpoint(ip_address("192.0.2.1"), 5353),) * 2, (ip_address("192.0.2.2"),)
    assert effective_servers(upstream, system) == upstream[:1]
    assert effective_servers((), system) == (Endpoint(system[0], 53),)
    assert effective_servers((Endpoint(ip_address("100.100.111.1"), 53),), system) == (Endpoint(system[0], 53),)
    many = tuple(ip_address(f"192.0.2.{n}") for n in range(1, 255))
    assert Sentinels().update(effective_servers((), many))


def test_the_portals_words_about_dns() -> None:
    servers = [{"protocol": "ip_port", "address": "1.1.1.1:53"}, {"protocol": "ip_port", "address": "[2001:db8::1]:53"}]
    assert [str(server) for server in upstream_servers({"upstream_dns": servers})] == ["1.1.1.1:53", "[2001:db8::1]:53"]
    assert upstream_servers({}) == ()
    for bad in ({"protocol": "tls", "address": "1.1.1.1:853"}, {"protocol": "ip_port", "address": "1.1.1.1"}):
        with pytest.raises(MessageError, match="upstream_dns"):
            upstream_servers({"upstream_dns": [bad]})
    assert search_domain({"search_domain": "corp.example"}) == "corp.example"
    assert search_domain({"search_domain": None}) is search_domain({}) is None
    for name in ("", "a..b", "a b", "a\nnameserver 192.0.2.1", "-a", "a.", "x" * 64, 7, "a." * 127 + "a"):
        with pytest.raises(MessageError, match="search_domain"):
            search_domain({"search_domain": name})


def test_a_request_is_open_for_two_seconds() -> None:
    requests = FlowRequests()
    assert requests.ask("r", 0)
    assert not requests.ask("r", REQUEST_INTERVAL - 1)
    assert requests.ask("r", REQUEST_INTERVAL)
    assert requests.is_open("r")
    requests.created("r")
    assert not requests.is_open("r")
    assert requests.ask("r", REQUEST_INTERVAL)  # the gateway is lost already


def test_a_refusal_asks_every_two_seconds_at_most() -> None:
    requests = FlowRequests()
    assert requests.ask("r", 0)
    requests.created("r")
    assert not requests.ask_again("r", REQUEST_INTERVAL - 1)
    assert requests.ask_again("r", REQUEST_INTERVAL)
    assert not requests.ask_again("r", REQUEST_INTERVAL)
    assert not requests.ask("r", REQUEST_INTERVAL)


def test_offline_is_asked_again_less_and_less_often_and_never_beside_an_open_request() -> None:
    requests = FlowRequests()
    now = 0
    assert requests.ask("r", now)
    waited = []
    while requests.offline("r", now):
        due = requests.poll_timeout()
        assert due is not None
        assert not requests.ask("r", now)
        assert not requests.ask_again("r", now)
        assert requests.take_due(due - 1) == []
        waited.append(due - now)
        now = due
        assert requests.take_due(now) == ["r"]
        assert requests.ask("r", now)
    assert tuple(waited) == RETRY_DELAYS
    assert requests.poll_timeout() is None
    assert not requests.offline("r", now)
    now += FRESH_AFTER
    assert requests.ask("r", now)
    assert requests.offline("r", now)
    requests.forget("r")
    assert requests.poll_timeout() is None


def test_states_of_a_name_at_a_gateway() -> None:
    states = NatStates()
    sent = states.want(KEY, PROXIES, 0)
    assert sent is not None
    assert (sent.domain, sent.proxy_ips) == ("app.example", PROXIES)
    assert states.state(KEY) is NatState.HOLDING
    assert states.want(KEY, PROXIES, REPEAT_INTERVAL - 1) is None
    assert states.want(KEY, PROXIES, REPEAT_INTERVAL) is sent
    assert states.settle("other gateway", DomainStatus(UUID(int=1), "app.example", True)) is None
    assert states.settle("g", DomainStatus(UUID(int=2), "app.example", True)) is None
    assert states.settle("g", DomainStatus(UUID(int=1), "APP.example", True)) == KEY
    assert states.state(KEY) is NatState.CONFIRMED
    assert states.want(KEY, PROXIES, 9 * SECOND) is None
    assert states.refresh(KEY, PROXIES, 9 * SECOND) is sent
    assert states.state(KEY) is NatState.PASSING
    assert states.refresh(KEY, PROXIES, 10 * SECOND) is None
    assert states.want(KEY, PROXIES, 11 * SECOND) is sent
    states.settle("g", DomainStatus(UUID(int=1), "app.example", False))
    assert states.state(KEY) is NatState.FAILED
    assert states.want(KEY, PROXIES, 20 * SECOND) is None
    assert states.refresh(KEY, PROXIES, 20 * SECOND) is sent
    assert states.state(KEY) is NatState.HOLDING
    assert states.forget(gateway_id="g") == [KEY]
    assert states.state(KEY) is None


def test_a_gateway_that_says_nothing_is_told_again_until_nobody_wants_the_name() -> None:
    states = NatStates()
    sent = states.want(KEY, PROXIES, 0)
    told: list[tuple[int, AssignedIps]] = []
    given_up: list[NatKey] = []
    while (due := states.poll_timeout()) is not None:
        repeated, given_up = states.handle_timeout(due)
        told += [(due, message) for _, message in repeated]
    assert told == [(n * REPEAT_INTERVAL, sent) for n in range(1, HOLD_LIMIT // REPEAT_INTERVAL)]
    assert given_up == [KEY]
    assert states.state(KEY) is None


def test_another_ip_stack_is_told_anew() -> None:
    states = NatStates()
    states.want(KEY, PROXIES, 0)
    states.settle("g", DomainStatus(UUID(int=1), "app.example", True))
    both = (*PROXIES, *(ip_address(f"fd00:2021:1111:8000::{n}") for n in range(4)))
    sent = states.refresh(KEY, both, 1)
    assert sent is not None
    assert sent.proxy_ips == both
    assert states.state(KEY) is NatState.HOLDING


def test_waiting_queries_are_bounded_and_the_oldest_goes() -> None:
    waiting = WaitingQueries(limit=MAX_WAITING + 1)
    asker = UdpAsker(Endpoint(ip_address("100.64.0.2"), 1), Endpoint(ip_address("100.100.111.1"), 53))
    made = [Query(b"%d" % number, asker, number) for number in range(MAX_WAITING + 2)]
    for one in made[:MAX_WAITING]:
        assert waiting.push("r", one) == []
    assert waiting.push("r", made[1]) == []
    assert waiting.push("r", made[MAX_WAITING]) == [made[0]]
    assert waiting.push("other", made[0]) == []
    assert waiting.push("third", made[0]) == [made[0]]
    assert "third" not in waiting
    assert len(waiting) == MAX_WAITING + 1
    assert waiting.poll_timeout() == 5 * SECOND
    assert waiting.take_overdue(5 * SECOND + 1) == [made[1], made[0]]
    assert len(waiting.take("r")) == MAX_WAITING - 1
    assert len(waiting) == 0


def test_a_resource_is_online_by_one_site_and_offline_by_all_for_five_minutes() -> None:
    sites = Sites()
    first, second = Site("1", "one"), Site("2", "two")
    resource = CidrResource("r", "n", network({"n": "10.0.0.0/8"}, "n"), (first, second))
    assert sites.state(resource, frozenset()) is SiteState.UNKNOWN
    sites.offline([first], 0)
    assert sites.state(resource, frozenset()) is SiteState.UNKNOWN
    sites.offline([second], 1)
    assert sites.state(resource, frozenset()) is SiteState.OFFLINE
    assert sites.state(resource, frozenset({"2"})) is SiteState.ONLINE
    assert sites.poll_timeout() == OFFLINE_COUNTS_FOR
    sites.handle_timeout(OFFLINE_COUNTS_FOR)
    assert sites.state(resource, frozenset()) is SiteState.UNKNOWN
    sites.offline([first], 2)
    sites.found("1")
    assert sites.state(resource, frozenset()) is SiteState.UNKNOWN
    nowhere = CidrResource("r", "n", network({"n": "10.0.0.0/8"}, "n"), ())
    assert sites.state(nowhere, frozenset()) is SiteState.UNKNOWN


def test_an_address_that_stands_for_a_name_is_of_no_network() -> None:
    targets = Targets(DnsRecords())
    targets.resources.put(CidrResource("r", "n", network({"n": "100.96.0.0/11"}, "n"), ()))
    interface = Interface(IPv4Address("100.64.0.3"), IPv6Address("fd00:2021:1111::3"))
    gateway = targets.gateways.use("g", interface, "s", "r")
    assert targets.served_by(gateway, PROXIES[0]) is None
    assert targets.of(PROXIES[0]) == (None, None)
