"""Wire layouts of the four WireGuard messages (WireGuard paper, section 5.4). Integers are little-endian.

===  ==================  =======================================================================
1    initiation, 148     type, sender, ephemeral 32, static 32+16, timestamp 12+16, mac1 16, mac2 16
2    response, 92        type, sender, receiver, ephemeral 32, nothing 0+16, mac1 16, mac2 16
3    cookie reply, 64    type, receiver, nonce 24, cookie 16+16
4    data, 32 or more    type, receiver, counter 8, packet n+16
===  ==================  =======================================================================

The type is one byte and three reserved zero bytes; a message with another value there is not WireGuard.
"""

from struct import Struct
from typing import Final, NamedTuple, TypeVar

from connectivity.wireguard.errors import HandshakeError, HandshakeReason

INITIATION: Final = 1
RESPONSE: Final = 2
COOKIE_REPLY: Final = 3
DATA: Final = 4

INITIATION_BYTES: Final = 148
RESPONSE_BYTES: Final = 92
COOKIE_REPLY_BYTES: Final = 64
DATA_HEADER_BYTES: Final = 16
TAG_BYTES: Final = 16
DATA_OVERHEAD_BYTES: Final = DATA_HEADER_BYTES + TAG_BYTES

MAC_BYTES: Final = 16
MACS_BYTES: Final = 2 * MAC_BYTES

_INITIATION = Struct("<4xI32s48s28s32x")
_INITIATION_BODY = Struct("<II32s48s28s")
_RESPONSE = Struct("<4xII32s16s32x")
_RESPONSE_BODY = Struct("<III32s16s")
_COOKIE_REPLY = Struct("<4xI24s32s")
_COOKIE_REPLY_WHOLE = Struct("<II24s32s")
_INDEX_AT_4 = Struct("<4xI")
_INDEX_AT_8 = Struct("<8xI")

_TYPE_WORDS: Final = {bytes((kind, 0, 0, 0)): kind for kind in (INITIATION, RESPONSE, COOKIE_REPLY, DATA)}
_FIXED_LENGTHS: Final = {INITIATION: INITIATION_BYTES, RESPONSE: RESPONSE_BYTES, COOKIE_REPLY: COOKIE_REPLY_BYTES}

T = TypeVar("T", "Initiation", "Response", "CookieReply")


class Initiation(NamedTuple):
    """Handshake initiation without its MACs."""

    sender: int
    ephemeral: bytes
    encrypted_static: bytes
    encrypted_timestamp: bytes

    @classmethod
    def decode(cls, data: bytes | memoryview) -> "Initiation":
        """Raises HandshakeError for another length or type."""
        return _decode(cls, INITIATION, _INITIATION, data)

    def body(self) -> bytes:
        """The wire bytes up to the MACs."""
        return _INITIATION_BODY.pack(INITIATION, *self)


class Response(NamedTuple):
    """Handshake response without its MACs."""

    sender: int
    receiver: int
    ephemeral: bytes
    encrypted_nothing: bytes

    @classmethod
    def decode(cls, data: bytes | memoryview) -> "Response":
        """Raises HandshakeError for another length or type."""
        return _decode(cls, RESPONSE, _RESPONSE, data)

    def body(self) -> bytes:
        """The wire bytes up to the MACs."""
        return _RESPONSE_BODY.pack(RESPONSE, *self)


class CookieReply(NamedTuple):
    """Cookie reply: the answer of a loaded peer."""

    receiver: int
    nonce: bytes
    encrypted_cookie: bytes

    @classmethod
    def decode(cls, data: bytes | memoryview) -> "CookieReply":
        """Raises HandshakeError for another length or type."""
        return _decode(cls, COOKIE_REPLY, _COOKIE_REPLY, data)

    def encode(self) -> bytes:
        """The whole message."""
        return _COOKIE_REPLY_WHOLE.pack(COOKIE_REPLY, *self)


def message_type(data: bytes | memoryview) -> int | None:
    """1 to 4 by length and the first four bytes; None: not WireGuard."""
    kind = _TYPE_WORDS.get(bytes(data[:4]))
    if kind is None:
        return None
    if kind == DATA:
        return DATA if len(data) >= DATA_OVERHEAD_BYTES else None
    return kind if len(data) == _FIXED_LENGTHS[kind] else None


def receiver_index(data: bytes | memoryview) -> int:
    """The receiver index of a message of type 2, 3 or 4, for which ``message_type`` has answered."""
    index: int
    (index,) = (_INDEX_AT_8 if data[0] == RESPONSE else _INDEX_AT_4).unpack_from(data)
    return index


def sender_index(data: bytes | memoryview) -> int:
    """The sender index of a message of type 1 or 2."""
    index: int
    (index,) = _INDEX_AT_4.unpack_from(data)
    return index


def _decode(kind: type[T], number: int, layout: Struct, data: bytes | memoryview) -> T:
    if message_type(data) != number:
        raise HandshakeError(HandshakeReason.MALFORMED)
    return kind(*layout.unpack(data))
