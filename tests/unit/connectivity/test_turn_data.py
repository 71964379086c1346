"""Channels of a TURN client: bound ahead of the allocation, used in flight, refreshed, lost."""

from connectivity.clock import SECOND
from connectivity.stun import (
    ChannelNumber,
    Lifetime,
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
    assert bench.allocation.receive_channel(RELAY4, 0x4000, bench.now) is None
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
