"""STUN messages: bytes to values and back (RFC 8489 §5, §6.3, §14).

What the decoder promises:

- Any bytes give a ``Message`` or raise ``DecodeError``; the message is complete and nobody needs to check it again.
- ``attributes`` holds what we know, in wire order, up to the first MESSAGE-INTEGRITY or MESSAGE-INTEGRITY-SHA256.
  What stands behind one is not protected by it and is ignored, except FINGERPRINT and, behind MESSAGE-INTEGRITY,
  MESSAGE-INTEGRITY-SHA256 (§14.5).
- Of several attributes of one kind the first counts (``get``); kinds that may repeat are read with ``get_all``.
- Types that demand comprehension and that we do not know are collected, other unknown ones are skipped.
- Integrity and fingerprint are computed over the received bytes, not over a re-encoding.
"""

import struct
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final, NamedTuple, TypeVar

from connectivity.stun import integrity
from connectivity.stun.attribute_table import ROW_BY_KIND, ROW_BY_TYPE
from connectivity.stun.attributes import Attribute
from connectivity.stun.errors import DecodeError, DecodeReason
from connectivity.stun.protocol import HEADER_BYTES, MAGIC_COOKIE, TRANSACTION_ID_BYTES, MessageClass

A = TypeVar("A", bound=Attribute)

_MESSAGE_INTEGRITY: Final = 0x0008
_MESSAGE_INTEGRITY_SHA256: Final = 0x001C
_FINGERPRINT: Final = 0x8028
_FIRST_OPTIONAL_TYPE: Final = 0x8000
_HEADER: Final = struct.Struct(f">HHI{TRANSACTION_ID_BYTES}s")
_ATTRIBUTE_HEADER: Final = struct.Struct(">HH")
_PADDING: Final = (b"", bytes(3), bytes(2), bytes(1))  # behind a value, by its length modulo four
_CLASSES: Final = tuple(MessageClass)
_METHOD_LIMIT: Final = 1 << 12
_LONGEST: Final = 0xFFFF  # what a length field holds
# Implementation constant: reading takes a fixed time for each, and whoever sends a message need not be known.
MOST_ATTRIBUTES: Final = 256
_ABSENT: Final = 0  # no attribute stands at offset 0: the header does


class _Layout(NamedTuple):
    """Where the attributes stand that depend on the bytes before them; ``_ABSENT`` where there is none."""

    sha1: int = _ABSENT
    sha256: int = _ABSENT
    sha256_bytes: int = 0
    fingerprint: int = _ABSENT
    fingerprint_is_last: bool = False


_PLAIN: Final = _Layout()


