"""A request on its way to a handler, and what can be known of one that was not decoded, or does not decode."""

import struct
from dataclasses import dataclass
from typing import Final

from connectivity.clock import Instant
from connectivity.stun import HEADER_BYTES, MOST_ATTRIBUTES, Message, Software
from relay.core.outputs import FiveTuple
from relay.core.signature import Signature

_USERNAME_TYPE: Final = 0x0006
_NONCE_TYPE: Final = 0x0015
_ATTRIBUTE: Final = struct.Struct("!HH")  # type, length
# Implementation constant: before it stand a few attributes, and the peers of a CreatePermission.
_MOST_BEFORE_NONCE: Final = 64
_FIREZONE_SOFTWARE: Final = ("snownet", "firezone")


@dataclass(frozen=True, slots=True)
class Request:
    """An authenticated request. ``user`` is whom quotas count, ``signature`` is for the answer.

    ``is_firezone`` says that one of Firezone's peers sent it, for whom some of the standard's strictness is relaxed.
    """

    message: Message
    five_tuple: FiveTuple
    username: str
    user: str
    signature: Signature
    now: Instant
    is_firezone: bool = False


def names_firezone(message: Message) -> bool:
    """Firezone's peers name themselves in SOFTWARE."""
    software = message.get(Software)
    return software is not None and software.value.lower().startswith(_FIREZONE_SOFTWARE)


def username_of(datagram: bytes | memoryview) -> str | None:
    """The USERNAME of a request of which some other attribute is broken, so that its 400 can be signed."""
    return _text_of(datagram, _USERNAME_TYPE, MOST_ATTRIBUTES)


def nonce_of(datagram: bytes | memoryview) -> str | None:
    """The NONCE of a request of which nothing else is looked at: for less than a fifth of what decoding it takes."""
    return _text_of(datagram, _NONCE_TYPE, _MOST_BEFORE_NONCE)


def _text_of(datagram: bytes | memoryview, wanted: int, most: int) -> str | None:
    """The first attribute of a type, if it is one of so many and whole."""
    at, end = HEADER_BYTES, len(datagram)
    for _ in range(most):
        if at + _ATTRIBUTE.size > end:
            return None
        number, size = _ATTRIBUTE.unpack_from(datagram, at)
        at += _ATTRIBUTE.size
        if number == wanted:
            try:
                return bytes(datagram[at : at + size]).decode() if at + size <= end else None
            except UnicodeDecodeError:
                return None
        at += size + -size % 4
    return None
