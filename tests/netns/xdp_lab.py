"""What the tests of the attached program share: a relay with two sides, sockets in namespaces, messages, patience.

    [pxi-c-N] client                  [pxi-r-N] relay                  [pxi-p-N] peer
      e0 192.0.2.10 ──────────── c0 192.0.2.1    p0 198.51.100.1 ──────── e0 198.51.100.20
         2001:db8:1::10             2001:db8:1::1   2001:db8:2::1            2001:db8:2::20

Both relay ends are offloaded and forward; both far ends have GRO on, without which native frames do not arrive. The
relay's address is that of the client's side.
"""

import itertools
import os
import socket
import struct
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from typing import Final

from connectivity.endpoint import IPAddress
from tests.netns.plain_pair import entered, ip

CLIENT: Final = {4: ip_address("192.0.2.10"), 6: ip_address("2001:db8:1::10")}
PEER: Final = {4: ip_address("198.51.100.20"), 6: ip_address("2001:db8:2::20")}
RELAY: Final = {4: ip_address("192.0.2.1"), 6: ip_address("2001:db8:1::1")}
PEER_SIDE: Final = {4: ip_address("198.51.100.1"), 6: ip_address("2001:db8:2::1")}
_PATIENCE_SECONDS: Final = 30
_numbers = itertools.count()


@dataclass(frozen=True)
class Sides:
    """The three namespaces."""

    client: str
    peer: str
    relay: str

    def connect(
        self, name: str, far: str, near_addresses: dict[int, IPAddress], far_addresses: dict[int, IPAddress]
    ) -> None:
        """A pair of interfaces, addressed and up, each end knowing the other and all else through it."""
        ip("-n", self.relay, "link", "add", name, "type", "veth", "peer", "name", "e0", "netns", far)
        for namespace, device, addresses in ((self.relay, name, near_addresses), (far, "e0", far_addresses)):
            ip("-n", namespace, "addr", "add", f"{addresses[4]}/24", "dev", device)
            ip("-n", namespace, "addr", "add", f"{addresses[6]}/64", "dev", device, "nodad")
            ip("-n", namespace, "link", "set", device, "up")
        subprocess.run(
            ["ip", "netns", "exec", far, "ethtool", "-K", "e0", "gro", "on"], check=True, capture_output=True
        )
        for version in (4, 6):
            ip("-n", far, f"-{version}", "route", "add", "default", "via", str(near_addresses[version]))
            for source, target in ((self.relay, far_addresses[version]), (far, near_addresses[version])):
                subprocess.run(
                    ["ip", "netns", "exec", source, "ping", "-q", "-c", "1", "-W", "3", str(target)],
                    check=True,
                    capture_output=True,
                )

    def connect_peer(self) -> None:
        self.connect("p0", self.peer, PEER_SIDE, PEER)


@contextmanager
def two_sides() -> Iterator[Sides]:
    """Built, until left."""
    number = f"{os.getpid()}-{next(_numbers)}"
    names = Sides(f"pxi-c-{number}", f"pxi-p-{number}", f"pxi-r-{number}")
    try:
        for name in (names.client, names.peer, names.relay):
            ip("netns", "add", name)
            ip("-n", name, "link", "set", "lo", "up")
        with entered(names.relay):
            Path("/proc/sys/net/ipv4/ip_forward").write_text("1")
            Path("/proc/sys/net/ipv6/conf/all/forwarding").write_text("1")
        names.connect("c0", names.client, RELAY, CLIENT)
        names.connect_peer()
        yield names
    finally:
        for name in (names.client, names.peer, names.relay):
            subprocess.run(["ip", "netns", "del", name], check=False, capture_output=True)


@contextmanager
def udp(namespace: str, address: IPAddress, port: int) -> Iterator[socket.socket]:
    """A bound socket in a namespace."""
    with entered(namespace):
        endpoint = socket.socket(socket.AF_INET if address.version == 4 else socket.AF_INET6, socket.SOCK_DGRAM)
    with endpoint:
        endpoint.settimeout(10)
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
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while not condition():
        assert time.monotonic() < deadline, f"it did not become true within {_PATIENCE_SECONDS} s"
