"""What the STUN decoder accepts, ignores, collects and refuses."""

import hmac
import struct
from ipaddress import IPv6Address

import pytest

from connectivity.endpoint import Endpoint
from connectivity.stun import (
    AddressErrorCode,
    AddressFamily,
    Attribute,
    ChannelNumber,
    Data,
    DecodeError,
    DecodeReason,
    DontFragment,
    ErrorCodeAttribute,
    EvenPort,
    Icmp,
    Lifetime,
    Message,
    MessageClass,
    Method,
    PasswordAlgorithm,
    PasswordAlgorithms,
    Realm,
    RequestedAddressFamily,
    RequestedTransport,
    ReservationToken,
    Software,
    UnknownAttributes,
    Userhash,
    Username,
    XorPeerAddress,
    XorRelayedAddress,
    decode,
    encode,
)

TID = bytes(range(12))
KEY = b"0123456789abcdef"


def test_message_types_follow_the_bit_pattern_of_rfc_8489() -> None:
    assert _encode(Method.ALLOCATE, MessageClass.ERROR)[:2] == b"\x01\x13"
    assert _encode(Method.CHANNEL_BIND, MessageClass.SUCCESS)[:2] == b"\x01\x09"
    assert _encode(Method.SEND, MessageClass.INDICATION)[:2] == b"\x00\x16"
    assert _encode(0xFFF, MessageClass.ERROR)[:2] == b"\x3f\xff"
    decoded = decode(_encode(0xABC, MessageClass.SUCCESS))
    assert (decoded.method, decoded.message_class) == (0xABC, MessageClass.SUCCESS)


def test_a_memoryview_may_be_reused_after_decoding() -> None:
    buffer = bytearray(_encode(Method.BINDING, MessageClass.REQUEST, Software("a"), key=KEY))
    message = decode(memoryview(buffer))
    buffer[:] = bytes(len(buffer))
    assert message.verify_integrity(KEY)
    assert message.get(Software) == Software("a")


def test_first_of_several_wins_and_all_are_there() -> None:
    peers = [XorPeerAddress(Endpoint.parse(f"192.0.2.{last}:1")) for last in (1, 2)]
    message = decode(_encode(Method.CREATE_PERMISSION, MessageClass.REQUEST, Realm("a"), *peers, Realm("b")))
    assert message.get(Realm) == Realm("a")
    assert message.get_all(XorPeerAddress) == tuple(peers)
    assert message.get(Lifetime) is None
    assert message.get_all(Lifetime) == ()


def test_unknown_types_are_collected_if_they_demand_comprehension() -> None:
    raw = _with(_raw(0x7FFF, b"ab"), _raw(0xC001, b"abc"), _raw(0x0099, b""), _raw(0x7FFF, b""))
    message = decode(raw)
    assert message.unknown_required == (0x7FFF, 0x0099)
    assert message.attributes == ()


def test_integrity_covers_unknown_attributes_and_padding_as_they_came() -> None:
    data = bytearray(_encode(Method.BINDING, MessageClass.REQUEST, Software("abc"), key=KEY))
    assert decode(bytes(data)).verify_integrity(KEY)
    data[27] ^= 0xFF  # the padding byte behind "abc"
    assert not decode(bytes(data)).verify_integrity(KEY)


def test_attributes_behind_integrity_are_ignored() -> None:
    signed = _encode(Method.ALLOCATE, MessageClass.REQUEST, RequestedTransport(17), key=KEY)
    message = decode(_append(signed, _raw(0x000D, struct.pack(">I", 5)), _raw(0x7001, b""), _raw(0x0008, bytes(20))))
    assert message.attributes == (RequestedTransport(17),)
    assert message.unknown_required == ()
    assert message.verify_integrity(KEY), "the length is adjusted to the end of MESSAGE-INTEGRITY"


def test_sha256_and_fingerprint_behind_integrity_count() -> None:
    data = encode(
        Method.BINDING,
        MessageClass.REQUEST,
        TID,
        [],
        integrity_key=KEY,
        integrity_sha256_key=KEY,
        fingerprint=True,
    )
    message = decode(data)
    assert message.verify_integrity(KEY)
    assert message.verify_integrity_sha256(KEY)
    assert message.verify_fingerprint()


def test_integrity_behind_sha256_is_ignored() -> None:
    data = encode(Method.BINDING, MessageClass.REQUEST, TID, [], integrity_sha256_key=KEY)
    message = decode(_append(data, _raw(0x0008, bytes(20)), _raw(0x000D, bytes(4))))
    assert not message.has_integrity
    assert message.attributes == ()
    assert message.verify_integrity_sha256(KEY)


def test_truncated_sha256_integrity_is_well_formed_and_proves_nothing() -> None:
    for length in (16, 20, 28):
        header = _with(_raw(0x001C, bytes(length)))[:20]
        proof = hmac.digest(KEY, header, "sha256")[:length]
        truncated = decode(_with(_raw(0x001C, proof)))
        assert truncated.has_integrity_sha256
        assert not truncated.verify_integrity_sha256(KEY)
    whole = hmac.digest(KEY, _with(_raw(0x001C, bytes(32)))[:20], "sha256")
    assert decode(_with(_raw(0x001C, whole))).verify_integrity_sha256(KEY)
    for length in (12, 17, 36):
        with pytest.raises(DecodeError):
            decode(_with(_raw(0x001C, bytes(length))))


