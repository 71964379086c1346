"""Buffers of UDP sockets: the kernel's limits, and what a socket asks for."""

import logging
import socket
from pathlib import Path
from typing import Final

from connectivity.errors import chain
from connectivity.io.privileges import lacks, privileged

# asm-generic/socket.h
SO_SNDBUFFORCE: Final = 32
SO_RCVBUFFORCE: Final = 33

SEND_BUFFER_BYTES: Final = 16 << 20
RECEIVE_BUFFER_BYTES: Final = 128 << 20

_SYSCTL_DIRECTORY: Final = Path("/proc/sys/net/core")

_log = logging.getLogger(__name__)


def raise_limits(directory: Path = _SYSCTL_DIRECTORY) -> None:
    """Raise ``rmem_max`` and ``wmem_max`` to what our sockets ask for; never lowers them, never fails."""
    for name, wanted in (("rmem_max", RECEIVE_BUFFER_BYTES), ("wmem_max", SEND_BUFFER_BYTES)):
        path = directory / name
        try:
            before = int(path.read_text(encoding="ascii"))
            if before < wanted:
                with privileged("raising it", "CAP_NET_ADMIN"):
                    path.write_text(str(wanted), encoding="ascii")
        except (OSError, ValueError) as error:  # read-only in most containers: the host has to raise it
            _log.debug("Socket buffer limit stays", extra={"fields": {"limit": name, "error": chain(error)}})
            continue
        fields = {"limit": name, "before": before, "now": max(before, wanted)}
        _log.debug("Socket buffer limit is large enough", extra={"fields": fields})


def size_buffers(bound: socket.socket, send_bytes: int | None, receive_bytes: int | None) -> None:
    """Ask for buffers beyond the sysctl limit first, within it if that is not permitted; log what came of it."""
    fields: dict[str, object] = {"port": bound.getsockname()[1]}
    wanted = (
        ("send", send_bytes, SO_SNDBUFFORCE, socket.SO_SNDBUF),
        ("receive", receive_bytes, SO_RCVBUFFORCE, socket.SO_RCVBUF),
    )
    for name, size, forced, plain in wanted:
        if size is None:
            continue
        try:
            bound.setsockopt(socket.SOL_SOCKET, forced, size)
        except OSError:  # EPERM without CAP_NET_ADMIN
            bound.setsockopt(socket.SOL_SOCKET, plain, size)
        fields[f"requested_{name}_buffer"] = size
        # The kernel doubles what it grants for its own bookkeeping (socket(7)).
        granted = fields[f"{name}_buffer"] = bound.getsockopt(socket.SOL_SOCKET, plain) // 2
        if granted < size and lacks("CAP_NET_ADMIN"):
            fields["lacks"] = "CAP_NET_ADMIN"  # with it a socket may go beyond the limit
    short = any(
        int(str(fields[f"{name}_buffer"])) < size for name, size, _, _ in wanted if size is not None
    )  # which is news; that they are as large as wanted is none
    _log.log(logging.INFO if short else logging.DEBUG, "UDP socket buffers", extra={"fields": fields})
