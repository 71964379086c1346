"""Whether one decision serves all segments of a received run.

A GRO run comes from one remote address, but its segments can be of several kinds, through a relay of several channels,
and at a session roll-over for several receiver indices. Two array comparisons prove that they do not differ.
"""

from collections.abc import Iterator
from typing import Final

import numpy as np

from connectivity import accelerator
from connectivity.run import Run
from connectivity.turn.channel_data import HEADER_BYTES

_PREFIX_BYTES: Final = 8  # WireGuard type and receiver index
_PREFIX: Final = np.dtype("u8")
_HEADER: Final = np.dtype("u4")


def stretches(run: Run) -> Iterator[Run]:
    """Cut a run where its segments begin otherwise: each part is uniform, or is for the core to look at one by one.

    Datagrams of several peers behind one relay come as one run when they are equally long.
    """
    data, size = run
    start, kind = 0, _kind(data, 0)
    for offset in range(size, len(data), size):
        following = _kind(data, offset)
        if following != kind:
            yield Run(data[start:offset], size)
            start, kind = offset, following
    yield Run(data[start:], min(size, len(data) - start))


def uniform(run: Run, headroom: int) -> bool:
    """Whether all segments share the 8 bytes behind ``headroom``; with headroom, also one channel."""
    data, size = run.data, run.segment_size
    helper = accelerator.current
    if helper is not None and len(data) > size > 0:
        return helper.uniform(data, size, headroom)
    total = len(data)
    count = run.segment_count
    last = total - (count - 1) * size
    if headroom and not _framed(data, size, count, last):
        return False
    if count == 1:
        return True
    if last < headroom + _PREFIX_BYTES:
        return False
    heads = np.ndarray((count,), _PREFIX, data, headroom, (size,))
    return heads.tobytes() == bytes(data[headroom : headroom + _PREFIX_BYTES]) * count  # quicker than an array of bools


def _kind(data: memoryview, offset: int) -> bytes:
    """What tells a data message's session, and over a relay its channel."""
    if 0x40 <= data[offset] <= 0x4F:
        body = offset + HEADER_BYTES
        return bytes(data[offset : offset + 2]) + bytes(data[body : body + _PREFIX_BYTES])
    return bytes(data[offset : offset + _PREFIX_BYTES])


def _framed(data: memoryview, size: int, count: int, last: int) -> bool:
    """Whether each segment is one channel data frame of the same number whose length field says exactly its size."""
    if last < HEADER_BYTES or size - HEADER_BYTES > 0xFFFF:
        return False
    offset = (count - 1) * size
    if data[offset : offset + 2] != data[0:2] or (data[offset + 2] << 8 | data[offset + 3]) != last - HEADER_BYTES:
        return False
    if count == 1:
        return True
    headers = np.ndarray((count - 1,), _HEADER, data, 0, (size,))
    expected = bytes(data[0:2]) + (size - HEADER_BYTES).to_bytes(2, "big")
    return headers.tobytes() == expected * (count - 1)