@dataclass(frozen=True, slots=True)
class Message:
    """A decoded message. Equality ignores how it was written: padding, unknown optional types, integrity."""

    method: int
    message_class: MessageClass
    transaction_id: bytes
    attributes: tuple[Attribute, ...]
    unknown_required: tuple[int, ...] = ()
    _raw: bytes = field(default=b"", compare=False, repr=False)
    _layout: _Layout = field(default=_PLAIN, compare=False, repr=False)

    @property
    def has_integrity(self) -> bool:
        """Whether MESSAGE-INTEGRITY is present; whether it is right is ``verify_integrity``."""
        return self._layout.sha1 != _ABSENT

    @property
    def has_integrity_sha256(self) -> bool:
        """Whether MESSAGE-INTEGRITY-SHA256 is present."""
        return self._layout.sha256 != _ABSENT

    @property
    def has_fingerprint(self) -> bool:
        """Whether FINGERPRINT is present."""
        return self._layout.fingerprint != _ABSENT

    def get(self, kind: type[A]) -> A | None:
        """The first attribute of this kind."""
        for attribute in self.attributes:
            if isinstance(attribute, kind):
                return attribute
        return None

    def get_all(self, kind: type[A]) -> tuple[A, ...]:
        """All attributes of this kind, in wire order."""
        return tuple(attribute for attribute in self.attributes if isinstance(attribute, kind))

    def verify_integrity(self, key: bytes) -> bool:
        """Whether MESSAGE-INTEGRITY is present and made with ``key`` (RFC 8489 §14.5)."""
        at = self._layout.sha1
        if at == _ABSENT:
            return False
        expected = integrity.integrity_sha1(self._raw, at, key)
        return integrity.equal(expected, self._value(at, integrity.SHA1_BYTES))

    def verify_integrity_sha256(self, key: bytes) -> bool:
        """Whether MESSAGE-INTEGRITY-SHA256 is present, whole and made with ``key``.

        A truncated one is well-formed and proves nothing: only a usage of STUN may allow it (§14.6), and ours do not.
        """
        at, length = self._layout.sha256, self._layout.sha256_bytes
        if at == _ABSENT or length != integrity.SHA256_BYTES:
            return False
        return integrity.equal(integrity.integrity_sha256(self._raw, at, key), self._value(at, length))

    def verify_fingerprint(self) -> bool:
        """Whether FINGERPRINT is the last attribute and its checksum is right (§14.7)."""
        at = self._layout.fingerprint
        if at == _ABSENT or not self._layout.fingerprint_is_last:
            return False
        return integrity.fingerprint(self._raw, at) == self._value(at, integrity.FINGERPRINT_BYTES)

    def _value(self, at: int, length: int) -> bytes:
        return self._raw[at + 4 : at + 4 + length]


def decode(data: bytes | memoryview) -> Message:
    """Read one message that fills ``data`` exactly. Copies: the buffer may be reused.

    Raises:
        DecodeError: the bytes are not a well-formed STUN message.
    """
    raw = bytes(data)
    method, message_class, transaction_id = _decode_header(raw)
    try:
        return _decode_attributes(raw, method, message_class, transaction_id)
    except DecodeError as error:
        raise DecodeError(
            error.reason,
            error.offset,
            method=method,
            message_class=message_class,
            transaction_id=transaction_id,
        ) from error


def encode(
    method: int,
    message_class: MessageClass,
    transaction_id: bytes,
    attributes: Iterable[Attribute],
    *,
    integrity_key: bytes | None = None,
    integrity_sha256_key: bytes | None = None,
    fingerprint: bool = False,
) -> bytes:
    """Write a message: the attributes in the order given, then the integrity attributes asked for, then FINGERPRINT.

    Raises:
        ValueError: a value does not fit its field.
    """
    if not 0 <= method < _METHOD_LIMIT:
        raise ValueError(f"method {method} does not fit into 12 bits")
    if len(transaction_id) != TRANSACTION_ID_BYTES:
        raise ValueError(f"a transaction id has {TRANSACTION_ID_BYTES} bytes, not {len(transaction_id)}")
    parts: list[bytes] = []
    pack = _ATTRIBUTE_HEADER.pack
    for attribute in attributes:
        number, _, _, write = ROW_BY_KIND[type(attribute)]
        value = write(attribute, transaction_id)
        if (size := len(value)) > _LONGEST:
            raise _too_long(size)
        parts += pack(number, size), value, _PADDING[size % 4]
    body = b"".join(parts)
    if len(body) > _LONGEST:
        raise _too_long(len(body))
    header = _HEADER.pack(_message_type(method, message_class), len(body), MAGIC_COOKIE, transaction_id)
    raw = bytearray(header + body)
    if integrity_key is not None:
        _append(raw, _MESSAGE_INTEGRITY, integrity.integrity_sha1(raw, len(raw), integrity_key))
    if integrity_sha256_key is not None:
        _append(raw, _MESSAGE_INTEGRITY_SHA256, integrity.integrity_sha256(raw, len(raw), integrity_sha256_key))
    if fingerprint:
        _append(raw, _FINGERPRINT, integrity.fingerprint(raw, len(raw)))
    return bytes(raw)


