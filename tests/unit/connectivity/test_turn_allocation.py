"""The TURN client against a relay made of the codec: probing, authentication, refresh, refusals, freeing."""

import logging

import pytest

from connectivity.clock import SECOND
from connectivity.endpoint import Endpoint
from connectivity.ice.candidate import CandidateKind
from connectivity.stun import (
    AdditionalAddressFamily,
    AddressFamily,
    Attribute,
    Lifetime,
    Message,
    MessageClass,
    Method,
    Nonce,
    Realm,
    RequestedTransport,
    Software,
    UnknownAttributes,
    Username,
    XorMappedAddress,
    XorRelayedAddress,
    decode,
    encode,
)
from connectivity.turn.allocation import software_attribute
from tests.unit.connectivity.turn_bench import (
    KEY,
    LOCAL4,
    LOCAL6,
    MAPPED4,
    MAPPED6,
    MINUTE,
    PASSWORD,
    PEER,
    PEER2,
    RELAY4,
    RELAY6,
    RELAYED4,
    RELAYED6,
    SOFTWARE,
    START,
    USERNAME,
    Bench,
)


def test_the_opening_request_by_request() -> None:
    bench = Bench()
    binding = bench.request(Method.BINDING)
    assert binding.attributes == (Software(SOFTWARE),)
    assert not binding.has_integrity
    assert bench.answer(binding, XorMappedAddress(MAPPED4))
    assert bench.events() == [f"+host {LOCAL4}", f"+srflx {MAPPED4}"]
    first = bench.request(Method.ALLOCATE)
    shape = (RequestedTransport(17), AdditionalAddressFamily(AddressFamily.IPV6), Software(SOFTWARE))
    assert first.attributes == (*shape, Username(USERNAME), Realm("firezone"))
    assert first.verify_integrity(KEY)
    assert not first.has_fingerprint
    assert bench.refuse(first, 401, Realm("firezone"), Nonce("n1"))
    second = bench.request(Method.ALLOCATE)
    assert second.attributes == (*shape, Username(USERNAME), Realm("firezone"), Nonce("n1"))
    bench.answer_allocate(second)
    assert bench.events() == [f"+relay {RELAYED4}", f"+relay {RELAYED6}"]
    assert bench.allocation.relayed_address(4) == RELAYED4
    assert bench.allocation.relayed_address(6) == RELAYED6
    assert bench.allocation.active_socket == RELAY4
    kinds = [candidate.kind for candidate in bench.allocation.candidates()]
    assert kinds == [CandidateKind.HOST, CandidateKind.SRFLX, CandidateKind.RELAY, CandidateKind.RELAY]


def test_software_names_the_session_of_a_key() -> None:
    digest = "4A9043208F90A9EDCBC9845CB75B296FC9B7A1FE3A236A9235F7D8282FC300BE"  # of SESSION-ID and 32 zero bytes
    assert software_attribute(bytes(32)) == f"snownet; session={digest}"


def test_an_unanswered_binding_is_repeated_byte_by_byte_and_the_relay_freed() -> None:
    bench = Bench()
    first = bench.request(Method.BINDING)
    repeated = bench.advance(START + MINUTE)
    assert [at for at, _ in repeated] == [1.0, 2.5, 4.75]
    assert {message.transaction_id for _, message in repeated} == {first.transaction_id}
    assert bench.allocation.freed_reason == "no response, STUN may be blocked"


def test_an_unanswered_allocate_is_made_anew_each_time() -> None:
    bench = Bench()
    bench.answer(bench.request(Method.BINDING))
    first = bench.request(Method.ALLOCATE)
    repeated = bench.advance(START + MINUTE)
    assert [at for at, _ in repeated] == [1.0, 2.5, 4.75]
    assert len({first.transaction_id, *(message.transaction_id for _, message in repeated)}) == 4
    assert bench.allocation.freed_reason == "no response, STUN may be blocked"
    assert not bench.answer(first, Lifetime(600), XorRelayedAddress(RELAYED4)), "too late"


