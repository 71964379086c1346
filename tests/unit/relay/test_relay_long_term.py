"""Long-term credentials as RFC 8489 §9.2 has them: what a stand-alone relay asks for and tells."""

import json
import logging
from pathlib import Path

import pytest

from connectivity.clock import SECOND
from connectivity.stun import (
    ErrorCodeAttribute,
    Lifetime,
    Message,
    MessageClass,
    Method,
    Nonce,
    PasswordAlgorithm,
    PasswordAlgorithms,
    Realm,
    RequestedTransport,
    Software,
    Userhash,
    Username,
    XorPeerAddress,
    XorRelayedAddress,
    decode,
    encode,
    long_term_key,
    long_term_key_sha256,
)
from relay.core import CombinedCredentials, RestCredentials, StaticCredentials
from relay.core.statistics import CredentialRefusal
from tests.unit.relay.playbook import PEER4, RelayUnderTest, attribute_of, error_code, only_answer
from tests.unit.relay.standard import StandardClient, standalone

UDP = RequestedTransport(17)
OFFERED = PasswordAlgorithms((PasswordAlgorithm(2), PasswordAlgorithm(1)))
TRANSACTION = bytes(range(12))


@pytest.fixture
def relay() -> RelayUnderTest:
    return standalone()


def test_a_challenge_says_what_the_relay_can_do(relay: RelayUnderTest) -> None:
    client = StandardClient(relay)
    answer = client.answer(client.request(Method.ALLOCATE, UDP))
    assert error_code(answer) == 401
    assert [type(attribute) for attribute in answer.attributes] == [
        Software,
        ErrorCodeAttribute,
        Realm,
        Nonce,
        PasswordAlgorithms,
    ]
    assert attribute_of(answer, PasswordAlgorithms) == OFFERED
    assert attribute_of(answer, Realm).value == "example.org"
    assert len(attribute_of(answer, Nonce).value) < 128


@pytest.mark.parametrize(
    ("source", "features"),
    [
        (StaticCredentials({"alice": "secret"}), "AAAD"),
        (RestCredentials(["s"]), "AAAB"),
        (CombinedCredentials(StaticCredentials({"alice": "secret"}), RestCredentials(["s"])), "AAAB"),
    ],
)
def test_anonymity_is_offered_only_where_all_users_are_listed(
    source: StaticCredentials | RestCredentials | CombinedCredentials, features: str
) -> None:
    client = StandardClient(standalone(source=source))
    challenge = client.answer(client.request(Method.ALLOCATE, UDP))
    assert attribute_of(challenge, Nonce).value.startswith("obMatJos2" + features)


@pytest.mark.parametrize("algorithm", [None, 1, 2])
@pytest.mark.parametrize("is_sha256", [False, True])
@pytest.mark.parametrize("is_anonymous", [False, True])
def test_a_client_may_choose(relay: RelayUnderTest, algorithm: int | None, is_sha256: bool, is_anonymous: bool) -> None:
    client = StandardClient(relay, algorithm=algorithm, is_sha256=is_sha256, is_anonymous=is_anonymous)
    answer = client.call(Method.ALLOCATE, UDP)
    assert answer.message_class is MessageClass.SUCCESS
    assert error_code(client.call(Method.REFRESH)) == 0
    port = attribute_of(answer, XorRelayedAddress).endpoint.port
    view = relay.server.allocation(port)
    assert view is not None
    assert (view.username, view.user) == ("alice", "alice")


def test_a_refusal_of_an_authenticated_request_is_signed_like_it(relay: RelayUnderTest) -> None:
    client = StandardClient(relay, algorithm=2, is_sha256=True)
    answer = client.call(Method.REFRESH)
    assert error_code(answer) == 437
    assert answer.verify_integrity_sha256(client.key)
    assert not answer.has_integrity


def test_of_two_integrities_the_better_one_counts(relay: RelayUnderTest) -> None:
    client = StandardClient(relay)
    client.call(Method.REFRESH)
    block = (UDP, Username("alice"), Realm(relay.realm), Nonce(str(client.nonce)))
    for sha1, sha256, expected in ((b"wrong", client.key, 0), (client.key, b"wrong", 401)):
        request = encode(
            Method.ALLOCATE,
            MessageClass.REQUEST,
            TRANSACTION,
            block,
            integrity_key=sha1,
            integrity_sha256_key=sha256,
        )
        answer = only_answer(client.send(request), client.endpoint)
        assert error_code(answer) == expected
        assert answer.has_integrity_sha256 == (expected == 0)
        client.call(Method.REFRESH)


