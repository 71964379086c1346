"""Whether this host has an address family, whatever the errno by which it says no.

IPv6 is absent in three ways: the kernel has none, it was started without (``ipv6.disable=1``), or a sysctl switches it
off, for all interfaces or for new ones. Each answers otherwise, and a sysctl's refusal looks like a missing privilege.
IPv4 is in every kernel; a host without an IPv4 address says so by what it cannot reach.
"""

import errno
import socket
from pathlib import Path
from typing import Final

FAMILIES: Final = {4: socket.AF_INET, 6: socket.AF_INET6}
# The kernel has no such family: nothing else answers so.
_NO_FAMILY: Final = frozenset({errno.EAFNOSUPPORT, errno.EPFNOSUPPORT, errno.EPROTONOSUPPORT, errno.EOPNOTSUPP})
# What a family that is switched off answers: to a new address or route, to binding, to sending, for want of a file.
_SWITCHED_OFF: Final = frozenset(
    {errno.EACCES, errno.EPERM, errno.EADDRNOTAVAIL, errno.ENETUNREACH, errno.EHOSTUNREACH, errno.ENOENT, errno.ENODEV}
)
_PROC: Final = Path("/proc")


def is_absent(error: OSError, version: int, *, device: str | None = None, proc: Path = _PROC) -> bool:
    """Whether ``error`` says that this host, or this device of it, has no such family; else it says something else."""
    if error.errno in _NO_FAMILY:
        return True
    return error.errno in _SWITCHED_OFF and switched_off(version, device=device, proc=proc)


def absence(version: int, *, device: str | None = None, proc: Path = _PROC) -> str | None:
    """Why there is no such family, in words; None if there is one."""
    try:
        socket.socket(FAMILIES[version], socket.SOCK_DGRAM).close()
    except OSError as error:
        if is_absent(error, version, proc=proc):
            return f"the kernel has no IPv{version}"
    if not switched_off(version, device=device, proc=proc):
        return None
    if not (proc / "sys/net/ipv6/conf").exists():
        return f"the kernel has no IPv{version}"
    conf = proc / "sys/net/ipv6/conf"
    where = next((name for name in ("all", "default") if _is_one(conf / name)), device)  # a device takes it from these
    return f"IPv{version} is switched off (sysctl net.ipv6.conf.{where}.disable_ipv6)"


def switched_off(version: int, *, device: str | None = None, proc: Path = _PROC) -> bool:
    """Whether the device, or without one the whole host, was told to do without; False where nothing says so."""
    if version != 6 or not (proc / "sys/net/ipv4").exists():  # no /proc, nothing to go by
        return False
    conf = proc / "sys/net/ipv6/conf"
    if not conf.exists():
        return True
    if device is not None:
        return _is_one(conf / device)
    # Single interfaces may have it nevertheless.
    return (_is_one(conf / "all") or _is_one(conf / "default")) and not _has_address(proc / "net/if_inet6")


def _is_one(conf: Path) -> bool:
    try:
        return (conf / "disable_ipv6").read_text(encoding="ascii").strip() == "1"
    except OSError:
        return False


def _has_address(table: Path) -> bool:
    """Whether the kernel lists an address of any interface but loopback."""
    try:
        return any(line.split()[-1] != "lo" for line in table.read_text(encoding="ascii").splitlines() if line)
    except OSError:
        return False
