"""ChannelData by runs: many messages per step (RFC 8656 §12.4 to §12.7).

A received run holds datagrams of one size, which need not belong to one channel; ``split`` cuts it where the channel
header changes. ``strip`` takes the headers off a run of messages, ``frame`` puts them in front of a run of datagrams.
Both write into scratch memory of the caller and copy each byte at most once, whatever the number of messages.

One datagram may hold several messages of one size back to back: a sender's segmentation-offload super-packet that
came through a path which sees it as one packet. It reads as the run that it is. Up to three bytes of padding behind a
message are accepted over UDP (§12.5).
"""

import struct
from collections.abc import Iterator
from functools import lru_cache
from typing import Any, Final, NamedTuple

import numpy as np

from connectivity.run import Run
from connectivity.turn import channel_data
from connectivity.turn.channel_data import HEADER_BYTES

MOST_PADDING: Final = 3
_LARGEST_DATAGRAM: Final = 65_535
# The worst run is one of one-byte datagrams: each grows to five bytes, and to eight on a stream.
SCRATCH_BYTES: Final = (_LARGEST_DATAGRAM + 1) * (HEADER_BYTES + 1 + MOST_PADDING)
_HEADER: Final = np.dtype((np.void, HEADER_BYTES))
_NUMBER_AND_LENGTH: Final = struct.Struct("!HH")


class ChannelRun(NamedTuple):
    """``messages`` messages of one channel, one every ``stride`` bytes.

    All payloads have ``length`` bytes except the last one's ``last_length``, which is not more.
    """

    data: memoryview
    number: int
    stride: int
    length: int
    messages: int
    last_length: int


class Malformed(NamedTuple):
    """So many datagrams are no ChannelData although they begin like it."""

    datagrams: int


def is_channel_data(first_byte: int) -> bool:
    """Whether a datagram with this first byte is ChannelData: numbers 0x4000 to 0x7FFF."""
    return 0x40 <= first_byte <= 0x7F


def split(run: Run) -> Iterator[ChannelRun | Malformed | Run]:
    """Cut a run from a client into runs of one channel each, and everything else datagram by datagram."""
    data, size = run
    whole = len(data) // size if size >= HEADER_BYTES else 0
    if not whole or len(data) == size:
        yield from _read_each(run)
        return
    headers = np.ndarray((whole,), ">u4", data, 0, (size,))
    cuts = (np.flatnonzero(headers[1:] != headers[:-1]) + 1).tolist()
    begin = 0
    for end in (*cuts, whole):
        # The shorter datagram at the end goes with the last group.
        group = data[begin * size : end * size if end < whole else None]
        begin = end
        if is_channel_data(group[0]):
            yield from _read_uniform(group, size)
        else:
            yield from _read_each(Run(group, size))


def strip_uniform(data: memoryview, stride: int, length: int, scratch: memoryview) -> memoryview | None:
    """What ``split`` and ``strip`` make of messages of one channel and size, for less.

    Args:
        data: A datagram every ``stride`` bytes; the last one may be shorter.
        stride: More than a header.
        length: Of the payload in each message.
        scratch: Where the payloads go.

    Returns:
        The payloads, contiguous. None if it is something else: ``split`` sees what.
    """
    whole, rest = divmod(len(data), stride)
    number, said = _NUMBER_AND_LENGTH.unpack_from(data)
    if said != length or not 0 < length <= stride - HEADER_BYTES <= length + MOST_PADDING:
        return None
    headers = np.ndarray((whole,), _HEADER, data, 0, (stride,))
    if headers.tobytes() != data[:HEADER_BYTES].tobytes() * whole:
        return None
    payload = _opaque(length)
    np.ndarray((whole,), payload, scratch)[:] = np.ndarray((whole,), payload, data, HEADER_BYTES, (stride,))
    end = whole * length
    if rest:
        tail = data[-rest:]
        last_length = _continues(tail, number, length)
        if last_length is None:
            return None
        scratch[end : end + last_length] = tail[HEADER_BYTES : HEADER_BYTES + last_length]
        end += last_length
    return scratch[:end]


def strip(run: ChannelRun, scratch: memoryview) -> Run:
    """The payloads, contiguous."""
    data, _, stride, length, count, last_length = run
    if count == 1:
        return Run(data[HEADER_BYTES : HEADER_BYTES + last_length], last_length)
    whole = count - 1
    source = np.ndarray((whole, length), np.uint8, data, HEADER_BYTES, (stride, 1))
    np.ndarray((whole, length), np.uint8, scratch)[:] = source
    end = whole * length
    start = whole * stride + HEADER_BYTES
    scratch[end : end + last_length] = data[start : start + last_length]
    return Run(scratch[: end + last_length], length)


