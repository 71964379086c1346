"""Layouts, indices, keys, timestamps, cookies: the small parts."""

from ipaddress import IPv4Address, IPv6Address

import pytest

from connectivity.clock import SECOND
from connectivity.wireguard import KeyPair, RateLimiter, format_index, format_key, message_type, receiver_index
from connectivity.wireguard.cookie import COOKIE_LIFETIME, SECRET_LIFETIME, Stamper, Verifier
from connectivity.wireguard.errors import HandshakeError, HandshakeReason
from connectivity.wireguard.index import IndexSequence, connection_of
from connectivity.wireguard.messages import CookieReply, Initiation, Response, sender_index
from connectivity.wireguard.tai64n import TimestampClock, encode
from tests.unit.connectivity.wireguard_pair import stream

ADDRESS = IPv4Address("192.0.2.1")
# The responder of the Noise vectors
PRIVATE = bytes.fromhex("4a3acbfdb163dec651dfa3194dece676d437029c62a408b4c5ea9114246e4893")
PUBLIC = bytes.fromhex("31e0303fd6418d2f8c0e78b91f22e8caed0fbe48656dcf4767e4834f701b8f62")


@pytest.mark.parametrize(
    ("head", "length", "kind"),
    [
        ("01000000", 148, 1), ("01000000", 147, None), ("01000000", 149, None), ("02000000", 92, 2),
        ("02000000", 91, None), ("03000000", 64, 3), ("03000000", 65, None), ("04000000", 32, 4),
        ("04000000", 31, None), ("04000000", 1312, 4), ("04000001", 64, None), ("04010000", 64, None),
        ("00000000", 64, None), ("05000000", 64, None), ("010000", 3, None), ("", 0, None),
    ],
)  # fmt: skip
def test_message_type_is_told_by_length_and_the_first_four_bytes(head: str, length: int, kind: int | None) -> None:
    data = bytes.fromhex(head).ljust(length, b"\xff")
    assert message_type(data) == kind
    assert message_type(memoryview(data)) == kind


def test_layouts_put_each_field_where_the_protocol_has_it() -> None:
    initiation = Initiation(0x04030201, b"e" * 32, b"s" * 48, b"t" * 28)
    body = initiation.body()
    assert body == b"\x01\0\0\0\x01\x02\x03\x04" + b"e" * 32 + b"s" * 48 + b"t" * 28
    assert Initiation.decode(body + bytes(32)) == initiation
    response = Response(0x04030201, 0x08070605, b"e" * 32, b"n" * 16)
    body = response.body()
    assert body == b"\x02\0\0\0\x01\x02\x03\x04\x05\x06\x07\x08" + b"e" * 32 + b"n" * 16
    assert Response.decode(memoryview(body + bytes(32))) == response
    assert (sender_index(body), receiver_index(body)) == (0x04030201, 0x08070605)
    reply = CookieReply(0x04030201, b"n" * 24, b"c" * 32)
    assert reply.encode() == b"\x03\0\0\0\x01\x02\x03\x04" + b"n" * 24 + b"c" * 32
    assert CookieReply.decode(reply.encode()) == reply
    assert receiver_index(b"\x04\0\0\0\x01\x02\x03\x04") == 0x04030201


@pytest.mark.parametrize("kind", [Initiation, Response, CookieReply])
def test_a_message_of_another_kind_is_malformed(kind: type[Initiation | Response | CookieReply]) -> None:
    for data in (b"", b"\x04\0\0\0" + bytes(60), bytes(148), bytes(92), bytes(64)):
        with pytest.raises(HandshakeError) as refused:
            kind.decode(data)
        assert refused.value.reason is HandshakeReason.MALFORMED


def test_indices_count_from_one_and_wrap_inside_the_low_byte() -> None:
    indices = IndexSequence(0xABCDEF)
    drawn = [indices.next() for _ in range(257)]
    assert drawn[0] == 0xABCDEF01
    assert drawn[254:] == [0xABCDEFFF, 0xABCDEF00, 0xABCDEF01]
    assert {connection_of(index) for index in drawn} == {0xABCDEF}


@pytest.mark.parametrize("index", [-1, 1 << 24])
def test_a_connection_index_has_24_bits(index: int) -> None:
    with pytest.raises(ValueError, match="24 bits"):
        IndexSequence(index)


