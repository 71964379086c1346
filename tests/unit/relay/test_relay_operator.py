"""What an operator sees and does: allocations listed and ended, settings replaced while clients are served."""

import pytest

from connectivity.clock import SECOND
from connectivity.stun import AddressFamily, Method, RequestedTransport, XorPeerAddress
from relay.core import FiveTuple, InstallChannel, RemoveChannel, RestCredentials, StaticCredentials
from relay.core.view import ChannelView
from tests.unit.relay.playbook import PEER4, PEER6, SERVER4, RelayUnderTest, channel_message, error_code
from tests.unit.relay.standard import StandardClient, standalone

UDP = RequestedTransport(17)


@pytest.fixture
def relay() -> RelayUnderTest:
    return standalone(under_portal=True)


@pytest.fixture
def client(relay: RelayUnderTest) -> StandardClient:
    return StandardClient(relay)


def test_an_allocation_shows_what_it_holds_and_moved(relay: RelayUnderTest, client: StandardClient) -> None:
    port = client.allocate()
    client.bind(0x4000, PEER4)
    client.call(Method.CREATE_PERMISSION, XorPeerAddress(PEER6))
    client.send(channel_message(0x4000, b"12345"))
    for _ in range(2):
        relay.from_peer(port, PEER4, b"123")
    (view,) = relay.server.allocations()
    assert view == relay.server.allocation(port)
    assert (view.port, view.families) == (port, (AddressFamily.IPV4, AddressFamily.IPV6))
    assert view.five_tuple == FiveTuple(client.endpoint, SERVER4)
    assert (view.username, view.user) == ("alice", "alice")
    assert view.expires_at == relay.now + 600 * SECOND
    assert [ip for ip, _ in view.permissions] == [PEER4.ip, PEER6.ip]
    assert view.channels == (ChannelView(0x4000, PEER4, relay.now + 600 * SECOND),)
    assert view.flows == ((view.five_tuple, 0x4000),)
    assert (view.to_peer_packets, view.to_peer_bytes) == (1, 5)
    assert (view.to_client_packets, view.to_client_bytes) == (2, 6)


def test_what_an_offload_relayed_counts_when_its_channel_ends(relay: RelayUnderTest, client: StandardClient) -> None:
    port = client.allocate()
    client.bind(0x4000, PEER4)
    client.send(channel_message(0x4000, b"12345"))
    relay.server.count_offloaded(FiveTuple(client.endpoint, SERVER4), 10, 1000, 20, 2000)
    view = relay.server.allocation(port)
    assert view is not None
    assert (view.to_peer_packets, view.to_peer_bytes) == (11, 1005)
    assert (view.to_client_packets, view.to_client_bytes) == (20, 2000)
    assert sum(relay.server.statistics().packets.values()) == 1, "the offload's totals are the offload's to tell"
    relay.server.count_offloaded(FiveTuple(PEER4, SERVER4), 1, 1, 1, 1)


def test_the_operator_ends_an_allocation(relay: RelayUnderTest, client: StandardClient) -> None:
    port = client.allocate()
    client.bind(0x4000, PEER4)
    assert not relay.server.end_allocation(port + 1, relay.now)
    assert relay.server.end_allocation(port, relay.now)
    relay.drain()
    assert not relay.open_ports
    assert not relay.installed
    assert relay.server.allocation(port) is None
    assert list(relay.server.allocations()) == []
    assert error_code(client.call(Method.REFRESH)) == 437
    assert client.allocate()


def test_new_credentials_count_from_now_on(relay: RelayUnderTest, client: StandardClient) -> None:
    relay.source = StaticCredentials({"alice": "changed"})
    relay.reconfigure()
    assert error_code(client.call(Method.ALLOCATE, UDP)) == 401
    assert error_code(StandardClient(relay, password="changed").call(Method.ALLOCATE, UDP)) == 0


REVOCATIONS: dict[str, tuple[str, dict[str, str]]] = {
    "removed": ("example.org", {"bob": "other"}),
    "another password": ("example.org", {"alice": "changed", "bob": "other"}),
    "another realm": ("example.com", {"alice": "secret", "bob": "other"}),
}