def _message_type(method: int, message_class: MessageClass) -> int:
    """The class bits sit at positions 4 and 8 between the method's bits (RFC 8489 §5)."""
    spread = (method & 0xF80) << 2 | (method & 0x070) << 1 | method & 0x00F
    return spread | (message_class & 2) << 7 | (message_class & 1) << 4


def _too_long(size: int) -> ValueError:
    return ValueError(f"{size} bytes do not fit into a 16-bit length field")


def _append(raw: bytearray, number: int, value: bytes) -> None:
    """One of the last attributes, none of which needs padding; the header's length follows."""
    raw += _ATTRIBUTE_HEADER.pack(number, len(value)) + value
    if (size := len(raw) - HEADER_BYTES) > _LONGEST:
        raise _too_long(size)
    raw[2:4] = size.to_bytes(2, "big")


def _decode_header(raw: bytes) -> tuple[int, MessageClass, bytes]:
    if len(raw) < HEADER_BYTES:
        raise DecodeError(DecodeReason.TOO_SHORT, len(raw))
    number, length, cookie, transaction_id = _HEADER.unpack_from(raw)
    if number & 0xC000 or cookie != MAGIC_COOKIE:
        raise DecodeError(DecodeReason.NOT_STUN, 0 if number & 0xC000 else 4)
    if length % 4 or length != len(raw) - HEADER_BYTES:
        raise DecodeError(DecodeReason.LENGTH, 2)
    method = (number & 0x3E00) >> 2 | (number & 0x00E0) >> 1 | number & 0x000F
    return method, _CLASSES[(number >> 7 & 2) | (number >> 4 & 1)], transaction_id


def _decode_attributes(raw: bytes, method: int, message_class: MessageClass, transaction_id: bytes) -> Message:
    attributes: list[Attribute] = []
    unknown: dict[int, None] = {}  # in order, each once
    sha1 = sha256 = sha256_bytes = fingerprint = _ABSENT
    at, end = HEADER_BYTES, len(raw)
    for _ in range(MOST_ATTRIBUTES + 1):
        if at >= end:
            break
        # The message is a multiple of four bytes, so a whole attribute header is here.
        number, size = _ATTRIBUTE_HEADER.unpack_from(raw, at)
        start, following = at + 4, at + 4 + size + -size % 4
        if following > end:
            raise DecodeError(DecodeReason.TRUNCATED_ATTRIBUTE, at)
        if (row := ROW_BY_TYPE.get(number)) is not None:
            if not (sha1 or sha256 or fingerprint):
                try:
                    attributes.append(row.read(raw[start : start + size], transaction_id))
                except DecodeError as error:
                    raise DecodeError(error.reason, start + error.offset) from error
        elif fingerprint:
            pass  # nothing may follow FINGERPRINT; ``fingerprint_is_last`` tells
        elif number == _FINGERPRINT:
            _expect(size == integrity.FINGERPRINT_BYTES, at)
            fingerprint = at
        elif sha256:
            pass
        elif number == _MESSAGE_INTEGRITY_SHA256:
            _expect(integrity.SHA256_SHORTEST_BYTES <= size <= integrity.SHA256_BYTES and size % 4 == 0, at)
            sha256, sha256_bytes = at, size
        elif sha1:
            pass
        elif number == _MESSAGE_INTEGRITY:
            _expect(size == integrity.SHA1_BYTES, at)
            sha1 = at
        elif number < _FIRST_OPTIONAL_TYPE:
            unknown[number] = None
        at = following
    else:
        raise DecodeError(DecodeReason.TOO_MANY_ATTRIBUTES, at)
    layout = _Layout(sha1, sha256, sha256_bytes, fingerprint, fingerprint > 0 and fingerprint + 8 == end)
    return Message(method, message_class, transaction_id, tuple(attributes), tuple(unknown), raw, layout)


def _expect(holds: bool, at: int) -> None:
    if not holds:
        raise DecodeError(DecodeReason.ATTRIBUTE_LENGTH, at)
