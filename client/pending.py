"""Packets of resources that have no gateway yet."""

from collections import deque
from typing import Final

from connectivity.clock import SECOND, Instant
from connectivity.run import Run

INTENT_INTERVAL: Final = 2 * SECOND
_BUFFERED_PACKETS: Final = 128
_TCP: Final = 6
_SYN_WITHOUT_ACK: Final = 0x02


class PendingFlow:
    """Waits for the portal's answer about one resource; the intent is repeated only as packets keep arriving."""

    def __init__(self) -> None:
        self._asked_at: Instant | None = None
        self._packets: deque[tuple[bytes, int]] = deque(maxlen=_BUFFERED_PACKETS)

    def __len__(self) -> int:
        """How many packets wait."""
        return len(self._packets)

    def wants_intent(self, now: Instant) -> bool:
        """Whether to ask the portal (again); a True counts as asked."""
        if self._asked_at is not None and now - self._asked_at < INTENT_INTERVAL:
            return False
        self._asked_at = now
        return True

    def forget_intent(self) -> None:
        """Nobody is going to answer: ask again."""
        self._asked_at = None

    def push(self, run: Run, tos: int) -> None:
        """Keep the packets; an identical one is kept once and a repeated TCP SYN replaces its first copy."""
        for segment in run.segments():
            packet = bytes(segment)
            syn = _syn_key(packet)
            for index, (held, _) in enumerate(self._packets):
                if held == packet or (syn is not None and _syn_key(held) == syn):
                    self._packets[index] = (packet, tos)
                    break
            else:
                self._packets.append((packet, tos))

    def take(self) -> list[tuple[bytes, int]]:
        """What was kept, in order, with each packet's TOS."""
        packets = list(self._packets)
        self._packets.clear()
        return packets


def _syn_key(packet: bytes) -> bytes | None:
    """Addresses, ports and sequence number of a first SYN, else None. IPv6 with extension headers has none."""
    if packet[0] >> 4 == 4:
        start, protocol, addresses = (packet[0] & 0xF) * 4, packet[9], packet[12:20]
    else:
        start, protocol, addresses = 40, packet[6], packet[8:40]
    if protocol != _TCP or len(packet) < start + 20 or packet[start + 13] & 0x12 != _SYN_WITHOUT_ACK:
        return None
    return addresses + packet[start : start + 8]
