"""What the tests of the attached program share: sockets in namespaces, messages, patience."""

import socket
import struct
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from connectivity.endpoint import IPAddress
from tests.netns.plain_pair import entered


@contextmanager
def udp(namespace: str, address: IPAddress, port: int) -> Iterator[socket.socket]:
    """A bound socket in a namespace."""
    with entered(namespace):
        endpoint = socket.socket(socket.AF_INET if address.version == 4 else socket.AF_INET6, socket.SOCK_DGRAM)
    with endpoint:
        endpoint.settimeout(3)
        endpoint.bind((str(address), port))
        yield endpoint


def later(seconds: float = 60) -> int:
    """An expiry."""
    return time.monotonic_ns() + int(seconds * 10**9)


def channel_data(number: int, message: bytes) -> bytes:
    """As a client sends it."""
    return struct.pack("!HH", number, len(message)) + message


def has_program(namespace: str, interface: str) -> bool:
    """Whether any XDP program is on it."""
    shown = subprocess.run(
        ["ip", "-n", namespace, "link", "show", interface], check=True, capture_output=True, text=True
    )
    return "xdp" in shown.stdout


def until(condition: Callable[[], bool]) -> None:
    """Ask again and again."""
    deadline = time.monotonic() + 5
    while not condition():
        assert time.monotonic() < deadline, "it did not become true within 5 s"
