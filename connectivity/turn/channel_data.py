"""ChannelData messages over UDP (RFC 8656 §12.4): channel number, length, payload; no padding.

The length field must match the datagram exactly: Firezone peers neither send padding over UDP nor accept it.
``frame`` is the hot path: one pass over a run, whatever number of segments it has.
"""

from typing import Final

import numpy as np

from connectivity.run import Run
from connectivity.stun.errors import DecodeError, DecodeReason

HEADER_BYTES: Final = 4
MIN_NUMBER: Final = 0x4000
MAX_NUMBER: Final = 0x7FFF


def encode_header(number: int, length: int) -> bytes:
    """The four bytes in front of a payload of ``length`` bytes."""
    return (number << 16 | length).to_bytes(HEADER_BYTES, "big")


def decode(data: bytes | bytearray | memoryview) -> tuple[int, memoryview]:
    """The channel number and the payload, a view into ``data``.

    Raises:
        DecodeError: shorter than a header, a number that is no channel, or a length that is not that of the payload.
    """
    if len(data) < HEADER_BYTES:
        raise DecodeError(DecodeReason.TOO_SHORT, len(data))
    number = data[0] << 8 | data[1]
    if not MIN_NUMBER <= number <= MAX_NUMBER:
        raise DecodeError(DecodeReason.CHANNEL_NUMBER, 0)
    if data[2] << 8 | data[3] != len(data) - HEADER_BYTES:
        raise DecodeError(DecodeReason.LENGTH, 2)
    return number, memoryview(data)[HEADER_BYTES:]


def frame(run: Run, number: int) -> Run:
    """Write a channel header into the first four bytes of each segment, in place.

    Args:
        run: Its buffer is writable; each segment starts with four free bytes, the last one may be shorter.
        number: A bound channel, 0x4000 to 0x7FFF.

    Returns:
        The same run: each segment is now a ChannelData message.
    """
    data, size = run
    whole, rest = divmod(len(data), size)
    if whole > 1:
        header = number << 16 | size - HEADER_BYTES
        # One strided store instead of one per segment. Segments need not be aligned to four bytes.
        np.ndarray((whole,), ">u4", data, 0, (size,))[:] = header
    elif whole:
        data[:HEADER_BYTES] = encode_header(number, size - HEADER_BYTES)
    if rest:
        last = whole * size
        data[last : last + HEADER_BYTES] = encode_header(number, rest - HEADER_BYTES)
    return run