def test_fingerprint_counts_only_at_the_end() -> None:
    data = encode(Method.BINDING, MessageClass.REQUEST, TID, [Software("x")], fingerprint=True)
    assert decode(data).verify_fingerprint()
    followed = decode(_append(data, _raw(0x8022, b"y")))
    assert followed.attributes == (Software("x"),)
    assert followed.has_fingerprint
    assert not followed.verify_fingerprint()


def test_fingerprint_notices_each_flipped_bit() -> None:
    data = encode(Method.BINDING, MessageClass.REQUEST, TID, [Lifetime(600)], fingerprint=True)
    for bit in range(8 * 8, 8 * len(data)):
        broken = bytearray(data)
        broken[bit // 8] ^= 1 << bit % 8
        try:
            assert not decode(bytes(broken)).verify_fingerprint()
        except DecodeError:
            continue


@pytest.mark.parametrize(
    "attribute",
    [
        XorRelayedAddress(Endpoint(IPv6Address("::ffff:192.0.2.1"), 65535)),
        Username("u" * 508),
        ErrorCodeAttribute(699, "\u00e4"),
        ErrorCodeAttribute(300),
        AddressErrorCode(AddressFamily.IPV6, 440, "no"),
        UnknownAttributes((1, 0xFFFF)),
        UnknownAttributes(()),
        Userhash(bytes(32)),
        PasswordAlgorithm(1, b"abcde"),
        PasswordAlgorithms((PasswordAlgorithm(2, b"abc"), PasswordAlgorithm(1))),
        ChannelNumber(0x4000),
        Data(b""),
        Data(b"12345"),
        RequestedAddressFamily(AddressFamily.IPV6),
        EvenPort(True),
        EvenPort(False),
        ReservationToken(b"12345678"),
        DontFragment(),
        Icmp(127, 511, b"\x00\x00\x05\x00"),
    ],
)
def test_attributes_survive_the_wire(attribute: Attribute) -> None:
    assert decode(_encode(Method.ALLOCATE, MessageClass.REQUEST, attribute)).attributes == (attribute,)


@pytest.mark.parametrize(
    ("number", "value", "reason"),
    [
        (0x0006, bytes(509), DecodeReason.ATTRIBUTE_LENGTH),
        (0x0006, b"\xff", DecodeReason.TEXT),
        (0x0014, bytes(763), DecodeReason.ATTRIBUTE_LENGTH),
        (0x0008, bytes(19), DecodeReason.ATTRIBUTE_LENGTH),
        (0x8028, bytes(3), DecodeReason.ATTRIBUTE_LENGTH),
        (0x0009, bytes(3), DecodeReason.ATTRIBUTE_LENGTH),
        (0x0009, b"\0\0\x02\0", DecodeReason.ATTRIBUTE_VALUE),
        (0x0009, b"\0\0\x04\x64", DecodeReason.ATTRIBUTE_VALUE),
        (0x000A, bytes(3), DecodeReason.ATTRIBUTE_LENGTH),
        (0x000C, bytes(2), DecodeReason.ATTRIBUTE_LENGTH),
        (0x000D, bytes(5), DecodeReason.ATTRIBUTE_LENGTH),
        (0x0012, bytes(3), DecodeReason.ATTRIBUTE_LENGTH),
        (0x0012, b"\0\x01" + bytes(18), DecodeReason.ATTRIBUTE_LENGTH),
        (0x0012, b"\0\x02" + bytes(6), DecodeReason.ATTRIBUTE_LENGTH),
        (0x0012, b"\0\x03" + bytes(6), DecodeReason.ADDRESS_FAMILY),
        (0x0017, b"\x01\0\0", DecodeReason.ATTRIBUTE_LENGTH),
        (0x0018, b"", DecodeReason.ATTRIBUTE_LENGTH),
        (0x001A, b"a", DecodeReason.ATTRIBUTE_LENGTH),
        (0x001D, b"", DecodeReason.ATTRIBUTE_LENGTH),
        (0x001D, b"\0\x02\0\x05", DecodeReason.ATTRIBUTE_LENGTH),
        (0x8002, b"\0\x02\0", DecodeReason.ATTRIBUTE_LENGTH),
        (0x8002, b"\0\x02\0\0" * 33, DecodeReason.ATTRIBUTE_LENGTH),
        (0x0022, bytes(7), DecodeReason.ATTRIBUTE_LENGTH),
        (0x8004, bytes(4), DecodeReason.ATTRIBUTE_LENGTH),
    ],
)
def test_malformed_attribute_says_what_to_answer(number: int, value: bytes, reason: DecodeReason) -> None:
    with pytest.raises(DecodeError) as caught:
        decode(_with(_raw(number, value)))
    error = caught.value
    assert error.reason is reason
    assert 20 <= error.offset <= 20 + 4 + len(value)
    assert (error.method, error.message_class) == (Method.BINDING, MessageClass.REQUEST)
    assert error.transaction_id == TID


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", DecodeReason.TOO_SHORT),
        (bytes(19), DecodeReason.TOO_SHORT),
        (bytes(20), DecodeReason.NOT_STUN),
        (b"\x40\x01\0\0\x21\x12\xa4\x42" + TID, DecodeReason.NOT_STUN),
        (b"\0\x01\0\x04\x21\x12\xa4\x42" + TID, DecodeReason.LENGTH),
        (b"\0\x01\0\x02\x21\x12\xa4\x42" + TID + b"ab", DecodeReason.LENGTH),
        (b"\0\x01\0\0\x21\x12\xa4\x42" + TID + bytes(4), DecodeReason.LENGTH),
    ],
)
def test_what_is_not_a_message_gives_no_header(data: bytes, reason: DecodeReason) -> None:
    with pytest.raises(DecodeError, match=reason.value) as caught:
        decode(data)
    assert caught.value.reason is reason
    assert caught.value.transaction_id is None


