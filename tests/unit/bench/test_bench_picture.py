"""The picture is well-formed, says all it must, keeps inside its frame, and nothing in it is code of others."""

import dataclasses
import itertools
import re
from collections.abc import Sequence
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench import svg
from bench.history import Run
from bench.picture import draw
from tests.unit.bench.bench_samples import UPSTREAM_DIRECT, both, sample_run

SVG = "{http://www.w3.org/2000/svg}"


def texts(picture: str) -> list[str]:
    return [element.text or "" for element in ElementTree.fromstring(picture).iter(f"{SVG}text")]


def bars(picture: str) -> list[float]:
    """Widths of the bars, without the paper."""
    found = [float(rect.attrib["width"]) for rect in ElementTree.fromstring(picture).iter(f"{SVG}rect")]
    return found[1:]


def test_axes_bars_and_lines_have_their_names_beside_them() -> None:
    found = texts(draw([sample_run(1), sample_run(2)]))
    for words in ("% of plain veth", "direct IPv4", "relayed IPv4"):
        assert found.count(words) == 3  # at the bars and in each panel
    assert {"10 % · 1,000 Mbit/s", "5.0 % · 400 Mbit/s", "5.0 % · 500 Mbit/s", "3.8 % · 300 Mbit/s"} <= set(found)
    assert found.count("up ↑") == 3  # two groups of bars, one panel
    assert "2 runs" in found
    assert "direct IPv6" not in found  # not measured, not drawn
    assert "100 % is plain veth, Mbit/s up · down: IPv4 10,000 · 8,000" in found


def test_bars_are_shares_of_plain_veth_in_the_same_direction() -> None:
    direct_up, direct_down, relayed_up, relayed_down = bars(draw([sample_run()]))
    assert direct_down / direct_up == pytest.approx(0.5, abs=0.01)
    assert relayed_up / direct_up == pytest.approx(0.5, abs=0.01)
    assert relayed_down / direct_up == pytest.approx(0.375, abs=0.01)


def test_upstreams_bars_stand_beside_ours_which_say_how_many_times_as_much_they_are() -> None:
    run = sample_run()
    run = dataclasses.replace(run, cells=[*run.cells, *both(UPSTREAM_DIRECT, 700, 800)])
    found = texts(draw([run]))
    assert "7.0 % · 700 Mbit/s, upstream's" in found
    assert "10 % · 1,000 Mbit/s · 1.43 times upstream's" in found
    assert "5.0 % · 400 Mbit/s · 0.50 times upstream's" in found
    assert "5.0 % · 500 Mbit/s" in found  # relayed, upstream's were not measured


def test_light_and_dark_know_the_same_classes_and_every_class_in_use() -> None:
    picture = draw([sample_run(1, ["broken"]), sample_run(2)])
    (style,) = (element.text or "" for element in ElementTree.fromstring(picture).iter(f"{SVG}style"))
    light, dark = style.split("@media (prefers-color-scheme:dark)")
    names = re.compile(r"\.((?:fill|stroke)-\w+)")
    assert set(names.findall(light)) == set(names.findall(dark))
    used = {name for element in ElementTree.fromstring(picture).iter() for name in element.get("class", "").split()}
    assert {name for name in used if name.startswith(("fill-", "stroke-"))} <= set(names.findall(light))


def test_nothing_is_loaded_and_nothing_runs() -> None:
    picture = draw([sample_run()])
    assert not re.search(r"<script|<foreignObject|href|url\(|@import|\bon\w+=", picture)


def test_what_a_run_says_is_text_and_stays_text() -> None:
    nasty = '<script>alert("&")</script>'
    run = dataclasses.replace(sample_run(1, [nasty]), commit=nasty)
    for picture in (draw([run]), draw([dataclasses.replace(run, problems=[])])):
        assert "<script" not in picture
        assert any(nasty in words for words in texts(picture))


def test_a_failed_run_shows() -> None:
    found = texts(draw([sample_run(1, ["gateway: UdpInErrors 3"]), sample_run(2)]))
    assert found.count("✗") == found.count("2 runs, ✗ 1 failed") == 2  # in each panel
    assert any("gateway: UdpInErrors 3" in words for words in texts(draw([sample_run(1, ["gateway: UdpInErrors 3"])])))


@pytest.mark.parametrize("count", [1, 2, 40, 200])
def test_everything_is_inside_the_frame_however_many_runs(count: int) -> None:
    runs = [sample_run(1 + index % 28, scale=1 + index % 7) for index in range(count)]
    _check_frame(draw(runs))
    assert (f"{min(count, 40)} runs" in texts(draw(runs))) is (count > 1)  # one alone has no lines


def test_a_run_without_any_speed_is_drawn_too() -> None:
    empty = Run("2026-03-01T00:00:00+00:00", "", [])
    _check_frame(draw([empty]))
    _check_frame(draw([sample_run(), empty]))
    with pytest.raises(ValueError, match="no run"):
        draw([])


@given(st.floats(min_value=1e-6, max_value=1e12))
def test_ticks_are_few_and_reach_from_zero_beyond_the_largest(largest: float) -> None:
    found = svg.ticks(largest)
    assert found[0] == 0
    assert found[-1] >= largest * (1 - 1e-6)
    assert 2 <= len(found) <= 7


@pytest.mark.parametrize("largest", [0.0, -1.0, float("nan"), float("inf")])
def test_ticks_of_nothing_are_an_axis_all_the_same(largest: float) -> None:
    assert svg.ticks(largest) == [0.0, 1.0]


@given(st.lists(st.floats(min_value=0, max_value=100), min_size=1, max_size=5))
def test_labels_never_lie_on_each_other(wanted: Sequence[float]) -> None:
    places = sorted(svg.spread(wanted, 15, 0, 100))
    assert all(later - earlier >= 15 - 1e-9 for earlier, later in itertools.pairwise(places))
    assert places[0] >= -1e-9
    assert places[-1] <= 100 + 1e-9


def _check_frame(picture: str) -> None:
    root = ElementTree.fromstring(picture)
    width, height = float(root.attrib["width"]), float(root.attrib["height"])
    for element in root.iter():
        for name, limit in (("x", width), ("x1", width), ("x2", width), ("cx", width), ("y", height), ("cy", height)):
            if name in element.attrib:
                assert 0 <= float(element.attrib[name]) <= limit, ElementTree.tostring(element)
