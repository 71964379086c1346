"""Channels of a TURN client: bound ahead of the allocation, used in flight, refreshed, lost."""

from collections.abc import Callable

from connectivity.clock import SECOND
from connectivity.stun import (
    ChannelNumber,
    Lifetime,
    Message,
    Method,
    Nonce,
    Realm,
    Software,
    XorPeerAddress,
    XorRelayedAddress,
)
from tests.unit.connectivity.turn_bench import (
    KEY,
    MINUTE,
    PEER,
    PEER2,
    PEER6,
    RELAY4,
    RELAY6,
    RELAYED4,
    SOFTWARE,
    START,
    Bench,
)


def test_a_stale_nonce_is_replaced_for_all_later_requests() -> None:
    bench = Bench().allocated()
    bench.allocation.bind_channel(PEER, bench.now)
    bench.refuse(bench.request(Method.CHANNEL_BIND), 438, Realm("firezone"), Nonce("n2"))
    again = bench.request(Method.CHANNEL_BIND)
    assert again.get(Nonce) == Nonce("n2")
    assert bench.answer(again)
    assert bench.allocation.send_channel(PEER, bench.now) == (0x4000, RELAY4)
    bench.allocation.bind_channel(PEER2, bench.now)
    assert bench.request(Method.CHANNEL_BIND).get(Nonce) == Nonce("n2")


def test_437_to_a_channel_binding_binds_again_after_a_new_allocation() -> None:
    bench = Bench().allocated()
    for peer in (PEER, PEER2):
        bench.allocation.bind_channel(peer, bench.now)
    (first, _), _ = bench.sent()
    bench.refuse(first, 437)
    bench.answer_allocate(bench.request(Method.ALLOCATE))
    assert [message.get(XorPeerAddress) for message, _ in bench.sent()] == [XorPeerAddress(PEER), XorPeerAddress(PEER2)]


def test_bindings_wait_for_the_allocation() -> None:
    bench = Bench()
    for peer in (PEER, PEER2, PEER, PEER6):
        bench.allocation.bind_channel(peer, bench.now)
    bench.answer(bench.request(Method.BINDING))
    request = bench.request(Method.ALLOCATE)
    assert bench.answer(request, XorRelayedAddress(RELAYED4), Lifetime(600))
    sent = [(m.get(XorPeerAddress), m.get(ChannelNumber)) for m, _ in bench.sent()]
    assert sent == [(XorPeerAddress(PEER), ChannelNumber(0x4000)), (XorPeerAddress(PEER2), ChannelNumber(0x4001))]


def test_data_follows_a_binding_in_flight_and_no_second_one_is_sent() -> None:
    bench = Bench().allocated()
    assert bench.allocation.send_channel(PEER, bench.now) is None, "this packet is dropped, a binding starts"
    request = bench.request(Method.CHANNEL_BIND)
    assert request.attributes[:3] == (XorPeerAddress(PEER), ChannelNumber(0x4000), Software(SOFTWARE))
    assert request.verify_integrity(KEY)
    assert bench.allocation.send_channel(PEER, bench.now) == (0x4000, RELAY4)
    bench.allocation.bind_channel(PEER, bench.now)
    assert bench.allocation.receive_channel(RELAY4, 0x4000, bench.now) == PEER, "it may come before the answer"
    assert bench.sent() == []
    bench.answer(request)
    assert bench.allocation.receive_channel(RELAY4, 0x4000, bench.now) == PEER
    assert bench.allocation.receive_channel(RELAY6, 0x4000, bench.now) is None
    bench.allocation.bind_channel(PEER, bench.now)
    assert bench.sent() == []


def test_a_refused_channel_is_bound_again_by_the_next_packet() -> None:
    bench = Bench().allocated()
    bench.allocation.bind_channel(PEER, bench.now)
    bench.refuse(bench.request(Method.CHANNEL_BIND), 400)
    assert bench.allocation.send_channel(PEER, bench.now) is None
    assert bench.request(Method.CHANNEL_BIND).get(ChannelNumber) == ChannelNumber(0x4001)


