"""How each attribute looks on the wire: one row per attribute.

A row pairs a dataclass with its type number and with the functions that read and write its value. Readers get exactly
the bytes of the length field, without padding; they raise ``DecodeError`` with an offset inside the value. Writers
raise ``ValueError`` for a value that does not fit its field.
"""

from collections.abc import Callable
from ipaddress import IPv4Address, IPv6Address
from typing import Any, Final, NamedTuple

from connectivity.endpoint import Endpoint
from connectivity.stun import attributes as a
from connectivity.stun.errors import DecodeError, DecodeReason
from connectivity.stun.protocol import MAGIC_COOKIE, AddressFamily

# RFC 8489 §14: USERNAME is shorter than 509 bytes; the other texts have fewer than 128 characters, 763 bytes.
_USERNAME_LONGEST: Final = 508
_TEXT_LONGEST: Final = 762
# There are two; each entry costs time to read, and whoever sends it need not be known.
_MOST_ALGORITHMS: Final = 32
_FAMILIES: Final = frozenset(AddressFamily)
_COOKIE: Final = MAGIC_COOKIE.to_bytes(4, "big")
# How an address begins: a reserved byte and the family.
_IPV4_HEAD: Final = bytes((0, AddressFamily.IPV4))
_IPV6_HEAD: Final = bytes((0, AddressFamily.IPV6))

Read = Callable[[bytes, bytes], Any]
Write = Callable[[Any, bytes], bytes]


class Row(NamedTuple):
    """``read(value, transaction_id)`` gives a ``kind``, ``write(attribute, transaction_id)`` the value's bytes."""

    number: int
    kind: type[Any]
    read: Read
    write: Write


def _wrong(reason: DecodeReason) -> DecodeError:
    return DecodeError(reason, 0)


def _fixed(value: bytes, length: int) -> bytes:
    if len(value) != length:
        raise _wrong(DecodeReason.ATTRIBUTE_LENGTH)
    return value


def _number(value: int, length: int) -> bytes:
    if not 0 <= value < 1 << 8 * length:
        raise ValueError(f"{value} does not fit into {length} bytes")
    return value.to_bytes(length, "big")


def _sized(value: bytes, length: int) -> bytes:
    if len(value) != length:
        raise ValueError(f"expected {length} bytes, got {len(value)}")
    return value


def _decode_text(value: bytes, longest: int) -> str:
    if len(value) > longest:
        raise _wrong(DecodeReason.ATTRIBUTE_LENGTH)
    try:
        return value.decode()
    except UnicodeDecodeError as error:
        raise DecodeError(DecodeReason.TEXT, error.start) from error


def _encode_text(text: str, longest: int) -> bytes:
    value = text.encode()
    if len(value) > longest:
        raise ValueError(f"text of {len(value)} bytes, at most {longest} fit")
    return value


def _family(value: int) -> AddressFamily:
    try:
        return AddressFamily(value)
    except ValueError as error:
        raise _wrong(DecodeReason.ADDRESS_FAMILY) from error


def _text(number: int, kind: Callable[[str], Any], longest: int = _TEXT_LONGEST) -> Row:
    return Row(
        number,
        _kind(kind),
        lambda value, _: kind(_decode_text(value, longest)),
        lambda attribute, _: _encode_text(attribute.value, longest),
    )


def _bytes(number: int, kind: Callable[[bytes], Any], length: int | None = None) -> Row:
    return Row(
        number,
        _kind(kind),
        lambda value, _: kind(value if length is None else _fixed(value, length)),
        lambda attribute, _: attribute.value if length is None else _sized(attribute.value, length),
    )


def _integer(number: int, kind: Callable[[int], Any], field: str, size: int, padding: int = 0) -> Row:
    """A big-endian integer followed by ``padding`` reserved bytes."""
    reserved = bytes(padding)
    return Row(
        number,
        _kind(kind),
        lambda value, _: kind(int.from_bytes(_fixed(value, size + padding)[:size], "big")),
        lambda attribute, _: _number(getattr(attribute, field), size) + reserved,
    )


def _flag(number: int, kind: Callable[[], Any]) -> Row:
    def read(value: bytes, _: bytes) -> Any:
        _fixed(value, 0)
        return kind()

    return Row(number, _kind(kind), read, lambda _attribute, _: b"")


