"""Small pieces of SVG: escaped text, lines, bars, one style sheet for light and dark, ticks of an axis.

Colours are classes, so that ``prefers-color-scheme`` can turn them; no script, no fonts, no outside references.
"""

import math
from collections.abc import Sequence
from typing import Final
from xml.sax.saxutils import escape

# class -> (light, dark): contrast of at least 4.5 on the background for whatever is text.
_COLOURS: Final = {
    "paper": ("#ffffff", "#0d1117"),
    "ink": ("#1f2328", "#e6edf3"),
    "soft": ("#59636e", "#9198a1"),
    "grid": ("#d8dee4", "#30363d"),
    "direct": ("#0757b8", "#6cb0ff"),
    "relayed": ("#a83f00", "#ff9d57"),
    "other": ("#6e7781", "#848d97"),
    "bad": ("#b3122a", "#ff7b8a"),
}


def document(width: int, height: int, title: str, description: str, body: Sequence[str]) -> str:
    """A whole picture that scales and says to a screen reader what it shows."""
    size = f'width="{width}" height="{height}"'
    role = 'role="img" aria-labelledby="title description"'
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" {size} {role}>',
            f'<title id="title">{escape(title)}</title>',
            f'<desc id="description">{escape(description)}</desc>',
            f"<style>{_style()}</style>",
            f'<rect class="fill-paper" width="{width}" height="{height}"/>',
            *body,
            "</svg>",
            "",
        ]
    )


def text(x: float, y: float, words: str, colour: str = "ink", *, anchor: str = "start", kind: str = "small") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" class="{kind} fill-{colour}">{escape(words)}</text>'


def upright(x: float, y: float, words: str) -> str:
    """The label of a vertical axis, read from below."""
    return (
        f'<text transform="translate({x:.1f} {y:.1f}) rotate(-90)" text-anchor="middle" class="small fill-soft">'
        f"{escape(words)}</text>"
    )


def line(x1: float, y1: float, x2: float, y2: float, colour: str = "grid", *, kind: str = "thin") -> str:
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" class="{kind} stroke-{colour}"/>'


def bar(x: float, y: float, width: float, height: float, colour: str) -> str:
    return f'<rect x="{x:.1f}" y="{y:.1f}" width="{max(width, 0):.1f}" height="{height:.1f}" class="fill-{colour}"/>'


def path(points: Sequence[tuple[float, float]], colour: str, *, dashed: bool) -> str:
    """A line through the points, with a dot on each."""
    kind = "thick dashed" if dashed else "thick"
    shown = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    stroke = f'<polyline points="{shown}" class="{kind} stroke-{colour}"/>' if len(points) > 1 else ""
    dots = "".join(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="2.5" class="fill-{colour}"/>' for x, y in points)
    return stroke + dots


def ticks(largest: float, about: int = 5) -> list[float]:
    """Round numbers from 0 to at least ``largest``, about so many."""
    if not (largest > 0 and math.isfinite(largest)):
        return [0.0, 1.0]
    rough = largest / about
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= rough * 0.999)
    return [index * step for index in range(math.ceil(largest / step - 1e-9) + 1)]


def spread(wanted: Sequence[float], gap: float, lowest: float, highest: float) -> list[float]:
    """Places for labels that keep ``gap`` between each other, as near as may be to where they are wanted."""
    order = sorted(range(len(wanted)), key=lambda index: wanted[index])
    places = [0.0] * len(wanted)
    floor = lowest
    for index in order:
        places[index] = max(wanted[index], floor)
        floor = places[index] + gap
    ceiling = highest
    for index in reversed(order):
        places[index] = min(places[index], ceiling)
        ceiling = places[index] - gap
    return places


def _style() -> str:
    rules = [
        "text{font-family:system-ui,-apple-system,'Segoe UI',Helvetica,Arial,sans-serif}",
        ".small{font-size:12px}.large{font-size:16px;font-weight:600}.middle{font-size:13px;font-weight:600}",
        ".thin{stroke-width:1}.thick{stroke-width:2;fill:none}.dashed{stroke-dasharray:5 3}",
    ]
    light, dark = (
        "".join(f".fill-{name}{{fill:{pair[i]}}}.stroke-{name}{{stroke:{pair[i]}}}" for name, pair in _COLOURS.items())
        for i in (0, 1)
    )
    return "".join([*rules, light, f"@media (prefers-color-scheme:dark){{{dark}}}"])
