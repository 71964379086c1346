"""The picture of the benchmark: the latest run as bars, and what became of each path over the runs as lines.

Both are shares of what plain veth carried in the same run, because only ratios can be compared between days and
machines; a bar has its Mbit/s beside it. A run alone has no lines. Whatever is drawn has its name beside it.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import Final

from bench import svg
from bench.bars import ARROWS, Bar, draw_bars
from bench.history import Run, heading
from bench.measurement import DIRECTIONS
from bench.report import percent, ratio, speed
from bench.results import FAMILIES, KINDS, find, ours, path_name, quotient, shares, upstreams
from lab.measure import Direction

_WIDTH: Final = 880
_LEFT: Final = 186
_BARS_TOP: Final = 104
_BARS_RIGHT: Final = _WIDTH - 300  # for the longest label
_PANEL_HEIGHT: Final = 190
_PANEL_WIDTH: Final = 270
_PANELS: Final[dict[Direction, int]] = {"up": 70, "down": 500}
_LABEL_GAP: Final = 15
# Enough to see a trend; more would be a smear.
_MOST_RUNS: Final = 40


def draw(runs: Sequence[Run]) -> str:
    """One SVG of all runs, the oldest first; the last one is drawn in full."""
    if not runs:
        raise ValueError("there is no run to draw")
    latest = runs[-1]
    title = "TCP through the whole stack, one stream: percent of plain veth"
    body = [svg.text(24, 32, title, kind="large"), *_subtitle(latest)]
    bars, bottom = draw_bars(_bars(latest), "% of plain veth", _LEFT, _BARS_RIGHT, _BARS_TOP)
    body += bars
    height, description = bottom + 24, "The share of plain veth for each path and IP family, ours and upstream's."
    if len(runs) > 1:
        top = bottom + 92
        body.append(svg.text(24, bottom + 48, "Over the runs: percent of plain veth in the same run", kind="large"))
        for direction in DIRECTIONS:
            body += _panel(runs[-_MOST_RUNS:], direction, _PANELS[direction], top)
        height, description = top + _PANEL_HEIGHT + 58, f"{description} Below: ours, by run."
    return svg.document(_WIDTH, int(height), "Throughput of the whole stack", description, body)


def _subtitle(run: Run) -> list[str]:
    """When and where it was, and the units of its bars."""
    words, colour = heading(run), "soft"
    if run.problems:
        words, colour = f"{_date(run)}: this run failed, {'; '.join(run.problems)[:90]}", "bad"
    units = []
    for ipv6 in FAMILIES:
        found = [find(run.cells, ours("veth", ipv6=ipv6).name, way) for way in DIRECTIONS]
        told = " · ".join(speed(cell) for cell in found if cell is not None)
        units += [f"IPv{6 if ipv6 else 4} {told}"] if told else []
    lines = [svg.text(24, 54, words, colour)]
    if units:
        lines.append(svg.text(24, 74, f"100 % is plain veth, Mbit/s up · down: {', '.join(units)}", "soft"))
    return lines


def _bars(run: Run) -> list[Bar]:
    """Groups by path and family, in each the directions, ours above upstream's."""
    bars = []
    for kind in KINDS:
        for ipv6 in FAMILIES:
            mine, theirs = ours(kind, ipv6=ipv6), upstreams(kind, ipv6=ipv6)
            compared = quotient(run.cells, mine, theirs)
            for number, way in enumerate(DIRECTIONS):
                for variant, colour in ((mine, kind), (theirs, "other")):
                    share, cell = shares(run.cells, variant), find(run.cells, variant.name, way)
                    if share is None or cell is None:
                        continue
                    label = f"{percent(share[number])} · {speed(cell)} Mbit/s"
                    if variant is theirs:
                        label += ", upstream's"
                    elif compared is not None:
                        label += f" · {ratio(compared[number])} times upstream's"
                    bars.append(Bar(path_name(kind, ipv6=ipv6), way, label, 100 * share[number], colour))
    return bars


def _panel(runs: Sequence[Run], direction: Direction, left: float, top: float) -> list[str]:
    """One direction over at least two runs: a line for each path and family, its name at its end."""
    way = DIRECTIONS.index(direction)
    series: list[tuple[str, str, bool, list[tuple[int, float]]]] = []  # name, colour, dashed, (run, percent)
    for kind in KINDS:
        for ipv6 in FAMILIES:
            found = [shares(run.cells, ours(kind, ipv6=ipv6)) for run in runs]
            points = [(index, value[way] * 100) for index, value in enumerate(found) if value is not None]
            if points:
                series.append((path_name(kind, ipv6=ipv6), kind, ipv6, points))
    axis = svg.ticks(max((value for *_, points in series for _, value in points), default=0), 4)
    bottom = top + _PANEL_HEIGHT
    step = _PANEL_WIDTH / (len(runs) - 1)

    def place(index: int, value: float) -> tuple[float, float]:
        return left + index * step, bottom - value / axis[-1] * _PANEL_HEIGHT

    body = [svg.text(left, top - 14, ARROWS[direction], kind="middle")]
    body.append(svg.upright(left - 42, top + _PANEL_HEIGHT / 2, "% of plain veth"))
    for value in axis:
        _, y = place(0, value)
        body.append(svg.line(left - 6, y, left + _PANEL_WIDTH + 6, y))
        body.append(svg.text(left - 10, y + 4, f"{value:g}", "soft", anchor="end"))
    body += _dates(runs, [place(index, 0)[0] for index in range(len(runs))], bottom)
    ends = [place(*points[-1]) for *_, points in series]
    names = svg.spread([y + 4 for _, y in ends], _LABEL_GAP, top + 4, bottom + 4)
    for (name, colour, dashed, points), (x, y), label in zip(series, ends, names, strict=True):
        body.append(svg.path([place(*point) for point in points], colour, dashed=dashed))
        edge = left + _PANEL_WIDTH + 12
        body.append(svg.line(x + 4, y, edge, label - 4, colour))
        body.append(svg.text(edge + 4, label, name, colour))
    return body


def _dates(runs: Sequence[Run], places: Sequence[float], bottom: float) -> list[str]:
    """The first and the last day below the axis, a mark for each run; failed ones are red and crossed."""
    body = [
        svg.line(x, bottom, x, bottom + 5, "bad" if run.problems else "soft")
        for run, x in zip(runs, places, strict=True)
    ]
    failed = [x for run, x in zip(runs, places, strict=True) if run.problems]
    body += [svg.text(x, bottom + 17, "✗", "bad", anchor="middle", kind="middle") for x in failed]
    ends = ((0, "start"), (-1, "end"))
    body += [svg.text(places[i], bottom + 32, _label(runs[i]), "soft", anchor=anchor) for i, anchor in ends]
    middle = (places[0] + places[-1]) / 2
    count = f"{len(runs)} runs"
    if failed:
        return [*body, svg.text(middle, bottom + 48, f"{count}, ✗ {len(failed)} failed", "bad", anchor="middle")]
    return [*body, svg.text(middle, bottom + 48, count, "soft", anchor="middle")]


def _label(run: Run) -> str:
    return f"{_date(run)} {run.time[11:16]}"


def _date(run: Run) -> str:
    return datetime.fromisoformat(run.time).strftime("%Y-%m-%d")
