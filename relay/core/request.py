"""A request on its way to a handler, and what can be known of one that does not decode."""

from dataclasses import dataclass
from typing import Final

from connectivity.clock import Instant
from connectivity.stun import HEADER_BYTES, MOST_ATTRIBUTES, Message, Software
from relay.core.outputs import FiveTuple
from relay.core.signature import Signature

_USERNAME_TYPE: Final = 0x0006
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
    at = HEADER_BYTES
    for _ in range(MOST_ATTRIBUTES):
        number = int.from_bytes(datagram[at : at + 2], "big")
        size = int.from_bytes(datagram[at + 2 : at + 4], "big")
        value = bytes(datagram[at + 4 : at + 4 + size])
        if at + 4 > len(datagram) or len(value) < size:
            return None
        if number == _USERNAME_TYPE:
            try:
                return value.decode()
            except UnicodeDecodeError:
                return None
        at += 4 + size + -size % 4
    return None
