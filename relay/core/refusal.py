"""An error answer as a value: peers' misbehaviour is never an exception here."""

from dataclasses import dataclass
from typing import Final

from connectivity.stun import Attribute, ErrorCode

REASONS: Final = {
    ErrorCode.BAD_REQUEST: "Bad Request",
    ErrorCode.UNAUTHENTICATED: "Unauthorized",
    ErrorCode.FORBIDDEN: "Forbidden",
    ErrorCode.UNKNOWN_ATTRIBUTE: "Unknown Attribute",
    ErrorCode.ALLOCATION_MISMATCH: "Allocation Mismatch",
    ErrorCode.STALE_NONCE: "Stale Nonce",
    ErrorCode.ADDRESS_FAMILY_NOT_SUPPORTED: "Address Family not Supported",
    ErrorCode.WRONG_CREDENTIALS: "Wrong Credentials",
    ErrorCode.UNSUPPORTED_TRANSPORT_PROTOCOL: "Unsupported Transport Protocol",
    ErrorCode.PEER_ADDRESS_FAMILY_MISMATCH: "Peer Address Family Mismatch",
    ErrorCode.INSUFFICIENT_CAPACITY: "Insufficient Capacity",
}


@dataclass(frozen=True, slots=True)
class Refusal:
    """Answer with this error; ``attributes`` follow ERROR-CODE, ``key`` signs where the request's own key does not."""

    code: ErrorCode
    attributes: tuple[Attribute, ...] = ()
    key: bytes | None = None

    @property
    def reason(self) -> str:
        """The reason phrase."""
        return REASONS[self.code]
