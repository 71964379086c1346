"""Reads what a relay counts from its Prometheus text, and judges whether XDP did its part."""

import re
from dataclasses import dataclass
from typing import Final, Literal

_SAMPLE: Final = re.compile(r"^(?P<name>[a-z_]+)(?:\{(?P<labels>[^}]*)\})? (?P<value>[0-9.e+]+)$", re.MULTILINE)
_XDP_SHARE: Final = 0.99


@dataclass(frozen=True, slots=True)
class RelayCounts:
    """Relayed packets or bytes by the path that carried them."""

    xdp: int
    python: int


def parse_counts(text: str, unit: Literal["packets", "bytes"] = "packets") -> RelayCounts:
    """Sum what was relayed over both directions."""
    totals = {"xdp": 0, "python": 0}
    for sample in _SAMPLE.finditer(text):
        labels = dict(re.findall(r'(\w+)="([^"]*)"', sample["labels"] or ""))
        if sample["name"] == f"postern_relay_{unit}_total" and labels.get("path") in totals:
            totals[labels["path"]] += int(float(sample["value"]))
    return RelayCounts(**totals)


def judge_offload(mode: str, counts: RelayCounts, *, wanted: bool, relayed: bool) -> list[str]:
    """What is not as it has to be: the mode, and where data was relayed who carried it."""
    if wanted and mode == "off":
        return ["the relay could not load XDP (its log says why; postern demo --no-ebpf does without)"]
    if not wanted and mode != "off":
        return [f"XDP is {mode} although it was to be off"]
    # Generic mode leaves one direction to Python by default.
    share = counts.xdp / max(1, counts.xdp + counts.python)
    if relayed and mode == "native" and share < _XDP_SHARE:
        return [f"XDP forwarded {share:.1%} of the relayed packets, not {_XDP_SHARE:.0%}"]
    return []
