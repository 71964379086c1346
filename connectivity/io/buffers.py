"""Buffers of UDP sockets: the kernel's limits, what a socket asks for, and where received datagrams land."""

import logging
import socket
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path
from typing import Any, Final

from connectivity.endpoint import Endpoint, IPAddress
from connectivity.errors import chain

# asm-generic/socket.h
SO_SNDBUFFORCE: Final = 32
SO_RCVBUFFORCE: Final = 33

SEND_BUFFER_BYTES: Final = 16 << 20
RECEIVE_BUFFER_BYTES: Final = 128 << 20
# Addresses seen are remembered so that none is parsed twice; past this the memory is emptied, not grown.
MAX_REMEMBERED: Final = 4096

_RECEIVE_BYTES: Final = 65536
_SYSCTL_DIRECTORY: Final = Path("/proc/sys/net/core")

_log = logging.getLogger(__name__)


class ReceiveBuffer:
    """Where datagrams land and which addresses were seen: sockets that are read in turn may share one."""

    __slots__ = ("endpoints", "view")

    def __init__(self) -> None:
        self.view = memoryview(bytearray(_RECEIVE_BYTES))
        self.endpoints: dict[Any, Endpoint] = {}

    def remote(self, address: tuple[Any, ...]) -> Endpoint:
        """The endpoint of a socket address; IPv4-mapped IPv6 becomes IPv4."""
        if len(self.endpoints) >= MAX_REMEMBERED:
            self.endpoints.clear()
        text, port = address[:2]
        # A third of the time that parsing the text takes, for what every newcomer costs.
        ip = _unmapped(ip_address(text)) if ":" in text else IPv4Address(socket.inet_aton(text))
        found = self.endpoints[address] = Endpoint(ip, port)
        return found

    def local(self, packed: bytes, port: int) -> Endpoint:
        """The endpoint of a destination address as it is in the ancillary data."""
        if len(self.endpoints) >= MAX_REMEMBERED:
            self.endpoints.clear()
        found = self.endpoints[packed, port] = Endpoint(_unmapped(ip_address(packed)), port)
        return found


def raise_limits(directory: Path = _SYSCTL_DIRECTORY) -> None:
    """Raise ``rmem_max`` and ``wmem_max`` to what our sockets ask for; never lowers them, never fails."""
    for name, wanted in (("rmem_max", RECEIVE_BUFFER_BYTES), ("wmem_max", SEND_BUFFER_BYTES)):
        path = directory / name
        try:
            before = int(path.read_text(encoding="ascii"))
            if before < wanted:
                path.write_text(str(wanted), encoding="ascii")
        except (OSError, ValueError) as error:  # read-only in most containers: the host has to raise it
            _log.info("Socket buffer limit stays", extra={"fields": {"limit": name, "error": chain(error)}})
            continue
        fields = {"limit": name, "before": before, "now": max(before, wanted)}
        _log.info("Socket buffer limit is large enough", extra={"fields": fields})


def size_buffers(bound: socket.socket, send_bytes: int | None, receive_bytes: int | None) -> None:
    """Ask for buffers beyond the sysctl limit first, within it if that is not permitted; log what came of it."""
    fields: dict[str, int] = {"port": bound.getsockname()[1]}
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
        fields[f"{name}_buffer"] = bound.getsockopt(socket.SOL_SOCKET, plain) // 2
    _log.info("UDP socket buffers", extra={"fields": fields})


def _unmapped(address: IPAddress) -> IPAddress:
    if isinstance(address, IPv6Address):
        return address.ipv4_mapped or address
    return address
