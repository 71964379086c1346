"""Opening ``/dev/net/tun``: the device node, the interface or a queue of it, its offloads.

``OSError`` where the kernel refuses; ``io.tun`` says what could not be done.
"""

import errno
import fcntl
import os
import socket
import stat
import struct
from pathlib import Path
from typing import Final

from connectivity.errors import FatalError
from connectivity.io.privileges import privileged

# linux/if_tun.h
TUNSETIFF: Final = 0x400454CA
TUNSETOFFLOAD: Final = 0x400454D0
IFF_TUN: Final = 0x0001
IFF_MULTI_QUEUE: Final = 0x0100
IFF_NO_PI: Final = 0x1000
IFF_VNET_HDR: Final = 0x4000
IFF_TUN_EXCL: Final = 0x8000
TUN_F_CSUM: Final = 0x01
TUN_F_TSO4: Final = 0x02
TUN_F_TSO6: Final = 0x04
TUN_F_TSO_ECN: Final = 0x08
TUN_F_USO4: Final = 0x20
TUN_F_USO6: Final = 0x40
# linux/if.h: IFNAMSIZ, the terminating zero included
_NAME_BYTES: Final = 16
# linux/sockios.h
SIOCSIFMTU: Final = 0x8922
# What ``attach`` is to do.
ONLY_QUEUE: Final = 0
FIRST_QUEUE: Final = IFF_MULTI_QUEUE | IFF_TUN_EXCL
NEXT_QUEUE: Final = IFF_MULTI_QUEUE
# Documentation/admin-guide/devices.txt
_DEVICE: Final = Path("/dev/net/tun")
_DEVICE_NUMBER: Final = (10, 200)
_INTERFACES: Final = Path("/proc/thread-self/net/dev")  # of this thread's namespace, whatever is mounted where
_SENT_DROPPED: Final = 11  # eight columns of what came in before it


def open_node(name: str) -> int:
    """A descriptor that is no device's yet; ``name`` is that of the device to be.

    Raises:
        FatalError: it cannot be opened.
    """
    try:
        _ensure_node(_DEVICE)
        return os.open(_DEVICE, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    except PermissionError as error:
        needed = "a container needs it passed in, a user the right to read and write it"
        raise FatalError(f"cannot open {_DEVICE} for device {name} ({needed})") from error
    except OSError as error:
        raise FatalError(f"cannot open {_DEVICE} for device {name}") from error


def attach(descriptor: int, name: str, queues: int) -> None:
    """Create the interface, take a persistent one that nobody has open, or add a queue to one that is ours.

    The only queue is not one of several: with IFF_MULTI_QUEUE, opening a device that another process serves would
    quietly share its packets. For the same reason the first of several makes a new device (IFF_TUN_EXCL).
    """
    if not 0 < len(name.encode()) < _NAME_BYTES:
        raise OSError(errno.ENAMETOOLONG, f"interface name {name!r} does not have 1 to 15 bytes")
    with privileged("making it", "CAP_NET_ADMIN"):
        flags = IFF_TUN | IFF_NO_PI | IFF_VNET_HDR | queues
        fcntl.ioctl(descriptor, TUNSETIFF, struct.pack("16sH22x", name.encode(), flags))


def set_offloads(descriptor: int, wanted: frozenset[str]) -> tuple[bool, bool]:
    """Ask for as much as is wanted, then for less, until the kernel agrees; returns (TSO, USO)."""
    tso = TUN_F_TSO4 | TUN_F_TSO6 | TUN_F_TSO_ECN if "tso" in wanted else 0
    uso = TUN_F_USO4 | TUN_F_USO6 if "uso" in wanted else 0
    for offered_tso, offered_uso in ((tso, uso), (tso, 0), (0, 0)):
        flags = TUN_F_CSUM | offered_tso | offered_uso if offered_tso or offered_uso else 0
        try:
            fcntl.ioctl(descriptor, TUNSETOFFLOAD, flags)
        except OSError:
            continue  # this kernel does not know one of them (USO came with Linux 6.2)
        return bool(offered_tso), bool(offered_uso)
    return False, False


def set_mtu(name: str, mtu: int) -> None:
    """The longest packet that the host may give the device."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        fcntl.ioctl(control, SIOCSIFMTU, struct.pack("16si20x", name.encode(), mtu))


def host_dropped(name: str) -> int:
    """Packets of the host that found the device's queue full; 0 if there is no such device."""
    for line in _INTERFACES.read_text(encoding="ascii").splitlines():
        found, colon, counts = line.partition(":")
        if colon and found.strip() == name:
            return int(counts.split()[_SENT_DROPPED])
    return 0


def _ensure_node(device: Path) -> None:
    """Make the device node where a container image lacks it; whether the kernel lets us open it shows then."""
    if device.exists():
        return
    try:
        device.parent.mkdir(mode=0o751, parents=True, exist_ok=True)
        with privileged("making it", "CAP_MKNOD"):
            os.mknod(device, stat.S_IFCHR | 0o600, os.makedev(*_DEVICE_NUMBER))
    except OSError as error:
        raise OSError(error.errno, "it is missing and cannot be made") from error
