"""What a benchmark has found: figures, each beside the bound wanted of it, as a table of 80 columns and as JSON."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from bench.report import table

_HEAD: Final = ["", "found", "wanted", ""]
NEVER: Final = "never"
LONGEST_TEXT: Final = 44  # characters, which leave the other columns their place in 80


@dataclass(frozen=True, slots=True)
class Figure:
    """One number. None: what was waited for did not come. Without a bound it is told and not judged."""

    text: str
    value: float | None
    unit: str = ""
    at_most: float | None = None
    at_least: float | None = None

    def __post_init__(self) -> None:
        if len(self.text) > LONGEST_TEXT:
            raise ValueError(f"{self.text!r} is longer than a row has room for")

    @property
    def is_met(self) -> bool:
        if self.at_most is None and self.at_least is None:
            return True
        if self.value is None:
            return False
        highest = math.inf if self.at_most is None else self.at_most
        return (self.at_least or 0) <= self.value <= highest

    @property
    def verdict(self) -> str:
        """For the last column."""
        if self.at_most is None and self.at_least is None:
            return ""
        return "ok" if self.is_met else "not"

    @property
    def wanted(self) -> str:
        """The bounds in words."""
        if self.at_most is not None and self.at_most == self.at_least:
            return shown(self.at_most)
        words = [] if self.at_least is None else [f"≥ {shown(self.at_least)}"]
        words += [] if self.at_most is None else [f"≤ {shown(self.at_most)}"]
        return ", ".join(words)

    @property
    def found(self) -> str:
        return NEVER if self.value is None else f"{shown(self.value)} {self.unit}".rstrip()


def shown(value: float) -> str:
    """Three digits are enough of what a noisy machine says."""
    if value == int(value) or value >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}".rstrip("0").rstrip(".")


def as_markdown(figures: Sequence[Figure]) -> str:
    """One row per figure."""
    return table(_HEAD, [[one.text, one.found, one.wanted, one.verdict] for one in figures])


def as_json(figures: Iterable[Figure], problems: Sequence[str]) -> dict[str, Any]:
    """The same for programs."""
    rows = [
        {
            "text": one.text,
            "value": one.value,
            "unit": one.unit,
            "at_most": one.at_most,
            "at_least": one.at_least,
            "ok": one.is_met,
        }
        for one in figures
    ]
    return {"ok": not problems and all(row["ok"] for row in rows), "figures": rows, "problems": [*problems]}


def unmet(figures: Iterable[Figure]) -> list[str]:
    """One phrase for each bound that was missed."""
    return [f"{one.text}: {one.found}, wanted {one.wanted}" for one in figures if not one.is_met]