def test_a_used_channel_is_refreshed_and_a_silent_one_lapses() -> None:
    bench = Bench().allocated()
    used, silent = bench.bound(PEER), bench.bound(PEER2)
    bench.allocation.receive_channel(RELAY4, used, bench.now + 1)
    refreshed = [m.get(ChannelNumber) for _, m in bench.keep_alive(START + 6 * MINUTE) if m.method == 9]
    assert refreshed == [ChannelNumber(used)]
    bench.keep_alive(START + 10 * MINUTE)
    assert bench.allocation.send_channel(PEER, bench.now) == (used, RELAY4)
    assert bench.allocation.send_channel(PEER2, bench.now) is None
    assert bench.request(Method.CHANNEL_BIND).get(ChannelNumber) == ChannelNumber(silent)


def test_a_lost_binding_ends_the_allocation() -> None:
    bench = Bench().allocated()
    bench.allocation.bind_channel(PEER, bench.now)
    bench.advance(START + 10 * SECOND)
    assert bench.allocation.send_channel(PEER, bench.now) is None
    assert bench.allocation.freed_reason is not None


def lose_binds(bench: Bench, heard: Callable[[float], None]) -> list[float]:
    """When an unanswered binding was sent in 25 s; ``heard`` is called at each of its copies."""
    bench.allocation.bind_channel(PEER2, bench.now)
    bench.request(Method.CHANNEL_BIND)
    times: list[float] = []

    def react(at: float, message: Message) -> None:
        if message.method == Method.CHANNEL_BIND:
            times.append(at)
            heard(at)

    while bench.now < START + 25 * SECOND and bench.allocation.freed_reason is None:
        for at, message in bench.advance(bench.allocation.poll_timeout() or bench.now):
            react(at, message)
    return times


def test_data_from_the_relay_proves_that_it_lives_and_what_was_lost_is_asked_again() -> None:
    bench = Bench().allocated()
    number = bench.bound(PEER)

    def data(_: float) -> None:
        assert bench.allocation.receive_channel(RELAY4, number, bench.now + SECOND) == PEER

    assert lose_binds(bench, data)[:8] == [1, 2.5, 4.75, 8.125, 9.125, 10.625, 12.875, 16.25]
    assert bench.allocation.relayed_address(4) == RELAYED4
    assert bench.allocation.send_channel(PEER, bench.now) == (number, RELAY4)


def test_data_from_before_the_last_copy_proves_nothing() -> None:
    bench = Bench().allocated()
    number = bench.bound(PEER)

    def data(at: float) -> None:
        if at < 4:
            bench.allocation.receive_channel(RELAY4, number, bench.now + SECOND)

    assert lose_binds(bench, data) == [1, 2.5, 4.75]
    assert bench.allocation.freed_reason is not None


def test_an_allocation_is_given_back_and_nothing_else_asked_for() -> None:
    bench = Bench().allocated()
    bench.bound(PEER)
    bench.allocation.delete(bench.now)
    first = bench.request(Method.REFRESH)
    assert first.get(Lifetime) == Lifetime(0)
    bench.refuse(first, 438, Realm("firezone"), Nonce("n2"))
    second = bench.request(Method.REFRESH)
    assert second.get(Lifetime) == Lifetime(0)
    assert bench.allocation.freed_reason is None
    bench.answer(second, Lifetime(0))
    bench.events()
    assert bench.sent() == []
    assert bench.allocation.freed_reason == "not needed any more"


def test_a_relay_that_does_not_take_its_allocation_back_is_not_waited_for() -> None:
    bench = Bench().allocated()
    bench.allocation.delete(bench.now)
    assert bench.request(Method.REFRESH).get(Lifetime) == Lifetime(0)
    asked = [at for at, message in bench.advance(START + MINUTE) if message.get(Lifetime) == Lifetime(0)]
    assert asked == [1.0, 2.5, 4.75]
    bench.events()
    assert bench.allocation.freed_reason == "not needed any more"
