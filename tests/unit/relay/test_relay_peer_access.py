"""The known ways around a peer policy, each by each way to a peer; and what the relay's own addresses let through.

A way to a peer is CreatePermission, ChannelBind, a Send indication under a permission that the policy would not give,
and, inwards, what such a peer sends to a relayed address. Between clients of one relay (hairpin) the port decides.
"""

from ipaddress import ip_address, ip_network

import pytest

from connectivity.endpoint import Endpoint
from connectivity.stun import (
    AddressFamily,
    Attribute,
    ChannelNumber,
    Data,
    DontFragment,
    Lifetime,
    MessageClass,
    Method,
    RequestedAddressFamily,
    XorPeerAddress,
    decode,
    encode,
)
from relay.core import RemoveChannel, ToClient, ToPeer
from relay.core.own import OwnAddresses
from tests.unit.relay.playbook import (
    INTERNAL,
    PEER4,
    PEER6,
    PUBLIC,
    Client,
    RelayUnderTest,
    channel_message,
    error_code,
)

STANDARD = "a browser"
BYPASSES = {
    "this host": "0.0.0.0:80",
    "this host, IPv6": "[::]:80",
    "this network": "0.1.2.3:80",
    "loopback": "127.0.0.1:80",
    "all of loopback": "127.9.9.9:80",
    "loopback, IPv6": "[::1]:80",
    "v4-mapped loopback": "[::ffff:127.0.0.1]:80",
    "v4-mapped private": "[::ffff:10.0.0.1]:80",
    "v4-mapped global": "[::ffff:1.1.1.1]:80",
    "v4-mapped own": "[::ffff:192.0.2.10]:3478",
    "v4-compatible": "[::127.0.0.1]:80",
    "v4-translated": "[::ffff:0:127.0.0.1]:80",
    "NAT64": "[64:ff9b::127.0.0.1]:80",
    "NAT64 to private": "[64:ff9b::10.0.0.1]:80",
    "NAT64 to metadata": "[64:ff9b::169.254.169.254]:80",
    "NAT64 of local use": "[64:ff9b:1::127.0.0.1]:80",
    "NAT64 of local use, elsewhere": "[64:ff9b:1:7f00:0:100::]:80",
    "6to4": "[2002:7f00:1::1]:80",
    "6to4 to private": "[2002:a00:1::1]:80",
    "Teredo server": "[2001:0:7f00:1::]:80",
    "Teredo client": "[2001:0:808:808:0:0:80ff:fffe]:80",
    "ISATAP": "[2a00::5efe:127.0.0.1]:80",
    "ISATAP, global": "[2a00::200:5efe:10.0.0.1]:80",
    "own in NAT64": "[64:ff9b::192.0.2.10]:3478",
    "own in 6to4": "[2002:c000:20a::1]:3478",
    "own internal in NAT64": "[64:ff9b::10.0.0.10]:3478",
    "own, our port": "192.0.2.10:3478",
    "own, IPv6, our port": "[2001:db8::10]:3478",
    "own, the health port": "192.0.2.10:8080",
    "own, a service": "192.0.2.10:22",
    "own internal, our port": "10.0.0.10:3478",
    "own internal, a service": "10.0.0.10:22",
    "own, a relayed port that nobody has": "192.0.2.10:65535",
    "metadata": "169.254.169.254:80",
    "metadata of containers": "169.254.170.2:80",
    "metadata, Azure": "168.63.129.16:80",
    "metadata, Alibaba Cloud": "100.100.100.200:80",
    "metadata, Oracle": "192.0.0.192:80",
    "metadata, AWS by IPv6": "[fd00:ec2::254]:80",
    "metadata, Google by IPv6": "[fd20:ce::254]:80",
    "link-local": "[fe80::1]:80",
    "broadcast": "255.255.255.255:80",
    "multicast": "224.0.0.251:5353",
    "multicast, IPv6": "[ff02::fb]:5353",
    "reserved": "240.0.0.1:80",
    "benchmarking": "198.18.0.1:80",
    "site-local": "[fec0::1]:80",
}
ALLOWING_ALL = ("0.0.0.0/0", "::/0", "0.0.0.0/1", "128.0.0.0/1", "::/1")


