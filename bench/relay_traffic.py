"""Frames as fast as the kernel makes them, and a count of those that arrive: both in XDP, no socket in between.

The generator is a live-frame test run (``BPF_F_TEST_XDP_LIVE_FRAMES``) whose program turns one frame into those of many
flows and redirects them into the sender's interface. The counter is a program on the interface where they arrive.
"""

import os
import signal
import struct
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Final, NamedTuple

from connectivity.endpoint import Endpoint, IPAddress
from ebpf import bpf_syscall
from ebpf.attach import FLAGS
from ebpf.loader import INCLUDE, LoadedProgram, load_source
from ebpf.oracle import ChecksumKind, Datagram
from lab.network import entered

MAX_FLOWS: Final = 1024
MARK: Final = b"POSTERN!"
HEAD_BYTES: Final = 4
_SOURCE: Final = Path(bpf_syscall.__file__).with_name("traffic_xdp.c")
_FLOW_BYTES: Final = 14 + 20 + 8 + HEAD_BYTES
_COURSE: Final = struct.Struct("=4I2Q")
_COUNT: Final = struct.Struct("=Q")
_FOREVER: Final = (1 << 32) - 1  # frames: more than fit into any time that is measured


class TrafficFlow(NamedTuple):
    """Ports of one flow, and the first four bytes of its datagrams: a channel header, or zeros."""

    source_port: int
    destination_port: int
    head: bytes


class Traffic(NamedTuple):
    """What to send: between two hosts, from one interface to the next hop's hardware address."""

    ifindex: int
    source_mac: bytes
    destination_mac: bytes
    source: IPAddress
    destination: IPAddress
    datagram_bytes: int
    flows: Sequence[TrafficFlow]
    burst: int = 1
    checksum: ChecksumKind = ChecksumKind.FULL

    def frame(self, flow: TrafficFlow) -> bytes:
        """One flow's frame; the IP header's checksum is right in any case."""
        payload = (flow.head + MARK + MARK).ljust(self.datagram_bytes, b"\0")
        source = Endpoint(self.source, flow.source_port)
        destination = Endpoint(self.destination, flow.destination_port)
        packet = Datagram(source, destination, payload).packet(self.checksum)
        return self.destination_mac + self.source_mac + b"\x08\x00" + packet


@contextmanager
def _alarm(seconds: float) -> Iterator[None]:
    """Interrupt a system call after so long."""
    before = signal.signal(signal.SIGALRM, lambda *_: None)
    try:
        signal.setitimer(signal.ITIMER_REAL, seconds)
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


class Generator:
    """Sends from a namespace at a pace, or as fast as it can."""

    def __init__(self) -> None:
        self._program = load("postern_traffic", ("traffic_flows", "traffic_course"))
        self._frame = b""
        self._course = (0, 0, 0)

    def close(self) -> None:
        self._program.close()

    def aim(self, traffic: Traffic) -> None:
        """What the next frames are: of every flow in turn."""
        if not 0 < len(traffic.flows) <= MAX_FLOWS:
            raise ValueError(f"expected 1 to {MAX_FLOWS} flows")
        for index, flow in enumerate(traffic.flows):
            self._frame = traffic.frame(flow)
            bpf_syscall.map_update(
                self._program.maps["traffic_flows"], struct.pack("=I", index), self._frame[:_FLOW_BYTES]
            )
        self._course = (traffic.ifindex, len(traffic.flows), traffic.burst)

    def send(self, namespace: str, packets_per_second: int | None, seconds: float) -> int:
        """Send for so long; how many were sent. Only in the main thread: a signal ends it."""
        interval_ns = 0 if packets_per_second is None else 10**9 // packets_per_second
        course = self._program.maps["traffic_course"]
        bpf_syscall.map_update(course, bytes(4), _COURSE.pack(*self._course, interval_ns, 0, 0))
        with entered(namespace), _alarm(seconds), suppress(InterruptedError):
            bpf_syscall.send_live_frame(self._program.fd, self._frame, _FOREVER)
        sent = bpf_syscall.map_lookup(course, bytes(4), _COURSE.size) or bytes(_COURSE.size)
        return int(_COURSE.unpack(sent)[4])


class Counter:
    """Counts what arrives on interfaces, and swallows it."""

    def __init__(self) -> None:
        self._program = load("postern_arrived", ("traffic_arrived",))
        self._links = ExitStack()

    def watch(self, namespace: str, ifindex: int) -> None:
        """Also count here, until closed."""
        with entered(namespace):
            link = bpf_syscall.create_xdp_link(self._program.fd, ifindex, FLAGS["native"])
        self._links.callback(os.close, link)

    def read(self) -> int:
        """Packets so far, of all interfaces."""
        size = _COUNT.size * bpf_syscall.possible_cpus()
        values = bpf_syscall.map_lookup(self._program.maps["traffic_arrived"], bytes(4), size) or b""
        return sum(count for (count,) in _COUNT.iter_unpack(values))

    def close(self) -> None:
        self._links.close()
        self._program.close()


def load(name: str, maps: Sequence[str]) -> LoadedProgram:
    """One of the two programs."""
    return load_source(_SOURCE, name, ["-Wall", "-Werror", f"-I{INCLUDE}"], maps)
