"""Who may ask for what: nonces, credentials, signed refusals (RFC 8489 §9.2.4 with Firezone's deviations)."""

import pytest

from connectivity.clock import SECOND, Instant
from connectivity.endpoint import Endpoint
from connectivity.stun import (
    AdditionalAddressFamily,
    AddressFamily,
    Attribute,
    ErrorCodeAttribute,
    MessageClass,
    Method,
    Nonce,
    Realm,
    RequestedTransport,
    Software,
    Username,
    encode,
)
from relay.core import ToClient
from relay.core.nonce import NONCE_LIFETIME, NonceMint
from relay.driver.core_settings import SOFTWARE
from tests.unit.relay.playbook import (
    EXPIRY,
    SALT,
    Client,
    RelayUnderTest,
    attribute_of,
    error_code,
    only_answer,
)

TRANSACTION = bytes(range(0xA0, 0xAC))
VECTOR_NONCE = "3f2504e0-4f89-41d3-9a0c-0305e82c3301"
VECTOR_REQUEST = bytes.fromhex(
    "000300982112a442a0a1a2a3a4a5a6a7a8a9aaab001900041100000080000004020000000006003631383933343536"
    "3030303a6b46386f3376474f71734261357645724c445253644572363969626145305056657a6c6256453446476259"
    "000000140008666972657a6f6e650015002433663235303465302d346638392d343164332d396130632d3033303565"
    "38326333333031000800141585249c4ec54828eb010873ba7d1a77b24f4462"
)
VECTOR_401 = bytes.fromhex(
    "0113006c2112a442a0a1a2a3a4a5a6a7a8a9aaab8022000572656c61790000000009001000000401556e617574686f"
    "72697a656400140008666972657a6f6e650015002433663235303465302d346638392d343164332d396130632d3033"
    "3035653832633333303100080014e1c44c395a2c2291dfd95d0f9b4acc117b7d5dec"
)


class VectorNonces:
    """Hands out and accepts the nonce of the vectors."""

    def mint(self, _client: Endpoint, _now: Instant) -> str:
        return VECTOR_NONCE

    def is_valid(self, nonce: str, _client: Endpoint, _now: Instant) -> bool:
        return nonce == VECTOR_NONCE


@pytest.fixture
def relay() -> RelayUnderTest:
    return RelayUnderTest()


def test_the_vectors_allocate_request_is_accepted() -> None:
    relay = RelayUnderTest(nonces=VectorNonces())
    client = Client(relay)
    answer = only_answer(client.send(VECTOR_REQUEST), client.endpoint)
    assert answer.message_class is MessageClass.SUCCESS
    assert answer.verify_integrity(bytes.fromhex("ea6bb11d527106439a1b6259778b344d"))


def test_the_vectors_401_is_answered_byte_by_byte() -> None:
    relay = RelayUnderTest(nonces=VectorNonces(), wall_now=(EXPIRY + 1) * SECOND)
    outputs = relay.from_client(Endpoint.parse("203.0.113.5:51000"), VECTOR_REQUEST)
    assert [bytes(output.transmit.run.data) for output in outputs if hasattr(output, "transmit")] == [VECTOR_401]


def test_credentials_without_a_nonce_are_challenged_and_signed(relay: RelayUnderTest) -> None:
    client = Client(relay)
    answer = client.answer(client.request(Method.ALLOCATE, RequestedTransport(17)))
    assert error_code(answer) == 401
    assert attribute_of(answer, Realm).value == "firezone"
    assert len(attribute_of(answer, Nonce).value) <= 128
    assert attribute_of(answer, ErrorCodeAttribute).reason == "Unauthorized"


def test_a_request_without_credentials_is_challenged_unsigned(relay: RelayUnderTest) -> None:
    client = Client(relay)
    request = encode(Method.ALLOCATE, MessageClass.REQUEST, TRANSACTION, (RequestedTransport(17),))
    answer = only_answer(client.send(request), client.endpoint)
    assert error_code(answer) == 401
    assert attribute_of(answer, Nonce).value
    assert not answer.has_integrity


def test_a_username_without_integrity_is_challenged_and_signed(relay: RelayUnderTest) -> None:
    client = Client(relay)
    request = encode(Method.ALLOCATE, MessageClass.REQUEST, TRANSACTION, (Username(client.username),))
    assert error_code(client.answer(request)) == 401


@pytest.mark.parametrize("username", ["", "1", "x:y", "1893456000:a:b", "-5:a", "99999999999999999999999:a", "٣:a"])
def test_a_malformed_username_is_refused_unsigned(relay: RelayUnderTest, username: str) -> None:
    client = Client(relay)
    client.nonce = NonceMint(b"nonce secret").mint(client.endpoint, relay.now)
    client.username = username
    answer = only_answer(client.send(client.request(Method.ALLOCATE, RequestedTransport(17))), client.endpoint)
    assert error_code(answer) == 401
    assert not answer.has_integrity


def test_integrity_without_a_realm_is_a_bad_request(relay: RelayUnderTest) -> None:
    client = Client(relay)
    attributes = (RequestedTransport(17), Username(client.username))
    request = encode(Method.ALLOCATE, MessageClass.REQUEST, TRANSACTION, attributes, integrity_key=client.key)
    assert error_code(client.answer(request)) == 400


GENUINE = NonceMint(b"nonce secret").mint(Endpoint.parse("203.0.113.5:51000"), 1000 * SECOND)