def send_indication(peer: Endpoint, data: bytes, *more: DontFragment) -> bytes:
    attributes: tuple[Attribute, ...] = (XorPeerAddress(peer), Data(data), *more)
    return encode(Method.SEND, MessageClass.INDICATION, bytes(12), attributes)


def permit_by_force(relay: RelayUnderTest, port: int, peer: Endpoint) -> None:
    """A permission that no request gets, as if the policy had been another when it was asked for."""
    allocation = relay.server._table.by_port[port]
    relay.server._table.permit(allocation, peer.ip, relay.now)


@pytest.mark.parametrize("allow", [(), ALLOWING_ALL], ids=["by default", "allowing all"])
@pytest.mark.parametrize("under_portal", [False, True], ids=["stand-alone", "under a portal"])
@pytest.mark.parametrize("way", BYPASSES)
def test_no_way_around_the_policy(way: str, under_portal: bool, allow: tuple[str, ...]) -> None:
    relay = RelayUnderTest(under_portal=under_portal, allow=allow)
    client = Client(relay, software=STANDARD)
    port = client.allocate()
    peer = Endpoint.parse(BYPASSES[way])
    assert error_code(client.call(Method.CREATE_PERMISSION, XorPeerAddress(peer))) == 403
    bound = client.send(client.request(Method.CHANNEL_BIND, XorPeerAddress(peer), ChannelNumber(0x4000)))
    assert [type(output) for output in bound] == [ToClient], "nothing is installed for the offload"
    assert isinstance(bound[0], ToClient)
    assert error_code(decode(bound[0].transmit.run.data)) == 403
    assert client.send(channel_message(0x4000, b"x")) == []
    assert client.send(send_indication(peer, b"x")) == []
    permit_by_force(relay, port, peer)
    assert client.send(send_indication(peer, b"x")) == []
    assert relay.from_peer(port, peer, b"x") == []
    assert relay.drops() == {"no_channel": 1, "no_permission": 1, "peer_refused": 2}


@pytest.mark.parametrize("address", [*PUBLIC.values(), INTERNAL])
def test_port_zero_is_no_peer(address: object) -> None:
    relay = RelayUnderTest()
    client = Client(relay, software=STANDARD)
    client.allocate()
    for ip in (address, PEER4.ip):
        peer = Endpoint(ip_address(str(ip)), 0)
        assert error_code(client.bind(0x4000, peer)) == 400
        assert client.send(send_indication(peer, b"x")) == []
    assert error_code(client.call(Method.CREATE_PERMISSION, XorPeerAddress(Endpoint(PEER4.ip, 0)))) == 0
    own = Endpoint(ip_address(str(address)), 0)
    assert error_code(client.call(Method.CREATE_PERMISSION, XorPeerAddress(own))) == 403


def test_rules_by_port_hold_for_every_datagram() -> None:
    relay = RelayUnderTest(under_portal=False, allow=("10.0.0.0/8:53",))
    client = Client(relay, software=STANDARD)
    port = client.allocate()
    allowed, refused = Endpoint.parse("10.1.1.1:53"), Endpoint.parse("10.1.1.1:54")
    assert error_code(client.bind(0x4000, refused)) == 403
    assert error_code(client.call(Method.CREATE_PERMISSION, XorPeerAddress(refused))) == 0, "a permission has no port"
    assert len(client.send(send_indication(allowed, b"x"))) == 1
    assert len(relay.from_peer(port, allowed, b"x")) == 1
    assert client.send(send_indication(refused, b"x")) == []
    assert relay.from_peer(port, refused, b"x") == []
    assert relay.drops() == {"peer_refused": 2}


def test_a_rule_that_names_an_own_address_opens_it_but_not_the_ports_that_we_listen_on() -> None:
    relay = RelayUnderTest(under_portal=False, allow=("192.0.2.10",))
    client = Client(relay, software=STANDARD)
    client.allocate()
    service = Endpoint(PUBLIC[4], 10_000)
    assert error_code(client.bind(0x4000, service)) == 0
    assert isinstance(client.send(channel_message(0x4000, b"to the media server next door"))[0], ToPeer)
    ours = Endpoint(PUBLIC[4], 3478)
    assert error_code(client.bind(0x4001, ours)) == 403
    assert client.send(send_indication(ours, b"loop")) == []


