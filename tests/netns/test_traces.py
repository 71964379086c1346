"""A trace of the running stack: what all four services export of one connection joins by ids that each derives.

Each service exports to a collector in its own namespace.
"""

from collections.abc import Iterator
from contextlib import ExitStack
from typing import Final

import pytest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from lab.measure import PAGE_URL, first_answer_ms
from lab.plan import LabSettings, Nat
from lab.processes import wait_until
from lab.stack import Stack
from lab.topology import Lab
from tests.netns.otlp_collector import PORT, Collector, collecting

pytestmark = pytest.mark.root

ROLES: Final = ("portal", "relay", "gateway", "client")
SETTINGS: Final = {
    "OTEL_TRACES_EXPORTER": "otlp",
    "OTEL_METRICS_EXPORTER": "none",
    "OTLP_GRPC_ENDPOINT": f"127.0.0.1:{PORT}",
    "OTEL_BSP_SCHEDULE_DELAY": "200",
}
PARTS: Final = {"find a path", "begin a session", "first answer"}


@pytest.fixture
def collectors() -> Iterator[dict[str, Collector]]:
    """What came of one page that was fetched through a relay, once the stack has ended."""
    with Lab(LabSettings(Nat.SYMMETRIC, Nat.SYMMETRIC)) as lab, ExitStack() as stack:
        found = {role: stack.enter_context(collecting(lab.namespace(role), "127.0.0.1")) for role in ROLES}
        running = Stack(lab, environment=SETTINGS, portal_environment=SETTINGS)
        running.start()
        first_answer_ms(lab, PAGE_URL)
        for role in ("client", "gateway", "portal"):
            wait_until(lambda role=role: bool(found[role].spans()), f"spans of the {role}")  # type: ignore[misc]
        for process in reversed(lab.processes):
            if process.name in ROLES:
                process.terminate()
        wait_until(lambda: bool(found["relay"].spans()), "spans of the relay")
        yield found


def test_four_services_tell_of_one_trace(collectors: dict[str, Collector]) -> None:
    spans = {role: collectors[role].spans() for role in ROLES}
    (root,) = [span for span in spans["client"] if span.name == "reach a resource"]
    (served,) = [span for span in spans["gateway"] if span.name == "serve a resource"]
    (created,) = [span for span in spans["portal"] if span.name == "create a flow"]
    assert root.parent_span_id == b""
    for span in (served, created):
        assert (span.trace_id, span.parent_span_id) == (root.trace_id, root.span_id)
        assert root.start_time_unix_nano <= span.start_time_unix_nano
    assert _children(spans["client"], root) == PARTS | {"portal grants"}
    assert _children(spans["gateway"], served) == PARTS
    allocations = {(span.trace_id, span.span_id) for span in spans["relay"] if span.name == "allocation"}
    links = {(link.trace_id, link.span_id) for span in (root, served) for link in span.links}
    assert links, "the path leads through a relay"
    assert links <= allocations
    for role, collector in collectors.items():
        names = {pair.value.string_value for sent in collector.resources() for pair in sent.attributes}
        assert f"postern-{role}" in names


def _children(spans: list[Span], parent: Span) -> set[str]:
    return {span.name for span in spans if span.parent_span_id == parent.span_id and span.trace_id == parent.trace_id}