@pytest.mark.parametrize("change", REVOCATIONS)
@pytest.mark.parametrize("algorithm", [None, 2])
def test_who_is_taken_out_of_the_file_moves_nothing_from_then_on(
    relay: RelayUnderTest, change: str, algorithm: int | None
) -> None:
    relay.source = StaticCredentials({"alice": "secret", "bob": "other"})
    relay.reconfigure()
    client = StandardClient(relay, algorithm=algorithm)
    other = StandardClient(relay, "203.0.113.6:51000", username="bob", password="other", algorithm=algorithm)
    port, kept = client.allocate(), other.allocate()
    for each in (client, other):
        each.bind(0x4000, PEER4)
    realm, users = REVOCATIONS[change]
    relay.realm, relay.source = realm, StaticCredentials(users)
    ended = relay.server.reconfigure(relay.settings(), relay.source, relay.now)
    outputs = relay.drain()
    others = {kept} if realm == "example.org" else set()
    assert ended == 2 - len(others)
    assert sum(isinstance(output, RemoveChannel) for output in outputs) == ended, "the offload is told"
    assert set(relay.open_ports) == others
    assert client.send(channel_message(0x4000, b"data")) == []
    assert relay.from_peer(port, PEER4, b"data") == []
    if others:
        assert len(other.send(channel_message(0x4000, b"data"))) == 1
        assert error_code(other.call(Method.REFRESH)) == 0


def test_a_secret_may_be_replaced_while_its_allocations_go_on(relay: RelayUnderTest) -> None:
    """As long as a client has shown a key of the new one before the old one is taken out."""
    name = f"{relay.wall_now // SECOND + 60}:bob"
    old, new = RestCredentials(["old"]), RestCredentials(["new"])
    (before,), (after,) = old.lookup(name), new.lookup(name)
    relay.source = RestCredentials(["old", "new"])
    relay.reconfigure()
    clients = [StandardClient(relay, f"203.0.113.5:{port}", username=name, password=before.password) for port in (1, 2)]
    ports = [each.allocate() for each in clients]
    refreshed = StandardClient(relay, "203.0.113.5:2", username=name, password=after.password)
    assert error_code(refreshed.call(Method.REFRESH)) == 0
    relay.advance(120)  # the name is over, which ends nothing that was begun in time
    relay.source = new
    relay.reconfigure()
    assert set(relay.open_ports) == {ports[1]}


@pytest.mark.parametrize("realm", ["", "a\nb"])
def test_a_realm_that_is_none_is_refused_before_it_counts(relay: RelayUnderTest, realm: str) -> None:
    relay.realm = realm
    with pytest.raises(ValueError, match="expected"):
        relay.reconfigure()


def test_a_new_realm_counts_from_now_on(relay: RelayUnderTest) -> None:
    relay.realm = "example.com"
    relay.reconfigure()
    assert error_code(StandardClient(relay).call(Method.ALLOCATE, UDP)) == 0


def test_what_a_new_policy_refuses_ends_at_once(relay: RelayUnderTest, client: StandardClient) -> None:
    port = client.allocate()
    kept, refused = PEER4, PEER4._replace(ip=PEER4.ip + 1)
    client.bind(0x4000, kept)
    client.bind(0x4001, refused)
    relay.deny = (f"{refused.ip}/32",)
    (removed,) = relay.reconfigure()
    assert isinstance(removed, RemoveChannel)
    assert removed.channel == 0x4001
    assert client.send(channel_message(0x4001, b"data")) == []
    assert relay.from_peer(port, refused, b"data") == []
    assert len(client.send(channel_message(0x4000, b"data"))) == 1
    assert error_code(client.bind(0x4001, refused)) == 403
    relay.deny = ()
    relay.reconfigure()
    outputs = client.send(client.request(Method.CREATE_PERMISSION, XorPeerAddress(refused)))
    assert not any(isinstance(output, InstallChannel) for output in outputs), "what has ended does not come back"
    assert error_code(client.bind(0x4001, refused)) == 0