def _family_of(number: int, kind: Callable[[AddressFamily | int], Any]) -> Row:
    def read(value: bytes, _: bytes) -> Any:
        family = _fixed(value, 4)[0]
        return kind(AddressFamily(family) if family in _FAMILIES else family)

    return Row(
        number,
        _kind(kind),
        read,
        lambda attribute, _: bytes((attribute.family, 0, 0, 0)),
    )


def _address(number: int, kind: Callable[[Endpoint], Any], *, masked: bool) -> Row:
    """An address, XORed with magic cookie and transaction id where ``masked`` (RFC 8489 §14.2)."""

    def read(value: bytes, transaction_id: bytes) -> Any:
        if len(value) < 4:
            raise _wrong(DecodeReason.ATTRIBUTE_LENGTH)
        family = _family(value[1])
        ip = _fixed(value[4:], 4 if family is AddressFamily.IPV4 else 16)
        port = value[2:4]
        if masked:
            mask = _COOKIE + transaction_id
            port, ip = _xor(port, mask), _xor(ip, mask)
        address = IPv4Address(ip) if family is AddressFamily.IPV4 else IPv6Address(ip)
        return kind(Endpoint(address, int.from_bytes(port, "big")))

    def write(attribute: Any, transaction_id: bytes) -> bytes:
        ip, port = attribute.endpoint
        is_ipv4 = ip.version == 4
        value = int(ip)
        if masked:
            port ^= MAGIC_COOKIE >> 16
            value ^= MAGIC_COOKIE if is_ipv4 else int.from_bytes(_COOKIE + transaction_id, "big")
        head, size = (_IPV4_HEAD, 4) if is_ipv4 else (_IPV6_HEAD, 16)
        return head + _number(port, 2) + value.to_bytes(size, "big")

    return Row(number, _kind(kind), read, write)


def _xor(value: bytes, mask: bytes) -> bytes:
    size = len(value)
    return (int.from_bytes(value, "big") ^ int.from_bytes(mask[:size], "big")).to_bytes(size, "big")


def _decode_error(value: bytes) -> tuple[int, str]:
    """Class in the low three bits of the third byte, number in the fourth, then the reason phrase."""
    if len(value) < 4:
        raise _wrong(DecodeReason.ATTRIBUTE_LENGTH)
    hundreds, rest = value[2] & 7, value[3]
    if not 3 <= hundreds <= 6 or rest > 99:
        raise DecodeError(DecodeReason.ATTRIBUTE_VALUE, 2)
    return hundreds * 100 + rest, _decode_text(value[4:], _TEXT_LONGEST)


