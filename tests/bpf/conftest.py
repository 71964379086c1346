"""One loaded program for all tests of this folder, in a namespace with routes and neighbours for it to look up.

    [pxb-bpf-<pid>]  lo (ingress of test runs) · relay0, a veth: 192.0.2.1/24, 2001:db8::1/64, default routes,
                     permanent neighbours for all destinations of the tests

Test runs have the loopback as their ingress, so forwarding is on everywhere; nothing is attached, nothing leaves.
"""

import ctypes
import os
import socket
import struct
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import ip_address
from pathlib import Path
from typing import Final

import pytest

from connectivity.endpoint import IPAddress
from ebpf import bpf_syscall, layout
from ebpf.layout import Counter, FlowKey, FlowValue
from ebpf.loader import BuildOptions, LoadedProgram, load
from ebpf.outcomes import Direction, Outcome
from ebpf.projection import Projection
from ebpf.settings import ChannelFlow

LISTEN_PORT: Final = 3478
RELAY: Final[dict[int, IPAddress]] = {4: ip_address("192.0.2.1"), 6: ip_address("2001:db8::1")}
PUBLIC: Final[dict[int, IPAddress]] = {4: ip_address("203.0.113.7"), 6: ip_address("2001:db8:ffff::7")}
NEIGHBOURS: Final = ("192.0.2.10", "192.0.2.20", "192.0.2.254", "2001:db8::10", "2001:db8::20", "2001:db8::fe")
VERDICTS: Final = {1: "drop", 2: "pass", 4: "redirect"}
FOREVER: Final = 1 << 62
_CLONE_NEWNET: Final = 0x40000000
_libc = ctypes.CDLL(None, use_errno=True)


class Bench:
    """The loaded program, its maps to fill, frames to run through it."""

    def __init__(self, program: LoadedProgram, egress: int) -> None:
        self.program = program
        self.egress = egress
        self.reset()

    def reset(self) -> None:
        """No flows, no counts, both families, everything allowed."""
        self.projection = Projection(listen_port=LISTEN_PORT, own=[*RELAY.values(), *PUBLIC.values()], sources=RELAY)
        for version, name in ((4, "flows_v4"), (6, "flows_v6")):
            fd = self.program.maps[name]
            for key in list(bpf_syscall.map_keys(fd, layout.KEY_BYTES[version])):
                bpf_syscall.map_delete(fd, key)
        empty = bytes(layout.COUNTER.size * bpf_syscall.possible_cpus())
        for index in range(len(Direction) * 72):
            bpf_syscall.map_update(self.program.maps["outcome_stats"], struct.pack("=I", index), empty)
        self.configure()

    def configure(
        self, *, from_peer: bool = True, own: list[IPAddress] | None = None, egress: list[int] | None = None
    ) -> None:
        config = layout.pack_config(
            listen_port=LISTEN_PORT,
            from_peer=from_peer,
            own=list(RELAY.values()) if own is None else own,
            egress=[self.egress] if egress is None else egress,
        )
        bpf_syscall.map_update(self.program.maps["config"], struct.pack("=I", 0), config)

    def install(self, *flows: ChannelFlow) -> None:
        for flow in flows:
            changes = self.projection.install(flow)
            for key in changes.deletes:
                bpf_syscall.map_delete(self.flow_map(key), key.pack())
            for key, value in changes.writes:
                self.put(key, value)

    def put(self, key: FlowKey, value: FlowValue) -> None:
        bpf_syscall.map_update(self.flow_map(key), key.pack(), value.pack(key))

    def flow_map(self, key: FlowKey) -> int:
        return self.program.maps["flows_v4" if key.remote.ip.version == 4 else "flows_v6"]

    def flow_counter(self, key: FlowKey) -> Counter:
        value = bpf_syscall.map_lookup(self.flow_map(key), key.pack(), layout.FLOW_BYTES)
        assert value is not None
        return layout.unpack_flow_counter(value)

    def run(self, frame: bytes) -> tuple[str, bytes]:
        verdict, out = bpf_syscall.run_program(self.program.fd, frame)
        return VERDICTS.get(verdict, str(verdict)), out

    def outcomes(self) -> dict[tuple[Outcome, Direction], Counter]:
        """All counters that are not zero."""
        found = {}
        size = layout.COUNTER.size * bpf_syscall.possible_cpus()
        for outcome in Outcome:
            for direction in Direction:
                key = struct.pack("=I", outcome * len(Direction) + direction)
                values = bpf_syscall.map_lookup(self.program.maps["outcome_stats"], key, size) or b""
                total = sum((Counter._make(pair) for pair in layout.COUNTER.iter_unpack(values)), start=Counter())
                if total.packets:
                    found[outcome, direction] = total
        return found


@contextmanager
def entered(namespace: str) -> Iterator[None]:
    """This thread in another network namespace."""
    with open("/proc/thread-self/ns/net") as home, open(Path("/run/netns") / namespace) as away:
        assert _libc.setns(away.fileno(), _CLONE_NEWNET) == 0
        try:
            yield
        finally:
            assert _libc.setns(home.fileno(), _CLONE_NEWNET) == 0


@pytest.fixture(scope="session")
def loaded_bench() -> Iterator[Bench]:
    namespace = f"pxb-bpf-{os.getpid()}"
    _ip("netns", "add", namespace)
    try:
        _ip("-n", namespace, "link", "set", "lo", "up")
        _ip("-n", namespace, "link", "add", "relay0", "type", "veth", "peer", "name", "relay1")
        for command in (
            "addr add 192.0.2.1/24 dev relay0",
            "addr add 2001:db8::1/64 dev relay0 nodad",
            "link set relay0 up",
            "link set relay1 up",
            "route add default via 192.0.2.254",
            "-6 route add default via 2001:db8::fe",
            *(f"neigh add {address} lladdr 02:00:00:00:00:99 dev relay0 nud permanent" for address in NEIGHBOURS),
        ):
            _ip("-n", namespace, *command.split())
        with entered(namespace):
            Path("/proc/sys/net/ipv4/ip_forward").write_text("1")
            Path("/proc/sys/net/ipv6/conf/all/forwarding").write_text("1")
            egress = socket.if_nametoindex("relay0")
            with load(BuildOptions(flow_entries=64, poison_headroom=True)) as program:
                yield Bench(program, egress)
    finally:
        _ip("netns", "del", namespace)


@pytest.fixture
def bench(loaded_bench: Bench) -> Bench:
    loaded_bench.reset()
    return loaded_bench


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True)