def without(
    message: bytes, *kinds: type, key: bytes, more: tuple[PasswordAlgorithm | PasswordAlgorithms, ...] = ()
) -> bytes:
    """The same request with other attributes, signed again."""
    known = decode(message)
    kept = tuple(attribute for attribute in known.attributes if not isinstance(attribute, kinds))
    return encode(known.method, known.message_class, known.transaction_id, (*kept, *more), integrity_key=key)


@pytest.mark.parametrize(
    ("missing", "more", "expected"),
    [
        ((Username,), (), 400),
        ((Realm,), (), 400),
        ((Nonce,), (), 400),
        ((PasswordAlgorithm,), (), 400),
        ((PasswordAlgorithms,), (), 400),
        ((PasswordAlgorithm,), (PasswordAlgorithm(3),), 400),
        ((PasswordAlgorithms,), (PasswordAlgorithms((PasswordAlgorithm(1),)),), 400),
        ((PasswordAlgorithms,), (PasswordAlgorithms((PasswordAlgorithm(1), PasswordAlgorithm(2))),), 400),
        ((PasswordAlgorithm, PasswordAlgorithms), (), 0),
        ((), (), 0),
    ],
)
def test_what_is_incomplete_or_was_not_offered_is_a_bad_request(
    relay: RelayUnderTest,
    missing: tuple[type, ...],
    more: tuple[PasswordAlgorithm | PasswordAlgorithms, ...],
    expected: int,
) -> None:
    client = StandardClient(relay, algorithm=1)
    client.call(Method.REFRESH)
    answer = client.answer(without(client.request(Method.ALLOCATE, UDP), *missing, key=client.key, more=more))
    assert error_code(answer) == expected
    assert answer.has_integrity == (expected == 0)


def test_nobody_on_the_way_can_take_features_back(relay: RelayUnderTest) -> None:
    """A nonce whose cookie was cut off or changed is not one of ours: the client is told again what there is."""
    client = StandardClient(relay)
    client.call(Method.REFRESH)
    genuine = str(client.nonce)
    for meddled in (
        genuine[13:],
        "obMatJos2AAAA" + genuine[13:],
        "obMatJos2AAAB" + genuine[13:],
        "obMatJos2" + genuine,
    ):
        client.nonce = meddled
        answer = client.answer(client.request(Method.ALLOCATE, UDP))
        assert error_code(answer) == 438
        assert attribute_of(answer, PasswordAlgorithms) == OFFERED
        assert not answer.has_integrity
    client.nonce = genuine
    assert error_code(client.call(Method.ALLOCATE, UDP)) == 0


def challenge_without_what_varies(answer: Message) -> list[object]:
    return [attribute for attribute in answer.attributes if not isinstance(attribute, Nonce)]


@pytest.mark.parametrize("is_anonymous", [False, True])
@pytest.mark.parametrize("stage", ["first", "signed", "stale nonce", "malformed"])
def test_known_and_unknown_users_are_refused_alike(relay: RelayUnderTest, is_anonymous: bool, stage: str) -> None:
    answers = []
    for name in ("alice", "mallory"):
        client = StandardClient(relay, username=name, password="a guess", is_anonymous=is_anonymous)
        if stage == "first":
            request = encode(Method.ALLOCATE, MessageClass.REQUEST, TRANSACTION, (UDP, Username(name)))
        else:
            client.call(Method.REFRESH)
            client.nonce = "stale" if stage == "stale nonce" else client.nonce
            request = client.request(Method.ALLOCATE, UDP, transaction_id=TRANSACTION)
        if stage == "malformed":
            request = request.replace(bytes.fromhex("0019000411000000"), bytes.fromhex("0019000311000000"))
        answers.append(client.answer(request))
    known, unknown = answers
    assert error_code(known) == {"first": 401, "signed": 401, "stale nonce": 438, "malformed": 400}[stage]
    assert challenge_without_what_varies(known) == challenge_without_what_varies(unknown)
    for answer in answers:
        assert not answer.has_integrity
        assert not answer.has_integrity_sha256


