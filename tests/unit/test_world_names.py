"""Names of resources between the real cores of client, gateway and relay."""

import logging
from ipaddress import ip_address

import dns.message
import dns.rcode
import pytest

from client.dns import datagram
from client.dns.nat_states import HOLD_LIMIT
from client.drops import ClientDrop
from client.flow_requests import NAME_FAILED_INTERVAL
from connectivity.clock import MILLISECOND, SECOND
from connectivity.endpoint import Endpoint
from connectivity.ip.packet import parse
from connectivity.run import Run
from connectivity.wireguard import KeyPair
from tests.unit.names_world import APP, INTERNET, LAN, NAME, NAMES, PORT, REAL, SENTINEL, NamesWorld, endpoints
from tests.unit.test_world import udp
from tests.unit.test_world_silence import begin_anew
from tests.unit.world import CLIENT_TUNNEL, GATEWAY_TUNNEL


@pytest.mark.parametrize("direct", [True, False])
@pytest.mark.parametrize("version", [4, 6])
def test_a_host_is_reached_by_its_name_and_answers(version: int, direct: bool) -> None:
    world = NamesWorld(direct=direct)
    proxies = world.ask(version=version)
    assert len(proxies) == 4
    world.say(proxies[0])
    world.advance(2 * SECOND)
    assert world.arrived() == [(REAL[0 if version == 4 else 1], b"hello")]
    world.reply()
    world.advance(100 * MILLISECOND)
    (received,) = map(parse, world.host_received["client"])
    own = Endpoint(ip_address(CLIENT_TUNNEL[0 if version == 4 else 1]), 5000)
    assert endpoints(received) == (Endpoint(proxies[0], 80), own)
    assert world.looked_up == {NAME: 1}
    assert world.errors == []


def test_packets_wait_for_the_gateway_to_translate_and_it_is_told_every_two_seconds() -> None:
    world = NamesWorld()
    world.addresses[NAME] = None  # it asks, and never hears
    proxy = world.ask()[0]
    for number in range(3):
        world.say(proxy, b"%d" % number, port=PORT + number)
    world.say(proxy, b"0", port=PORT)
    world.advance(1900 * MILLISECOND)
    assert world.arrived() == []
    assert world.client.statistics().waiting_packets == 3
    sent = world.client.connections()[0].sent_bytes
    world.advance(2200 * MILLISECOND)
    assert world.client.connections()[0].sent_bytes > sent
    world.addresses[NAME] = REAL
    core = world.ends["gateway"].core
    core.handle_resolution(NAME, tuple(map(ip_address, REAL)), world.now)  # type: ignore[attr-defined]  # a gateway
    world.drain("gateway")
    world.advance(100 * MILLISECOND)
    assert world.arrived() == [(REAL[0], b"0"), (REAL[0], b"1"), (REAL[0], b"2")]
    assert world.client.statistics().waiting_packets == 0


def test_what_waits_in_vain_is_dropped() -> None:
    world = NamesWorld()
    world.addresses[NAME] = None
    world.say(world.ask()[0])
    world.advance(HOLD_LIMIT + 3 * SECOND)
    assert world.client.statistics().waiting_packets == 0
    assert world.client.statistics().flow_drops[ClientDrop.NAME_FAILED] == 1
    assert world.arrived() == []


def test_a_name_that_does_not_resolve_is_told_and_works_once_it_does() -> None:
    world = NamesWorld()
    del world.addresses[NAME]
    proxy = world.ask()[0]
    world.say(proxy, b"lost")
    world.advance(SECOND)
    assert world.client.statistics().flow_drops[ClientDrop.NAME_FAILED] == 1
    world.say(proxy, b"refused")
    world.advance(SECOND)
    (refusal,) = map(parse, world.host_received["client"])
    assert (refusal.source, refusal.protocol, refusal.data[refusal.l4 + 1]) == (proxy, 1, 13)
    assert world.arrived() == []
    world.addresses[NAME] = REAL
    assert world.ask() != []
    world.say(proxy, b"now", port=5001)
    world.advance(SECOND)
    assert world.arrived() == [(REAL[0], b"now")]


def test_each_query_has_the_name_resolved_anew_without_an_interruption() -> None:
    world = NamesWorld()
    proxy = world.established()
    world.addresses[NAME] = None
    world.ask()
    world.say(proxy, b"meanwhile", port=5001)
    world.advance(SECOND)
    assert world.arrived() == [(REAL[0], b"meanwhile")]
    assert world.looked_up[NAME] == 2


