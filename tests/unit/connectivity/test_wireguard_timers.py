"""The timers of a tunnel, seen from outside: when it sends what, and when it gives up."""

from itertools import pairwise

import pytest

from connectivity.clock import MILLISECOND, SECOND, Instant
from connectivity.run import Run
from connectivity.wireguard import DATA, INITIATION, DropReason, HandshakeError, message_type
from connectivity.wireguard.timers import MAX_JITTER
from tests.unit.connectivity.wireguard_pair import ADDRESS_A, START, Pair, Side

KEEP_ALIVE_BYTES = 32


def test_initiations_repeat_after_5_s_and_jitter_until_15_s_have_passed() -> None:
    pair = Pair()
    pair.a.tunnel.initiate(pair.now, pair.wall_now)
    sent = sent_until(pair, pair.a, START + 20 * SECOND)
    times = [at for at, message in sent if message_type(message) == INITIATION]
    assert len(times) == 3
    for earlier, later in pairwise(times):
        assert 5 * SECOND <= later - earlier <= 5 * SECOND + MAX_JITTER
    assert pair.a.tunnel.expired
    assert pair.now == START + 15 * SECOND


def test_each_initiation_takes_a_new_index_and_a_higher_timestamp() -> None:
    pair = Pair()
    pair.a.tunnel.initiate(pair.now, pair.wall_now)
    sent = sent_until(pair, pair.a, START + 20 * SECOND)
    assert [message[4] for _, message in sent] == [1, 2, 3]


def test_an_expired_tunnel_refuses_everything_quietly() -> None:
    pair = Pair()
    assert pair.a.tunnel.seal(Run.single(b"queued"), pair.now) is None
    sent_until(pair, pair.a, START + 20 * SECOND)
    assert pair.a.tunnel.expired
    assert pair.a.tunnel.poll_timeout() is None
    assert pair.a.tunnel.seal(Run.single(b"more"), pair.now) is None
    pair.a.tunnel.initiate(pair.now, pair.wall_now)
    pair.a.tunnel.handle_timeout(pair.now, pair.wall_now)
    assert pair.a.drain() == []
    assert pair.a.tunnel.drops[DropReason.EXPIRED_TUNNEL] == 2
    with pytest.raises(HandshakeError):
        pair.a.tunnel.handle_handshake(bytes(148), ADDRESS_A, pair.now, pair.wall_now)


def test_a_tunnel_without_any_handshake_expires_after_540_s() -> None:
    pair = Pair()
    pair.advance(540 * SECOND - 1)
    assert not pair.a.tunnel.expired
    pair.advance(1)
    assert pair.a.tunnel.expired


def test_the_initiator_renews_after_120_s_if_it_has_sent_data() -> None:
    pair = connected()
    pair.send(pair.a, b"data")
    pair.send(pair.b, b"answer")
    pair.advance(120 * SECOND - 1)
    assert pair.b.completed == 1
    pair.advance(MAX_JITTER + 1)
    assert (pair.a.completed, pair.b.completed) == (2, 2)
    assert (pair.a.received, pair.b.received) == ([b"answer"], [b"data"])


def test_the_initiator_renews_after_165_s_if_it_has_only_received_data() -> None:
    pair = connected()
    pair.send(pair.b, b"data")
    pair.advance(165 * SECOND - 1)
    assert pair.b.completed == 1
    pair.advance(MAX_JITTER + 1)
    assert pair.b.completed == 2


def test_the_responder_never_renews_by_age() -> None:
    pair = connected()
    pair.send(pair.b, b"data")
    pair.send(pair.a, b"answer")
    deadline = pair.now + 179 * SECOND
    while pair.now < deadline:
        assert all(message_type(message) == DATA for message in only_b(pair, deadline))


def test_an_idle_session_is_rejected_at_180_s_and_renewed_by_its_initiator() -> None:
    pair = connected()
    pair.advance(180 * SECOND - 1)
    assert pair.a.tunnel.has_session
    assert pair.b.completed == 1
    pair.advance(1)
    assert not pair.b.tunnel.has_session
    pair.advance(MAX_JITTER)
    assert pair.a.tunnel.has_session
    assert pair.b.completed == 2


def test_the_initiator_stops_sending_at_170_s_and_the_responder_does_not() -> None:
    pair = connected()
    pair.now += 170 * SECOND - 1
    assert pair.a.tunnel.seal(Run.single(b"x"), pair.now) is not None
    pair.now += 1
    assert pair.a.tunnel.seal(Run.single(b"waits"), pair.now) is None
    sealed = pair.b.tunnel.seal(Run.single(b"goes"), pair.now)
    assert sealed is not None
    pair.deliver(bytes(sealed.data), pair.a)
    assert pair.a.received == [b"goes"]
    pair.wake(pair.a)
    pair.settle()
    assert pair.b.received == [b"waits"]