@pytest.mark.parametrize("is_anonymous", [False, True])
def test_whoever_does_not_exist_has_no_password_that_counts(relay: RelayUnderTest, is_anonymous: bool) -> None:
    """An unknown user is compared with a stand-in, so that it takes its time: nobody may be that."""
    client = StandardClient(relay, username="mallory", is_anonymous=is_anonymous)
    client.key = long_term_key("", relay.realm, "")
    assert error_code(client.call(Method.ALLOCATE, UDP)) == 401
    assert not relay.open_ports


def test_time_limited_names_end_and_secrets_may_be_replaced() -> None:
    now = 1_700_000_000
    source = RestCredentials(["current", "previous"])
    relay = standalone(source=source, wall_now=now * SECOND)
    for port, secret in enumerate(("current", "previous", "older"), 5000):
        name = f"{now + 10}:bob"
        (password, *_) = (credential.password for credential in RestCredentials([secret]).lookup(name))
        client = StandardClient(relay, f"203.0.113.5:{port}", username=name, password=password)
        assert error_code(client.call(Method.ALLOCATE, UDP)) == (401 if secret == "older" else 0)
    assert [view.user for view in relay.server.allocations()] == ["bob", "bob"]
    relay.advance(11)
    (password, *_) = (credential.password for credential in source.lookup(f"{now + 10}:bob"))
    late = StandardClient(relay, "203.0.113.5:6000", username=f"{now + 10}:bob", password=password)
    assert error_code(late.call(Method.ALLOCATE, UDP)) == 401


def test_a_name_in_milliseconds_is_noticed_once_it_has_proven_itself() -> None:
    now = 1_800_000_000
    source = RestCredentials(["current"])
    relay = standalone(source=source, wall_now=now * SECOND)
    names = (f"{now * 1000}:bob", f"{now + 10 * 365 * 86_400}:bob", f"{now * 1000}:bob")
    for port, (name, is_right, is_noticed) in enumerate(
        zip(names, (False, True, True), (False, False, True), strict=True), 5000
    ):
        (password,) = (credential.password for credential in source.lookup(name))
        client = StandardClient(relay, f"203.0.113.5:{port}", username=name, password=password if is_right else "wrong")
        assert error_code(client.call(Method.ALLOCATE, UDP)) == (0 if is_right else 401)
        assert bool(relay.server.names_in_milliseconds) == is_noticed


def test_a_call_may_last_longer_than_the_name_that_began_it() -> None:
    source = RestCredentials(["secret"])
    name, other = "1700000010:bob", "1700000011:bob"
    passwords = [source.lookup(found)[0].password for found in (name, other)]
    relay = standalone(source=source, wall_now=1_700_000_000 * SECOND, allow=("198.51.100.0/24",))
    client = StandardClient(relay, username=name, password=passwords[0])
    assert error_code(client.call(Method.ALLOCATE, UDP)) == 0
    for _ in range(10):
        relay.advance(500)
        answer = client.call(Method.REFRESH)
        if error_code(answer) == 438:  # once an hour
            client.learn(answer)
            answer = client.call(Method.REFRESH)
        assert error_code(answer) == 0
        assert error_code(client.call(Method.CREATE_PERMISSION, XorPeerAddress(PEER4))) == 0
        assert error_code(client.bind(0x4000, PEER4)) == 0
    # Neither another name that is over, nor a wrong password, nor anything new.
    for username, password in ((other, passwords[1]), (name, "wrong")):
        thief = StandardClient(relay, username=username, password=password)
        assert error_code(thief.call(Method.REFRESH)) == 401
    elsewhere = StandardClient(relay, "203.0.113.5:6000", username=name, password=passwords[0])
    assert error_code(elsewhere.call(Method.REFRESH)) == 401
    assert error_code(elsewhere.call(Method.ALLOCATE, UDP)) == 401
    relay.reconfigure()
    assert error_code(client.call(Method.REFRESH, Lifetime(0))) == 0
    for method in (Method.REFRESH, Method.ALLOCATE):
        assert error_code(client.call(method, UDP)) == 401


def test_listed_users_and_time_limited_names_may_be_mixed() -> None:
    rest = RestCredentials(["shared"])
    source = CombinedCredentials(StaticCredentials({"alice": "secret"}), rest)
    relay = standalone(source=source)
    name = "1893456000:bob"
    (bob,) = rest.lookup(name)
    for port, (username, password) in enumerate((("alice", "secret"), (name, bob.password)), 5000):
        client = StandardClient(relay, f"203.0.113.5:{port}", username=username, password=password)
        assert error_code(client.call(Method.ALLOCATE, UDP)) == 0


