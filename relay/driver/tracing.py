"""One span for each relayed port's life, with its channels as events. Made only where traces are exported.

Nothing of it touches a packet, and no span names an address or a user: those are in ``postern relay admin``. Under a
portal, where names are hashes of keys, trace and span have ids that are derived of the allocation's name and port, so
that others can link to them.
"""

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from connectivity.io.tracing import SpanId, relayed_id
from connectivity.stun import AddressFamily
from relay.core import AllocationView, FiveTuple, InstallChannel, NoteChannel, RemoveChannel

if TYPE_CHECKING:
    from opentelemetry.trace import Span, Tracer


class Tracing:
    """The spans of what lives now; there are at most as many as relayed ports."""

    def __init__(self, tracer: "Tracer", take_ids: Callable[[SpanId | None], None] | None = None) -> None:
        """``take_ids`` gives the next span an id that clients can derive, too: where names are no people's."""
        self._tracer = tracer
        self._take_ids = take_ids
        self._spans: dict[int, tuple[Span, set[AddressFamily]]] = {}
        self._channels: dict[tuple[FiveTuple, int], int] = {}

    def opened(self, port: int, families: Iterable[AddressFamily], allocation: AllocationView | None) -> None:
        """A relayed port is open; without an allocation it is reserved for one to come (EVEN-PORT)."""
        found = set(families)
        families_text = ",".join(sorted(f"ipv{family.version}" for family in found))
        attributes: dict[str, str | int] = {"turn.relayed_port": port, "turn.families": families_text}
        if allocation is not None:
            attributes["network.transport"] = allocation.five_tuple.transport.value
        if self._take_ids is None or allocation is None:
            self._spans[port] = self._tracer.start_span("allocation", attributes=attributes), found
            return
        self._take_ids(relayed_id(allocation.username, port))
        try:
            self._spans[port] = self._tracer.start_span("allocation", attributes=attributes), found
        finally:
            self._take_ids(None)

    def relays(self, channel: InstallChannel | NoteChannel) -> None:
        """A channel relays, or relays for longer."""
        key = (channel.five_tuple, channel.channel)
        if channel.relayed_port not in self._spans:
            return
        span, _ = self._spans[channel.relayed_port]
        name = "channel goes on" if key in self._channels else "channel relays"
        self._channels[key] = channel.relayed_port
        span.add_event(name, {"turn.channel": channel.channel})

    def ends(self, channel: RemoveChannel | NoteChannel) -> None:
        """A channel relays no longer."""
        port = self._channels.pop((channel.five_tuple, channel.channel), None)
        if port is not None and port in self._spans:
            self._spans[port][0].add_event("channel ends", {"turn.channel": channel.channel})

    def closed(self, port: int, families: Iterable[AddressFamily]) -> None:
        """A relayed port is closed in these families; with the last one its span ends."""
        if port not in self._spans:
            return
        span, left = self._spans[port]
        left.difference_update(families)
        if left:
            span.add_event("family released")
            return
        del self._spans[port]
        span.end()

    def close(self) -> None:
        """End all spans: the process ends."""
        for span, _ in self._spans.values():
            span.add_event("relay stops")
            span.end()
        self._spans.clear()
