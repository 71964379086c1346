"""Which handshake messages are let in: mac1, the rate limit and cookies, with two tunnels under virtual time."""

import pytest

from connectivity.clock import MILLISECOND
from connectivity.wireguard import (
    COOKIE_REPLY,
    HandshakeError,
    HandshakeReason,
    KeyPair,
    Tunnel,
    message_type,
    peek_initiator,
)
from connectivity.wireguard.limiter import LIMIT
from tests.unit.connectivity.wireguard_pair import ADDRESS_A, ADDRESS_B, PRESHARED_KEY, Pair, stream


def test_peek_finds_the_initiator_and_checks_mac1_before_anything_else(monkeypatch: pytest.MonkeyPatch) -> None:
    pair = Pair()
    pair.a.tunnel.initiate(pair.now, pair.wall_now)
    (initiation,) = pair.a.drain()
    assert peek_initiator(pair.b.keys, memoryview(initiation)) == pair.a.keys.public

    def fail(*_: object) -> bytes:
        raise AssertionError("a Diffie-Hellman was computed for a forged message")

    monkeypatch.setattr(KeyPair, "exchange", fail)
    forged = initiation[:-32] + bytes(32)
    with pytest.raises(HandshakeError) as refused:
        peek_initiator(pair.b.keys, forged)
    assert refused.value.reason is HandshakeReason.INVALID_MAC1
    with pytest.raises(HandshakeError) as refused:
        peek_initiator(pair.b.keys, initiation[:-1])
    assert refused.value.reason is HandshakeReason.MALFORMED


def test_peek_with_a_valid_mac1_but_another_content_does_not_decrypt() -> None:
    pair = Pair()
    pair.a.tunnel.initiate(pair.now, pair.wall_now)
    (initiation,) = pair.a.drain()
    with pytest.raises(HandshakeError) as refused:
        peek_initiator(pair.a.keys, initiation)
    assert refused.value.reason is HandshakeReason.INVALID_MAC1


def test_a_counted_peek_is_not_counted_again_by_the_tunnel() -> None:
    pair = Pair()
    for _ in range(LIMIT):
        pair.now += MILLISECOND
        pair.a.tunnel.initiate(pair.now, pair.wall_now)
        (initiation,) = pair.a.drain()
        found = peek_initiator(pair.b.keys, initiation, limiter=pair.b.limiter, source_ip=ADDRESS_A, now=pair.now)
        assert found == pair.a.keys.public
        pair.deliver(initiation, pair.b)
        pair.settle()
    assert pair.b.completed == LIMIT
    pair.a.tunnel.initiate(pair.now, pair.wall_now)
    (initiation,) = pair.a.drain()
    with pytest.raises(HandshakeError) as refused:
        peek_initiator(pair.b.keys, initiation, limiter=pair.b.limiter, source_ip=ADDRESS_A, now=pair.now)
    assert refused.value.reason is HandshakeReason.UNDER_LOAD
    assert refused.value.reply is not None
    assert message_type(refused.value.reply) == COOKIE_REPLY


def test_under_load_a_cookie_is_demanded_and_lets_the_next_initiation_through() -> None:
    pair = Pair()
    flood(pair)
    pair.a.tunnel.initiate(pair.now, pair.wall_now)
    (initiation,) = pair.a.drain()
    assert initiation[-16:] == bytes(16)
    pair.deliver(initiation, pair.b)
    (reply,) = pair.b.drain()
    assert (message_type(reply), len(reply)) == (COOKIE_REPLY, 64)
    pair.deliver(reply, pair.a)
    assert pair.a.completed == 0  # a cookie is no session

    deadline = pair.a.tunnel.poll_timeout()
    assert deadline is not None
    pair.now = deadline
    flood(pair)
    pair.wake(pair.a)
    (initiation,) = pair.a.drain()
    assert initiation[-16:] != bytes(16)
    with pytest.raises(HandshakeError):
        peek_initiator(pair.b.keys, initiation, limiter=pair.b.limiter, source_ip=ADDRESS_B, now=pair.now)
    pair.deliver(initiation, pair.b)
    pair.settle()
    assert pair.b.tunnel.has_session


def test_a_cookie_reply_to_none_of_our_messages_is_refused() -> None:
    pair = Pair()
    flood(pair)
    pair.a.tunnel.initiate(pair.now, pair.wall_now)
    (initiation,) = pair.a.drain()
    pair.deliver(initiation, pair.b)
    (reply,) = pair.b.drain()
    forged = reply[:-1] + bytes([reply[-1] ^ 1])
    with pytest.raises(HandshakeError) as refused:
        pair.deliver(forged, pair.a)
    assert refused.value.reason is HandshakeReason.INVALID_COOKIE
    elsewhere = bytearray(reply)
    elsewhere[4] ^= 1
    with pytest.raises(HandshakeError) as refused:
        pair.deliver(bytes(elsewhere), pair.a)
    assert refused.value.reason is HandshakeReason.UNKNOWN_INDEX


def flood(pair: Pair) -> None:
    """Use up b's allowance of handshakes for this second, by messages with a right mac1 and no sense."""
    stranger = Tunnel(
        keys=KeyPair.generate(stream(b"flood")),
        peer_public_key=pair.b.keys.public,
        preshared_key=PRESHARED_KEY,
        connection_index=4,
        limiter=pair.a.limiter,
        rng=stream(b"flood rng"),
        now=pair.now,
    )
    stranger.initiate(pair.now, pair.wall_now)
    outgoing = stranger.poll_transmit()
    assert outgoing is not None
    for _ in range(LIMIT):
        assert pair.b.limiter.admit(outgoing.message, ADDRESS_B, pair.now) is None
