"""Packets that wait for a gateway, a path or a session: few, in order, and none twice.

A copy of a packet that waits is kept once, and a TCP SYN that is sent again replaces its first copy: who has waited for
long is not answered several times. When the queue is full the oldest packet goes, as newer ones are likelier to be
wanted still.
"""

from collections import OrderedDict
from typing import Final

from connectivity.run import Run

MAX_WAITING: Final = 256  # 330 kB of the largest packets
_TCP: Final = 6
_HEADERS: Final = 40  # of IPv4 and TCP; less is no SYN
_SYN_AND_ACK: Final = 0x12
_SYN: Final = 0x02


class PacketQueue:
    """IP packets with the TOS byte of each."""

    def __init__(self, limit: int = MAX_WAITING) -> None:
        self._limit = limit
        self._packets: OrderedDict[bytes, tuple[bytes, int]] = OrderedDict()  # by what makes two of them the same

    def __len__(self) -> int:
        """How many packets wait."""
        return len(self._packets)

    def push(self, run: Run, tos: int) -> int:
        """Keep a copy of each packet; returns how many older ones had to go."""
        packets = self._packets
        for segment in run.segments():
            packet = bytes(segment)
            packets[_identity(packet)] = packet, tos
        dropped = max(len(packets) - self._limit, 0)
        for _ in range(dropped):
            packets.popitem(last=False)
        return dropped

    def take(self) -> list[tuple[bytes, int]]:
        """All packets, in order; the queue is empty then."""
        packets = list(self._packets.values())
        self._packets.clear()
        return packets


def _identity(packet: bytes) -> bytes:
    """Addresses, ports and sequence number of a first SYN (without extension headers), else all of the packet."""
    if len(packet) < _HEADERS:
        return packet
    if packet[0] >> 4 == 4:
        if packet[6] & 0x1F or packet[7]:  # a later fragment has no header of TCP
            return packet
        start, protocol, addresses = (packet[0] & 0xF) * 4, packet[9], packet[12:20]
    else:
        start, protocol, addresses = 40, packet[6], packet[8:40]
    if protocol != _TCP or len(packet) < start + 20 or packet[start + 13] & _SYN_AND_ACK != _SYN:
        return packet
    return addresses + packet[start : start + 8]
