"""EVEN-PORT, RESERVATION-TOKEN, and being sent elsewhere (RFC 8656 §7.2, RFC 8489 §10)."""

import pytest

from connectivity.endpoint import Endpoint
from connectivity.stun import (
    AdditionalAddressFamily,
    AddressFamily,
    AlternateServer,
    Attribute,
    DontFragment,
    EvenPort,
    Lifetime,
    Method,
    RequestedAddressFamily,
    RequestedTransport,
    ReservationToken,
    XorRelayedAddress,
)
from relay.core import CloseRelayedPort, OpenRelayedPort, Quotas, StaticCredentials
from tests.unit.relay.playbook import RelayUnderTest, attribute_of, error_code
from tests.unit.relay.standard import StandardClient, standalone

UDP = RequestedTransport(17)
V4, V6 = AddressFamily.IPV4, AddressFamily.IPV6
PAIR = EvenPort(reserve=True)


@pytest.fixture
def relay() -> RelayUnderTest:
    return standalone(source=StaticCredentials({"alice": "secret", "bob": "other"}))


def clients(relay: RelayUnderTest, count: int) -> list[StandardClient]:
    return [StandardClient(relay, f"203.0.113.5:{port}") for port in range(5000, 5000 + count)]


def reserve(client: StandardClient, *attributes: Attribute) -> tuple[int, ReservationToken]:
    answer = client.call(Method.ALLOCATE, UDP, PAIR, *attributes)
    return attribute_of(answer, XorRelayedAddress).endpoint.port, attribute_of(answer, ReservationToken)


def test_even_ports_are_even(relay: RelayUnderTest) -> None:
    for client in clients(relay, 40):
        answer = client.call(Method.ALLOCATE, UDP, EvenPort(reserve=False))
        assert attribute_of(answer, XorRelayedAddress).endpoint.port % 2 == 0
        assert answer.get(ReservationToken) is None
    assert len(relay.open_ports) == 40


@pytest.mark.parametrize("family", [V4, V6])
def test_the_port_above_goes_to_who_brings_the_token(relay: RelayUnderTest, family: AddressFamily) -> None:
    first, second, third = clients(relay, 3)
    port, token = reserve(first, RequestedAddressFamily(family))
    assert port % 2 == 0
    assert relay.open_ports == {port: {family}, port + 1: {family}}
    assert relay.server.allocation_count == 1
    answer = second.call(Method.ALLOCATE, UDP, token, Lifetime(700))
    assert attribute_of(answer, XorRelayedAddress).endpoint.port == port + 1
    assert attribute_of(answer, XorRelayedAddress).endpoint.ip.version == family.version
    assert attribute_of(answer, Lifetime).seconds == 700
    assert error_code(third.call(Method.ALLOCATE, UDP, token)) == 508
    relay.advance(699)
    assert relay.open_ports == {port + 1: {family}}


def test_a_reservation_ends_after_30_seconds_and_its_port_comes_back() -> None:
    relay = standalone(lowest_port=50_000, highest_port=50_001)
    first, second = clients(relay, 2)
    port, token = reserve(first)
    assert relay.advance(29) == []
    (closed,) = relay.advance(1)
    assert closed == CloseRelayedPort(port + 1, (V4,))
    assert error_code(second.call(Method.ALLOCATE, UDP, token)) == 508
    answer = second.call(Method.ALLOCATE, UDP)
    assert attribute_of(answer, XorRelayedAddress).endpoint.port == 50_001


def test_a_reservation_counts_for_its_user_until_it_ends(relay: RelayUnderTest) -> None:
    relay.quotas = Quotas(allocations_per_user=2)
    relay.reconfigure()
    first, second, third = clients(relay, 3)
    second.call(Method.ALLOCATE, UDP)
    assert error_code(first.call(Method.ALLOCATE, UDP, PAIR)) == 486
    second.call(Method.REFRESH, Lifetime(0))
    _, token = reserve(first)
    assert error_code(second.call(Method.ALLOCATE, UDP)) == 486
    assert error_code(second.call(Method.ALLOCATE, UDP, token)) == 0
    assert error_code(third.call(Method.ALLOCATE, UDP)) == 486
    for client in (first, second):
        client.call(Method.REFRESH, Lifetime(0))
    reserve(first)
    first.call(Method.REFRESH, Lifetime(0))
    relay.advance(30)
    assert error_code(third.call(Method.ALLOCATE, UDP, PAIR)) == 0