def test_a_new_address_counts_for_new_flows() -> None:
    world = NamesWorld()
    proxy = world.established()
    world.addresses[NAME] = ("10.50.0.8",)
    world.ask()
    world.advance(100 * MILLISECOND)
    world.say(proxy, b"old flow")
    world.say(proxy, b"new flow", port=5001)
    world.advance(100 * MILLISECOND)
    assert world.arrived() == [(REAL[0], b"old flow"), ("10.50.0.8", b"new flow")]


def test_another_gateway_is_told_of_the_name_before_it_gets_packets() -> None:
    world = NamesWorld(gateways=2)
    proxy = world.established()
    world.online = ["gateway-2"]
    world.gateway.close(world.now)
    world.drain("gateway")
    world.advance(100 * MILLISECOND)
    world.say(proxy, b"again")
    world.advance(2 * SECOND)
    assert world.arrived("gateway-2") == [(REAL[0], b"again")]
    world.reply(name="gateway-2")
    world.advance(100 * MILLISECOND)
    assert len(world.host_received["client"]) == 1


def test_a_flow_through_another_gateway_than_the_connected_one_takes_over() -> None:
    world = NamesWorld(gateways=2)
    proxy = world.established()
    world.client_core.role._requests.ask(APP, world.now)
    world.to("gateway-2", "authorize_flow", world.authorization(f"c-1/{APP}", name="gateway-2"))
    world.advance(SECOND)
    assert [row.peer_id for row in world.client.connections()] == ["g-2"]
    world.say(proxy, b"moved")
    world.advance(2 * SECOND)
    assert world.arrived("gateway-2") == [(REAL[0], b"moved")]


def test_a_gateway_that_forgot_us_is_told_anew_when_it_is_back() -> None:
    world = NamesWorld(gateways=2)
    proxy = world.established()
    world.gateway.close(world.now)
    world.drain("gateway")
    world.advance(100 * MILLISECOND)
    world.say(proxy, b"again")
    world.advance(2 * SECOND)
    assert world.arrived() == [(REAL[0], b"again")]
    for to, name in ((2, "gateway-2"), (1, "gateway")):  # and so when the resource only went elsewhere meanwhile
        world.client_core.role._requests.ask(APP, world.now)
        world.to(name, "authorize_flow", world.authorization(f"c-1/{APP}", name=name))
        world.advance(SECOND)
        world.say(proxy, b"%d" % to)
        world.advance(2 * SECOND)
        assert world.arrived(name)[-1] == (REAL[0], b"%d" % to)
    assert world.host_received["client"] == []  # nothing was refused on the way


def test_what_waits_for_a_name_does_not_wait_for_a_gateway_that_it_no_longer_goes_through() -> None:
    world = NamesWorld(NAMES, LAN, gateways=2)
    world.say(ip_address("10.20.0.5"), b"lan")
    world.advance(2 * SECOND)
    world.addresses[NAME] = None
    world.say(world.ask()[0])
    world.advance(SECOND)
    assert world.client.statistics().waiting_packets == 1
    world.client_core.role._requests.ask(APP, world.now)
    world.to("gateway-2", "authorize_flow", world.authorization(f"c-1/{APP}", name="gateway-2"))
    assert world.client.statistics().waiting_packets == 0
    assert world.client.statistics().flow_drops[ClientDrop.NAME_FAILED] == 1


def test_a_gateway_that_is_connected_stays_in_use_while_the_portal_has_lost_it() -> None:
    world = NamesWorld()
    proxy = world.established()
    world.advance(NAME_FAILED_INTERVAL)
    world.online = []
    world.say(world.ask("nobody.internal.example")[0])  # has the portal asked, which knows no gateway
    world.advance(SECOND)
    assert len(world.sent("create_flow")) == 2
    (status,) = world.client.status().resources or ()
    assert (status.state, status.gateway_id) == ("online", "g-1")
    world.say(proxy, b"still there")
    world.advance(SECOND)
    assert world.arrived() == [(REAL[0], b"still there")]


def test_a_gateway_that_is_another_process_is_told_of_names_before_it_gets_packets() -> None:
    world = NamesWorld()
    proxy = world.established()
    begin_anew(world)
    world.client_core.role._requests.ask(APP, world.now)
    world.to_gateway("authorize_flow", world.authorization(f"c-1/{APP}"))
    world.say(proxy, b"same flow")
    world.advance(SECOND)
    assert world.arrived() == [(REAL[0], b"same flow")]
    assert world.host_received["client"] == []


