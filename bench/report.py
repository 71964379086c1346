"""What a run prints: Markdown tables, aligned, that a terminal and a document show alike."""

from collections.abc import Sequence
from typing import Final

from bench.measurement import DIRECTIONS, Stage
from bench.results import Cell, Ratio, find, ratios
from lab.plan import STACK_ROLES

_NONE: Final = "-"
_PLACES: Final = {"stack": "in the stack's sockets", "tun": "at its TUN devices", "iperf3": "in iperf3's sockets"}


def as_markdown(cells: Sequence[Cell]) -> str:
    """All tables that have rows."""
    parts = [
        ("TCP, one stream", throughput_table(cells)),
        ("UDP, paced below the path's capacity", datagram_table(cells, "paced")),
        ("CPU seconds per GB (10⁹ bytes received), TCP, up · down", cpu_table(cells)),
        ("Ratios within this run, TCP", ratio_table(ratios(cells))),
        ("UDP, overload (reported, not judged)", datagram_table(cells, "overload")),
    ]
    return "\n".join(f"{title}:\n\n{table}\n" for title, table in parts if table)


def throughput_table(cells: Sequence[Cell]) -> str:
    rows = []
    for name in _names(cells):
        found = [find(cells, name, way) for way in DIRECTIONS]
        if None not in found:
            speeds = [f"{cell.mbps:,.0f}" for cell in found if cell]
            again = [_shown(cell.retransmits) for cell in found if cell]
            rows.append([name, *speeds, " · ".join(again)])
    return table(["", "up, Mbit/s", "down, Mbit/s", "retransmits up · down"], rows)


def datagram_table(cells: Sequence[Cell], stage: Stage) -> str:
    """Where datagrams were lost: with iperf3 the socket is its own, the rest never got into a socket at all."""
    rows = []
    for name in _names(cells):
        for way in DIRECTIONS:
            cell = find(cells, name, way, "udp", stage)
            if cell is None:
                continue
            share = 100 * (cell.lost or 0) / max(1, cell.sent or 0)
            places = [_shown(cell.lost_in.get(where)) for where in _PLACES]
            rows.append([f"{name}, {way}", f"{cell.mbps:,.0f}", f"{cell.sent or 0:,}", f"{share:.2f} %", *places])
    return table(["", "Mbit/s", "datagrams", "lost (iperf3)", *_PLACES.values()], rows)


def cpu_table(cells: Sequence[Cell]) -> str:
    rows = []
    for name in _names(cells):
        found = [find(cells, name, way) for way in DIRECTIONS]
        costs = [cell.cpu_s_per_gb for cell in found if cell and cell.cpu_s_per_gb]
        if costs:
            shown = (
                " · ".join(f"{cost[role]:.1f}" if role in cost else _NONE for cost in costs) for role in STACK_ROLES
            )
            rows.append([name, *shown])
    return table(["", *STACK_ROLES], rows)


def ratio_table(found: Sequence[Ratio]) -> str:
    return table(["", "up", "down"], [[ratio.text, f"{ratio.up:.2f}", f"{ratio.down:.2f}"] for ratio in found])


def _names(cells: Sequence[Cell]) -> list[str]:
    return list(dict.fromkeys(cell.variant for cell in cells))


def _shown(count: int | None) -> str:
    return _NONE if count is None else f"{count:,}"


def table(head: list[str], rows: list[list[str]]) -> str:
    """A Markdown table; nothing without rows."""
    if not rows:
        return ""
    widths = [max(len(row[column]) for row in [head, *rows]) for column in range(len(head))]

    def line(row: list[str]) -> str:
        first, *rest = (
            text.ljust(width) if column == 0 else text.rjust(width)
            for column, (text, width) in enumerate(zip(row, widths, strict=True))
        )
        return f"| {' | '.join([first, *rest])} |"

    rule = "|".join(["-" * (widths[0] + 2), *("-" * (width + 1) + ":" for width in widths[1:])])
    return "\n".join([line(head), f"|{rule}|", *map(line, rows)])