def test_an_index_is_shown_as_connection_and_session() -> None:
    assert format_index(3428714 << 8 | 1) == "(3428714|1)"


def test_a_key_is_shown_as_unsigned_256_bit_decimal() -> None:
    expected = "454086624460063511464984254936031011189294057512315937409637584344757371137"
    assert format_key(b"\x01" * 32) == expected


def test_a_key_pair_hides_its_private_key_and_compares_by_its_public_key() -> None:
    pair = KeyPair.from_private(PRIVATE)
    assert pair.public == PUBLIC
    assert PRIVATE.hex() not in repr(pair)
    assert repr(PRIVATE) not in repr(pair)
    assert pair == KeyPair.from_private(PRIVATE)
    assert pair != KeyPair.generate(stream(b"other"))
    with pytest.raises(ValueError, match="32"):
        KeyPair.from_private(bytes(31))


def test_timestamps_have_the_base_of_the_peers_and_always_increase() -> None:
    assert encode(0).hex() == "400000000000002500000000"
    assert encode(1_700_000_000 * SECOND + 5).hex() == f"{(1 << 62) + 37 + 1_700_000_000:016x}00000005"
    clock = TimestampClock()
    walls = [10 * SECOND, 10 * SECOND, 11 * SECOND, 3 * SECOND, 12 * SECOND]
    drawn = [clock.next(wall) for wall in walls]
    assert drawn == sorted(set(drawn))
    assert drawn[4] == encode(12 * SECOND)


def test_a_cookie_is_used_for_120_s_and_then_forgotten() -> None:
    stamper, reply = stamper_and_reply()
    stamper.handle_reply(reply, 0)
    assert stamper.stamp(BODY, COOKIE_LIFETIME - 1)[-16:] != bytes(16)
    assert stamper.stamp(BODY, COOKIE_LIFETIME)[-16:] == bytes(16)


def test_mac2_holds_for_the_address_that_got_the_cookie_while_the_secret_lives() -> None:
    public = KeyPair.generate(stream(b"receiver")).public
    verifier = Verifier(public, stream(b"rng"))
    stamper = Stamper(public)
    first = stamper.stamp(BODY, 0)
    verifier.check_mac1(first)
    assert not verifier.has_mac2(first, ADDRESS, 0)
    stamper.handle_reply(CookieReply.decode(verifier.reply(first, ADDRESS, 0)), 0)
    second = stamper.stamp(BODY, 1)
    assert verifier.has_mac2(second, ADDRESS, SECRET_LIFETIME - 1)
    assert not verifier.has_mac2(second, IPv4Address("192.0.2.2"), 1)
    assert not verifier.has_mac2(second, IPv6Address("2001:db8::1"), 1)
    assert not verifier.has_mac2(second, ADDRESS, SECRET_LIFETIME)


def test_the_limiter_lets_100_a_second_through_and_counts_no_forgeries() -> None:
    public = KeyPair.generate(stream(b"receiver")).public
    limiter = RateLimiter(public, stream(b"rng"))
    message = Stamper(public).stamp(BODY, 0)
    forged = message[:-17] + b"\0" + message[-16:]
    for now in range(100):
        with pytest.raises(HandshakeError):
            limiter.admit(forged, ADDRESS, now)
        assert limiter.admit(message, ADDRESS, now) is None
    reply = limiter.admit(message, ADDRESS, SECOND - 1)
    assert reply is not None
    assert message_type(reply) == 3
    assert limiter.admit(message, ADDRESS, SECOND) is None


def test_the_limiter_remembers_a_charged_message_once() -> None:
    public = KeyPair.generate(stream(b"receiver")).public
    limiter = RateLimiter(public, stream(b"rng"), limit=2)
    message = Stamper(public).stamp(BODY, 0)
    assert limiter.admit_once(message, ADDRESS, 0) is None
    assert limiter.admit(message, ADDRESS, 0) is None
    assert limiter.admit(message, ADDRESS, 0) is None
    assert limiter.admit(message, ADDRESS, 0) is not None


BODY = Initiation(7, b"e" * 32, b"s" * 48, b"t" * 28).body()


def stamper_and_reply() -> tuple[Stamper, CookieReply]:
    public = KeyPair.generate(stream(b"receiver")).public
    stamper = Stamper(public)
    message = stamper.stamp(BODY, 0)
    return stamper, CookieReply.decode(Verifier(public, stream(b"rng")).reply(message, ADDRESS, 0))
