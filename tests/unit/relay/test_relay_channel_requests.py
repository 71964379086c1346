"""ChannelBind and CreatePermission, rule by rule (RFC 8656 §9, §10, §12), and the life of what they make."""

from ipaddress import ip_address

import pytest

from connectivity.endpoint import Endpoint
from connectivity.stun import (
    AddressFamily,
    ChannelNumber,
    ErrorCodeAttribute,
    Lifetime,
    Method,
    RequestedAddressFamily,
    RequestedTransport,
    XorPeerAddress,
)
from relay.core import InstallChannel, RemoveChannel, ToClient
from relay.core.requests import channel_bind, create_permission
from tests.unit.relay.playbook import (
    INTERNAL,
    PEER4,
    PEER6,
    PUBLIC,
    Client,
    RelayUnderTest,
    attribute_of,
    channel_message,
    error_code,
)

V4, V6 = AddressFamily.IPV4, AddressFamily.IPV6
UDP = RequestedTransport(17)
STANDARD = "a browser"


@pytest.fixture
def relay() -> RelayUnderTest:
    return RelayUnderTest()


@pytest.fixture
def client(relay: RelayUnderTest) -> Client:
    return Client(relay)


def test_bind_installs_before_it_answers(relay: RelayUnderTest, client: Client) -> None:
    port = client.allocate()
    request = client.request(Method.CHANNEL_BIND, XorPeerAddress(PEER4), ChannelNumber(0x4000))
    installed, answer = client.send(request)
    assert isinstance(installed, InstallChannel)
    assert isinstance(answer, ToClient)
    assert (installed.channel, installed.peer, installed.relayed_port) == (0x4000, PEER4, port)
    assert installed.five_tuple.client == client.endpoint
    assert installed.expires_at == relay.now + 600 * 10**9
    client.bind(0x4000, PEER4)
    assert relay.server.statistics().channels == 1, "a refresh is no other channel"


@pytest.mark.parametrize(
    ("number", "code"), [(0x3FFF, 400), (0x4000, 0), (0x4FFF, 0), (0x5000, 0), (0x7FFF, 0), (0x8000, 400), (0, 400)]
)
def test_channel_numbers(client: Client, number: int, code: int) -> None:
    client.allocate()
    assert error_code(client.bind(number, PEER4)) == code


def test_bind_needs_both_attributes_and_a_port(client: Client) -> None:
    client.allocate()
    assert error_code(client.call(Method.CHANNEL_BIND, XorPeerAddress(PEER4))) == 400
    assert error_code(client.call(Method.CHANNEL_BIND, ChannelNumber(0x4000))) == 400
    assert error_code(client.bind(0x4000, Endpoint(PEER4.ip, 0))) == 400


def test_a_number_and_a_peer_belong_to_each_other(client: Client) -> None:
    client.allocate()
    other = Endpoint(PEER4.ip, PEER4.port + 1)
    assert error_code(client.bind(0x4000, PEER4)) == 0
    assert error_code(client.bind(0x4000, PEER4)) == 0
    assert error_code(client.bind(0x4000, other)) == 400
    assert error_code(client.bind(0x4001, PEER4)) == 400
    assert error_code(client.bind(0x4001, other)) == 0


def test_a_peer_of_a_family_without_relayed_address(client: Client) -> None:
    client.allocate(RequestedAddressFamily(V4))
    assert error_code(client.bind(0x4000, PEER6)) == 443
    assert error_code(client.call(Method.CREATE_PERMISSION, XorPeerAddress(PEER6))) == 443


def test_a_channel_lives_ten_minutes_and_stays_reserved_for_five(relay: RelayUnderTest, client: Client) -> None:
    client.call(Method.ALLOCATE, UDP, Lifetime(3600))
    client.bind(0x4000, PEER4)
    relay.advance(599)
    assert len(client.send(channel_message(0x4000, b"alive"))) == 1
    outputs = relay.advance(1)
    assert [type(output) for output in outputs] == [RemoveChannel]
    assert client.send(channel_message(0x4000, b"late")) == []
    other = Endpoint(PEER4.ip, 1)
    relay.advance(299)
    assert error_code(client.bind(0x4000, other)) == 400
    assert error_code(client.bind(0x4001, PEER4)) == 400
    relay.advance(1)
    assert error_code(client.bind(0x4000, other)) == 0
    assert error_code(client.bind(0x4001, PEER4)) == 0


def test_a_reserved_pair_comes_back_to_life(relay: RelayUnderTest, client: Client) -> None:
    client.call(Method.ALLOCATE, UDP, Lifetime(3600))
    client.bind(0x4000, PEER4)
    relay.advance(899)
    assert error_code(client.bind(0x4000, PEER4)) == 0
    relay.advance(599)
    assert len(client.send(channel_message(0x4000, b"alive"))) == 1