def test_the_address_that_answers_first_is_used() -> None:
    bench = Bench(RELAY4, RELAY6)
    (to4, at4), (to6, at6) = bench.sent()
    assert (at4, at6) == (RELAY4, RELAY6)
    bench.answer(to6, XorMappedAddress(MAPPED6), remote=RELAY6)
    assert bench.allocation.active_socket == RELAY6
    bench.answer(to4, XorMappedAddress(MAPPED4), remote=RELAY4)
    assert bench.allocation.active_socket == RELAY6
    [(allocate, destination)] = bench.sent()
    assert destination == RELAY6
    assert bench.events() == [f"+host {LOCAL6}", f"+srflx {MAPPED6}", f"+host {LOCAL4}", f"+srflx {MAPPED4}"]
    assert bench.answer(allocate, XorRelayedAddress(RELAYED4), Lifetime(600), remote=RELAY6)
    assert bench.allocation.relayed_address(6) is None


def test_silence_of_the_other_family_is_harmless() -> None:
    bench = Bench(RELAY4, RELAY6)
    (to4, _), _ = bench.sent()
    bench.answer(to4)
    bench.answer_allocate(bench.request(Method.ALLOCATE))
    bench.advance(START + 10 * SECOND)
    assert bench.allocation.active_socket == RELAY4
    assert bench.allocation.freed_reason is None


def test_a_changed_mapping_is_announced_before_the_old_one_goes() -> None:
    bench = Bench().allocated()
    [(at, keep_alive)] = bench.advance(START + 25 * SECOND)
    assert (at, keep_alive.method) == (25.0, Method.BINDING)
    moved = Endpoint(MAPPED4.ip, 40001)
    bench.answer(keep_alive, XorMappedAddress(moved))
    assert bench.events() == [f"+srflx {moved}", f"-srflx {MAPPED4}"]
    bench.answer(bench.request(Method.REFRESH), Lifetime(600))
    [(at, keep_alive)] = bench.advance(START + 50 * SECOND)
    assert at == 50.0
    bench.answer(keep_alive)
    assert bench.events() == [], "an answer without mapped address withdraws nothing"


def test_addresses_that_cannot_be_candidates_are_passed_over() -> None:
    bench = Bench()
    bench.answer(bench.request(Method.BINDING), XorMappedAddress(MAPPED6))
    assert bench.events() == [f"+host {LOCAL4}"]
    request = bench.request(Method.ALLOCATE)
    bench.answer(request, XorRelayedAddress(Endpoint.parse("224.0.0.1:50000")), Lifetime(600))
    assert bench.events() == []
    assert bench.allocation.poll_timeout() is None, "suspended"


def test_refresh_at_half_of_the_lifetime() -> None:
    bench = Bench().allocated()
    refreshed: list[float] = []

    def react(at: float, request: Message) -> None:
        if request.method == Method.REFRESH:
            refreshed.append(at)
            assert request.attributes[:2] == (RequestedTransport(17), AdditionalAddressFamily(AddressFamily.IPV6))
            assert request.get(Lifetime) is None
            bench.answer(request, Lifetime(1200))

    bench.keep_alive(START + 30 * MINUTE, react)
    assert refreshed == [300, 900, 1500]
    assert bench.events() == []


def test_a_refused_refresh_is_tried_again_with_growing_delays_until_the_allocation_expires() -> None:
    bench = Bench().allocated()
    refused: list[float] = []

    def react(at: float, request: Message) -> None:
        if request.method == Method.REFRESH:
            refused.append(at)
            bench.refuse(request, 500)

    allocates = [at for at, m in bench.keep_alive(START + 10 * MINUTE, react) if m.method == Method.ALLOCATE]
    assert refused == [300, 305, 315, 335, 375, 435, 495, 555]
    assert bench.events() == [f"-relay {RELAYED4}", f"-relay {RELAYED6}"]
    assert allocates == [600.0]


def test_a_lost_keep_alive_ends_the_allocation() -> None:
    bench = Bench().allocated()
    bench.advance(START + 40 * SECOND)
    assert bench.events() == [f"-relay {RELAYED4}", f"-relay {RELAYED6}"]
    assert bench.allocation.active_socket is None
    assert bench.allocation.freed_reason == "no response, STUN may be blocked"
    kinds = [candidate.kind for candidate in bench.allocation.candidates()]
    assert kinds == [CandidateKind.HOST, CandidateKind.SRFLX]


