"""What may do the work of whole runs in Python's place: a compiled helper that gives the same results sooner.

Python is the truth: each function that asks ``current`` does the same itself where there is none, or where the helper
leaves a case to it. A process chooses once, when it starts; no result depends on the choice, which is why it belongs to
nobody in particular. ``connectivity.native`` has the one that exists.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol


class SessionCipher(Protocol):
    """The keys of one session, ready for whole runs."""

    def seal(self, data: memoryview, size: int, headroom: int, counter: int, output: memoryview) -> bool:
        """Seal packets of ``size`` bytes, the last one perhaps shorter, with counters from ``counter`` on.

        Each message comes to lie behind ``headroom`` bytes of ``output``. False: it could not, and nothing counts.
        """

    def open(self, data: memoryview, size: int, headroom: int, output: memoryview) -> int:
        """Open messages of ``size`` bytes with ``headroom`` before each, the last one perhaps shorter.

        How many packets are in ``output``; negative if their counters do not ascend one by one. 0: one at least is not
        authentic, or holds no packet, and what was written there is to be forgotten.
        """


class Accelerator(Protocol):
    """A helper: each method does to a whole run what Python would, or leaves it to Python."""

    def cipher(self, send_key: bytes, receive_key: bytes, remote_index: int) -> SessionCipher | None:
        """Set up the keys of a session; None: Python has to."""

    def stretch(self, data: memoryview, offset: int, stride: int) -> int:
        """How many rows from ``offset`` on are plain packets of one flow; 0: Python has to look.

        Bits 0-15 are the number of rows, 16-31 the length of a shorter packet behind them, 32-47 that of the first one,
        48-55 its TOS byte; 56 is set for UDP, 57 for IPv6. A single row may have padding behind its packet.
        """

    def merge(self, data: memoryview, stride: int, offset: int, output: memoryview) -> int:
        """The next super-packet from the row at ``offset`` on, its virtio header in front.

        How many bytes of the run it has taken (upper 32 bits) and how long it is (lower 32 bits): 0 for a row that is
        to be written alone and as it is. Negative: nothing of this run can be merged.
        """

    def split(self, packet: memoryview, kind: int, l4: int, segment: int, output: memoryview) -> int:
        """Cut a super-packet into ``output``; the length of the headers of each packet, or 0: Python has to."""

    def uniform(self, data: memoryview, size: int, headroom: int) -> bool:
        """Whether all data messages share the receiver and, with ``headroom``, the channel, in frames of their size."""

    def rewrite(self, data: memoryview, stride: int, after: bytes, changes: tuple[int, int]) -> bool:
        """Give all plain packets of a run the addresses and ports of the flow key ``after``.

        ``changes`` are what is added to the checksums of IPv4 header and transport. False: nothing was done.
        """

    def any_of(self, data: memoryview, stride: int, at: int) -> int:
        """The bytes at ``at`` of all rows, OR'ed; negative if there is a row without."""

    def complete(self, data: memoryview, stride: int, start: int, offset: int) -> bool:
        """Finish the partial checksums of all rows; False: nothing was done."""


current: Accelerator | None = None


def use(accelerator: Accelerator | None) -> None:
    """Leave the work to ``accelerator`` from now on; sessions that exist keep what they have."""
    global current
    current = accelerator


@contextmanager
def using(accelerator: Accelerator | None) -> Iterator[None]:
    """Leave the work to ``accelerator`` for a while: so that both ways can be compared."""
    before = current
    use(accelerator)
    try:
        yield
    finally:
        use(before)
