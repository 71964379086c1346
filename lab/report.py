"""What the demo shows: the picture at its beginning, one line per step, the table and the JSON object at its end."""

import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final, TextIO

PICTURE: Final = """\
  user ── client ──[NAT]──┐                  ┌──[NAT]── gateway ── resource
          TUN, WireGuard  └──── internet ────┘          TUN, WireGuard
                                 │    │
                       relay (XDP)    portal
  Each box is a network namespace of this machine, each line a veth pair.
  The user asks the client for app.internal. Four runs, IPv4 and dual-stack:
    relayed   both NATs symmetric: only client ─ relay ─ gateway exists
    direct    no NAT: client ─ gateway, the relay only introduces them
"""


_WAYS: Final = {
    "relayed": "by the relay where routers let nothing else through",
    "direct": "straight where nothing was in the way",
}


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


_ROWS: Final[tuple[tuple[str, Callable[[RunResult], str]], ...]] = (
    ("underlay", lambda run: run.underlay),
    ("path", lambda run: run.path),
    ("first answer by name, ms", lambda run: f"{run.first_answer_ms:.0f}"),
    ("  then over IPv6, ms", lambda run: f"{run.ipv6_answer_ms:.0f}"),
    ("TCP up, Mbit/s", lambda run: f"{run.tcp_up_mbps:,.0f}"),
    ("TCP down, Mbit/s", lambda run: f"{run.tcp_down_mbps:,.0f}"),
    ("UDP up, Mbit/s", lambda run: f"{run.udp_up_mbps:,.0f}"),
    ("UDP down, Mbit/s", lambda run: f"{run.udp_down_mbps:,.0f}"),
    ("relayed by XDP, packets", lambda run: f"{run.relayed_by_xdp:,}"),
    ("  by Python, packets", lambda run: f"{run.relayed_by_python:,}"),
    ("XDP mode", lambda run: run.xdp_mode),
    ("UDP errors", lambda run: f"{sum(run.udp_buffer_errors.values()):,}"),
)


def verdict(results: Sequence[RunResult], problems: Sequence[str], wanted: int) -> str:
    """How it went, in words."""
    if problems:
        return f"NOT as it must: {len(results)} of {wanted} runs were measured, and what is wrong stands below."
    ways = {run.name for run in results}
    said = [text for name, text in _WAYS.items() if name in ways]
    went = "All runs went as they must" if wanted > 1 else "The run went as it must"
    return ",\n".join([f"{went}: the page came by its name", *said]) + "."


def paths(results: Sequence[RunResult]) -> str:
    """A picture of each path that was taken."""
    return "\n".join(dict.fromkeys(f"  {run.name:8} {_path(run)}" for run in results))


def as_table(results: Sequence[RunResult]) -> str:
    """The measurements, a column for each run; four fit a terminal of 80 columns."""
    rows = [("", *(run.name for run in results)), *((label, *map(show, results)) for label, show in _ROWS)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(results) + 1)]
    lines = [
        "  ".join([row[0].ljust(widths[0]), *(cell.rjust(n) for cell, n in zip(row[1:], widths[1:], strict=True))])
        for row in rows
    ]
    lines.insert(2, "─" * max(map(len, lines)))
    return "\n".join(line.rstrip() for line in lines)


def _path(run: RunResult) -> str:
    if run.path == "PeerToPeer":
        middle = "═══════════ straight ═══════════"
    else:
        relay = f" relay ({'XDP' if run.relayed_by_xdp > run.relayed_by_python else 'Python'}) "
        middle = f"══[NAT]══{relay.center(14, '═')}══[NAT]══"
    return f"user ── client {middle} gateway ── resource"