def test_freeing_waits_for_the_events_and_asks_for_a_wake_up() -> None:
    bench = Bench().allocated()
    bench.allocation.handle_timeout(bench.now + 25 * SECOND)
    bench.allocation.handle_timeout(bench.now + 34 * SECOND)
    bench.sent()
    assert bench.allocation.freed_reason is None
    assert bench.allocation.poll_timeout() == bench.now + 34 * SECOND
    assert bench.events() != []
    assert bench.allocation.freed_reason is not None


@pytest.mark.parametrize("key", [None, b"another key"])
def test_responses_without_our_integrity_do_not_count(key: bytes | None) -> None:
    bench = Bench()
    bench.answer(bench.request(Method.BINDING))
    request = bench.request(Method.ALLOCATE)
    assert not bench.refuse(request, 401, Realm("firezone"), Nonce("n1"), key=key)
    assert not bench.answer(request, XorRelayedAddress(RELAYED4), Lifetime(600), key=key)
    assert bench.sent() == []
    bench.answer_allocate(request)
    assert bench.allocation.relayed_address(4) == RELAYED4


def test_what_answers_nothing_is_not_ours() -> None:
    bench = Bench()
    binding = bench.request(Method.BINDING)
    stranger = Endpoint.parse("203.0.113.66:3478")
    assert not bench.allocation.matches(stranger)
    assert not bench.answer(binding, remote=stranger)
    assert not bench.allocation.handle_message(LOCAL4, RELAY4, binding, bench.now), "a request, not a response"
    assert not bench.allocation.handle_message(LOCAL6, RELAY4, _success(binding), bench.now), "families differ"
    other = Message(Method.ALLOCATE, MessageClass.SUCCESS, binding.transaction_id, ())
    assert not bench.allocation.handle_message(LOCAL4, RELAY4, other, bench.now)
    assert bench.answer(binding)
    assert not bench.answer(binding), "answered already"


def test_401_to_a_request_with_a_nonce_means_wrong_credentials() -> None:
    bench = Bench(RELAY4, RELAY6)
    (to4, _), _ = bench.sent()
    bench.answer(to4)
    bench.refuse(bench.request(Method.ALLOCATE), 401, Realm("firezone"), Nonce("n1"))
    bench.refuse(bench.request(Method.ALLOCATE), 401, Realm("firezone"), Nonce("n2"))
    assert bench.sent() == []
    bench.events()
    assert bench.allocation.freed_reason == "authentication error"
    bench.allocation.probe(bench.now)
    bench.allocation.bind_channel(PEER, bench.now)
    assert bench.sent() == []


def test_a_relay_that_calls_every_nonce_stale_is_not_believed_for_ever() -> None:
    bench = Bench()
    bench.answer(bench.request(Method.BINDING))
    for attempt in range(6):
        bench.refuse(bench.request(Method.ALLOCATE), 438, Realm("firezone"), Nonce(f"n{attempt}"))
    assert bench.sent() == []
    assert bench.allocation.poll_timeout() is None


@pytest.mark.parametrize("offered", [(Realm("elsewhere"), Nonce("n1")), (Realm("firezone"),)])
def test_a_foreign_realm_or_no_nonce_cannot_be_answered(offered: tuple[Attribute, ...]) -> None:
    bench = Bench()
    bench.answer(bench.request(Method.BINDING))
    bench.refuse(bench.request(Method.ALLOCATE), 401, *offered)
    assert bench.sent() == []


def test_437_to_allocate_deletes_the_old_allocation_first() -> None:
    bench = Bench()
    bench.answer(bench.request(Method.BINDING))
    bench.refuse(bench.request(Method.ALLOCATE), 437)
    delete = bench.request(Method.REFRESH)
    assert delete.attributes[:4] == (
        RequestedTransport(17),
        AdditionalAddressFamily(AddressFamily.IPV6),
        Software(SOFTWARE),
        Lifetime(0),
    )
    bench.answer(delete, Lifetime(0))
    bench.answer_allocate(bench.request(Method.ALLOCATE))
    assert bench.allocation.relayed_address(4) == RELAYED4


