"""What the IP batches cost: microseconds per packet of 1280 bytes, 48 to a batch, and for single packets.

    python -m bench.ip_batches

In Python, and with the compiled helper if there is one, by turns. Each figure is processor time, the best of several
repetitions: a floor that noise can only raise. For scale, the last rows price a copy of the same bytes and their sum.
"""

import math
import struct
import sys
import time
import timeit
from collections.abc import Callable
from ipaddress import ip_address
from typing import Final

import numpy as np

from bench.helper import optional_helper
from connectivity import accelerator
from connectivity.ip.checksum import refresh, row_sums
from connectivity.ip.coalescing import Coalescer
from connectivity.ip.flow import PacketRun, split_flows
from connectivity.ip.packet import IpError, parse
from connectivity.ip.segmentation import (
    VIRTIO_NET_HDR_F_NEEDS_CSUM,
    VIRTIO_NET_HDR_GSO_TCPV4,
    VIRTIO_NET_HDR_GSO_TCPV6,
    Splitter,
    VirtioNetHeader,
)
from connectivity.run import Run

PACKETS: Final = 48
PACKET_BYTES: Final = 1280
_TIMESTAMPS: Final = bytes.fromhex("0101080a0000000100000002")
_REPETITIONS: Final = 70


def main() -> int:
    """Print one line per operation."""
    for version in (4, 6):
        _measure(version)
    rows = np.frombuffer(_batch(4).run.data, np.uint8).reshape(PACKETS, PACKET_BYTES)
    copy = np.empty_like(rows)
    _report("(copy of the batch)", PACKETS, lambda: np.copyto(copy, rows))
    _report("(sum of each packet)", PACKETS, lambda: row_sums(rows))
    return 0


def _measure(version: int) -> None:
    batch = _batch(version)
    header, whole = _super_packet(version, PACKET_BYTES * PACKETS)
    packet = memoryview(bytearray(whole))
    splitter, coalescer, errors = Splitter(), Coalescer(), list[IpError]()
    _report(f"split IPv{version}", PACKETS, lambda: splitter.split(header, packet))
    _report(f"split_flows IPv{version}", PACKETS, lambda: split_flows(batch.run, errors))
    _report(f"coalesce IPv{version}", PACKETS, lambda: list(coalescer.coalesce(batch)))
    one = Run.single(batch.run.data[:PACKET_BYTES])
    acknowledgement = Run.single(_packet(version, 0))
    _report(f"parse IPv{version}", 1, lambda: parse(one.data))
    _report(f"split_flows IPv{version}, single", 1, lambda: split_flows(one, errors))
    _report(f"split_flows IPv{version}, bare ACK", 1, lambda: split_flows(acknowledgement, errors))
    single = PacketRun(one, batch.flow, 0)
    _report(f"coalesce IPv{version}, single", 1, lambda: list(coalescer.coalesce(single)))


def _report(name: str, packets: int, work: Callable[[], object]) -> None:
    number = 200 // packets * 10
    best = [math.inf, math.inf]
    for _ in range(_REPETITIONS):
        for way, helper in enumerate((None, _HELPER)):
            with accelerator.using(helper):
                best[way] = min(best[way], timeit.timeit(work, timer=time.thread_time, number=number) / number)
    python, helped = (seconds * 1e6 for seconds in best)
    with_helper = "" if _HELPER is None else f"   with the helper {helped:6.1f}, 1/{python / helped:.2f}"
    print(f"{name:32s} {python / packets:7.2f} us/packet {python:8.1f} us/call{with_helper}")


def _packet(version: int, payload: int, sequence: int = 1) -> bytes:
    body = struct.pack(">HHIIBBHHH", 443, 50000, sequence, 1, 8 << 4, 0x10, 500, 0, 0) + _TIMESTAMPS + b"\x5a" * payload
    if version == 4:
        addresses = ip_address("100.64.0.1").packed + ip_address("192.0.2.1").packed
        header = struct.pack(">BBHHHBBH", 0x45, 0, 20 + len(body), 1, 0x4000, 64, 6, 0) + addresses
    else:
        addresses = ip_address("fd00:2021:1111::1").packed + ip_address("2001:db8::1").packed
        header = struct.pack(">IHBB", 6 << 28, len(body), 6, 64) + addresses
    packet = bytearray(header + body)
    refresh(memoryview(packet), len(header), 6)
    return bytes(packet)


def _batch(version: int) -> PacketRun:
    payload = PACKET_BYTES - len(_packet(version, 0))
    data = bytearray().join(_packet(version, payload, 1 + index * payload) for index in range(PACKETS))
    return PacketRun(Run(memoryview(data), PACKET_BYTES), parse(data[:PACKET_BYTES]).key, 0)


def _super_packet(version: int, size: int) -> tuple[VirtioNetHeader, bytes]:
    header = len(_packet(version, 0))
    segment = PACKET_BYTES - header
    whole = _packet(version, size // PACKET_BYTES * segment)
    kind = VIRTIO_NET_HDR_GSO_TCPV4 if version == 4 else VIRTIO_NET_HDR_GSO_TCPV6
    return VirtioNetHeader(VIRTIO_NET_HDR_F_NEEDS_CSUM, kind, header, segment, header - 32, 16), whole


_HELPER: Final = optional_helper()

if __name__ == "__main__":
    sys.exit(main())
