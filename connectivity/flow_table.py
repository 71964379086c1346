"""Remembered decisions about flows, both ways, each until something that it rests on changes.

Keys are a flow of the host, or a peer and a flow of that peer. The table is bounded: the oldest decision goes, and its
flow is judged anew with the next packet.
"""

from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Final, TypeAlias

from connectivity.clock import Instant
from connectivity.ip.flow import FlowKey, PacketRun
from connectivity.ip.packet import FRAGMENT
from connectivity.ip.protocols import ICMP_PROTOCOLS, PROTOCOL_TCP
from connectivity.ip.rewrite import Rewriting, rewrite, tcp_flags
from connectivity.verdict import Drop, Lasting, Translation

Key: TypeAlias = FlowKey | tuple[str, FlowKey]

MAX_FLOWS: Final = 131_072  # both directions together; about 400 bytes each


class FlowTable:
    """Verdicts by flow key, and which of them rest on what."""

    def __init__(self, limit: int = MAX_FLOWS) -> None:
        self._limit = limit
        self._verdicts: OrderedDict[Key, Lasting] = OrderedDict()
        self._resting: dict[Hashable, dict[Key, None]] = {}
        self.get = self._verdicts.get  # the look-up of the hot path, without a frame of its own
        self.forgotten: Callable[[Key], None] = _nobody  # told of each decision that does not hold any more
        self.cleared: Callable[[], None] = _nobody  # likewise, of all

    def __len__(self) -> int:
        """How many flows are remembered."""
        return len(self._verdicts)

    def remember(self, key: Key, verdict: Lasting) -> None:
        """Keep a decision if it holds for all packets of this key."""
        flow = key if isinstance(key, bytes) else key[1]
        if not names_one_flow(flow) or (isinstance(verdict, Drop) and not verdict.rests_on):
            return
        self._remove(key)
        if len(self._verdicts) >= self._limit:
            self._remove(next(iter(self._verdicts)))
        self._verdicts[key] = verdict
        for what in verdict.rests_on:
            self._resting.setdefault(what, {})[key] = None

    def forget(self, what: Hashable) -> None:
        """Decide anew about every flow whose decision rests on this."""
        for key in list(self._resting.get(what, ())):
            self._remove(key)

    def clear(self) -> None:
        """Decide anew about every flow."""
        self._verdicts.clear()
        self._resting.clear()
        self.cleared()

    def _remove(self, key: Key) -> None:
        verdict = self._verdicts.pop(key, None)
        if verdict is None:
            return
        for what in verdict.rests_on:
            keys = self._resting.get(what)
            if keys is not None:
                keys.pop(key, None)
                if not keys:
                    del self._resting[what]
        self.forgotten(key)


def _nobody(*_: Key) -> None:
    """Nobody wants to know."""


def names_one_flow(flow: FlowKey) -> bool:
    """Whether what is decided of one packet holds for all of this key, which all ICMP but echoes shares."""
    return flow[1] not in ICMP_PROTOCOLS or any(flow[-4:])


def translate(packets: PacketRun, translation: Translation, now: Instant) -> PacketRun:
    """Apply one direction of a translation to a whole run, in place, and note that it was used."""
    translation.last_used = now
    is_plain = Rewriting.fits(packets)
    rewriting = translation.rewriting
    if is_plain and rewriting is not None and rewriting.before == packets.flow:
        if packets.flow[1] == PROTOCOL_TCP:
            translation.tcp_flags |= rewriting.tcp_flags(packets.run)
        return rewriting.apply(packets)
    if packets.flow[1] in (PROTOCOL_TCP, FRAGMENT):
        translation.tcp_flags |= tcp_flags(packets)
    changed = rewrite(
        packets,
        source=translation.source,
        destination=translation.destination,
        source_port=translation.source_port,
        destination_port=translation.destination_port,
    )
    if is_plain:
        translation.rewriting = Rewriting(packets.flow, changed.flow)
    return changed