def test_437_to_refresh_allocates_anew() -> None:
    bench = Bench().allocated()
    bench.allocation.probe(bench.now)
    bench.refuse(bench.request(Method.REFRESH), 437)
    assert bench.events() == [f"-relay {RELAYED4}", f"-relay {RELAYED6}"]
    bench.answer_allocate(bench.request(Method.ALLOCATE))
    assert bench.events() == [f"+relay {RELAYED4}", f"+relay {RELAYED6}"]


def test_a_relay_that_sees_us_at_another_address_is_asked_at_once_what_it_holds_for_us() -> None:
    bench = Bench().allocated()
    [(_, keep_alive)] = bench.advance(START + 25 * SECOND)
    bench.answer(keep_alive, XorMappedAddress(Endpoint(MAPPED4.ip, 40001)))
    bench.refuse(bench.request(Method.REFRESH), 437)
    assert bench.events()[2:] == [f"-relay {RELAYED4}", f"-relay {RELAYED6}"]
    bench.answer_allocate(bench.request(Method.ALLOCATE))
    assert bench.allocation.relayed_address(4) == RELAYED4


def test_endless_mismatches_suspend_the_allocation() -> None:
    bench = Bench()
    bench.answer(bench.request(Method.BINDING))
    for _ in range(50):
        pending = bench.sent()
        if not pending:
            break
        for message, _ in pending:
            if message.method == Method.REFRESH:
                bench.answer(message, Lifetime(0))
            else:
                bench.refuse(message, 437)
    assert bench.sent() == []
    assert bench.allocation.poll_timeout() is None
    assert bench.allocation.freed_reason is None


def test_420_frees_the_relay() -> None:
    bench = Bench().allocated()
    bench.allocation.probe(bench.now)
    bench.refuse(bench.request(Method.REFRESH), 420, UnknownAttributes((0x8000,)))
    bench.events()
    assert bench.allocation.freed_reason == "protocol failure"


@pytest.mark.parametrize("code", [400, 403, 440, 441, 442, 486, 500, 508])
def test_a_refused_allocation_sleeps_until_it_is_probed(code: int) -> None:
    bench = Bench()
    bench.answer(bench.request(Method.BINDING))
    bench.allocation.bind_channel(PEER, bench.now)
    bench.refuse(bench.request(Method.ALLOCATE), code)
    assert bench.allocation.poll_timeout() is None
    assert bench.allocation.freed_reason is None
    bench.allocation.bind_channel(PEER2, bench.now)
    bench.allocation.probe(bench.now)
    assert bench.allocation.active_socket is None
    bench.answer(bench.request(Method.BINDING))
    bench.answer_allocate(bench.request(Method.ALLOCATE))
    assert bench.sent() == [], "the bindings were dropped with the refusal"


def test_a_probe_tells_within_a_second_that_the_relay_is_gone() -> None:
    bench = Bench().allocated()
    bench.allocation.probe(bench.now)
    bench.request(Method.REFRESH)
    assert bench.advance(START + SECOND) == []
    assert bench.events() == [f"-relay {RELAYED4}", f"-relay {RELAYED6}"]
    assert bench.allocation.freed_reason is not None


def test_a_probe_while_the_opening_is_under_way_changes_nothing() -> None:
    bench = Bench()
    bench.allocation.probe(bench.now)
    bench.answer(bench.request(Method.BINDING))
    bench.allocation.probe(bench.now)
    bench.answer_allocate(bench.request(Method.ALLOCATE))


def test_finished_transactions_are_told_to_their_own_target_without_secrets(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG):
        Bench().allocated()
    records = [record for record in caplog.records if record.name == "wire.turn"]
    assert [record.levelno for record in records] == [logging.DEBUG] * 3
    text = " ".join(str(vars(record)) for record in caplog.records)
    assert "'tid': '000000000000000000000001'" in text
    assert PASSWORD not in text
    assert "n1" not in text.replace("snownet", "")


def _success(request: Message) -> Message:
    return decode(encode(request.method, MessageClass.SUCCESS, request.transaction_id, []))
