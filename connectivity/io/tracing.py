"""Traces of how a resource comes to answer, one for each resource that a client reaches, across all four services.

Nobody passes an id on: client, gateway and portal derive the same one of both WireGuard keys and the resource's id. The
client's span is the root, the others name it as their parent. A relay's trace has the hash of a TURN username as its
id; who leads a path through that relay links to its span. No name, address or user is in a span, and none is made for a
packet: spans are built when something has come to its end, of the times at which a core told of ``Milestone``s.

OpenTelemetry is imported only where traces are wanted.
"""

import hashlib
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, NamedTuple

from connectivity.errors import FatalError
from connectivity.io.export_settings import TelemetrySettings
from connectivity.io.exporters import collector, service_resource, shut_down
from connectivity.milestones import (
    Milestone,
    PathChosen,
    PeerConnected,
    PeerLeft,
    ResourceAnswered,
    ResourceGranted,
    ResourceWanted,
    path_words,
)

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SpanExporter
    from opentelemetry.trace import SpanContext

OPEN_JOURNEYS: Final = 1024  # resources that have not answered; the oldest is told as unanswered for the newest
_NO_ATTRIBUTES: Final[Mapping[str, str]] = {}


class SpanId(NamedTuple):
    """A trace and a span in it."""

    trace: int
    span: int


def journey_id(client_key: bytes, gateway_key: bytes, resource_id: str) -> SpanId:
    """The trace of a client that reaches a resource through a gateway, and its root."""
    return _derived(b"journey", client_key, gateway_key, resource_id.encode())


def relayed_id(username: str, port: int) -> SpanId:
    """The trace of all that a TURN user does, and in it the span of the allocation with this port."""
    return SpanId(_derived(b"relayed", username.encode()).trace, _derived(username.encode(), b"%d" % port).span)


def _derived(*parts: bytes) -> SpanId:
    digest = hashlib.sha256(b"".join(len(part).to_bytes(4, "big") + part for part in parts)).digest()
    return SpanId(int.from_bytes(digest[:16], "big"), int.from_bytes(digest[16:24], "big"))


class Spans:
    """Hands finished spans to an exporter; times are in nanoseconds since the epoch."""

    def __init__(self, provider: "TracerProvider", ids: "Callable[[SpanId | None], None]", scope: str) -> None:
        self._tracer = provider.get_tracer(scope)
        self._take_ids = ids

    def root(
        self,
        own: SpanId,
        name: str,
        times: tuple[int, int],
        attributes: Mapping[str, str] = _NO_ATTRIBUTES,
        links: Sequence[SpanId] = (),
        *,
        failed: bool = False,
    ) -> None:
        """A span that has this id itself."""
        self._take_ids(own)
        try:
            self._emit(None, name, times, attributes, links, failed=failed)
        finally:
            self._take_ids(None)

    def child(
        self,
        parent: SpanId,
        name: str,
        times: tuple[int, int],
        attributes: Mapping[str, str] = _NO_ATTRIBUTES,
        links: Sequence[SpanId] = (),
        *,
        failed: bool = False,
    ) -> SpanId:
        """A span within another, which may be another service's."""
        return self._emit(parent, name, times, attributes, links, failed=failed)

    def _emit(
        self,
        parent: SpanId | None,
        name: str,
        times: tuple[int, int],
        attributes: Mapping[str, str],
        links: Sequence[SpanId],
        *,
        failed: bool,
    ) -> SpanId:
        from opentelemetry import trace
        from opentelemetry.context import Context

        context = Context()
        if parent is not None:
            context = trace.set_span_in_context(trace.NonRecordingSpan(_context(parent)), context)
        linked = [trace.Link(_context(link)) for link in links]
        span = self._tracer.start_span(name, context, attributes=dict(attributes), links=linked, start_time=times[0])
        if failed:
            span.set_status(trace.StatusCode.ERROR)
        span.end(max(times))
        found = span.get_span_context()
        return SpanId(found.trace_id, found.span_id)


@contextmanager
def exporting_traces(settings: TelemetrySettings, service: str) -> Iterator[Spans | None]:
    """Export spans while the context lasts; None where nobody asked for them.

    Raises:
        FatalError: the exporter cannot be made.
    """
    if settings.traces == "none":
        yield None
        return
    try:
        provider, take_ids = make_provider(settings, service)
    except Exception as error:
        raise FatalError(f"cannot export traces to {settings.traces}") from error
    try:
        yield Spans(provider, take_ids, f"postern.{service}")
    finally:
        shut_down(provider.shutdown, what="traces")


