"""A client, a peer and a relay on one bridge, each in a namespace of its own, for the attached program.

    [pxb-c-N] client            [pxb-p-N] peer             [pxb-r-N] relay
        e0 .10 ──┐                  e0 .20 ──┐                 e0 .1 (XDP) ──┐
                 └────────────── br0 in [pxb-b-N] ───────────────────────────┘
                    192.0.2.0/24 and 2001:db8:0:1::/64, client .30 is a second one in the same namespace

A veth's far end takes native frames only with GRO (or a program of its own) on it, so the bridge ports have it on, save
where the self-test is to find out. Senders keep transmit checksum offload unless a test says so: partial checksums
are what a container's veth gives the program.
"""

import itertools
import os
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from typing import Final

from tests.netns.plain_pair import entered, ip

CLIENT: Final = {4: ip_address("192.0.2.10"), 6: ip_address("2001:db8:0:1::10")}
CLIENT_2: Final = {4: ip_address("192.0.2.30"), 6: ip_address("2001:db8:0:1::30")}
PEER: Final = {4: ip_address("192.0.2.20"), 6: ip_address("2001:db8:0:1::20")}
RELAY: Final = {4: ip_address("192.0.2.1"), 6: ip_address("2001:db8:0:1::1")}
_numbers = itertools.count()


@dataclass(frozen=True)
class Lab:
    """The four namespaces."""

    client: str
    peer: str
    relay: str
    bridge: str

    def run(self, namespace: str, *command: str) -> None:
        subprocess.run(["ip", "netns", "exec", namespace, *command], check=True, capture_output=True)

    def open_forwarding(self) -> None:
        with entered(self.relay):
            Path("/proc/sys/net/ipv4/conf/e0/forwarding").write_text("1")
            Path("/proc/sys/net/ipv6/conf/all/forwarding").write_text("1")

    def forget_neighbours(self) -> None:
        self.run(self.relay, "ip", "neigh", "flush", "all")


@contextmanager
def bridged() -> Iterator[Lab]:
    number = f"{os.getpid()}-{next(_numbers)}"
    names = Lab(f"pxb-c-{number}", f"pxb-p-{number}", f"pxb-r-{number}", f"pxb-b-{number}")
    try:
        for name in (names.client, names.peer, names.relay, names.bridge):
            ip("netns", "add", name)
            ip("-n", name, "link", "set", "lo", "up")
        ip("-n", names.bridge, "link", "add", "br0", "type", "bridge")
        ip("-n", names.bridge, "link", "set", "br0", "up")
        for port, (name, addresses) in enumerate(
            ((names.client, (CLIENT, CLIENT_2)), (names.peer, (PEER,)), (names.relay, (RELAY,)))
        ):
            ip("-n", names.bridge, "link", "add", f"p{port}", "type", "veth", "peer", "name", "e0", "netns", name)
            ip("-n", names.bridge, "link", "set", f"p{port}", "master", "br0", "up")
            names.run(names.bridge, "ethtool", "-K", f"p{port}", "gro", "on")
            for address in itertools.chain.from_iterable(each.values() for each in addresses):
                length = "24" if address.version == 4 else "64"
                words = ("nodad",) if length == "64" else ()
                ip("-n", name, "addr", "add", f"{address}/{length}", "dev", "e0", *words)
            ip("-n", name, "link", "set", "e0", "up")
        yield names
    finally:
        for name in (names.client, names.peer, names.relay, names.bridge):
            subprocess.run(["ip", "netns", "del", name], check=False, capture_output=True)


def neighbourly(lab: Lab) -> None:
    """The relay's stack talks to everyone once, so that the kernel knows their hardware addresses."""
    addresses = itertools.chain(CLIENT.values(), CLIENT_2.values(), PEER.values())
    with ExitStack() as pings:
        for address in addresses:
            command = ["ip", "netns", "exec", lab.relay, "ping", "-q", "-c", "1", "-W", "2", str(address)]
            pings.enter_context(subprocess.Popen(command, stdout=subprocess.DEVNULL))