def test_truncation_at_every_byte_is_an_error() -> None:
    whole = encode(
        Method.ALLOCATE,
        MessageClass.REQUEST,
        TID,
        [Username("user"), XorPeerAddress(Endpoint.parse("[2001:db8::1]:7")), Data(b"abc")],
        integrity_key=KEY,
        fingerprint=True,
    )
    decode(whole)
    for length in range(len(whole)):
        with pytest.raises(DecodeError):
            decode(whole[:length])


def test_truncation_with_a_matching_length_field_never_reads_past_the_end() -> None:
    whole = encode(Method.ALLOCATE, MessageClass.REQUEST, TID, [Username("user"), Data(bytes(9))], integrity_key=KEY)
    boundaries = {20, 28, 44}  # behind the header and behind each attribute but the last
    for length in range(20, len(whole), 4):
        cut = bytearray(whole[:length])
        cut[2:4] = struct.pack(">H", length - 20)
        if length in boundaries:
            decode(bytes(cut))
            continue
        with pytest.raises(DecodeError) as caught:
            decode(bytes(cut))
        assert caught.value.reason is DecodeReason.TRUNCATED_ATTRIBUTE


@pytest.mark.parametrize(
    "attribute",
    [
        Username("u" * 509),
        Realm("r" * 763),
        Lifetime(1 << 32),
        Lifetime(-1),
        ErrorCodeAttribute(700),
        Userhash(bytes(31)),
        Icmp(128, 0),
        Data(bytes(0x10000)),
        Data(bytes(0xFFFC)),
        Realm("\ud800"),
    ],
)
def test_values_that_do_not_fit_are_the_callers_error(attribute: Attribute) -> None:
    with pytest.raises(ValueError):
        _encode(Method.ALLOCATE, MessageClass.REQUEST, attribute, key=KEY)


def test_header_values_that_do_not_fit_are_the_callers_error() -> None:
    with pytest.raises(ValueError, match="12 bits"):
        _encode(0x1000, MessageClass.REQUEST)
    with pytest.raises(ValueError, match="transaction id"):
        encode(Method.BINDING, MessageClass.REQUEST, bytes(11), [])


def test_a_message_made_by_hand_has_no_integrity() -> None:
    message = Message(Method.BINDING, MessageClass.REQUEST, TID, ())
    assert message == decode(_encode(Method.BINDING, MessageClass.REQUEST, key=KEY))
    assert not message.has_integrity
    assert not message.verify_integrity(KEY)
    assert not message.verify_integrity_sha256(KEY)
    assert not message.verify_fingerprint()


def _encode(method: int, message_class: MessageClass, *attributes: Attribute, key: bytes | None = None) -> bytes:
    return encode(method, message_class, TID, attributes, integrity_key=key)


def _raw(number: int, value: bytes) -> bytes:
    return struct.pack(">HH", number, len(value)) + value + bytes(-len(value) % 4)


def _with(*raw_attributes: bytes) -> bytes:
    return _append(_encode(Method.BINDING, MessageClass.REQUEST), *raw_attributes)


def _append(message: bytes, *raw_attributes: bytes) -> bytes:
    data = message + b"".join(raw_attributes)
    return data[:2] + struct.pack(">H", len(data) - 20) + data[4:]


@pytest.mark.parametrize(("count", "is_read"), [(256, True), (257, False), (16_000, False)])
def test_the_number_of_attributes_is_bounded(count: int, is_read: bool) -> None:
    """Anybody may send a datagram full of them; each costs time to read."""
    header = encode(Method.BINDING, MessageClass.REQUEST, bytes(12), ())
    attributes = b"".join(number.to_bytes(2, "big") + bytes(2) for number in range(0x3000, 0x3000 + count))
    message = header[:2] + len(attributes).to_bytes(2, "big") + header[4:] + attributes
    if is_read:
        assert len(decode(message).unknown_required) == count
        return
    with pytest.raises(DecodeError) as caught:
        decode(message)
    assert (caught.value.reason, caught.value.method) == (DecodeReason.TOO_MANY_ATTRIBUTES, Method.BINDING)