def test_messages_on_a_session_older_than_180_s_are_dropped() -> None:
    pair = connected()
    sealed = pair.b.tunnel.seal(Run.single(b"late"), pair.now)
    assert sealed is not None
    message = bytes(sealed.data)
    pair.now += 180 * SECOND
    pair.deliver(message, pair.a)
    assert pair.a.received == []
    assert pair.a.tunnel.drops == {DropReason.EXPIRED_SESSION: 1}


def test_a_keep_alive_answers_data_10_s_after_the_first_of_it() -> None:
    pair = connected()
    pair.send(pair.a, b"data")
    pair.now += 9 * SECOND
    pair.send(pair.a, b"more")
    assert sent_until(pair, pair.b, pair.now + SECOND - 1) == []
    ((at, message),) = sent_until(pair, pair.b, pair.now + 30 * SECOND)
    assert at == START + 10 * SECOND
    assert len(message) == KEEP_ALIVE_BYTES


def test_no_keep_alive_follows_when_something_was_sent_or_only_keep_alives_came() -> None:
    pair = connected()
    pair.send(pair.a, b"data")
    pair.now += SECOND
    sealed = pair.b.tunnel.seal(Run.single(b"answer"), pair.now)
    assert sealed is not None
    assert sent_until(pair, pair.b, pair.now + 14 * SECOND) == []


@pytest.mark.parametrize("role", ["a", "b"])
def test_data_without_any_reply_starts_a_handshake_15_s_after_the_first(role: str) -> None:
    pair = connected()
    side = pair.a if role == "a" else pair.b
    sent_at = pair.now
    for _ in range(12):
        assert side.tunnel.seal(Run.single(b"into the void"), pair.now) is not None
        pair.now += SECOND
    sent = [at for at, message in sent_until(pair, side, sent_at + 16 * SECOND) if message_type(message) == INITIATION]
    assert len(sent) == 1
    assert 15 * SECOND <= sent[0] - sent_at <= 15 * SECOND + MAX_JITTER


def test_a_keep_alive_counts_as_a_reply() -> None:
    pair = connected()
    pair.send(pair.a, b"data")
    pair.advance(60 * SECOND)
    assert (pair.a.completed, pair.b.completed) == (1, 1)


def test_a_lost_peer_expires_the_tunnel_after_the_no_reply_time_and_the_attempt_time() -> None:
    pair = connected()
    assert pair.a.tunnel.seal(Run.single(b"into the void"), pair.now) is not None
    sent_until(pair, pair.a, pair.now + 31 * SECOND)
    assert pair.a.tunnel.expired
    assert START + 30 * SECOND <= pair.now <= START + 30 * SECOND + MAX_JITTER


def test_a_peer_still_heard_on_an_older_session_is_not_given_up_for_lost_handshakes() -> None:
    pair = connected()
    pair.a.tunnel.initiate(pair.now, pair.wall_now)
    for _ in range(4):
        sent_until(pair, pair.a, pair.now + 10 * SECOND)  # none of it arrives
        pair.send(pair.b, b"data")
        assert not pair.a.tunnel.expired
    sent_until(pair, pair.a, pair.now + 31 * SECOND)
    assert pair.a.tunnel.expired


def test_jitter_spreads_over_its_range() -> None:
    waits = set()
    for number in range(30):
        pair = Pair(seed=bytes([number]))
        pair.connect()
        assert pair.a.tunnel.seal(Run.single(b"data"), pair.now) is not None
        for at, message in sent_until(pair, pair.a, START + 17 * SECOND):
            if message_type(message) == INITIATION:
                waits.add((at - START - 15 * SECOND) // (10 * MILLISECOND))
    assert len(waits) > 10
    assert all(0 <= wait <= 33 for wait in waits)


def test_traffic_in_both_directions_for_an_hour_never_stops() -> None:
    pair = connected()
    for number in range(360):
        pair.send(pair.a, b"a%d" % number)
        pair.send(pair.b, b"b%d" % number)
        pair.advance(10 * SECOND)
    assert pair.b.received == [b"a%d" % number for number in range(360)]
    assert pair.a.received == [b"b%d" % number for number in range(360)]
    assert 28 <= pair.a.completed <= 31


def connected() -> Pair:
    pair = Pair()
    pair.connect()
    return pair


def sent_until(pair: Pair, side: Side, end: Instant) -> list[tuple[Instant, bytes]]:
    """Wake one side at its deadlines up to ``end``, lose what it sends, and say what that was and when."""
    sent = [(pair.now, message) for message in side.drain()]
    while (deadline := side.tunnel.poll_timeout()) is not None and deadline <= end:
        pair.now = max(pair.now, deadline)
        pair.wake(side)
        sent += [(pair.now, message) for message in side.drain()]
    return sent


def only_b(pair: Pair, end: Instant) -> list[bytes]:
    """What b sends at its next deadline, or nothing at ``end``; a keeps silent but answers data."""
    deadline = pair.b.tunnel.poll_timeout()
    pair.now = end if deadline is None else min(end, deadline)
    pair.wake(pair.b)
    sent = pair.b.drain()
    for message in sent:
        pair.deliver(message, pair.a)
    return sent
