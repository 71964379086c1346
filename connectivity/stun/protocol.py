"""The registered numbers of STUN (RFC 8489 §18) and TURN (RFC 8656 §23)."""

from enum import IntEnum
from typing import Final

MAGIC_COOKIE: Final = 0x2112A442
HEADER_BYTES: Final = 20
TRANSACTION_ID_BYTES: Final = 12


class Method(IntEnum):
    """The methods we speak. A decoded message may carry any other 12-bit number."""

    BINDING = 0x001
    ALLOCATE = 0x003
    REFRESH = 0x004
    SEND = 0x006
    DATA = 0x007
    CREATE_PERMISSION = 0x008
    CHANNEL_BIND = 0x009


class MessageClass(IntEnum):
    """The two class bits of the message type."""

    REQUEST = 0
    INDICATION = 1
    SUCCESS = 2
    ERROR = 3


class AddressFamily(IntEnum):
    """The family byte of address attributes (not the operating system's AF constants)."""

    IPV4 = 1
    IPV6 = 2

    @property
    def version(self) -> int:
        """4 or 6."""
        return 4 if self is AddressFamily.IPV4 else 6


class ErrorCode(IntEnum):
    """Error codes of RFC 8489 §14.8, RFC 8656 §19 and RFC 8445 §16.2."""

    TRY_ALTERNATE = 300
    BAD_REQUEST = 400
    UNAUTHENTICATED = 401
    FORBIDDEN = 403
    UNKNOWN_ATTRIBUTE = 420
    ALLOCATION_MISMATCH = 437
    STALE_NONCE = 438
    ADDRESS_FAMILY_NOT_SUPPORTED = 440
    WRONG_CREDENTIALS = 441
    UNSUPPORTED_TRANSPORT_PROTOCOL = 442
    PEER_ADDRESS_FAMILY_MISMATCH = 443
    ALLOCATION_QUOTA_REACHED = 486
    ROLE_CONFLICT = 487
    SERVER_ERROR = 500
    INSUFFICIENT_CAPACITY = 508
