"""The compiled helper, called: an ``Accelerator`` of whole runs, each of its methods one call into C.

Buffers are handed over as they are, for the length of the call; their bounds are looked at here or in C.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, Final

from connectivity.accelerator import SessionCipher

# cffi describes what it loads at run time.
Pointer = Any
Library = Any
Address = Callable[[memoryview], Pointer]


class Helper:
    """The ``Accelerator`` in C."""

    __slots__ = (
        "_address",
        "_any_of",
        "_complete",
        "_ffi",
        "_library",
        "_merge",
        "_rewrite",
        "_split",
        "_stretch",
        "_uniform",
        "_writable",
    )

    def __init__(self, ffi: Any, library: Library) -> None:
        self._ffi: Final = ffi
        self._address: Final[Address] = ffi.from_buffer
        self._writable: Final[Address] = partial(ffi.from_buffer, require_writable=True)
        self._library: Final = library
        self._stretch: Final[Callable[..., int]] = library.postern_stretch
        self._merge: Final[Callable[..., int]] = library.postern_merge
        self._split: Final[Callable[..., int]] = library.postern_split
        self._uniform: Final[Callable[..., int]] = library.postern_uniform
        self._rewrite: Final[Callable[..., int]] = library.postern_rewrite
        self._any_of: Final[Callable[..., int]] = library.postern_any_of
        self._complete: Final[Callable[..., int]] = library.postern_complete

    def cipher(self, send_key: bytes, receive_key: bytes, remote_index: int) -> SessionCipher | None:
        made = self._library.postern_session_new(send_key, receive_key, remote_index)
        if made == self._ffi.NULL:
            return None
        return Cipher(self._ffi.gc(made, self._library.postern_session_free), self._address, self._library)

    def stretch(self, data: memoryview, offset: int, stride: int) -> int:
        return self._stretch(self._address(data), len(data), offset, stride)

    def merge(self, data: memoryview, stride: int, offset: int, output: memoryview) -> int:
        return self._merge(self._address(data), len(data), stride, offset, self._address(output))

    def split(self, packet: memoryview, kind: int, l4: int, segment: int, output: memoryview) -> int:
        address = self._address
        return self._split(address(packet), len(packet), kind, l4, segment, address(output), len(output))

    def uniform(self, data: memoryview, size: int, headroom: int) -> bool:
        return self._uniform(self._address(data), len(data), size, headroom) == 1

    def rewrite(self, data: memoryview, stride: int, after: bytes, changes: tuple[int, int]) -> bool:
        return self._rewrite(self._writable(data), len(data), stride, after[2:], after[0], after[1], *changes) == 1

    def any_of(self, data: memoryview, stride: int, at: int) -> int:
        return self._any_of(self._address(data), len(data), stride, at)

    def complete(self, data: memoryview, stride: int, start: int, offset: int) -> bool:
        return self._complete(self._writable(data), len(data), stride, start, offset) == 1


class Cipher:
    """A ``SessionCipher``; its keys go with it."""

    __slots__ = ("_address", "_open", "_seal", "_session")

    def __init__(self, session: Pointer, address: Address, library: Library) -> None:
        self._session: Final = session
        self._address: Final = address
        self._seal: Final[Callable[..., int]] = library.postern_seal
        self._open: Final[Callable[..., int]] = library.postern_open

    def seal(self, data: memoryview, size: int, headroom: int, counter: int, output: memoryview) -> bool:
        address = self._address
        length = len(data)
        return self._seal(self._session, address(data), length, size, headroom, counter, address(output)) > 0

    def open(self, data: memoryview, size: int, headroom: int, output: memoryview) -> int:
        address = self._address
        return self._open(self._session, address(data), len(data), size, headroom, address(output))
