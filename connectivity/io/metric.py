"""A metric with all its series now: one list of them is what Prometheus reads and what OpenTelemetry exports.

To add a metric is to add one to the list of its service; docs/metrics.md has each with its unit and its attributes, and
a test compares that with what running services export. Attributes are closed sets: no address, no id, no name.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, TypeAlias

Row: TypeAlias = tuple[Mapping[str, str], int | float]

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
_ESCAPES: Final = str.maketrans({"\\": "\\\\", '"': '\\"', "\n": "\\n"})


@dataclass(frozen=True, slots=True)
class Metric:
    """One name with its series, always the same ones.

    Attributes:
        name: as OpenTelemetry has it, with dots.
        unit: by UCUM: ``By``, ``s``, ``1``, or what is counted in braces.
    """

    name: str
    kind: Literal["counter", "gauge"]
    unit: str
    text: str
    rows: Sequence[Row]

    @property
    def prometheus_name(self) -> str:
        """The name for Prometheus: dots are underscores, and what only grows is a total."""
        return self.name.replace(".", "_") + ("_total" if self.kind == "counter" else "")


def one(value: float) -> tuple[Row]:
    """The one series of a metric without attributes."""
    return (({}, value),)


def render(metrics: Iterable[Metric]) -> str:
    """Prometheus' text format."""
    return "\n".join(line for metric in metrics for line in _lines(metric)) + "\n"


def _lines(metric: Metric) -> Iterator[str]:
    name = metric.prometheus_name
    yield f"# HELP {name} {metric.text}"
    yield f"# TYPE {name} {metric.kind}"
    for attributes, value in metric.rows:
        inner = ",".join(
            f'{label.replace(".", "_")}="{content.translate(_ESCAPES)}"' for label, content in attributes.items()
        )
        yield f"{name}{{{inner}}} {value}" if inner else f"{name} {value}"


def nested(metrics: Iterable[Metric], prefix: str) -> dict[str, Any]:
    """Metrics of one prefix as nested objects, for people: by what follows it, then by each attribute's value."""
    found: dict[str, Any] = {}
    for metric in metrics:
        if not metric.name.startswith(prefix):
            continue
        for attributes, value in metric.rows:
            *way, last = (metric.name.removeprefix(prefix), *filter(None, attributes.values()))
            place = found
            for step in way:
                place = place.setdefault(step, {})
            place[last] = value
    return found