def test_a_name_that_was_refused_for_lost_access_is_set_up_with_the_next_flow() -> None:
    world = NamesWorld(NAMES, LAN)
    proxy = world.established()
    world.say(ip_address("10.20.0.5"), b"lan")
    world.advance(NAME_FAILED_INTERVAL)
    world.to_gateway("reject_access", {"client_id": "c-1", "resource_id": APP})
    world.host_received["gateway"].clear()
    other = world.ask("other.internal.example")[0]
    world.addresses["other.internal.example"] = ("10.50.0.9",)
    world.say(other, b"lost")
    world.advance(SECOND)
    world.say(other, b"found")
    world.advance(SECOND)
    assert world.arrived() == [("10.50.0.9", b"found")]
    assert proxy != other


def test_a_gateway_with_other_addresses_is_known_by_these() -> None:
    world = NamesWorld()
    world.established()
    own = ip_address(GATEWAY_TUNNEL[0])
    world.say(own, b"to it")
    world.ends["gateway"].tunnel = ("100.64.0.33", "fd00:2021:1111::33")
    world.client_core.role._requests.ask(APP, world.now)
    world.to_client("flow_created", world.flow(world.ends["client"], world.ends["gateway"], APP))
    before = world.client.statistics().flow_drops[ClientDrop.NO_GATEWAY]
    world.say(own, b"to nobody")
    assert world.client.statistics().flow_drops[ClientDrop.NO_GATEWAY] == before + 1


def test_a_narrower_resource_takes_over_what_went_through_a_wider_one() -> None:
    world = NamesWorld(INTERNET)
    wide = {"type": "cidr", "id": "r-8", "name": "wide", "address": "9.0.0.0/8"}
    narrow = {"type": "cidr", "id": "r-24", "name": "narrow", "address": "9.9.9.0/24"}
    destination = ip_address("9.9.9.9")
    for resource in (None, wide, narrow):
        if resource is not None:
            world.resources.append(resource)
            shown = resource | {"gateway_groups": [{"id": "s", "name": "site"}]}
            world.to_client("resource_created_or_updated", shown)
        world.say(destination)
        world.advance(2 * SECOND)
        world.say(destination)  # known by now
        world.advance(2 * SECOND)
    assert [asked["resource_id"] for asked in world.sent("create_flow")] == [INTERNET["id"], "r-8", "r-24"]
    assert len(world.arrived()) == 6


def test_access_that_a_gateway_has_lost_is_asked_for_again() -> None:
    world = NamesWorld(NAMES, LAN)
    proxy = world.established()
    world.say(ip_address("10.20.0.5"), b"lan")
    world.advance(SECOND)
    asked = len(world.sent("create_flow"))
    for resource_id, destination in ((APP, proxy), ("r-1", ip_address("10.20.0.5"))):
        world.to_gateway("reject_access", {"client_id": "c-1", "resource_id": resource_id})
        world.advance(3 * SECOND)
        world.host_received["gateway"].clear()
        world.say(destination, b"refused")
        world.say(destination, b"refused too")
        world.advance(SECOND)
        assert world.arrived() == []
        assert len(world.sent("create_flow")) == asked + 1  # though two were refused
        asked += 1
        world.say(destination, b"healed", port=5002)
        world.advance(SECOND)
        assert [data for _, data in world.arrived()] == [b"healed"]


def test_a_gateway_may_not_answer_from_names_of_other_gateways_resources() -> None:
    world = NamesWorld(NAMES, NAMES | {"id": "00000000-0000-0000-0000-000000000003", "address": "*.else.example"})
    world.established()
    (foreign,) = world.ask("a.else.example")[:1]
    node = world.gateway._tunnel.node
    packet = datagram.build(Endpoint(foreign, 80), Endpoint(ip_address(CLIENT_TUNNEL[0]), 5000), b"spoofed")
    transmit = node.seal("c-1", Run.single(packet), 0, world.now)
    assert transmit is not None
    world._transmit("gateway", transmit)
    world.advance(100 * MILLISECOND)
    assert world.host_received["client"] == []
    assert world.client.statistics().flow_drops[ClientDrop.NOT_OF_GATEWAY] == 1