def test_a_reservation_outlives_the_allocation_it_came_with(relay: RelayUnderTest) -> None:
    first, second = clients(relay, 2)
    port, token = reserve(first)
    first.call(Method.REFRESH, Lifetime(0))
    assert relay.open_ports == {port + 1: {V4}}
    assert error_code(second.call(Method.ALLOCATE, UDP, token)) == 0


def test_nothing_moves_by_a_port_that_is_only_reserved(relay: RelayUnderTest) -> None:
    port, _ = reserve(clients(relay, 1)[0])
    assert relay.from_peer(port + 1, Endpoint.parse("8.8.8.8:53"), b"data") == []
    assert relay.drops() == {"no_allocation": 1}


def test_a_token_is_its_users(relay: RelayUnderTest) -> None:
    _, token = reserve(clients(relay, 1)[0])
    bob = StandardClient(relay, "203.0.113.6:5000", username="bob", password="other")
    assert error_code(bob.call(Method.ALLOCATE, UDP, token)) == 508
    assert error_code(bob.call(Method.ALLOCATE, UDP, ReservationToken(bytes(8)))) == 508
    assert error_code(clients(relay, 2)[1].call(Method.ALLOCATE, UDP, token)) == 0


@pytest.mark.parametrize(
    "attributes",
    [
        (PAIR, AdditionalAddressFamily(V6)),
        (PAIR, ReservationToken(bytes(8))),
        (EvenPort(reserve=False), ReservationToken(bytes(8))),
        (RequestedAddressFamily(V4), ReservationToken(bytes(8))),
        (AdditionalAddressFamily(V6), ReservationToken(bytes(8))),
    ],
)
def test_what_contradicts_itself_is_a_bad_request(relay: RelayUnderTest, attributes: tuple[Attribute, ...]) -> None:
    assert error_code(clients(relay, 1)[0].call(Method.ALLOCATE, UDP, *attributes)) == 400
    assert not relay.open_ports


def test_both_families_may_have_an_even_port(relay: RelayUnderTest) -> None:
    even = EvenPort(reserve=False)
    answer = clients(relay, 1)[0].call(Method.ALLOCATE, UDP, even, AdditionalAddressFamily(V6))
    assert [attribute.endpoint.port % 2 for attribute in answer.get_all(XorRelayedAddress)] == [0, 0]


def test_dont_fragment_is_understood(relay: RelayUnderTest) -> None:
    assert error_code(clients(relay, 1)[0].call(Method.ALLOCATE, UDP, DontFragment())) == 0


@pytest.mark.parametrize("taken", [{50_000}, {50_001}, {50_002, 50_003}])
def test_a_pair_of_which_one_is_in_use_elsewhere_is_skipped(taken: set[int]) -> None:
    relay = standalone(lowest_port=50_000, highest_port=50_003, unbindable=taken)
    first, second, third = clients(relay, 3)
    port, _ = reserve(first)
    assert port == (50_000 if 50_003 in taken else 50_002)
    assert set(relay.open_ports) == {port, port + 1}
    assert error_code(second.call(Method.ALLOCATE, UDP, PAIR)) == 508
    assert set(relay.open_ports) == {port, port + 1}
    relay.unbindable.clear()
    reserve(second)
    assert set(relay.open_ports) == set(range(50_000, 50_004))
    assert error_code(third.call(Method.ALLOCATE, UDP)) == 508


def test_a_range_without_pairs_has_none() -> None:
    relay = standalone(lowest_port=50_001, highest_port=50_002)
    (client,) = clients(relay, 1)
    assert error_code(client.call(Method.ALLOCATE, UDP, PAIR)) == 508
    outputs = client.send(client.request(Method.ALLOCATE, UDP, EvenPort(reserve=False)))
    assert isinstance(outputs[0], OpenRelayedPort)
    assert outputs[0].port == 50_002


def test_whoever_finds_no_place_is_sent_to_the_alternate_server() -> None:
    alternate = {4: Endpoint.parse("198.51.100.9:3478")}
    relay = standalone(lowest_port=50_000, highest_port=50_000, alternate=alternate)
    first, second = clients(relay, 2)
    assert error_code(first.call(Method.ALLOCATE, UDP)) == 0
    answer = second.call(Method.ALLOCATE, UDP)
    assert error_code(answer) == 300
    assert attribute_of(answer, AlternateServer).endpoint == alternate[4]
    assert answer.verify_integrity(second.key)
    over_ipv6 = StandardClient(relay, "[2001:db8:1::5]:5000")
    assert error_code(over_ipv6.call(Method.ALLOCATE, UDP)) == 508, "an alternate has the client's family"
    first.call(Method.REFRESH, Lifetime(0))
    relay.server.stop_allocating()
    assert error_code(second.call(Method.ALLOCATE, UDP)) == 300
