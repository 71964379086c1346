"""Whether a service can listen where its settings say, and who does so where it cannot.

A port in use is fine if the service itself runs here and holds it. Who holds one is asked of ``/proc``, which shows
other users' processes to root alone.
"""

import errno
import os
import socket
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from typing import Final

from connectivity.endpoint import Endpoint
from postern.doctor.finding import Finding, remark

_PATIENCE_SECONDS: Final = 5.0
_PROC: Final = Path("/proc")
_CREDENTIALS: Final = struct.Struct("3i")  # struct ucred: pid, uid, gid
_LISTENING: Final = "0A"  # TCP_LISTEN
_COLUMN_OF_STATE, _COLUMN_OF_INODE = 3, 9


@dataclass(frozen=True, slots=True)
class Holder:
    """A process that has a port."""

    pid: int
    name: str
    words: tuple[str, ...]

    def is_service(self, service: str) -> bool:
        """Whether it was started as ``postern SERVICE``."""
        programs = [os.path.basename(word) for word in self.words]
        return ("postern", service) in zip(programs, self.words[1:], strict=False)

    def __str__(self) -> str:
        return f"{self.name} (PID {self.pid})"


def examine(service: str, admin: Path, listens: Iterable[tuple[Endpoint, socket.SocketKind]]) -> list[Finding]:
    """Try all of them; ``admin`` is the service's own Unix socket."""
    pid = _pid_behind(admin)
    own, unnamed, found = [], [], []
    for endpoint, kind in listens:
        name = f"{'UDP' if kind is socket.SOCK_DGRAM else 'TCP'} {endpoint}"
        error = _try_to_listen(endpoint, kind)
        if error is None:
            if pid is not None:
                what = f"it runs here (PID {pid}), but does not listen at {name}"
                found.append(remark(what, "restart it, if its settings have changed since it started"))
        elif error.errno != errno.EADDRINUSE:
            found.append(_refused(endpoint, f"cannot listen at {name}: {error.strerror}", error))
        elif not (holders := tuple(_holders(endpoint, kind))):
            unnamed.append(name)
        elif all(holder.pid == pid or holder.is_service(service) for holder in holders):
            own.append(name)
            pid = pid or holders[0].pid
        else:
            what = f"cannot listen at {name}: in use by {', '.join(map(str, holders))}"
            found.append(Finding(what, "stop that, or choose another port"))
    return [*_of_those_in_use(service, pid, own, unnamed), *found]


def _of_those_in_use(service: str, pid: int | None, own: list[str], unnamed: list[str]) -> list[Finding]:
    told = []
    if own:
        told.append(remark(f"it runs here (PID {pid}) and listens at {', '.join(own)}"))
    if unnamed:
        names = ", ".join(unnamed)
        if pid is not None:
            what = f"it runs here (PID {pid}), and {names} is in use: by it or another, this user is not told"
        else:
            what = f"cannot listen at {names}: {os.strerror(errno.EADDRINUSE)}, by whom this user is not told"
        told.append(remark(what, f"nothing, if it is the {service}; as root the doctor says who it is"))
    return told


def _pid_behind(path: Path) -> int | None:
    """Of the process that answers at a Unix socket."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as knocking:
        knocking.settimeout(_PATIENCE_SECONDS)
        if knocking.connect_ex(str(path)) != 0:
            return None
        told = knocking.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
        pid: int = _CREDENTIALS.unpack(told)[0]
        return pid


def _try_to_listen(endpoint: Endpoint, kind: socket.SocketKind) -> OSError | None:
    family = socket.AF_INET if endpoint.ip.version == 4 else socket.AF_INET6
    try:
        with socket.socket(family, kind) as tried:
            if kind is socket.SOCK_STREAM:
                tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                tried.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            tried.bind((str(endpoint.ip), endpoint.port))
    except OSError as error:
        return error
    return None


def _refused(endpoint: Endpoint, what: str, error: OSError) -> Finding:
    if error.errno in {errno.EACCES, errno.EPERM}:
        return Finding(what, "a port from 1024 on, or CAP_NET_BIND_SERVICE")
    if error.errno == errno.EAFNOSUPPORT or endpoint.ip.is_unspecified:
        return remark(what, "nothing, if this host has no such addresses")
    return Finding(what, "an address that this host has")


def _holders(endpoint: Endpoint, kind: socket.SocketKind) -> Iterator[Holder]:
    """The processes whose sockets stand in the way, those that this user is shown."""
    inodes = {f"socket:[{inode}]" for inode in _inodes(endpoint, kind)}
    for process in sorted(_PROC.glob("[0-9]*"), key=lambda path: int(path.name)):
        try:
            if not any(os.readlink(file) in inodes for file in (process / "fd").iterdir()):
                continue
            name = (process / "comm").read_text(errors="replace").strip()
            words = (process / "cmdline").read_bytes().decode(errors="replace").split("\0")
        except OSError:
            continue  # it has ended, or is another user's
        yield Holder(int(process.name), name, tuple(words))


def _inodes(endpoint: Endpoint, kind: socket.SocketKind) -> Iterator[str]:
    table = "udp" if kind is socket.SOCK_DGRAM else "tcp"
    for name in (table, f"{table}6"):
        try:
            lines = (_PROC / "self/net" / name).read_text(encoding="ascii").splitlines()[1:]
        except OSError:
            continue  # a host without IPv6
        for columns in map(str.split, lines):
            ip, port = _address(columns[1])
            if table == "tcp" and columns[_COLUMN_OF_STATE] != _LISTENING:
                continue
            if port == endpoint.port and (ip == endpoint.ip or ip.is_unspecified or endpoint.ip.is_unspecified):
                yield columns[_COLUMN_OF_INODE]


def _address(text: str) -> tuple[IPv4Address | IPv6Address, int]:
    """``0100007F:1F90``: words of 32 bits in the byte order of the host."""
    digits, _, port = text.partition(":")
    words = struct.unpack(f">{len(digits) // 8}I", bytes.fromhex(digits))
    packed = struct.pack(f"={len(words)}I", *words)
    return (IPv4Address(packed) if len(packed) == 4 else IPv6Address(packed)), int(port, 16)
