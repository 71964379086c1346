"""Bars in groups, by direction and by whose they are, over one axis."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from bench import svg
from lab.measure import Direction

ARROWS: Final[dict[Direction, str]] = {"up": "up ↑", "down": "down ↓"}
_HEIGHT: Final = 13
_ROW: Final = 19
_GROUP_GAP: Final = 14


@dataclass(frozen=True, slots=True)
class Bar:
    """One bar with its label behind it."""

    group: str
    direction: Direction
    label: str
    value: float
    colour: str


def draw_bars(bars: Sequence[Bar], unit: str, left: float, right: float, top: float) -> tuple[list[str], float]:
    """The bars and where they end; neighbours of one group, and in it of one direction, are named once."""
    axis = svg.ticks(max((bar.value for bar in bars), default=0))
    scale = (right - left) / axis[-1]
    marks, y, group, last = list[str](), top, "", ""
    for bar in bars:
        if bar.group != group:
            y += _GROUP_GAP if group else 0
            marks.append(svg.text(24, y + _HEIGHT - 2, bar.group, kind="middle"))
            last = ""
        if bar.direction != last:
            marks.append(svg.text(left - 8, y + _HEIGHT - 2, ARROWS[bar.direction], "soft", anchor="end"))
        group, last = bar.group, bar.direction
        width = bar.value * scale
        marks.append(svg.bar(left, y, width, _HEIGHT, bar.colour))
        colour = "soft" if bar.colour == "other" else bar.colour
        marks.append(svg.text(left + width + 6, y + _HEIGHT - 2, bar.label, colour))
        y += _ROW
    grid = []
    for value in axis:
        x = left + value * scale
        grid += [svg.line(x, top - 6, x, y), svg.text(x, y + 16, f"{value:,g}", "soft", anchor="middle")]
    grid.append(svg.text(right + 24, y + 16, unit, "soft"))
    return [*grid, *marks], y + 16