def test_an_ended_allocations_port_does_not_pass_its_peers_on() -> None:
    """Whoever gets the port later receives from the old one's peers only what it permits itself."""
    relay = RelayUnderTest(lowest_port=50_000, highest_port=50_001)
    sender, old, new = (Client(relay, f"203.0.113.5:{port}", software=STANDARD) for port in (1, 2, 3))
    sender_address = Endpoint(PUBLIC[4], sender.allocate())
    target = Endpoint(PUBLIC[4], old.allocate())
    sender.bind(0x4000, target)
    old.bind(0x4000, sender_address)
    assert len(sender.send(channel_message(0x4000, b"x"))) == 1
    old.call(Method.REFRESH, Lifetime(0))
    for datagram in (channel_message(0x4000, b"x"), send_indication(target, b"x")):
        assert sender.send(datagram) == []
    assert relay.drops() == {"peer_refused": 2}

    assert new.allocate() == target.port
    for datagram in (channel_message(0x4000, b"x"), send_indication(target, b"x")):
        assert sender.send(datagram) == []
    assert relay.drops() == {"peer_refused": 2, "no_permission": 2}
    new.call(Method.CREATE_PERMISSION, XorPeerAddress(sender_address))
    (output,) = sender.send(channel_message(0x4000, b"x"))
    assert isinstance(output, ToClient)
    assert output.transmit.destination == new.endpoint


def test_hairpin_asks_the_receiver_and_the_port_each_time() -> None:
    relay = RelayUnderTest()
    left, right = Client(relay, software=STANDARD), Client(relay, "203.0.113.6:51000", software=STANDARD)
    left_address, right_address = (Endpoint(PUBLIC[4], client.allocate()) for client in (left, right))
    left.call(Method.CREATE_PERMISSION, XorPeerAddress(right_address))
    assert left.send(send_indication(right_address, b"x")) == []
    right.call(Method.CREATE_PERMISSION, XorPeerAddress(left_address))
    assert len(left.send(send_indication(right_address, b"x"))) == 1
    internal = Endpoint(INTERNAL, right_address.port)
    assert left.send(send_indication(internal, b"x")) == []
    left.call(Method.CREATE_PERMISSION, XorPeerAddress(internal))
    assert len(left.send(send_indication(internal, b"x"))) == 1
    relay.advance(300)
    assert left.send(send_indication(right_address, b"x")) == []
    left.call(Method.CREATE_PERMISSION, XorPeerAddress(right_address))
    assert left.send(send_indication(right_address, b"x")) == []
    assert relay.drops() == {"no_permission": 4}


def test_what_a_new_policy_refuses_ends_at_once() -> None:
    relay = RelayUnderTest()
    client = Client(relay, software=STANDARD)
    port = client.allocate()
    kept = Endpoint.parse("198.51.100.9:9")
    for number, peer in ((0x4000, PEER4), (0x4001, kept), (0x4002, PEER6), (0x4003, Endpoint(PEER4.ip, 9))):
        assert error_code(client.bind(number, peer)) == 0
    other = Endpoint(PUBLIC[4], Client(relay, "203.0.113.6:51000").allocate())
    client.call(Method.CREATE_PERMISSION, XorPeerAddress(other))

    relay.deny = (f"{PEER4.ip}:1-65535", f"[{PEER6.ip}]:{PEER6.port}")
    outputs = relay.reconfigure()
    removed = [output.channel for output in outputs if isinstance(output, RemoveChannel)]
    assert removed == [0x4000, 0x4002, 0x4003]
    assert {channel for _, _, channel in relay.installed} == {0x4001}
    for number in (0x4000, 0x4002, 0x4003):
        assert client.send(channel_message(number, b"x")) == []
    assert len(client.send(channel_message(0x4001, b"x"))) == 1
    assert client.send(send_indication(PEER4, b"x")) == []
    assert relay.from_peer(port, PEER4, b"x") == []
    assert relay.drops() == {"no_channel": 3, "no_permission": 2}
    permitted = {str(ip) for ip in relay.server._table.by_port[port].permissions}
    assert permitted == {str(kept.ip), str(PEER6.ip), str(PUBLIC[4])}
    assert client.send(send_indication(PEER6, b"x")) == []  # permitted, but not by this port
    assert error_code(client.bind(0x4000, kept)) == 400  # still another's
    assert error_code(client.bind(0x4000, Endpoint(kept.ip, 10))) == 400  # still reserved


