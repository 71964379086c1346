"""One loaded program for all tests of this folder, in a namespace with routes and neighbours for it to look up.

    [pxb-bpf-<pid>]  lo (ingress of test runs) · relay0, a veth: 192.0.2.1/24, 2001:db8::1/64, default routes,
                     permanent neighbours for all destinations of the tests

Test runs have the loopback as their ingress, so forwarding is on everywhere; nothing is attached, nothing leaves.
"""

import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from ebpf.loader import BuildOptions, load
from tests.bpf.relay_bench import BINDINGS, NEIGHBOUR_MAC, Bench
from tests.netns.plain_pair import entered, ip

NEIGHBOURS: Final = ("192.0.2.10", "192.0.2.20", "192.0.2.254", "2001:db8::10", "2001:db8::20", "2001:db8::fe")


@pytest.fixture(scope="session")
def namespace() -> Iterator[str]:
    name = f"pxb-bpf-{os.getpid()}"
    ip("netns", "add", name)
    try:
        for command in (
            "link set lo up",
            "link add relay0 type veth peer name relay1",
            "addr add 192.0.2.1/24 dev relay0",
            "addr add 2001:db8::1/64 dev relay0 nodad",
            "link set relay0 up",
            "link set relay1 up",
            "route add default via 192.0.2.254",
            "-6 route add default via 2001:db8::fe",
            *(f"neigh add {a} lladdr {NEIGHBOUR_MAC.hex(':')} dev relay0 nud permanent" for a in NEIGHBOURS),
        ):
            ip("-n", name, *command.split())
        with entered(name):
            Path("/proc/sys/net/ipv4/ip_forward").write_text("1")
            Path("/proc/sys/net/ipv6/conf/all/forwarding").write_text("1")
        yield name
    finally:
        ip("netns", "del", name)


@pytest.fixture(scope="session")
def loaded_bench(namespace: str) -> Iterator[Bench]:
    with entered(namespace):
        egress = socket.if_nametoindex("relay0")
    with load(BuildOptions(flow_entries=64, bindings=BINDINGS, poison_headroom=True)) as program:
        bench = Bench(program, egress)
        yield bench
        bench.bindings.close()


@pytest.fixture
def bench(loaded_bench: Bench, namespace: str) -> Iterator[Bench]:
    """The program without flows and counts, and this test inside the namespace."""
    loaded_bench.reset()
    with entered(namespace):
        yield loaded_bench
