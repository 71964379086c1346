"""A gateway does the same for a client among many as among few."""

import cProfile
import gc

import pytest

from bench import scale
from bench.scale import Figure, Kind, as_json, as_markdown
from bench.scale_stage import Stage


@pytest.fixture(scope="module")
def stages() -> tuple[Stage, Stage]:
    """With few clients and with many."""
    return Stage(2), Stage(40)


@pytest.mark.parametrize("kind", scale.KINDS, ids=lambda kind: kind.name)
def test_a_packet_and_a_grant_take_as_many_steps_with_few_clients_as_with_many(
    kind: Kind, stages: tuple[Stage, Stage]
) -> None:
    steps = []
    for stage in stages:
        for call in (*kind.prepare(stage, 0), *kind.prepare(stage, 1)):  # every client has had its turn, and its fill
            call()
        calls = kind.prepare(stage, 2)
        profile = cProfile.Profile()
        gc.collect()
        gc.disable()  # whoever is told of collections would be counted, too
        profile.enable()
        results = [call() for call in calls]
        profile.disable()
        gc.enable()
        steps.append(sum(entry.callcount for entry in profile.getstats()))
        is_refused = kind.name.startswith(("forged", "refused", "datagram of", "random bytes"))
        assert all(result is None or bool(result) is not is_refused for result in results)  # the rest arrived, or left
    assert steps[0] == steps[1]


def test_figures_are_shown_with_their_ratio() -> None:
    figures = [Figure("grant", {2: 100.0, 200: 110.0, 1000: 125.0}, is_bound=True)]
    text = as_markdown(figures, 20 * 1024)
    assert "| grant | 100.0 | 110.0 | 125.0 | 1.25 |" in text
    assert "20.0 KiB" in text
    assert as_json(figures, 1) == {
        "figures": [{"name": "grant", "microseconds": {2: 100.0, 200: 110.0, 1000: 125.0}, "ratio": 1.25}],
        "bytes_per_idle_client": 1,
    }
