"""Scratch memory of the batch operations: buffers cut into equal rows, the cuts remembered.

A batch costs a few calls, not a few per packet, because everything that depends only on sizes is made once and kept:
``memoryview`` slices of the rows, numpy views over the header words of the rows, nonce rows. Buffers grow, never
shrink; growing drops the cuts (slices of the old memory stay valid for whoever still holds them).

One workspace may serve all tunnels of a thread. A run that was sealed is valid until the next seal, one that was opened
until the next open, on any tunnel that uses the same workspace.
"""

from collections import OrderedDict
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

Words: TypeAlias = NDArray[np.uint64]

_SMALLEST_BUFFER_BYTES: Final = 4096
_SMALLEST_ROW_COUNT: Final = 64
# Bulk flows use one packet size each; beyond this many sizes at once the cuts of the oldest are made again.
_REMEMBERED_CUTS: Final = 16


class RowBuffer:
    """A growing buffer whose rows are addressed by stride."""

    __slots__ = ("_rows", "_words", "view")

    def __init__(self) -> None:
        self.view = memoryview(bytearray(_SMALLEST_BUFFER_BYTES))
        self._rows: OrderedDict[tuple[int, int, int], list[memoryview]] = OrderedDict()
        self._words: OrderedDict[tuple[int, int], Words] = OrderedDict()

    def reserve(self, size: int) -> memoryview:
        """The whole buffer, grown to hold at least ``size`` bytes."""
        if size > len(self.view):
            self.view = memoryview(bytearray(1 << (size - 1).bit_length()))
            self._rows.clear()
            self._words.clear()
        return self.view

    def rows(self, stride: int, start: int, length: int, count: int) -> list[memoryview]:
        """At least ``count`` slices of ``length`` bytes, each ``start`` bytes into its row."""
        key = (stride, start, length)
        rows = self._rows.get(key)
        if rows is None:
            rows = self._rows[key] = []
            if len(self._rows) > _REMEMBERED_CUTS:
                self._rows.popitem(last=False)
        if len(rows) < count:
            view = self.view
            rows += [view[i : i + length] for i in range(len(rows) * stride + start, count * stride, stride)]
        return rows

    def words(self, stride: int, start: int) -> Words:
        """A little-endian 64-bit word of each row that is wholly in the buffer, ``start`` bytes into it."""
        key = (stride, start)
        words = self._words.get(key)
        if words is None:
            count = len(self.view) // stride
            words = np.ndarray((count,), "<u8", self.view, offset=start, strides=(stride,))
            self._words[key] = words
            if len(self._words) > _REMEMBERED_CUTS:
                self._words.popitem(last=False)
        return words


class NonceRows:
    """Nonces of data messages: four zero bytes and the counter, one per row."""

    __slots__ = ("_ascending", "counters", "rows")

    # Rows of 16 bytes, of which the last 12 are the nonce: so the counters are aligned for numpy.
    rows: list[memoryview]
    counters: Words

    def __init__(self) -> None:
        self._make(_SMALLEST_ROW_COUNT)

    def reserve(self, count: int) -> None:
        """Have at least ``count`` rows."""
        if count > len(self.rows):
            self._make(1 << (count - 1).bit_length())

    def fill(self, first: int, count: int) -> Words:
        """Count up from ``first`` in the first ``count`` rows, which are returned as words."""
        self.reserve(count)
        counters = self.counters[:count]
        np.add(self._ascending[:count], np.uint64(first), out=counters)
        return counters

    def _make(self, count: int) -> None:
        memory = memoryview(bytearray(16 * count))
        self.rows = [memory[i + 4 : i + 16] for i in range(0, 16 * count, 16)]
        self.counters = np.ndarray((count,), "<u8", memory, offset=8, strides=(16,))
        self._ascending = np.arange(count, dtype=np.uint64)


class Workspace:
    """What sealing and opening need besides keys."""

    __slots__ = ("nonces", "opened", "sealed", "staging")

    def __init__(self) -> None:
        self.staging = RowBuffer()
        self.sealed = RowBuffer()
        self.opened = RowBuffer()
        self.nonces = NonceRows()
