"""Which flow fragments belong to: a first fragment tells its ports, and those behind it are known by their datagram.

Nothing is put together here, only let through or not: a fragment behind the first shares the verdict of the first one's
flow, of the same sender, and has to come after it. One that would overwrite what policy saw of the first is refused.
What is kept is bounded by sender, so that nobody can push out another's, and times out.
"""

from collections import OrderedDict
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from connectivity.clock import SECOND, Instant
from connectivity.ip.flow import FlowKey, PacketRun
from connectivity.ip.packet import parse

LIFETIME: Final = 30 * SECOND  # as hosts keep fragments (net.ipv4.ipfrag_time)
MAX_DATAGRAMS: Final = 64  # of one sender; fragments of a datagram come together, so few are on their way at a time


class FragmentDrop(StrEnum):
    """Why a fragment goes no further, whatever policy says."""

    UNKNOWN = "fragment_unknown"  # its first one has not come, or long ago
    OVERLAP = "fragment_overlap"  # it would overwrite what the first one holds


@dataclass(frozen=True, slots=True)
class _First:
    flow: FlowKey
    length: int
    at: Instant


class FragmentTable:
    """First fragments by sender and datagram; the sender None is the host."""

    def __init__(self, limit: int = MAX_DATAGRAMS) -> None:
        self._limit = limit
        self._firsts: dict[str | None, OrderedDict[FlowKey, _First]] = {}

    def __len__(self) -> int:
        """How many datagrams are known."""
        return sum(map(len, self._firsts.values()))

    def resolve(self, sender: str | None, packets: PacketRun, now: Instant) -> PacketRun | FragmentDrop:
        """A fragment under the key of its flow, which is the first fragment's."""
        packet = parse(packets.run.data)
        fragment = packet.fragment
        if fragment is None:  # IPv4 may carry anything as protocol 44
            return packets
        if not fragment.offset:
            self._remember(sender, packets.flow, _First(packet.flow_key, fragment.length, now))
            return packets._replace(flow=packet.flow_key)
        first = self._first(sender, packets.flow, now)
        if first is None:
            return FragmentDrop.UNKNOWN
        if fragment.offset < first.length:
            return FragmentDrop.OVERLAP
        return packets._replace(flow=first.flow)

    def expire(self, now: Instant) -> None:
        """Forget what has timed out."""
        for sender, firsts in list(self._firsts.items()):
            while firsts and now - next(iter(firsts.values())).at >= LIFETIME:
                firsts.popitem(last=False)
            if not firsts:
                del self._firsts[sender]

    def _remember(self, sender: str | None, datagram: FlowKey, first: _First) -> None:
        firsts = self._firsts.setdefault(sender, OrderedDict())
        held = firsts.pop(datagram, None)
        if held is not None and held.flow == first.flow and held.length > first.length:
            first = _First(first.flow, held.length, first.at)  # what the receiver may have is not to be overwritten
        if len(firsts) >= self._limit:
            firsts.popitem(last=False)
        firsts[datagram] = first

    def _first(self, sender: str | None, datagram: FlowKey, now: Instant) -> _First | None:
        firsts = self._firsts.get(sender)
        first = None if firsts is None else firsts.get(datagram)
        return first if first is not None and now - first.at < LIFETIME else None
