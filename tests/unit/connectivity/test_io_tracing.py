"""Both ends of a connection make spans of one trace, without telling each other of it."""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import pytest

from connectivity.clock import SECOND
from connectivity.io.tracing import Journeys, SpanId, journey_id, relayed_id
from connectivity.milestones import ResourceGranted
from tests.unit.test_world import answer, question
from tests.unit.world import World

CHILDREN = ["find a path", "begin a session", "first answer"]


@dataclass
class Told:
    name: str
    parent: SpanId | None
    own: SpanId
    times: tuple[int, int]
    attributes: Mapping[str, str]
    links: Sequence[SpanId]
    failed: bool


class Recorder:
    """Takes spans in place of an exporter."""

    def __init__(self) -> None:
        self.spans: list[Told] = []
        self._numbers = itertools.count(1)

    def root(self, own: SpanId, name: str, times: tuple[int, int], *told: Any, failed: bool = False) -> None:
        self._add(name, None, own, times, *told, failed=failed)

    def child(self, parent: SpanId, name: str, times: tuple[int, int], *told: Any, failed: bool = False) -> SpanId:
        own = SpanId(parent.trace, next(self._numbers))
        self._add(name, parent, own, times, *told, failed=failed)
        return own

    def _add(
        self,
        name: str,
        parent: SpanId | None,
        own: SpanId,
        times: tuple[int, int],
        attributes: Mapping[str, str] = {},
        links: Sequence[SpanId] = (),
        *,
        failed: bool,
    ) -> None:
        self.spans.append(Told(name, parent, own, times, attributes, links, failed))


def traced(world: World) -> tuple[Recorder, Recorder]:
    """What client and gateway tell."""
    recorders = (Recorder(), Recorder())
    for recorder, core, is_client in zip(recorders, (world.client, world.gateway), (True, False), strict=True):
        own_key = lambda core=core: core.public_key  # noqa: E731
        journeys = Journeys(cast(Any, recorder), own_key, is_client=is_client, wall=lambda: world.wall_now)
        core.listen(journeys.tell)
    return recorders


def test_client_and_gateway_tell_of_one_trace_from_the_first_packet_to_the_first_answer() -> None:
    world = World(direct=False)
    client, gateway = traced(world)
    names = [world.relays(keys)[0]["username"] for keys in (world.client_keys, world.gateway_keys)]
    world.start()
    world.send_from_client(question())
    world.advance(SECOND)
    assert client.spans == gateway.spans == []
    for _ in range(2):  # only the first one ends it
        world.send_from_gateway(answer())
        world.advance(SECOND)
    ids = journey_id(world.client.public_key, world.gateway.public_key, "r-1")
    root, *parts = client.spans
    assert (root.name, root.parent, root.own, root.failed) == ("reach a resource", None, ids, False)
    assert [part.name for part in parts] == ["portal grants", *CHILDREN]
    assert {part.parent for part in parts} == {ids}
    assert root.attributes == {
        "postern.peer.id": "g-1",
        "postern.resource.id": "r-1",
        "postern.path": "relayed over IPv4",
    }
    served, *parts = gateway.spans
    assert (served.name, served.parent) == ("serve a resource", ids)
    assert [part.name for part in parts] == CHILDREN
    for recorder in (client, gateway):
        whole, *parts = recorder.spans
        assert parts[-1].times[1] == whole.times[1]
        for before, after in itertools.pairwise(parts):
            assert whole.times[0] <= before.times[0] <= before.times[1] == after.times[0] <= after.times[1]
    linked = [link for told in (root, served) for link in told.links]
    assert linked, "one of the two sends through a relay of its own"
    assert {link.trace for link in linked} <= {relayed_id(name, 0).trace for name in names}


def test_a_resource_that_never_answers_is_told_when_its_gateway_leaves() -> None:
    world = World()
    client, _ = traced(world)
    world.start()
    world.send_from_client(question())
    world.advance(SECOND)
    world.close("gateway")
    world.advance(SECOND)
    assert [(told.name, told.failed) for told in client.spans if told.parent is None] == [("reach a resource", True)]
    assert "first answer" not in [told.name for told in client.spans]


def test_what_is_remembered_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("connectivity.io.tracing.OPEN_JOURNEYS", 3)
    recorder = Recorder()
    journeys = Journeys(cast(Any, recorder), lambda: b"own", is_client=False, wall=lambda: 1)
    for number in range(5):
        journeys.tell(ResourceGranted("c-1", b"key", f"r-{number}"))
    served = [told for told in recorder.spans if told.name == "serve a resource"]
    assert [(told.attributes["postern.resource.id"], told.failed) for told in served] == [("r-0", True), ("r-1", True)]


def test_ids_are_of_both_keys_and_the_resource_and_of_name_and_port() -> None:
    ids = {journey_id(*keys, name) for keys in ((b"a", b"b"), (b"b", b"a"), (b"ab", b"")) for name in ("r-1", "r-2")}
    assert len({own.trace for own in ids}) == 6
    assert relayed_id("1:salt", 50000).trace == relayed_id("1:salt", 50001).trace
    assert relayed_id("1:salt", 50000).span != relayed_id("1:salt", 50001).span
