"""The STUN codec over all values and over all bytes."""

import hmac
import struct
from ipaddress import IPv4Address, IPv6Address

from hypothesis import example, given
from hypothesis import strategies as st

from connectivity.endpoint import Endpoint
from connectivity.stun import (
    AdditionalAddressFamily,
    AddressErrorCode,
    AddressFamily,
    AlternateDomain,
    AlternateServer,
    Attribute,
    ChannelNumber,
    Data,
    DecodeError,
    DontFragment,
    ErrorCodeAttribute,
    EvenPort,
    IceControlled,
    IceControlling,
    Icmp,
    Lifetime,
    MappedAddress,
    Message,
    MessageClass,
    Nonce,
    PasswordAlgorithm,
    PasswordAlgorithms,
    Priority,
    Realm,
    RequestedAddressFamily,
    RequestedTransport,
    ReservationToken,
    Software,
    UnknownAttributes,
    UseCandidate,
    Userhash,
    Username,
    XorMappedAddress,
    XorPeerAddress,
    XorRelayedAddress,
    decode,
    encode,
)
from connectivity.stun.attribute_table import ROWS
from connectivity.stun.integrity import integrity_sha1, integrity_sha256

U16, U32, U64 = (st.integers(0, (1 << bits) - 1) for bits in (16, 32, 64))
ENDPOINT = st.builds(
    Endpoint, st.builds(IPv4Address, U32) | st.builds(IPv6Address, st.integers(0, (1 << 128) - 1)), U16
)
TEXT = st.text(st.characters(codec="utf-8"), max_size=120)
FAMILY = st.sampled_from(AddressFamily)
CODE = st.integers(300, 699)
ALGORITHM = st.builds(PasswordAlgorithm, U16, st.binary(max_size=9))

STRATEGIES: dict[type[Attribute], st.SearchStrategy[Attribute]] = {
    **{
        kind: st.builds(kind, ENDPOINT)
        for kind in (MappedAddress, XorMappedAddress, XorPeerAddress, XorRelayedAddress, AlternateServer)
    },
    **{kind: st.builds(kind, TEXT) for kind in (Username, Realm, Nonce, Software, AlternateDomain)},
    **{kind: st.builds(kind, U32) for kind in (Lifetime, Priority)},
    **{kind: st.builds(kind, U64) for kind in (IceControlled, IceControlling)},
    **{kind: st.builds(kind, FAMILY) for kind in (RequestedAddressFamily, AdditionalAddressFamily)},
    **{kind: st.builds(kind) for kind in (DontFragment, UseCandidate)},
    ErrorCodeAttribute: st.builds(ErrorCodeAttribute, CODE, TEXT),
    AddressErrorCode: st.builds(AddressErrorCode, FAMILY, CODE, TEXT),
    UnknownAttributes: st.builds(UnknownAttributes, st.lists(U16, max_size=5).map(tuple)),
    Userhash: st.builds(Userhash, st.binary(min_size=32, max_size=32)),
    PasswordAlgorithm: ALGORITHM,
    PasswordAlgorithms: st.builds(PasswordAlgorithms, st.lists(ALGORITHM, max_size=3).map(tuple)),
    ChannelNumber: st.builds(ChannelNumber, U16),
    Data: st.builds(Data, st.binary(max_size=99)),
    EvenPort: st.builds(EvenPort, st.booleans()),
    ReservationToken: st.builds(ReservationToken, st.binary(min_size=8, max_size=8)),
    RequestedTransport: st.builds(RequestedTransport, st.integers(0, 255)),
    Icmp: st.builds(Icmp, st.integers(0, 127), st.integers(0, 511), st.binary(min_size=4, max_size=4)),
}
ATTRIBUTES = st.lists(st.one_of(list(STRATEGIES.values())), max_size=6)
TRANSACTION_ID = st.binary(min_size=12, max_size=12)


def test_every_row_of_the_table_is_covered() -> None:
    assert {row.kind for row in ROWS} == set(STRATEGIES)
    assert len({row.number for row in ROWS}) == len(ROWS)


@given(
    st.integers(0, 0xFFF),
    st.sampled_from(MessageClass),
    TRANSACTION_ID,
    ATTRIBUTES,
    st.binary(max_size=70),
    st.booleans(),
)
def test_decode_undoes_encode(
    method: int, kind: MessageClass, tid: bytes, attributes: list[Attribute], key: bytes, fingerprint: bool
) -> None:
    data = encode(
        method, kind, tid, attributes, integrity_key=key, integrity_sha256_key=key[::-1], fingerprint=fingerprint
    )
    message = decode(data)
    assert message == Message(method, kind, tid, tuple(attributes))
    assert message.verify_integrity(key)
    assert message.verify_integrity_sha256(key[::-1])
    assert message.verify_fingerprint() is fingerprint
    assert len(data) % 4 == 0


@given(st.binary(max_size=200))
@example(b"\x00\x01\x00\x00\x21\x12\xa4\x42" + bytes(12))
def test_any_bytes_give_a_message_or_a_decode_error(data: bytes) -> None:
    _decode_or_refuse(data)


@given(
    st.integers(0, 0x3FFF),
    TRANSACTION_ID,
    st.lists(
        st.tuples(
            st.sampled_from([row.number for row in ROWS] + [0x0008, 0x001C, 0x8028]) | U16,
            st.binary(max_size=40),
            st.integers(-4, 4),
        ),
        max_size=5,
    ),
)
def test_any_attributes_give_a_message_or_a_decode_error(
    number: int, tid: bytes, rows: list[tuple[int, bytes, int]]
) -> None:
    body = b"".join(
        struct.pack(">HH", kind, max(0, len(value) + error)) + value + bytes(-len(value) % 4)
        for kind, value, error in rows
    )
    data = struct.pack(">HHI", number, len(body), 0x2112A442) + tid + body
    message = _decode_or_refuse(data)
    if message is None:
        return
    again = encode(message.method, message.message_class, message.transaction_id, message.attributes)
    assert decode(again).attributes == message.attributes
    for verdict in (message.verify_integrity(b"k"), message.verify_integrity_sha256(b"k")):
        assert not verdict
    message.verify_fingerprint()


@given(st.binary(max_size=200), st.binary(min_size=20, max_size=200))
@example(bytes(64), bytes(20))
@example(bytes(65), bytes(20))
def test_integrity_is_an_hmac_over_the_message_with_the_length_of_its_end(key: bytes, message: bytes) -> None:
    for name, size, compute in (("sha1", 20, integrity_sha1), ("sha256", 32, integrity_sha256)):
        covered = message[:2] + (len(message) - 20 + 4 + size).to_bytes(2, "big") + message[4:]
        assert compute(message, len(message), key) == hmac.digest(key, covered, name)


def _decode_or_refuse(data: bytes) -> Message | None:
    try:
        return decode(data)
    except DecodeError as error:
        refused = error
    assert 0 <= refused.offset <= len(data)
    return None