def test_deleting_an_allocation_takes_everything_along(relay: RelayUnderTest, client: Client) -> None:
    port = client.allocate()
    client.bind(0x4000, PEER4)
    client.bind(0x4001, PEER6)
    client.call(Method.REFRESH, Lifetime(0))
    assert not relay.installed
    assert not relay.open_ports
    assert relay.server.poll_timeout() is None
    assert relay.from_peer(port, PEER4, b"late") == []
    assert relay.server.statistics().channels == 0


def test_permissions_are_all_or_nothing(client: Client) -> None:
    client.allocate()
    bad = XorPeerAddress(Endpoint.parse("127.0.0.1:53"))
    assert error_code(client.call(Method.CREATE_PERMISSION)) == 400
    assert error_code(client.call(Method.CREATE_PERMISSION, XorPeerAddress(PEER4), bad)) == 403
    (allocation,) = client.relay.server._table.by_port.values()
    assert not allocation.permissions
    assert error_code(client.call(Method.CREATE_PERMISSION, XorPeerAddress(PEER4), XorPeerAddress(PEER6))) == 0
    assert list(allocation.permissions) == [PEER4.ip, PEER6.ip]


def test_an_allocation_holds_so_many_permissions_and_channels_and_no_more(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (channel_bind, create_permission):
        monkeypatch.setattr(module, "MOST_PERMISSIONS", 3)
    monkeypatch.setattr(channel_bind, "MOST_CHANNELS", 2)
    client.allocate()
    peers = [Endpoint.parse(f"198.51.100.{host}:9") for host in range(5)]
    assert error_code(client.bind(0x4000, peers[0])) == 0
    too_many = (XorPeerAddress(peer) for peer in peers[1:4])
    assert error_code(client.call(Method.CREATE_PERMISSION, *too_many)) == 508
    just_right = [XorPeerAddress(peer) for peer in peers[:3]]
    assert error_code(client.call(Method.CREATE_PERMISSION, *just_right)) == 0
    assert error_code(client.call(Method.CREATE_PERMISSION, *just_right)) == 0
    assert error_code(client.bind(0x4001, peers[3])) == 508
    assert error_code(client.bind(0x4001, peers[2])) == 0
    assert error_code(client.bind(0x4002, peers[2]._replace(port=10))) == 508
    assert error_code(client.bind(0x4001, peers[2])) == 0


def test_forbidden_peers_get_no_channel(client: Client) -> None:
    client.allocate()
    answer = client.bind(0x4000, Endpoint.parse("169.254.169.254:80"))
    assert attribute_of(answer, ErrorCodeAttribute) == ErrorCodeAttribute(403, "Forbidden")
    assert error_code(client.bind(0x4000, Endpoint(ip_address("::ffff:10.0.0.1"), 80))) == 403


def test_private_peers_are_served_under_a_portal_only() -> None:
    peer = Endpoint.parse("10.1.2.3:80")
    for under_portal, code in ((True, 0), (False, 403)):
        client = Client(RelayUnderTest(under_portal=under_portal))
        client.allocate()
        assert error_code(client.bind(0x4000, peer)) == code
    client = Client(RelayUnderTest(under_portal=False, allow=("10.1.0.0/16",)))
    client.allocate()
    assert error_code(client.bind(0x4000, peer)) == 0


@pytest.mark.parametrize("ip", [*PUBLIC.values(), INTERNAL])
def test_of_our_own_addresses_only_live_relayed_ports_are_peers(relay: RelayUnderTest, client: Client, ip: str) -> None:
    address = ip_address(ip)
    client.allocate()
    other = Client(relay, "203.0.113.6:51000").allocate()
    for port, code in ((3478, 403), (22, 403), (other + 1 if other < 65_535 else other - 1, 403), (other, 0)):
        assert error_code(client.bind(0x4000 + port % 4096, Endpoint(address, port))) == code
        assert error_code(client.call(Method.CREATE_PERMISSION, XorPeerAddress(Endpoint(address, port)))) == code


def test_an_address_that_the_host_gets_later_is_ours_from_then_on(relay: RelayUnderTest, client: Client) -> None:
    client.allocate()
    service = Endpoint.parse("10.9.9.9:8080")
    assert error_code(client.bind(0x4000, service)) == 0
    relay.server.handle_own_addresses(frozenset({*PUBLIC.values(), service.ip}))
    assert error_code(client.bind(0x4000, service)) == 403
    assert error_code(client.bind(0x4001, Endpoint(service.ip, 22))) == 403