@pytest.mark.parametrize(
    "nonce",
    [
        "",
        "no nonce of ours",
        VECTOR_NONCE,
        GENUINE[:-1] + ("0" if GENUINE[-1] != "0" else "1"),
        GENUINE + "00",
        "g" * len(GENUINE),
        "é" * len(GENUINE),
        NonceMint(b"another process").mint(Endpoint.parse("203.0.113.5:51000"), 1000 * SECOND),
        NonceMint(b"nonce secret").mint(Endpoint.parse("203.0.113.5:51001"), 1000 * SECOND),
    ],
)
def test_a_nonce_that_is_not_this_clients_is_stale_never_unauthorized(relay: RelayUnderTest, nonce: str) -> None:
    client = Client(relay)
    client.nonce = nonce
    answer = client.answer(client.request(Method.ALLOCATE, RequestedTransport(17)))
    assert error_code(answer) == 438
    client.nonce = attribute_of(answer, Nonce).value
    assert client.allocate()


def test_a_nonce_goes_stale_with_age_only(relay: RelayUnderTest) -> None:
    client = Client(relay)
    client.allocate()
    for _ in range(200):
        assert error_code(client.call(Method.REFRESH)) == 0
    relay.advance(NONCE_LIFETIME // SECOND + 1)
    assert error_code(client.answer(client.request(Method.REFRESH))) == 438


def test_an_expired_credential_is_unauthorized(relay: RelayUnderTest) -> None:
    client = Client(relay, expiry=relay.wall_now // SECOND - 1)
    assert error_code(client.call(Method.ALLOCATE, RequestedTransport(17))) == 401


def test_a_credential_counts_until_its_last_second(relay: RelayUnderTest) -> None:
    client = Client(relay, expiry=relay.wall_now // SECOND)
    assert client.allocate()


def test_a_wrong_password_is_refused_with_the_right_signature(relay: RelayUnderTest) -> None:
    right, wrong = Client(relay), Client(relay, secret="f" * 64)
    wrong.nonce = NonceMint(b"nonce secret").mint(wrong.endpoint, relay.now)
    answer = only_answer(wrong.send(wrong.request(Method.ALLOCATE, RequestedTransport(17))), wrong.endpoint)
    assert error_code(answer) == 401
    assert answer.verify_integrity(right.key)
    assert not relay.open_ports


def test_attributes_behind_integrity_do_not_count(relay: RelayUnderTest) -> None:
    client = Client(relay)
    client.nonce = NonceMint(b"nonce secret").mint(client.endpoint, relay.now)
    request = bytearray(client.request(Method.ALLOCATE, RequestedTransport(17)))
    request += bytes.fromhex("8000000402000000")  # ADDITIONAL-ADDRESS-FAMILY, behind MESSAGE-INTEGRITY
    request[2:4] = (len(request) - 20).to_bytes(2, "big")
    answer = client.answer(bytes(request))
    assert error_code(answer) == 0
    assert set(relay.open_ports.popitem()[1]) == {AddressFamily.IPV4}


@pytest.mark.parametrize("method", [Method.REFRESH, Method.CHANNEL_BIND, Method.CREATE_PERMISSION])
def test_every_method_but_binding_needs_credentials(relay: RelayUnderTest, method: Method) -> None:
    client = Client(relay)
    assert error_code(client.answer(client.request(method))) == 401


def test_an_undecodable_request_is_refused_and_signed(relay: RelayUnderTest) -> None:
    client = Client(relay)
    request = client.request(Method.ALLOCATE, RequestedTransport(17))
    broken = request.replace(bytes.fromhex("0019000411000000"), bytes.fromhex("0019000311000000"))
    assert error_code(client.answer(broken)) == 400


@pytest.mark.parametrize("method", [Method.SEND, Method.DATA, 0x00A])
def test_an_unknown_method_is_refused_and_signed(relay: RelayUnderTest, method: int) -> None:
    client = Client(relay)
    attributes = (Software(client.software), Username(client.username))
    assert error_code(client.answer(encode(method, MessageClass.REQUEST, TRANSACTION, attributes))) == 400


def test_an_unauthenticated_sender_grows_nothing(relay: RelayUnderTest) -> None:
    for port in range(1024, 1524):
        client = Client(relay, f"203.0.113.6:{port}", secret="guess")
        client.nonce = NonceMint(b"nonce secret").mint(client.endpoint, relay.now)
        client.send(
            client.request(Method.ALLOCATE, RequestedTransport(17), AdditionalAddressFamily(AddressFamily.IPV6))
        )
    assert relay.server.statistics().allocations == 0
    assert relay.server.poll_timeout() is None
    assert len(relay.server._requests._answers) == 0
    assert not relay.open_ports


@pytest.mark.parametrize("method", list(Method))
@pytest.mark.parametrize("attributes", [(), (Username("1:a"),)], ids=["bare", "with a username"])
def test_strangers_get_short_answers(method: Method, attributes: tuple[Attribute, ...]) -> None:
    """So that a forged source address brings little upon its owner: one answer, seven times as long at most."""
    relay = RelayUnderTest(software=SOFTWARE)
    request = encode(method, MessageClass.REQUEST, bytes(12), attributes)
    for stranger in ("203.0.113.6:1024", "[2001:db8:6::6]:1024"):
        answers = [
            output.transmit
            for output in relay.from_client(Endpoint.parse(stranger), request)
            if isinstance(output, ToClient)
        ]
        assert len(answers) <= 1
        assert sum(len(answer.run.data) for answer in answers) < 7 * len(request)


def test_secrets_stay_out_of_repr(relay: RelayUnderTest) -> None:
    client = Client(relay)
    credential, *_ = relay.server._authenticator._source.lookup(client.username)
    assert credential is not None
    assert credential.password not in repr(credential)
    assert SALT not in repr(credential)