def make_provider(
    settings: TelemetrySettings, service: str
) -> "tuple[TracerProvider, Callable[[SpanId | None], None]]":
    """What makes tracers, and what says which ids the next root has; None leaves these to chance."""
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor, ConsoleSpanExporter
    from opentelemetry.sdk.trace.id_generator import RandomIdGenerator

    class Ids(RandomIdGenerator):
        wanted: SpanId | None = None

        def generate_trace_id(self) -> int:
            return super().generate_trace_id() if self.wanted is None else self.wanted.trace

        def generate_span_id(self) -> int:
            return super().generate_span_id() if self.wanted is None else self.wanted.span

    exporter: SpanExporter
    if settings.traces == "otlp":
        from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter

        exporter = OTLPSpanExporter(**collector(settings))
    else:
        exporter = ConsoleSpanExporter(out=sys.stdout, formatter=lambda span: span.to_json(indent=None) + "\n")
    ids = Ids()
    provider = TracerProvider(resource=service_resource(service), id_generator=ids, shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(exporter))
    return provider, lambda wanted: setattr(ids, "wanted", wanted)


@dataclass(slots=True)
class _Journey:
    ids: SpanId
    wanted_at: int | None  # of clients
    granted_at: int


@dataclass(slots=True)
class _Peer:
    path_at: int | None = None
    connected_at: int | None = None
    attributes: dict[str, str] = field(default_factory=dict)
    links: tuple[SpanId, ...] = ()


class Journeys:
    """Makes spans of what a tunnel's core tells. ``own_key`` is asked each time: who roams has another one."""

    def __init__(
        self,
        spans: Spans,
        own_key: Callable[[], bytes],
        *,
        is_client: bool,
        wall: Callable[[], int] = time.time_ns,
    ) -> None:
        self._spans = spans
        self._own_key = own_key
        self._is_client = is_client
        self._wall = wall
        self._wanted: dict[str, int] = {}
        self._open: dict[tuple[str, str], _Journey] = {}
        self._peers: dict[str, _Peer] = {}

    def tell(self, milestone: Milestone) -> None:
        """Remember when, or make spans of a resource that has answered."""
        now = self._wall()
        match milestone:
            case ResourceWanted(resource_id):
                if len(self._wanted) < OPEN_JOURNEYS:
                    self._wanted.setdefault(resource_id, now)
            case ResourceGranted(peer_id, key, resource_id):
                self._grant(peer_id, key, resource_id, now)
            case PathChosen(peer_id, path, relay_user):
                peer = self._peers.setdefault(peer_id, _Peer())
                peer.path_at, peer.attributes = now, {"postern.path": path_words(path)}
                if relay_user is not None:
                    peer.links = (relayed_id(relay_user, path.source.port),)
            case PeerConnected(peer_id):
                self._peers.setdefault(peer_id, _Peer()).connected_at = now
            case ResourceAnswered(peer_id, resource_id):
                self._end((peer_id, resource_id), now, answered=True)
            case PeerLeft(peer_id):
                for lost in [key for key in self._open if key[0] == peer_id]:
                    self._end(lost, now, answered=False)
                self._peers.pop(peer_id, None)
            case _:
                pass

    def _grant(self, peer_id: str, key: bytes, resource_id: str, now: int) -> None:
        if len(self._open) >= OPEN_JOURNEYS:
            self._end(next(iter(self._open)), now, answered=False)
        keys = (self._own_key(), key) if self._is_client else (key, self._own_key())
        journey = _Journey(journey_id(*keys, resource_id), self._wanted.pop(resource_id, None), now)
        self._open[peer_id, resource_id] = journey

    def _end(self, key: tuple[str, str], now: int, *, answered: bool) -> None:
        journey = self._open.pop(key, None)
        if journey is None:
            return
        peer_id, resource_id = key
        peer = self._peers.get(peer_id) or _Peer()
        attributes = {"postern.peer.id": peer_id, "postern.resource.id": resource_id} | peer.attributes
        began = journey.granted_at if journey.wanted_at is None else journey.wanted_at
        told = (began, now), attributes, peer.links
        if self._is_client:
            within = journey.ids
            self._spans.root(within, "reach a resource", *told, failed=not answered)
            self._spans.child(within, "portal grants", (began, journey.granted_at))
        else:
            within = self._spans.child(journey.ids, "serve a resource", *told, failed=not answered)
        at = journey.granted_at
        for name, moment in (("find a path", peer.path_at), ("begin a session", peer.connected_at)):
            if moment is not None and moment >= at:  # a connection that was there before took no time
                self._spans.child(within, name, (at, moment))
                at = moment
        if answered:
            self._spans.child(within, "first answer", (at, now))


def _context(own: SpanId) -> "SpanContext":
    from opentelemetry.trace import SpanContext, TraceFlags

    return SpanContext(own.trace, own.span, is_remote=True, trace_flags=TraceFlags(TraceFlags.SAMPLED))
