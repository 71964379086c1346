"""An error answer as a value: peers' misbehaviour is never an exception here."""

from dataclasses import dataclass
from typing import Final

from connectivity.stun import Attribute, ErrorCode
from relay.core.signature import Signature
from relay.core.statistics import CredentialRefusal

REASONS: Final = {
    ErrorCode.TRY_ALTERNATE: "Try Alternate",
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
    ErrorCode.ALLOCATION_QUOTA_REACHED: "Allocation Quota Reached",
    ErrorCode.INSUFFICIENT_CAPACITY: "Insufficient Capacity",
}


@dataclass(frozen=True, slots=True)
class Refusal:
    """Answer with this error; ``attributes`` follow ERROR-CODE. ``signature`` is for requests that proved nothing.

    ``cause`` is for whoever runs the relay, never for the peer: it would tell who exists.
    """

    code: ErrorCode
    attributes: tuple[Attribute, ...] = ()
    signature: Signature | None = None
    cause: CredentialRefusal | None = None

    @property
    def reason(self) -> str:
        """The reason phrase."""
        return REASONS[self.code]