def frame(run: Run, number: int, scratch: memoryview) -> Run:
    """The datagrams as ChannelData messages, not padded: Firezone's peers refuse padding over UDP."""
    data, size = run
    if len(data) <= size:
        end = HEADER_BYTES + len(data)
        scratch[HEADER_BYTES:end] = data
        return channel_data.frame(Run(scratch[:end], end), number)
    whole, rest = divmod(len(data), size)
    stride = size + HEADER_BYTES
    source = np.ndarray((whole, size), np.uint8, data)
    np.ndarray((whole, size), np.uint8, scratch, HEADER_BYTES, (stride, 1))[:] = source
    end = whole * stride
    if rest:
        scratch[end + HEADER_BYTES : end + HEADER_BYTES + rest] = data[whole * size :]
        end += HEADER_BYTES + rest
    return channel_data.frame(Run(scratch[:end], stride), number)


def frame_padded(run: Run, number: int, scratch: memoryview) -> Run:
    """The datagrams as ChannelData messages for a stream: each padded to four bytes (§12.5), all in one segment."""
    data, size = run
    whole = len(data) // size if len(data) > size else 0
    stride = HEADER_BYTES + size + -size % 4
    if whole:
        rows = np.ndarray((whole, stride), np.uint8, scratch)
        rows[:, HEADER_BYTES : HEADER_BYTES + size] = np.ndarray((whole, size), np.uint8, data)
        rows[:, HEADER_BYTES + size :] = 0
        np.ndarray((whole,), ">u4", scratch, 0, (stride,))[:] = number << 16 | size
    end = whole * stride
    last = data[whole * size :]
    if len(last) or not size:
        scratch[end : end + HEADER_BYTES] = channel_data.encode_header(number, len(last))
        end += HEADER_BYTES + len(last)
        scratch[end - len(last) : end] = last
        padding = -end % 4
        scratch[end : end + padding] = bytes(padding)
        end += padding
    return Run(scratch[:end], end)


@lru_cache(2048)
def _opaque(size: int) -> np.dtype[Any]:
    """Elements of so many bytes, which are copied as a whole."""
    return np.dtype((np.void, size))


def _read_uniform(data: memoryview, size: int) -> Iterator[ChannelRun | Malformed | Run]:
    """Datagrams of ``size`` bytes with equal channel headers; a shorter last one may be anything."""
    whole = len(data) // size
    number, length = data[0] << 8 | data[1], data[2] << 8 | data[3]
    if not length or not 0 <= size - HEADER_BYTES - length <= MOST_PADDING:
        yield from _read_each(Run(data, size))  # each of them may still be a super-packet
        return
    tail = data[whole * size :]
    last_length = _continues(tail, number, length)
    if last_length is not None:
        yield ChannelRun(data, number, size, length, whole + 1, last_length)
        return
    yield ChannelRun(data, number, size, length, whole, length)
    if len(tail):
        yield from _read_one(tail)


def _continues(tail: memoryview, number: int, longest: int) -> int | None:
    """The payload length of a last message that fits behind others of its channel; None if it does not.

    An empty one never does: a run cannot end with it.
    """
    if len(tail) <= HEADER_BYTES or tail[0] << 8 | tail[1] != number:
        return None
    length = tail[2] << 8 | tail[3]
    fits = 0 < length <= longest and 0 <= len(tail) - HEADER_BYTES - length <= MOST_PADDING
    return length if fits else None


def _read_each(run: Run) -> Iterator[ChannelRun | Malformed | Run]:
    """Datagram by datagram."""
    for datagram in run.segments():
        yield from _read_one(datagram)


def _read_one(data: memoryview) -> Iterator[ChannelRun | Malformed | Run]:
    """One datagram: one message, several of one size, or something else."""
    if not len(data) or not is_channel_data(data[0]):
        yield Run(data, len(data))
        return
    if len(data) < HEADER_BYTES:
        yield Malformed(1)
        return
    number, length = data[0] << 8 | data[1], data[2] << 8 | data[3]
    spare = len(data) - HEADER_BYTES - length
    if 0 <= spare <= MOST_PADDING:
        yield ChannelRun(data, number, len(data), length, 1, length)
    elif spare < 0 or not length:
        yield Malformed(1)
    else:
        yield from _read_super_packet(data, number, length)


def _read_super_packet(data: memoryview, number: int, length: int) -> Iterator[ChannelRun | Malformed]:
    """Messages of one channel and size back to back, the last one possibly shorter, or malformed."""
    empty = channel_data.encode_header(number, 0)
    message = HEADER_BYTES + length
    for stride in (message, message + -message % 4):
        whole, rest = divmod(len(data), stride)
        headers = np.ndarray((whole,), ">u4", data, 0, (stride,))
        if not (headers == headers[0]).all():
            continue
        tail = data[whole * stride :]
        if not rest or tail == empty:
            yield ChannelRun(data[: whole * stride], number, stride, length, whole, length)
            if rest:
                yield ChannelRun(tail, number, rest, 0, 1, 0)
            return
        last_length = _continues(tail, number, length)
        if last_length is not None:
            yield ChannelRun(data, number, stride, length, whole + 1, last_length)
            return
    yield Malformed(1)
