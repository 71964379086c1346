"""Two namespaces joined by a veth pair, for tests of sockets and devices alone.

pio-a-N  198.51.100.1, 2001:db8::1  ──veth──  198.51.100.2, 2001:db8::2  pio-b-N
"""

import ctypes
import itertools
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_CLONE_NEWNET = 0x40000000
_numbers = itertools.count()
_libc = ctypes.CDLL(None, use_errno=True)


@contextmanager
def namespaces() -> Iterator[tuple[str, str]]:
    """The names of the two; both are gone afterwards."""
    number = f"{os.getpid()}-{next(_numbers)}"
    names = (f"pio-a-{number}", f"pio-b-{number}")
    try:
        for name in names:
            ip("netns", "add", name)
            ip("-n", name, "link", "set", "lo", "up")
        join(*names)
        yield names
    finally:
        for name in names:
            subprocess.run(["ip", "netns", "delete", name], check=False, capture_output=True)


def join(*names: str) -> None:
    """The wire between the two, with its addresses."""
    ip("-n", names[0], "link", "add", "veth0", "type", "veth", "peer", "name", "veth0", "netns", names[1])
    for host, name in enumerate(names, 1):
        ip("-n", name, "address", "add", f"198.51.100.{host}/24", "dev", "veth0")
        ip("-n", name, "address", "add", f"2001:db8::{host}/64", "dev", "veth0", "nodad")
        ip("-n", name, "link", "set", "veth0", "up")
    for far in ("198.51.100.2", "2001:db8::2"):  # else a burst meets an unresolved neighbour, whose queue is short
        ip("netns", "exec", names[0], "ping", "-c", "1", "-W", "5", far)


def let_through(far: str) -> None:
    """A veth takes frames from XDP only if its far end does GRO or has a program too."""
    ip("netns", "exec", far, "ethtool", "-K", "veth0", "gro", "on")


@contextmanager
def entered(namespace: str) -> Iterator[None]:
    """Be in a namespace: what is opened there stays there."""
    before = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
    try:
        _enter(Path("/run/netns") / namespace)
        yield
    finally:
        _check(_libc.setns(before, _CLONE_NEWNET))
        os.close(before)


def ip(*arguments: str) -> str:
    """Run iproute2."""
    done = subprocess.run(["ip", *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"ip {' '.join(arguments)}: {done.stderr}"
    return done.stdout


def _enter(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        _check(_libc.setns(descriptor, _CLONE_NEWNET))
    finally:
        os.close(descriptor)


def _check(result: int) -> None:
    if result != 0:
        raise OSError(ctypes.get_errno(), "setns")
