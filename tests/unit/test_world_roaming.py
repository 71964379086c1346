"""A client that goes to another network: the tunnel goes on with another key, from other sockets."""

from collections import Counter
from ipaddress import ip_address

import pytest

from client.role import ASKED_AFTER_RESET
from connectivity.clock import MILLISECOND, SECOND
from connectivity.stun import MessageClass, Method, Software, Username
from connectivity.turn.requests import software_attribute
from connectivity.wireguard import DropReason, KeyPair
from tests.unit.connectivity.test_node_relays import stun
from tests.unit.test_world import answer, connected, question, udp
from tests.unit.world import CLIENT_TUNNEL, RELAY, RESOURCE, World

ELSEWHERE = ("198.51.100.77", "2001:db8:77::77")


@pytest.mark.parametrize("versions", [(4,), (6,), (4, 6)])
@pytest.mark.parametrize("direct", [True, False])
@pytest.mark.parametrize("addresses", [None, ELSEWHERE], ids=["same-addresses", "others"])
def test_the_tunnel_goes_on_within_a_moment(
    versions: tuple[int, ...], direct: bool, addresses: tuple[str, str] | None
) -> None:
    world = connected(direct=direct, versions=versions)
    world.reset(addresses=addresses)
    world.send_from_client(question(b"from elsewhere"))
    world.advance(200 * MILLISECOND)
    assert world.host_received["gateway"][-1] == question(b"from elsewhere")
    world.send_from_gateway(answer())
    world.advance(50 * MILLISECOND)
    assert world.host_received["client"] == [answer()]
    assert world.errors == []


def test_what_was_in_use_is_asked_for_at_once_so_that_the_far_end_may_speak_first() -> None:
    world = connected()
    world.reset(addresses=ELSEWHERE)
    assert len(world.sent("create_flow")) == 2  # although the first was asked for a moment ago
    world.advance(200 * MILLISECOND)
    world.send_from_gateway(answer())
    world.advance(50 * MILLISECOND)
    assert world.host_received["client"] == [answer()]


def test_nobody_is_told_and_nothing_old_is_left() -> None:
    world = connected()
    carried = len(world.carried)
    world.ends["client"].core.reset(world.client_keys, world.now)
    assert world.client.connections() == []
    assert world.client.poll_transmit() is not None  # relays are asked
    assert [entry for entry in world.portal_log if entry[1] == "ConnectionClosed"] == []
    assert len(world.carried) == carried


def test_one_who_moves_again_before_it_has_arrived_arrives_all_the_same() -> None:
    world = connected()
    for number in range(5):
        world.reset(addresses=(f"198.51.100.{10 + number}", f"2001:db8:77::{number}"))
        world.send_from_client(question(b"%d" % number))
        world.advance(7 * MILLISECOND)
    world.advance(300 * MILLISECOND)
    assert world.host_received["gateway"][-1] == question(b"4")


def test_what_waits_for_a_gateway_is_asked_for_with_the_new_key() -> None:
    world = World()
    world.start()
    world.online = []
    world.send_from_client(question(b"waits"))
    world.online = ["gateway"]
    world.send_from_client(question(b"waits, too"))  # too soon to ask
    world.advance(10 * MILLISECOND)
    assert len(world.sent("create_flow")) == 1
    world.reset(addresses=ELSEWHERE)
    world.advance(300 * MILLISECOND)
    assert len(world.sent("create_flow")) == 2
    assert world.host_received["gateway"][-1] == question(b"waits, too")


def test_of_many_resources_in_use_the_portal_is_asked_for_some_and_for_the_others_by_their_packets() -> None:
    world = World()
    networks = range(ASKED_AFTER_RESET + 4)
    world.resources = [RESOURCE | {"id": f"r-{n}", "address": f"10.20.{n}.0/24"} for n in networks]
    world.start()
    for number in networks:
        world.send_from_client(udp(CLIENT_TUNNEL[0], f"10.20.{number}.5", b"first"))
    world.advance(2 * SECOND)
    before = len(world.sent("create_flow"))
    world.reset(addresses=ELSEWHERE)
    world.advance(SECOND)
    assert len(world.sent("create_flow")) - before == ASKED_AFTER_RESET
    received = len(world.host_received["gateway"])
    for number in networks:
        world.send_from_client(udp(CLIENT_TUNNEL[0], f"10.20.{number}.5", b"again"))
        world.advance(50 * MILLISECOND)
    assert len(world.host_received["gateway"]) - received == len(networks)


def test_what_was_counted_goes_on() -> None:
    world = connected()
    node = world.client._tunnel.node
    (connection,) = node._connections
    connection.tunnel.drops[DropReason.MALFORMED] += 3
    world.reset()
    assert world.client.statistics().drops[DropReason.MALFORMED] == 3


def test_late_answers_of_a_relay_to_the_old_sockets_reach_nobody() -> None:
    world = connected(direct=False)
    world.send_from_gateway(answer(b"to the old address"))
    world.reset(addresses=ELSEWHERE)
    world.advance(SECOND)
    assert answer(b"to the old address") not in world.host_received["client"]
    assert world.errors == []


@pytest.mark.parametrize("is_late", [False, True])
def test_a_relay_goes_on_with_the_credentials_of_the_new_key(is_late: bool) -> None:
    """Nothing else about it is new: to give the allocation back and ask again would cost a moment."""
    world = connected(direct=False)
    position = len(world.carried)
    if is_late:  # the portal's answer comes when the relay has given its own
        end = world.ends["client"]
        end.addresses, end.keys = ELSEWHERE, KeyPair.from_private(bytes(range(32)))
        end.core.reset(end.keys, world.now)
        world.drain("client")
        world.advance(100 * MILLISECOND)
        world.to_client("init", world.client_init())
    else:
        world.reset(addresses=ELSEWHERE)
    world.advance(300 * MILLISECOND)
    relay = {ip_address(text) for text in RELAY}
    carried = [stun(data) for source, to, data in world.carried[position:] if to.ip in relay and source.ip not in relay]
    software = Software(software_attribute(world.ends["client"].keys.public))
    sent = [message for message in carried if message is not None and message.get(Software) == software]
    requests = [message for message in sent if message.message_class is MessageClass.REQUEST]
    methods = Counter(message.method for message in requests)
    assert methods[Method.ALLOCATE] == 2  # without a nonce, and with one
    assert methods[Method.REFRESH] == is_late  # what is held is proven to be held still
    (salt,) = {entry["username"].split(":")[1] for entry in world.client_init()["relays"]}
    later = [message.get(Username) for message in requests if message.method in {Method.CHANNEL_BIND, Method.REFRESH}]
    assert salt in {name.value.split(":")[1] for name in later if name is not None}
    assert world.errors == []


def test_a_relay_that_began_anew_meanwhile_is_asked_again_within_moments() -> None:
    world = connected(direct=False)
    world.reset(addresses=ELSEWHERE)
    world.advance(12 * MILLISECOND)
    world.start_relay("secret-2")
    world.to_client("relays_presence", {"disconnected_ids": [], "connected": world.relays(world.client_keys)})
    world.to_gateway("relays_presence", {"disconnected_ids": [], "connected": world.relays(world.gateway_keys)})
    world.advance(4 * SECOND)
    world.send_from_client(question(b"again"))
    world.advance(SECOND)
    assert world.host_received["gateway"][-1] == question(b"again")
