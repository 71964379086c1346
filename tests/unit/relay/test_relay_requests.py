"""Binding, Allocate and Refresh, rule by rule (RFC 8489, RFC 8656 §7, §8)."""

import pytest

from connectivity.endpoint import Endpoint
from connectivity.stun import (
    AdditionalAddressFamily,
    AddressErrorCode,
    AddressFamily,
    Attribute,
    ChannelNumber,
    Lifetime,
    MessageClass,
    Method,
    Nonce,
    RequestedAddressFamily,
    RequestedTransport,
    Software,
    UnknownAttributes,
    XorMappedAddress,
    XorPeerAddress,
    XorRelayedAddress,
    encode,
)
from relay.core import FiveTuple, OpenRelayedPort, ToClient
from relay.core.answers import AnswerMemory
from tests.unit.relay.playbook import (
    INTERNAL,
    PEER4,
    PEER6,
    PUBLIC,
    Client,
    RelayUnderTest,
    attribute_of,
    datagrams,
    error_code,
    only_answer,
    with_unknown,
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


def test_binding_is_answered_to_anyone_unsigned(relay: RelayUnderTest) -> None:
    for text in ("203.0.113.5:51000", "[2001:db8:1::5]:51000"):
        endpoint = Endpoint.parse(text)
        request = encode(Method.BINDING, MessageClass.REQUEST, bytes(12), (Software("snownet"),))
        answer = only_answer(relay.from_client(endpoint, request), endpoint)
        assert [type(attribute) for attribute in answer.attributes] == [XorMappedAddress]
        assert attribute_of(answer, XorMappedAddress).endpoint == endpoint
        assert not answer.has_integrity
        assert not answer.has_fingerprint


def test_answers_leave_from_the_address_that_was_asked(relay: RelayUnderTest) -> None:
    other = Endpoint(INTERNAL, 3478)
    request = encode(Method.BINDING, MessageClass.REQUEST, bytes(12), ())
    (output,) = relay.from_client(Endpoint.parse("203.0.113.5:51000"), request, server=other)
    assert isinstance(output, ToClient)
    assert output.transmit.source == other


def test_a_fingerprint_is_returned_to_who_sent_one_and_a_wrong_one_is_dropped(relay: RelayUnderTest) -> None:
    endpoint = Endpoint.parse("203.0.113.5:51000")
    request = encode(Method.BINDING, MessageClass.REQUEST, bytes(12), (), fingerprint=True)
    assert only_answer(relay.from_client(endpoint, request), endpoint).verify_fingerprint()
    assert relay.from_client(endpoint, request[:-1] + bytes([request[-1] ^ 1])) == []
    assert relay.drops() == {"bad_fingerprint": 1}


def test_allocate_opens_the_port_before_it_answers(relay: RelayUnderTest, client: Client) -> None:
    client.call(Method.REFRESH)
    outputs = client.send(client.request(Method.ALLOCATE, UDP, AdditionalAddressFamily(V6)))
    assert [type(output) for output in outputs] == [OpenRelayedPort, ToClient]
    answer = only_answer(outputs, client.endpoint)
    kinds = [Software, XorRelayedAddress, XorRelayedAddress, XorMappedAddress, Lifetime]
    assert [type(attribute) for attribute in answer.attributes] == kinds
    first, second = (attribute.endpoint for attribute in answer.get_all(XorRelayedAddress))
    assert (first.ip, second.ip) == (PUBLIC[4], PUBLIC[6])
    assert first.port == second.port
    assert 49_152 <= first.port <= 65_535
    assert attribute_of(answer, Lifetime).seconds == 600
    assert attribute_of(answer, XorMappedAddress).endpoint == client.endpoint
    assert relay.open_ports == {first.port: {V4, V6}}


BOTH, ONLY4, ONLY6 = {4, 6}, {4}, {6}


@pytest.mark.parametrize(
    ("stack", "requested", "additional", "expected"),
    [
        (ONLY4, None, None, [4]),
        (BOTH, None, None, [4]),
        (BOTH, V4, None, [4]),
        (ONLY6, V6, None, [6]),
        (BOTH, V6, None, [6]),
        (BOTH, None, V6, [4, 6]),
        (ONLY4, None, V6, [4]),
        (ONLY6, None, V6, [6]),
        (BOTH, V4, V6, 400),
        (ONLY6, V6, V6, 400),
        (BOTH, None, V4, 400),
        (ONLY6, None, None, 440),
        (ONLY6, V4, None, 440),
        (ONLY4, V6, None, 440),
    ],
)
@pytest.mark.parametrize("software", ["snownet; session=00", STANDARD])
def test_address_families(
    stack: set[int],
    requested: AddressFamily | None,
    additional: AddressFamily | None,
    expected: list[int] | int,
    software: str,
) -> None:
    relay = RelayUnderTest(public={version: PUBLIC[version] for version in stack})
    client = Client(relay, software=software)
    attributes: list[Attribute] = [UDP]
    attributes += [] if requested is None else [RequestedAddressFamily(requested)]
    attributes += [] if additional is None else [AdditionalAddressFamily(additional)]
    answer = client.call(Method.ALLOCATE, *attributes)
    if isinstance(expected, int):
        assert error_code(answer) == expected
        assert not relay.open_ports
        return
    relayed = [attribute.endpoint for attribute in answer.get_all(XorRelayedAddress)]
    assert [endpoint.ip.version for endpoint in relayed] == expected
    assert len({endpoint.port for endpoint in relayed}) == 1
    is_partial = additional is not None and len(expected) == 1
    assert (answer.get(AddressErrorCode) is not None) == (is_partial and software == STANDARD)


@pytest.mark.parametrize("family", [0, 3, 255])
def test_a_number_that_is_no_family_is_not_supported(client: Client, family: int) -> None:
    assert error_code(client.call(Method.ALLOCATE, UDP, RequestedAddressFamily(family))) == 440
    assert error_code(client.call(Method.ALLOCATE, UDP, AdditionalAddressFamily(family))) == 400
    client.allocate()
    assert error_code(client.call(Method.REFRESH, RequestedAddressFamily(family), Lifetime(0))) == 443


@pytest.mark.parametrize(("transport", "code"), [(6, 442), (0, 442), (255, 442), (None, 400)])
def test_only_udp_is_relayed(client: Client, transport: int | None, code: int) -> None:
    attributes = () if transport is None else (RequestedTransport(transport),)
    assert error_code(client.call(Method.ALLOCATE, *attributes)) == code


@pytest.mark.parametrize(
    ("wanted", "granted"), [(None, 600), (0, 600), (1, 600), (1000, 1000), (3600, 3600), (2**32 - 1, 3600)]
)
def test_lifetimes(client: Client, wanted: int | None, granted: int) -> None:
    attributes = () if wanted is None else (Lifetime(wanted),)
    answer = client.call(Method.ALLOCATE, UDP, *attributes)
    assert attribute_of(answer, Lifetime).seconds == granted
    client.relay.advance(granted - 1)
    assert client.relay.open_ports
    client.relay.advance(1)
    assert not client.relay.open_ports


def test_a_second_allocate_is_a_mismatch_until_the_first_is_deleted(client: Client) -> None:
    client.allocate()
    assert error_code(client.call(Method.ALLOCATE, UDP)) == 437
    assert attribute_of(client.call(Method.REFRESH, Lifetime(0)), Lifetime).seconds == 0
    assert client.allocate()


def test_two_addresses_of_one_client_hold_an_allocation_each(relay: RelayUnderTest) -> None:
    ports = {Client(relay, f"203.0.113.5:{port}").allocate() for port in range(5000, 5020)}
    assert len(ports) == 20


def test_a_five_tuple_includes_the_address_that_was_asked(relay: RelayUnderTest, client: Client) -> None:
    client.allocate()
    outputs = relay.from_client(client.endpoint, client.request(Method.REFRESH), server=Endpoint(INTERNAL, 3478))
    assert error_code(only_answer(outputs, client.endpoint)) == 437


@pytest.mark.parametrize("method", [Method.ALLOCATE, Method.REFRESH])
def test_a_retransmitted_request_gets_the_stored_answer(client: Client, method: Method) -> None:
    client.call(Method.REFRESH)
    if method is Method.REFRESH:
        client.allocate()
    request = client.request(method, UDP, *([Lifetime(0)] if method is Method.REFRESH else []))
    first = client.send(request)[-1]
    second = client.send(request)
    assert [datagrams(output) for output in second] == [datagrams(first)]
    client.relay.advance(40)
    later = only_answer(client.send(request), client.endpoint)
    assert error_code(later) == 437


def test_so_many_answers_are_kept_and_the_oldest_goes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("relay.core.answers.MOST_ANSWERS", 3)
    memory, five_tuple = AnswerMemory(), FiveTuple(PEER4, PEER6)
    for number in range(5):
        memory.remember(five_tuple, Method.REFRESH, bytes([number]), b"answer", now=number)
    found = [memory.recall(five_tuple, Method.REFRESH, bytes([number]), 5) for number in range(5)]
    assert (found, len(memory)) == ([None, None, b"answer", b"answer", b"answer"], 3)


def test_a_port_in_use_elsewhere_is_skipped() -> None:
    relay = RelayUnderTest(lowest_port=50_000, highest_port=50_003, unbindable={50_000, 50_001, 50_003})
    client = Client(relay)
    assert client.allocate() == 50_002
    other = Client(relay, "203.0.113.5:51001")
    assert error_code(other.call(Method.ALLOCATE, UDP)) == 508
    relay.unbindable.clear()
    assert other.allocate() in {50_000, 50_001, 50_003}


def test_the_range_is_used_to_its_last_port_and_given_back() -> None:
    relay = RelayUnderTest(lowest_port=50_000, highest_port=50_009)
    clients = [Client(relay, f"203.0.113.5:{port}") for port in range(5000, 5010)]
    assert {client.allocate() for client in clients} == set(range(50_000, 50_010))
    late = Client(relay, "203.0.113.5:6000")
    assert error_code(late.call(Method.ALLOCATE, UDP)) == 508
    clients[3].call(Method.REFRESH, Lifetime(0))
    assert late.allocate()
    relay.advance(600)
    assert not relay.open_ports
    assert {client.allocate() for client in clients} == set(range(50_000, 50_010))


def test_out_of_descriptors_is_refused_at_once(relay: RelayUnderTest, client: Client) -> None:
    relay.may_bind = False
    assert error_code(client.call(Method.ALLOCATE, UDP)) == 508
    assert relay.open_attempts == 1


def test_the_search_for_a_port_that_nobody_else_has_is_bounded() -> None:
    relay = RelayUnderTest(unbindable=set(range(49152, 65536)))
    assert error_code(Client(relay).call(Method.ALLOCATE, UDP)) == 508
    assert relay.open_attempts == 256
    relay.unbindable = set()
    Client(relay, "203.0.113.5:51001").allocate()


def test_the_listen_port_is_never_a_relayed_port() -> None:
    relay = RelayUnderTest(lowest_port=3478, highest_port=3479)
    assert Client(relay).allocate() == 3479
    assert error_code(Client(relay, "203.0.113.5:51001").call(Method.ALLOCATE, UDP)) == 508


@pytest.mark.parametrize("method", [Method.REFRESH, Method.CHANNEL_BIND, Method.CREATE_PERMISSION])
def test_without_an_allocation_it_is_a_mismatch(client: Client, method: Method) -> None:
    assert error_code(client.call(method, XorPeerAddress(PEER4), ChannelNumber(0x4000))) == 437


def test_refresh_tolerates_what_firezone_repeats_in_it(relay: RelayUnderTest, client: Client) -> None:
    client.allocate()
    relay.advance(300)
    answer = client.call(Method.REFRESH, UDP, AdditionalAddressFamily(V6))
    assert [type(attribute) for attribute in answer.attributes] == [Software, Lifetime]
    relay.advance(599)
    assert relay.open_ports
    relay.advance(1)
    assert not relay.open_ports


def test_refresh_can_shorten(relay: RelayUnderTest, client: Client) -> None:
    client.call(Method.ALLOCATE, UDP, Lifetime(3600))
    client.call(Method.REFRESH)
    relay.advance(600)
    assert not relay.open_ports


def test_refresh_of_one_family(relay: RelayUnderTest, client: Client) -> None:
    port = client.allocate()
    client.bind(0x4000, PEER4)
    client.bind(0x4001, PEER6)
    assert error_code(client.call(Method.REFRESH, RequestedAddressFamily(V6), Lifetime(0))) == 0
    assert relay.open_ports == {port: {V4}}
    assert [key[2] for key in relay.installed] == [0x4000]
    view = relay.server.allocation(port)
    assert view is not None
    assert [ip for ip, _ in view.permissions] == [PEER4.ip]
    assert error_code(client.call(Method.REFRESH, RequestedAddressFamily(V6))) == 443
    assert error_code(client.bind(0x4002, PEER6)) == 443
    assert error_code(client.call(Method.REFRESH, RequestedAddressFamily(V4), Lifetime(0))) == 0
    assert not relay.open_ports
    assert not relay.installed


def test_other_credentials_are_refused_but_not_to_firezone(relay: RelayUnderTest) -> None:
    for software, expected in ((STANDARD, 441), ("snownet; session=00", 0)):
        endpoint = "203.0.113.5:5000" if software == STANDARD else "203.0.113.5:5001"
        Client(relay, endpoint, software=software).allocate()
        assert error_code(Client(relay, endpoint, software=software, salt="other").call(Method.REFRESH)) == expected


def test_what_is_not_served_is_named_to_standard_clients_only(relay: RelayUnderTest) -> None:
    standard, firezone = Client(relay, software=STANDARD), Client(relay, "203.0.113.5:51001")
    for client in (standard, firezone):
        client.call(Method.REFRESH)
    request = with_unknown(standard.request(Method.ALLOCATE, UDP), standard.key, 0x002A, 0x7FFF, 0x002A)
    answer = standard.answer(request)
    assert error_code(answer) == 420
    assert attribute_of(answer, UnknownAttributes).types == (0x002A, 0x7FFF)
    assert error_code(firezone.answer(with_unknown(firezone.request(Method.ALLOCATE, UDP), firezone.key, 0x7FFF))) == 0


def test_responses_are_counted(relay: RelayUnderTest, client: Client) -> None:
    client.allocate()
    client.bind(0x3000, PEER4)
    assert relay.server.statistics().responses == {
        ("error", "allocate", 401): 1,
        ("success", "allocate", 0): 1,
        ("error", "channelbind", 400): 1,
    }


def test_a_relay_that_stops_allocating_refuses_newcomers_and_serves_the_others(relay: RelayUnderTest) -> None:
    old, new = Client(relay), Client(relay, "203.0.113.6:51000")
    wanted = old.request(Method.ALLOCATE, UDP)
    old.nonce = attribute_of(old.answer(wanted), Nonce).value
    wanted = old.request(Method.ALLOCATE, UDP)
    granted = old.answer(wanted)
    assert error_code(granted) == 0
    relay.server.stop_allocating()
    assert old.answer(wanted) == granted  # the same request again, not a new one
    assert error_code(old.call(Method.ALLOCATE, UDP)) == 437
    assert error_code(new.call(Method.ALLOCATE, UDP)) == 508
    assert relay.open_attempts == 1
    assert error_code(old.bind(0x4000, PEER4)) == 0
    assert error_code(old.call(Method.REFRESH, Lifetime(600))) == 0
    assert relay.server.allocation_count == 1
    assert error_code(old.call(Method.REFRESH, Lifetime(0))) == 0
    assert relay.server.allocation_count == 0
    assert error_code(old.call(Method.ALLOCATE, UDP)) == 508
