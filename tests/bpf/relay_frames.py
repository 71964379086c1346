"""Who talks through the relay in tests of single frames, and the frames that they send."""

import struct
from ipaddress import ip_address
from typing import Final

from connectivity.endpoint import Endpoint
from ebpf.oracle import Datagram
from ebpf.settings import ChannelFlow
from tests.bpf.relay_bench import FOREVER, MACS

CLIENT: Final = Endpoint(ip_address("192.0.2.10"), 50_001)
CLIENT6: Final = Endpoint(ip_address("2001:db8::10"), 50_001)
PEER: Final = Endpoint(ip_address("192.0.2.20"), 60_002)
PEER6: Final = Endpoint(ip_address("2001:db8::20"), 60_002)
LISTEN: Final = Endpoint(ip_address("192.0.2.1"), 3478)
LISTEN6: Final = Endpoint(ip_address("2001:db8::1"), 3478)
FLOW: Final = ChannelFlow(CLIENT, 0x4001, PEER, 50_000, FOREVER)
FLOW6: Final = ChannelFlow(CLIENT6, 0x4001, PEER6, 50_000, FOREVER)


def frame_of(packet: bytes, ethertype: int | None = None) -> bytes:
    return MACS + struct.pack("!H", ethertype or (0x0800 if packet[0] >> 4 == 4 else 0x86DD)) + packet


def channel_data(length: int = 8, *, number: int = 0x4001, claimed: int | None = None, extra: int = 0) -> bytes:
    return struct.pack("!HH", number, length if claimed is None else claimed) + bytes(length) + bytes(extra)


def ipv4_of(payload: bytes = channel_data(), source: Endpoint = CLIENT, destination: Endpoint = LISTEN) -> bytes:
    return Datagram(source, destination, payload).packet()


def ipv6_of(payload: bytes = channel_data(), source: Endpoint = CLIENT6, destination: Endpoint = LISTEN6) -> bytes:
    return Datagram(source, destination, payload).packet()
