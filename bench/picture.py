"""The picture of the benchmark: the latest run as bars, and what became of each path over the runs as lines.

The bars are Mbit/s of the latest run. The lines are shares of what plain veth carried in the same run, because only
ratios can be compared between days and machines. Whatever is drawn has its name beside it.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import Final

from bench import svg
from bench.history import Run
from bench.measurement import DIRECTIONS
from bench.results import FAMILIES, KINDS, find, ours, quotient, upstreams
from lab.measure import Direction

_WIDTH: Final = 880
_LEFT: Final = 186
_BAR: Final = 13
_ROW: Final = 19
_GROUP_GAP: Final = 14
_BARS_TOP: Final = 84
_BARS_RIGHT: Final = _WIDTH - 130
_PANEL_HEIGHT: Final = 190
_PANEL_WIDTH: Final = 270
_PANELS: Final[dict[Direction, int]] = {"up": 70, "down": 500}
_LABEL_GAP: Final = 15
# Enough to see a trend; more would be a smear.
_MOST_RUNS: Final = 40
_ARROWS: Final[dict[Direction, str]] = {"up": "up ↑", "down": "down ↓"}


def draw(runs: Sequence[Run]) -> str:
    """One SVG of all runs, the oldest first; the last one is drawn in full."""
    if not runs:
        raise ValueError("there is no run to draw")
    latest = runs[-1]
    body = [svg.text(24, 32, "TCP through the whole stack, one stream", kind="large"), _subtitle(latest)]
    bars, bottom = _bars(latest)
    body += bars
    top = bottom + 92
    body.append(svg.text(24, bottom + 48, "Over the runs: percent of plain veth in the same run", kind="large"))
    shown = list(runs[-_MOST_RUNS:])
    for direction in DIRECTIONS:
        body += _panel(shown, direction, _PANELS[direction], top)
    height = int(top + _PANEL_HEIGHT + 58)
    description = "Above: Mbit/s of the latest run for each path and IP family. Below: the share of plain veth, by run."
    return svg.document(_WIDTH, height, "Throughput of the whole stack", description, body)


def _subtitle(run: Run) -> str:
    words = [f"latest run {_date(run)} {run.time[11:16]} UTC", run.commit]
    words.append(f"{run.machine['processors']} processors" if "processors" in run.machine else "")
    for way in DIRECTIONS:
        cell = find(run.cells, ours("veth", ipv6=False).name, way)
        words.append(f"plain veth {way}: {cell.mbps:,.0f} Mbit/s" if cell else "")
    if run.problems:
        return svg.text(24, 54, f"{_date(run)}: this run failed, {'; '.join(run.problems)[:90]}", "bad")
    return svg.text(24, 54, "  ·  ".join(filter(None, words)), "soft")


def _bars(run: Run) -> tuple[list[str], float]:
    """Groups by path and family, in each the directions, ours above upstream's; and where they end."""
    rows: list[tuple[str, str, str, float, str]] = []  # group, direction, who, Mbit/s, colour
    for kind in KINDS:
        for ipv6 in FAMILIES:
            for way in DIRECTIONS:
                for variant, who, colour in (
                    (ours(kind, ipv6=ipv6), "ours", kind),
                    (upstreams(kind, ipv6=ipv6), "upstream's", "other"),
                ):
                    cell = find(run.cells, variant.name, way)
                    if cell is not None:
                        rows.append((f"{kind}, IPv{6 if ipv6 else 4}", _ARROWS[way], who, cell.mbps, colour))
    compared = any(row[2] != "ours" for row in rows)
    axis = svg.ticks(max((row[3] for row in rows), default=0))
    scale = (_BARS_RIGHT - _LEFT) / axis[-1]
    marks, y, group, last = list[str](), float(_BARS_TOP), "", ""
    for name, arrow, who, mbps, colour in rows:
        if name != group:
            y += _GROUP_GAP if group else 0
            marks.append(svg.text(24, y + _BAR - 2, name, kind="middle"))
            last = ""
        if arrow != last:
            marks.append(svg.text(_LEFT - 8, y + _BAR - 2, arrow, "soft", anchor="end"))
        group, last = name, arrow
        marks.append(svg.bar(_LEFT, y, mbps * scale, _BAR, colour))
        colour = "soft" if colour == "other" else colour
        marks.append(
            svg.text(
                _LEFT + mbps * scale + 6, y + _BAR - 2, f"{mbps:,.0f} {who}" if compared else f"{mbps:,.0f}", colour
            )
        )
        y += _ROW
    grid = []
    for value in axis:
        x = _LEFT + value * scale
        grid += [svg.line(x, _BARS_TOP - 6, x, y), svg.text(x, y + 16, f"{value:,.0f}", "soft", anchor="middle")]
    grid.append(svg.text(_BARS_RIGHT + 24, y + 16, "Mbit/s received", "soft"))
    return [*grid, *marks], y + 16


def _panel(runs: Sequence[Run], direction: Direction, left: float, top: float) -> list[str]:
    """One direction: a line for each path and family, its name at its end."""
    way = DIRECTIONS.index(direction)
    series: list[tuple[str, str, bool, list[tuple[int, float]]]] = []  # name, colour, dashed, (run, percent)
    for kind in KINDS:
        for ipv6 in FAMILIES:
            found = [quotient(run.cells, ours(kind, ipv6=ipv6), ours("veth", ipv6=ipv6)) for run in runs]
            points = [(index, value[way] * 100) for index, value in enumerate(found) if value is not None]
            if points:
                series.append((f"{kind} IPv{6 if ipv6 else 4}", kind, ipv6, points))
    axis = svg.ticks(max((value for *_, points in series for _, value in points), default=0), 4)
    bottom = top + _PANEL_HEIGHT
    step = _PANEL_WIDTH / max(1, len(runs) - 1)

    def place(index: int, value: float) -> tuple[float, float]:
        x = left + (index * step if len(runs) > 1 else _PANEL_WIDTH / 2)
        return x, bottom - value / axis[-1] * _PANEL_HEIGHT

    body = [svg.text(left, top - 14, _ARROWS[direction], kind="middle")]
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
    ends = {0: "start", len(runs) - 1: "end"} if len(runs) > 1 else {0: "middle"}
    body += [svg.text(places[i], bottom + 32, _label(runs[i]), "soft", anchor=anchor) for i, anchor in ends.items()]
    middle = (places[0] + places[-1]) / 2
    count = f"{len(runs)} run{'s' if len(runs) > 1 else ''}"
    if failed:
        return [*body, svg.text(middle, bottom + 48, f"{count}, ✗ {len(failed)} failed", "bad", anchor="middle")]
    return [*body, svg.text(middle, bottom + 48, count, "soft", anchor="middle")]


def _label(run: Run) -> str:
    return f"{_date(run)} {run.time[11:16]}"


def _date(run: Run) -> str:
    return datetime.fromisoformat(run.time).strftime("%Y-%m-%d")
