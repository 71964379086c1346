"""What the demo shows: the picture at its beginning, one line per step, the table and the JSON object at its end."""

import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final, TextIO

PICTURE: Final = """\
  user ── client ──[NAT]──┐                  ┌──[NAT]── gateway ── resource
          TUN, WireGuard  └──── internet ────┘          TUN, WireGuard
                                 │    │
                       relay (XDP)    portal
  Each box is a network namespace of this machine, each line a veth pair. The user asks the client for app.internal.
  The four runs:
    relayed   both NATs symmetric: only client ─ relay ─ gateway exists     (over IPv4 alone, then dual-stack)
    direct    no NAT: client ─ gateway, the relay only introduces them      (over IPv4 alone, then dual-stack)
"""


@dataclass(frozen=True, slots=True)
class RunResult:
    """One run as measured; speeds in Mbit/s as received, ``udp_buffer_errors`` by the part that the namespace holds.

    The page came by its name: first over IPv4, with everything that had to be set up for it, then over IPv6.
    """

    name: str
    underlay: str
    path: str
    first_answer_ms: float
    ipv6_answer_ms: float
    tcp_up_mbps: float
    tcp_down_mbps: float
    udp_up_mbps: float
    udp_down_mbps: float
    relayed_by_xdp: int
    relayed_by_python: int
    xdp_mode: str
    udp_buffer_errors: dict[str, int]


class Progress:
    """A line per step with the time since the start, as soon as the step begins."""

    def __init__(self, output: TextIO | None = None) -> None:
        self._output = sys.stderr if output is None else output
        self._start = time.monotonic()

    def say(self, text: str) -> None:
        print(f"{time.monotonic() - self._start:6.1f} s  {text}", file=self._output, flush=True)


def as_json(results: Sequence[RunResult], problems: Sequence[str]) -> dict[str, Any]:
    """The object that ``--json`` prints; what failed is named beside ``ok``."""
    found: dict[str, Any] = {"ok": not problems, "runs": [asdict(result) for result in results]}
    return found | ({"problems": list(problems)} if problems else {})


_HEAD: Final = (
    "run",
    "underlay",
    "path",
    "by name",
    "IPv6",
    "TCP up",
    "TCP down",
    "UDP up",
    "UDP down",
    "by XDP",
    "by Python",
    "XDP",
    "UDP errors",
)
_UNITS: Final = ("", "", "", "ms", "ms", "Mbit/s", "Mbit/s", "Mbit/s", "Mbit/s", "packets", "packets", "mode", "nstat")
_LEFT: Final = frozenset({0, 1, 2, 11, 12})


def as_table(results: Sequence[RunResult]) -> str:
    """The measurements of all runs, aligned."""
    rows = [_HEAD, _UNITS, *(_row(result) for result in results)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(_HEAD))]
    lines = []
    for row in rows:
        cells = zip(row, widths, range(len(row)), strict=True)
        lines.append("  ".join(text.ljust(n) if i in _LEFT else text.rjust(n) for text, n, i in cells).rstrip())
    lines.insert(2, "─" * max(map(len, lines)))
    return "\n".join(lines)


def _row(result: RunResult) -> tuple[str, ...]:
    errors = {role: count for role, count in result.udp_buffer_errors.items() if count}
    speeds = (result.tcp_up_mbps, result.tcp_down_mbps, result.udp_up_mbps, result.udp_down_mbps)
    return (
        result.name,
        result.underlay,
        result.path,
        f"{result.first_answer_ms:.0f}",
        f"{result.ipv6_answer_ms:.0f}",
        *(f"{speed:,.0f}" for speed in speeds),
        f"{result.relayed_by_xdp:,}",
        f"{result.relayed_by_python:,}",
        result.xdp_mode,
        " ".join(f"{role}: {count}" for role, count in errors.items()) or "0",
    )
