# The part of the distribution's bcc that ebpf/compiler.py uses.

from collections.abc import Sequence
from ctypes import CDLL, c_void_p

lib: CDLL

class BPF:
    XDP: int
    module: c_void_p | None

    class Function:
        fd: int
        name: bytes

    def __init__(
        self,
        src_file: str | bytes = ...,
        hdr_file: str | bytes = ...,
        text: str | bytes | None = ...,
        debug: int = ...,
        cflags: Sequence[str] = ...,
    ) -> None: ...
    def load_func(self, func_name: str | bytes, prog_type: int) -> Function: ...
    def cleanup(self) -> None: ...
