"""Handshakes and sessions of two tunnels under virtual time."""

import pytest

from connectivity.clock import SECOND
from connectivity.packet_queue import MAX_WAITING
from connectivity.run import Run
from connectivity.wireguard import (
    INITIATION,
    RESPONSE,
    DropReason,
    HandshakeError,
    HandshakeReason,
    KeyPair,
    Tunnel,
    message_type,
    receiver_index,
)
from connectivity.wireguard.messages import sender_index
from tests.unit.connectivity.wireguard_pair import PRESHARED_KEY, Pair, Side, stream

KEEP_ALIVE_BYTES = 32


def test_handshake_ends_in_a_session_that_the_initiator_confirms_with_a_keep_alive() -> None:
    pair = Pair()
    pair.a.tunnel.initiate(pair.now, pair.wall_now)
    assert pair.a.tunnel.handshake_in_flight
    (initiation,) = pair.a.drain()
    assert (message_type(initiation), len(initiation)) == (INITIATION, 148)
    assert sender_index(initiation) == 0xAAAAAA << 8 | 1

    pair.deliver(initiation, pair.b)
    assert pair.b.completed == 1
    assert not pair.b.tunnel.has_session
    (response,) = pair.b.drain()
    assert (message_type(response), len(response)) == (RESPONSE, 92)
    assert receiver_index(response) == 0xAAAAAA << 8 | 1

    pair.deliver(response, pair.a)
    assert pair.a.completed == 1
    assert pair.a.tunnel.has_session
    assert not pair.a.tunnel.handshake_in_flight
    (keep_alive,) = pair.a.drain()
    assert len(keep_alive) == KEEP_ALIVE_BYTES
    assert receiver_index(keep_alive) == 0xBBBBBB << 8 | 1

    pair.deliver(keep_alive, pair.b)
    assert pair.b.tunnel.has_session
    assert pair.b.received == []
    assert pair.b.drain() == []


def test_responder_sends_nothing_before_the_first_data_and_then_its_queue() -> None:
    pair = Pair()
    pair.a.tunnel.initiate(pair.now, pair.wall_now)
    for message in pair.a.drain():
        pair.deliver(message, pair.b)
    assert pair.b.tunnel.seal(Run.single(b"early"), pair.now) is None
    for message in pair.b.drain():
        pair.deliver(message, pair.a)
    assert pair.a.received == []
    pair.settle()
    assert pair.a.received == [b"early"]


def test_packets_without_a_session_wait_for_the_handshake_that_they_cause() -> None:
    pair = Pair()
    packets = [bytes([number]) * (20 + number) for number in range(10)]
    for packet in packets:
        assert pair.a.tunnel.seal(Run.single(packet), pair.now) is None
    assert pair.a.tunnel.poll_timeout() == pair.now
    pair.wake(pair.a)
    pair.settle()
    assert pair.b.received == packets
    assert pair.b.completed == 1


def test_the_gateway_role_may_initiate_too() -> None:
    pair = Pair()
    pair.send(pair.b, b"from the responder side")
    pair.settle()
    assert pair.a.received == [b"from the responder side"]


def test_the_newest_256_packets_wait_each_once_and_with_its_tos() -> None:
    pair = Pair()
    packets = [number.to_bytes(2, "big") for number in range(300)]
    assert pair.a.tunnel.seal(Run(memoryview(b"".join(packets)), 2), pair.now, tos=0b10) is None
    assert pair.a.tunnel.seal(Run.single(packets[-1]), pair.now, tos=0b10) is None
    assert (pair.a.tunnel.waiting_packets, pair.a.tunnel.drops[DropReason.QUEUE_FULL]) == (MAX_WAITING, 44)
    pair.wake(pair.a)
    for outgoing in iter(pair.a.tunnel.poll_transmit, None):
        pair.deliver(outgoing.message, pair.b)
    for outgoing in iter(pair.b.tunnel.poll_transmit, None):
        pair.deliver(outgoing.message, pair.a)
    keep_alive, *waited = iter(pair.a.tunnel.poll_transmit, None)
    assert (keep_alive.tos, {outgoing.tos for outgoing in waited}) == (0, {0b10})
    for outgoing in waited:
        pair.deliver(outgoing.message, pair.b)
    assert pair.b.received == packets[-MAX_WAITING:]


def test_what_waits_when_the_connection_goes_is_counted() -> None:
    pair = Pair()
    pair.a.tunnel.keep(Run(memoryview(b"abc"), 1), 0)
    pair.a.tunnel.discard()
    assert (pair.a.tunnel.waiting_packets, pair.a.tunnel.drops[DropReason.EXPIRED_TUNNEL]) == (0, 3)