def _encode_error(family: int, code: int, reason: str) -> bytes:
    if not 300 <= code <= 699:
        raise ValueError(f"error code {code} is outside 300 to 699")
    return bytes((family, 0, code // 100, code % 100)) + _encode_text(reason, _TEXT_LONGEST)


def _read_unknown(value: bytes, _: bytes) -> a.UnknownAttributes:
    if len(value) % 2:
        raise _wrong(DecodeReason.ATTRIBUTE_LENGTH)
    return a.UnknownAttributes(tuple(int.from_bytes(value[at : at + 2], "big") for at in range(0, len(value), 2)))


def _write_unknown(attribute: a.UnknownAttributes, _: bytes) -> bytes:
    return b"".join(_number(number, 2) for number in attribute.types)


def _read_algorithms(value: bytes) -> tuple[a.PasswordAlgorithm, ...]:
    """Each entry: number, length of the parameters, parameters padded to four bytes (the last one's padding counts)."""
    found: list[a.PasswordAlgorithm] = []
    at = 0
    while at < len(value):
        if len(found) == _MOST_ALGORITHMS:
            raise DecodeError(DecodeReason.ATTRIBUTE_LENGTH, at)
        end = at + 4 + int.from_bytes(value[at + 2 : at + 4], "big")
        if len(value) - at < 4 or end > len(value):
            raise DecodeError(DecodeReason.ATTRIBUTE_LENGTH, at)
        found.append(a.PasswordAlgorithm(int.from_bytes(value[at : at + 2], "big"), value[at + 4 : end]))
        at = end + -end % 4
    return tuple(found)


def _write_algorithm(algorithm: a.PasswordAlgorithm) -> bytes:
    parameters = algorithm.parameters
    size = len(parameters)
    return _number(algorithm.algorithm << 16 | size, 4) + parameters + bytes(-size % 4)


def _read_algorithm(value: bytes, _: bytes) -> a.PasswordAlgorithm:
    found = _read_algorithms(value)
    if len(found) != 1:
        raise _wrong(DecodeReason.ATTRIBUTE_LENGTH)
    return found[0]


def _read_icmp(value: bytes, _: bytes) -> a.Icmp:
    _fixed(value, 8)
    kind_and_code = int.from_bytes(value[2:4], "big")
    return a.Icmp(kind_and_code >> 9, kind_and_code & 0x1FF, value[4:])


def _write_icmp(attribute: a.Icmp, _: bytes) -> bytes:
    if not (0 <= attribute.type < 128 and 0 <= attribute.code < 512):
        raise ValueError(f"ICMP type {attribute.type} and code {attribute.code} do not fit into 7 and 9 bits")
    return bytes(2) + (attribute.type << 9 | attribute.code).to_bytes(2, "big") + _sized(attribute.data, 4)


def _read_address_error(value: bytes, _: bytes) -> a.AddressErrorCode:
    code, reason = _decode_error(value)
    return a.AddressErrorCode(_family(value[0]), code, reason)


def _kind(constructor: Callable[..., Any]) -> type[Any]:
    if not isinstance(constructor, type):
        raise TypeError(f"{constructor!r} is not an attribute class")
    return constructor


ROWS: Final = (
    _address(0x0001, a.MappedAddress, masked=False),
    _text(0x0006, a.Username, _USERNAME_LONGEST),
    Row(
        0x0009,
        a.ErrorCodeAttribute,
        lambda value, _: a.ErrorCodeAttribute(*_decode_error(value)),
        lambda attribute, _: _encode_error(0, attribute.code, attribute.reason),
    ),
    Row(0x000A, a.UnknownAttributes, _read_unknown, _write_unknown),
    _integer(0x000C, a.ChannelNumber, "number", 2, padding=2),
    _integer(0x000D, a.Lifetime, "seconds", 4),
    _address(0x0012, a.XorPeerAddress, masked=True),
    _bytes(0x0013, a.Data),
    _text(0x0014, a.Realm),
    _text(0x0015, a.Nonce),
    _address(0x0016, a.XorRelayedAddress, masked=True),
    _family_of(0x0017, a.RequestedAddressFamily),
    Row(
        0x0018,
        a.EvenPort,
        lambda value, _: a.EvenPort(_fixed(value, 1)[0] >= 0x80),
        lambda attribute, _: b"\x80" if attribute.reserve else b"\x00",
    ),
    _integer(0x0019, a.RequestedTransport, "protocol", 1, padding=3),
    _flag(0x001A, a.DontFragment),
    Row(0x001D, a.PasswordAlgorithm, _read_algorithm, lambda attribute, _: _write_algorithm(attribute)),
    _bytes(0x001E, a.Userhash, 32),
    _address(0x0020, a.XorMappedAddress, masked=True),
    _bytes(0x0022, a.ReservationToken, 8),
    _integer(0x0024, a.Priority, "value", 4),
    _flag(0x0025, a.UseCandidate),
    _family_of(0x8000, a.AdditionalAddressFamily),
    Row(
        0x8001,
        a.AddressErrorCode,
        _read_address_error,
        lambda attribute, _: _encode_error(attribute.family, attribute.code, attribute.reason),
    ),
    Row(
        0x8002,
        a.PasswordAlgorithms,
        lambda value, _: a.PasswordAlgorithms(_read_algorithms(value)),
        lambda attribute, _: b"".join(map(_write_algorithm, attribute.algorithms)),
    ),
    _text(0x8003, a.AlternateDomain),
    Row(0x8004, a.Icmp, _read_icmp, _write_icmp),
    _text(0x8022, a.Software),
    _address(0x8023, a.AlternateServer, masked=False),
    _integer(0x8029, a.IceControlled, "tie_breaker", 8),
    _integer(0x802A, a.IceControlling, "tie_breaker", 8),
)
ROW_BY_TYPE: Final = {row.number: row for row in ROWS}
ROW_BY_KIND: Final = {row.kind: row for row in ROWS}