@pytest.mark.parametrize("version", [4, 6])
def test_a_query_that_only_the_site_can_answer_waits_for_a_gateway(
    version: int, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    world = NamesWorld()
    world.portal_away()
    assert world.ask(rdtype="TXT", version=version) == []
    world.ask(rdtype="TXT", version=version)  # asked once more: one query is enough
    assert len(world.sent("create_flow")) == 1
    assert world.forwarded == []
    world.advance(SECOND)
    world.portal_back()
    (forwarded,) = world.forwarded
    assert forwarded.server == Endpoint(ip_address(GATEWAY_TUNNEL[0 if version == 4 else 1]), 53535)
    assert forwarded.through_tunnel
    world.ask(rdtype="SRV", version=version)
    assert len(world.forwarded) == 2  # now there is one
    lines = [record for record in caplog.records if record.message == "A DNS query waits for a gateway"]
    assert [record.levelno for record in lines] == [logging.DEBUG, logging.DEBUG]
    assert max(record.levelno for record in caplog.records) < logging.WARNING


def test_who_waits_for_a_gateway_in_vain_is_told_over_tcp() -> None:
    world = NamesWorld()
    world.online = []
    message = dns.message.make_query(NAME, "SRV", id=9).to_wire()
    world.client_core.handle_tcp_query(5, SENTINEL[4], message, world.now)
    world.ask(rdtype="TXT")
    world.drain("client")
    assert world.replies == []
    world.advance(10 * SECOND)
    (reply,) = world.replies
    assert reply.query_id == 5
    assert reply.message is not None
    assert dns.message.from_wire(reply.message).rcode() == dns.rcode.SERVFAIL
    assert world.host_received["client"] == []  # who asks by UDP asks again by itself
    assert world.forwarded == []


def test_names_keep_their_addresses_under_another_key() -> None:
    world = NamesWorld()
    proxy = world.established()
    end = world.ends["client"]
    end.keys = KeyPair.generate(world.random.randbytes)
    end.core.reset(end.keys, world.now)
    world.drain("client")
    world.to_client("init", world.client_init())
    assert world.ask()[0] == proxy
    world.say(proxy, b"after", port=5009)
    world.advance(3 * SECOND)
    assert world.arrived()[-1] == (REAL[0], b"after")


def test_everything_else_goes_through_the_internet_resource() -> None:
    world = NamesWorld(INTERNET, LAN, NAMES)
    configured = world.sent("ConfigureTun")[-1]
    assert {"0.0.0.0/0", "::/0", "100.96.0.0/11", "fd00:2021:1111:8000::/107"} <= set(map(str, configured.routes))
    assert {"127.0.0.0/8", "169.254.0.0/16", "224.0.0.0/4", "fe80::/10", "192.168.0.0/16"} <= set(
        map(str, configured.excluded)
    )
    for destination in ("9.9.9.9", "2620:fe::9"):
        world.say(ip_address(destination), b"out")
        world.advance(2 * SECOND)
        assert world.arrived()[-1] == (destination, b"out")
        world.reply()
        world.advance(100 * MILLISECOND)
        assert str(parse(world.host_received["client"][-1]).source) == destination
    world.say(ip_address("10.20.0.5"), b"lan")
    world.advance(2 * SECOND)
    assert world.arrived()[-1] == ("10.20.0.5", b"lan")
    assert {asked["resource_id"] for asked in world.sent("create_flow")} == {INTERNET["id"], "r-1"}
    world.to_client("resource_deleted", INTERNET["id"])
    assert "0.0.0.0/0" not in map(str, world.sent("ConfigureTun")[-1].routes)
    world.say(ip_address("9.9.9.9"), b"no more")
    assert world.client.statistics().flow_drops[ClientDrop.NO_RESOURCE] == 1


def test_a_gateway_that_serves_a_name_no_more_is_asked_for_its_resource_again() -> None:
    world, other = NamesWorld(NAMES, LAN), "mail.internal.example"
    world.established()
    world.addresses[other] = REAL
    world.send_from_client(udp(CLIENT_TUNNEL[0], "10.20.0.5", b"lan"))
    world.advance(30 * SECOND)
    asked = len(world.sent("create_flow"))
    world.to_gateway("reject_access", {"client_id": "c-1", "resource_id": APP})  # and the client hears nothing of it
    for number in range(5):  # a program that looks the name up each time, so that what it sends waits for the gateway
        world.say(world.ask(other)[0], b"%d" % number, port=6000 + number)
        world.advance(SECOND)
    assert world.arrived()[-1] == (REAL[0], b"4")
    assert len(world.sent("create_flow")) == asked + 1