def test_packets_flow_both_ways_in_runs() -> None:
    pair = Pair()
    pair.connect()
    plain = bytes(number % 251 for number in range(50 * 1280 + 700))
    sealed = pair.a.tunnel.seal(Run(memoryview(plain), 1280), pair.now, headroom=4)
    assert sealed is not None
    assert sealed.segment_size == 1316
    assert len(sealed.data) == 50 * 1316 + 736
    opened = pair.b.tunnel.open(sealed, pair.now, headroom=4)
    assert opened is not None
    assert (bytes(opened.data), opened.segment_size) == (plain, 1280)
    answer = pair.b.tunnel.seal(Run.single(b"answer"), pair.now)
    assert answer is not None
    assert len(answer.data) == len(b"answer") + 32  # no padding
    opened = pair.a.tunnel.open(answer, pair.now)
    assert opened is not None
    assert bytes(opened.data) == b"answer"


def test_replays_and_strangers_are_counted_and_change_nothing() -> None:
    pair = Pair()
    pair.connect()
    sealed = pair.a.tunnel.seal(Run.single(b"once"), pair.now)
    assert sealed is not None
    message = bytes(sealed.data)
    pair.deliver(message, pair.b)
    pair.deliver(message, pair.b)
    forged = bytearray(message)
    forged[8] += 1
    pair.deliver(bytes(forged), pair.b)
    stranger = bytearray(message)
    stranger[4] += 1
    pair.deliver(bytes(stranger), pair.b)
    same_slot = bytearray(message)
    same_slot[4] += 8
    pair.deliver(bytes(same_slot), pair.b)
    assert pair.b.tunnel.open(Run.single(message[:20]), pair.now) is None
    assert pair.b.received == [b"once"]
    assert pair.b.tunnel.drops == {
        DropReason.DUPLICATE: 1,
        DropReason.NOT_AUTHENTIC: 1,
        DropReason.UNKNOWN_SESSION: 2,
        DropReason.MALFORMED: 1,
    }


def test_late_packets_of_the_previous_session_still_open() -> None:
    pair = Pair()
    pair.connect()
    late = pair.a.tunnel.seal(Run.single(b"late"), pair.now)
    assert late is not None
    message = bytes(late.data)
    pair.now += 25 * SECOND
    pair.connect()
    pair.send(pair.a, b"new")
    pair.deliver(message, pair.b)
    assert pair.b.received == [b"new", b"late"]
    # The late packet did not bring the old session back: what b sends now names the new one.
    sealed = pair.b.tunnel.seal(Run.single(b"x"), pair.now)
    assert sealed is not None
    assert receiver_index(sealed.data) == 0xAAAAAA << 8 | 2


def test_indices_wrap_in_the_low_byte_and_sessions_in_a_ring() -> None:
    pair = Pair()
    for number in range(1, 300):
        pair.now += SECOND
        pair.connect()
        sealed = pair.b.tunnel.seal(Run.single(b"x"), pair.now)
        assert sealed is not None
        assert receiver_index(sealed.data) == 0xAAAAAA << 8 | number & 0xFF
        pair.deliver(bytes(sealed.data), pair.a)
    assert len(pair.a.received) == 299


def test_simultaneous_initiations_leave_one_working_tunnel() -> None:
    pair = Pair()
    pair.a.tunnel.initiate(pair.now, pair.wall_now)
    pair.b.tunnel.initiate(pair.now, pair.wall_now)
    pair.settle()
    assert not pair.a.tunnel.handshake_in_flight
    assert not pair.b.tunnel.handshake_in_flight
    pair.send(pair.a, b"to b")
    pair.send(pair.b, b"to a")
    assert (pair.a.received, pair.b.received) == ([b"to a"], [b"to b"])


def test_a_received_initiation_ends_our_series_but_its_late_response_counts() -> None:
    pair = Pair()
    pair.b.tunnel.initiate(pair.now, pair.wall_now)
    (ours,) = pair.b.drain()
    pair.connect()
    assert not pair.b.tunnel.handshake_in_flight
    pair.now += SECOND
    pair.deliver(ours, pair.a)
    pair.settle()
    assert pair.b.completed == 2
    pair.send(pair.b, b"on the session of the late response")
    assert pair.a.received == [b"on the session of the late response"]