def test_another_user_of_the_same_address_is_refused(relay: RelayUnderTest) -> None:
    relay.source = StaticCredentials({"alice": "secret", "bob": "other"})
    relay.reconfigure()
    StandardClient(relay).call(Method.ALLOCATE, UDP)
    bob = StandardClient(relay, username="bob", password="other")
    assert error_code(bob.call(Method.REFRESH)) == 441


def test_nobody_is_taken_for_one_of_firezones_peers(relay: RelayUnderTest) -> None:
    """What they are spared would let one user act on another's allocation."""
    relay.source = StaticCredentials({"alice": "secret", "bob": "other"})
    relay.reconfigure()
    StandardClient(relay).call(Method.ALLOCATE, UDP)
    bob = StandardClient(relay, username="bob", password="other")
    assert error_code(bob.call(Method.REFRESH, Software("snownet"))) == 441


def test_rfc8489_appendix_b_user_is_found_and_verifies() -> None:
    """The example's password stands as it is after SASLprep, whatever the text around it says of OpaqueString."""
    vectors = json.loads((Path(__file__).parents[2] / "vectors" / "stun.json").read_text(encoding="utf-8"))
    entry = vectors["rfc8489_sha256_request"]
    message = decode(bytes.fromhex("".join(entry["hex"])))
    source = StaticCredentials({entry["username"]: entry["password"]})
    found = source.by_userhash(attribute_of(message, Userhash).value, entry["realm"])
    assert found is not None
    assert message.verify_integrity_sha256(long_term_key_sha256(found.username, entry["realm"], found.password))


def test_who_runs_the_relay_learns_why_credentials_do_not_count_and_the_client_does_not(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG, "relay")
    now = 1_700_000_000  # of the playbook's wall clock
    source = CombinedCredentials(StaticCredentials({"alice": "secret"}), RestCredentials(["s"]))
    relay = standalone(source=source)
    past, future = f"{now - 1}:bob", f"{now + 60}:bob"
    answers = []
    for host, (username, password, expected) in enumerate(
        (
            ("nobody", "secret", CredentialRefusal.UNKNOWN_USER),
            ("alice", "Secret", CredentialRefusal.WRONG_PASSWORD),
            (future, "secret", CredentialRefusal.WRONG_PASSWORD),
            (past, RestCredentials(["s"]).lookup(past)[0].password, CredentialRefusal.EXPIRED),
            (past, "secret", CredentialRefusal.WRONG_PASSWORD),
        )
    ):
        before = relay.server.statistics().credential_refusals
        client = StandardClient(relay, f"203.0.113.5:{51000 + host}", username=username, password=password)
        challenge = client.answer(client.request(Method.ALLOCATE, UDP))
        assert relay.server.statistics().credential_refusals == before  # it had none to refuse
        client.learn(challenge)
        answers.append(client.answer(client.request(Method.ALLOCATE, UDP)))
        after = relay.server.statistics().credential_refusals
        assert after == before | {expected: before.get(expected, 0) + 1}, username
        assert caplog.records[-1].__dict__["fields"]["reason"] == expected.value
    kinds = {tuple(type(attribute) for attribute in answer.attributes) for answer in answers}
    assert kinds == {(Software, ErrorCodeAttribute, Realm, Nonce, PasswordAlgorithms)}
    assert {attribute_of(answer, ErrorCodeAttribute) for answer in answers} == {ErrorCodeAttribute(401, "Unauthorized")}
    assert not any("nobody" in str(record.__dict__) or "secret" in str(record.__dict__) for record in caplog.records)


def test_a_client_of_another_realm_is_told_apart(relay: RelayUnderTest) -> None:
    client = StandardClient(relay)
    client.learn(client.answer(client.request(Method.ALLOCATE, UDP)))
    block = (UDP, Username("alice"), Realm("example.com"), Nonce(str(client.nonce)))
    key = long_term_key("alice", "example.com", "secret")
    request = encode(Method.ALLOCATE, MessageClass.REQUEST, TRANSACTION, block, integrity_key=key)
    assert error_code(client.answer(request)) == 401
    assert relay.server.statistics().credential_refusals == {CredentialRefusal.WRONG_REALM: 1}