def test_a_channel_ends_when_its_peer_turns_out_to_be_ours() -> None:
    relay = RelayUnderTest()
    client = Client(relay, software=STANDARD)
    client.allocate()
    service = Endpoint.parse("10.9.9.9:8080")
    client.bind(0x4000, service)
    own = frozenset({*PUBLIC.values(), INTERNAL, service.ip})
    relay.server.handle_own_addresses(own)
    assert [type(output) for output in relay.drain()] == [RemoveChannel]
    assert client.send(channel_message(0x4000, b"x")) == []
    assert client.send(send_indication(service, b"x")) == []
    relay.server.handle_own_addresses(own)
    assert relay.drain() == []


@pytest.mark.parametrize(
    "service",
    ["[2001:db8:9::]:53", "[2001:db8:9:1::77]:80", "10.77.0.9:80", "[64:ff9b::808:809]:80", "10.9.255.255:80"],
    ids=["anycast of the subnet", "in a range, IPv6", "in a range", "in a range, NAT64", "broadcast"],
)
def test_whatever_the_host_takes_as_its_own_is_closed_but_for_relayed_ports(service: str) -> None:
    relay = RelayUnderTest()
    left, right = Client(relay, software=STANDARD), Client(relay, "203.0.113.6:51000", software=STANDARD)
    left.allocate()
    peer, relayed = Endpoint.parse(service), right.allocate()
    assert error_code(left.bind(0x4000, peer)) == 0
    ranges = (ip_network("2001:db8:9:1::/64"), ip_network("10.77.0.0/16"), ip_network("8.8.8.0/24"))
    single = frozenset({*PUBLIC.values(), ip_address("2001:db8:9::"), ip_address("10.9.255.255")})
    own = OwnAddresses(single, ranges)
    relay.server.handle_own_addresses(own)
    assert [type(output) for output in relay.drain()] == [RemoveChannel]
    assert left.send(channel_message(0x4000, b"x")) == []
    assert left.send(send_indication(peer, b"x")) == []
    assert error_code(left.call(Method.CREATE_PERMISSION, XorPeerAddress(peer))) == 403
    is_disguised = peer.ip in ip_network("64:ff9b::/96")
    assert error_code(left.bind(0x4001, Endpoint(peer.ip, relayed))) == (403 if is_disguised else 0)
    relay.server.handle_own_addresses(OwnAddresses(single, ranges))
    assert relay.drain() == []


def test_a_relayed_port_is_a_peer_in_the_families_that_it_has() -> None:
    relay = RelayUnderTest()
    left, right = Client(relay, software=STANDARD), Client(relay, "203.0.113.6:51000", software=STANDARD)
    left.allocate()
    right_port = right.allocate(RequestedAddressFamily(AddressFamily.IPV4))
    answers = [left.bind(0x4000 + version, Endpoint(PUBLIC[version], right_port)) for version in (4, 6)]
    assert [error_code(answer) for answer in answers] == [0, 403]


def test_a_channel_stays_inside_once_its_peer_turns_out_to_be_another_client() -> None:
    relay = RelayUnderTest()
    left, right = Client(relay, software=STANDARD), Client(relay, "203.0.113.6:51000", software=STANDARD)
    left_port, right_port = left.allocate(), right.allocate()
    later_ours = Endpoint.parse(f"10.9.9.9:{right_port}")
    left.bind(0x4000, later_ours)
    right.bind(0x4000, Endpoint(PUBLIC[4], left_port))
    (output,) = left.send(channel_message(0x4000, b"x"))
    assert isinstance(output, ToPeer)
    relay.server.handle_own_addresses(frozenset({*PUBLIC.values(), INTERNAL, later_ours.ip}))
    (output,) = left.send(channel_message(0x4000, b"x"))
    assert isinstance(output, ToClient)
    assert output.transmit.destination == right.endpoint


def test_nothing_is_installed_twice_or_left_behind_by_a_change_of_policy() -> None:
    relay = RelayUnderTest()
    client = Client(relay, software=STANDARD)
    client.allocate()
    client.bind(0x4000, PEER4)
    (before,) = relay.installed.values()
    assert relay.reconfigure() == []
    assert list(relay.installed.values()) == [before]
    relay.deny = (str(PEER4.ip),)
    relay.reconfigure()
    assert relay.installed == {}