def test_the_response_to_the_previous_initiation_counts_and_the_one_before_does_not() -> None:
    pair = Pair()
    initiations = []
    pair.a.tunnel.initiate(pair.now, pair.wall_now)
    for _ in range(3):
        initiations += pair.a.drain()
        if len(initiations) < 3:
            deadline = pair.a.tunnel.poll_timeout()
            assert deadline is not None
            pair.now = deadline
            pair.wake(pair.a)
    responses = []
    for message in initiations:
        pair.deliver(message, pair.b)
        responses += pair.b.drain()
    with pytest.raises(HandshakeError) as refused:
        pair.deliver(responses[0], pair.a)
    assert refused.value.reason is HandshakeReason.UNKNOWN_INDEX
    pair.deliver(responses[1], pair.a)
    pair.deliver(responses[2], pair.a)
    pair.settle()
    assert pair.a.completed == 2
    pair.send(pair.a, b"through")
    assert pair.b.received == [b"through"]


def test_a_response_that_was_held_back_for_15_s_does_not_count() -> None:
    pair = Pair()
    pair.b.tunnel.initiate(pair.now, pair.wall_now)
    for message in pair.b.drain():
        pair.deliver(message, pair.a)
    (held_back,) = pair.a.drain()
    pair.connect()
    pair.now += 15 * SECOND
    with pytest.raises(HandshakeError) as refused:
        pair.deliver(held_back, pair.b)
    assert refused.value.reason is HandshakeReason.UNKNOWN_INDEX


def test_a_ring_full_of_unconfirmed_sessions_ends_the_one_in_use_and_heals() -> None:
    pair = Pair()
    pair.connect()
    for number in range(8):  # a peer that restarts with its old key again and again
        pair.now += SECOND
        restarted = Side(pair.a.keys, pair.b.keys, index=number, seed=bytes([number]), preshared_key=PRESHARED_KEY)
        restarted.tunnel.initiate(pair.now, pair.wall_now)
        (initiation,) = restarted.drain()
        pair.deliver(initiation, pair.b)
        pair.b.drain()
    assert not pair.b.tunnel.has_session
    pair.now += SECOND
    pair.connect()
    pair.send(pair.b, b"healed")
    assert pair.a.received == [b"healed"]


def test_a_replayed_initiation_is_stale() -> None:
    pair = Pair()
    pair.a.tunnel.initiate(pair.now, pair.wall_now)
    (initiation,) = pair.a.drain()
    pair.deliver(initiation, pair.b)
    with pytest.raises(HandshakeError) as refused:
        pair.deliver(initiation, pair.b)
    assert refused.value.reason is HandshakeReason.STALE_TIMESTAMP


def test_initiations_are_accepted_though_the_wall_clock_stands_still() -> None:
    pair = Pair()
    for _ in range(3):
        pair.a.tunnel.initiate(pair.now, 1_000)
        pair.settle()
        pair.now += SECOND
    assert pair.b.completed == 3


def test_another_preshared_key_lets_no_handshake_finish() -> None:
    pair = Pair(preshared_key_b=bytes(32))
    pair.a.tunnel.initiate(pair.now, pair.wall_now)
    for message in pair.a.drain():
        pair.deliver(message, pair.b)
    (response,) = pair.b.drain()
    with pytest.raises(HandshakeError) as refused:
        pair.deliver(response, pair.a)
    assert refused.value.reason is HandshakeReason.NOT_AUTHENTIC
    assert not pair.a.tunnel.has_session


def test_an_initiation_of_another_peer_is_refused() -> None:
    pair = Pair()
    other = Tunnel(
        keys=KeyPair.generate(stream(b"other")),
        peer_public_key=pair.b.keys.public,
        preshared_key=PRESHARED_KEY,
        connection_index=3,
        limiter=pair.a.limiter,
        rng=stream(b"other rng"),
        now=pair.now,
    )
    other.initiate(pair.now, pair.wall_now)
    outgoing = other.poll_transmit()
    assert outgoing is not None
    with pytest.raises(HandshakeError) as refused:
        pair.deliver(outgoing.message, pair.b)
    assert refused.value.reason is HandshakeReason.WRONG_PEER


@pytest.mark.parametrize("message", [b"", b"\x01\0\0\0", bytes(148), b"\x05" + bytes(147), b"\x01\0\0\1" + bytes(144)])
def test_what_is_no_handshake_message_is_malformed(message: bytes) -> None:
    with pytest.raises(HandshakeError) as refused:
        Pair().deliver(message, Pair().a)
    assert refused.value.reason is HandshakeReason.MALFORMED
