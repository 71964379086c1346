"""Reads what a relay counts from its Prometheus text."""

import re
from dataclasses import dataclass
from typing import Final

_SAMPLE: Final = re.compile(r"^(?P<name>[a-z_]+)(?:\{(?P<labels>[^}]*)\})? (?P<value>[0-9.e+]+)$", re.MULTILINE)
_PACKETS: Final = "postern_relay_packets_total"


@dataclass(frozen=True, slots=True)
class RelayCounts:
    """Relayed data packets by the path that carried them."""

    xdp: int
    python: int


def parse_counts(text: str) -> RelayCounts:
    """Sum the relayed packets over both directions."""
    totals = {"xdp": 0, "python": 0}
    for sample in _SAMPLE.finditer(text):
        labels = dict(re.findall(r'(\w+)="([^"]*)"', sample["labels"] or ""))
        if sample["name"] == _PACKETS and labels.get("path") in totals:
            totals[labels["path"]] += int(float(sample["value"]))
    return RelayCounts(**totals)
