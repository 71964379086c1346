"""Why bytes are not a STUN message or not ChannelData: the one exception that a codec raises."""

from enum import Enum

from connectivity.stun.protocol import MessageClass


class DecodeReason(Enum):
    """What is wrong with the bytes. The value is the text shown to people."""

    TOO_SHORT = "shorter than its header"
    NOT_STUN = "not a STUN message"
    LENGTH = "length field does not match the datagram"
    TRUNCATED_ATTRIBUTE = "attribute reaches past the end of the message"
    TOO_MANY_ATTRIBUTES = "more attributes than any message needs"
    ATTRIBUTE_LENGTH = "attribute of a wrong length"
    ATTRIBUTE_VALUE = "attribute of a wrong value"
    ADDRESS_FAMILY = "unknown address family"
    TEXT = "text is not UTF-8"
    CHANNEL_NUMBER = "channel number out of range"


class DecodeError(ValueError):
    """Bytes from the network do not decode.

    ``offset`` counts bytes from the start of the datagram. Once the STUN header was read, ``method``,
    ``message_class`` and ``transaction_id`` are set, so that a server can answer a malformed request with 400.
    """

    def __init__(
        self,
        reason: DecodeReason,
        offset: int,
        *,
        method: int | None = None,
        message_class: MessageClass | None = None,
        transaction_id: bytes | None = None,
    ) -> None:
        super().__init__(f"{reason.value} at byte {offset}")
        self.reason = reason
        self.offset = offset
        self.method = method
        self.message_class = message_class
        self.transaction_id = transaction_id
