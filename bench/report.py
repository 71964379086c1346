"""What a run prints: Markdown tables, aligned, that a terminal and a document show alike."""

from collections.abc import Sequence
from typing import Final

from bench.measurement import DIRECTIONS, Stage
from bench.results import Cell, Ratio, comparisons, find, matrix, shares, short_name
from lab.measure import Protocol
from lab.plan import STACK_ROLES

_NONE: Final = "-"
# What they are called in ``Cell.lost_in`` -> in a table.
_QUEUES: Final = {"stack": "stack", "tun": "TUN", "iperf3": "iperf3"}
_SHORT_NAMES: Final = {variant.name: short_name(variant) for variant in matrix()}


def as_markdown(cells: Sequence[Cell]) -> str:
    """All tables that have rows, and in them where each datagram was lost."""
    queues = "datagrams lost as iperf3 counts, and in which queues"
    return _titled(
        *_of_tcp(cells),
        (f"UDP, paced below the path's capacity; {queues}", datagram_table(cells, "paced")),
        (f"UDP, overload (reported, not judged); {queues}", datagram_table(cells, "overload")),
    )


def as_document(cells: Sequence[Cell]) -> str:
    """The same in fewer rows, which are enough of UDP for who does not look for a fault."""
    return _titled(
        *_of_tcp(cells),
        ("UDP, paced below the path's capacity, up · down", loss_table(cells, "paced")),
        ("UDP, overload (reported, not judged), up · down", loss_table(cells, "overload")),
    )


def throughput_table(cells: Sequence[Cell]) -> str:
    of_veth = {variant.name: shares(cells, variant) for variant in matrix() if variant.kind != "veth"}
    rows = []
    for name in _names(cells):
        found = _pair(cells, name)
        if found:
            share = of_veth.get(name)
            shown = _NONE if share is None else _both([percent(value) for value in share])
            speeds, again = [speed(cell) for cell in found], [_shown(cell.retransmits) for cell in found]
            rows.append([_short(name), _both(speeds), shown, _both(again)])
    return table(["", "Mbit/s", "of plain veth", "retransmits"], rows)


def datagram_table(cells: Sequence[Cell], stage: Stage) -> str:
    """Where datagrams were lost: with iperf3 the socket is its own, the rest never got into a socket at all."""
    rows = []
    for name in _names(cells):
        for way in DIRECTIONS:
            cell = find(cells, name, way, "udp", stage)
            if cell is not None:
                queues = [_shown(cell.lost_in.get(where)) for where in _QUEUES]
                rows.append([f"{_short(name)}, {way}", speed(cell), _sent(cell), _lost(cell), *queues])
    return table(["", "Mbit/s", "datagrams", "lost", *_QUEUES.values()], rows)


def loss_table(cells: Sequence[Cell], stage: Stage) -> str:
    """How much was lost, and where most of it."""
    rows = []
    for name in _names(cells):
        found = _pair(cells, name, stage)
        if found:
            told = ([tell(cell) for cell in found] for tell in (speed, _sent, _lost, _most_lost_at))
            rows.append([_short(name), *map(_both, told)])
    return table(["", "Mbit/s", "datagrams", "lost", "most of it at"], rows)


def cpu_table(cells: Sequence[Cell]) -> str:
    rows = []
    for name in _names(cells):
        found = [find(cells, name, way) for way in DIRECTIONS]
        costs = [cell.cpu_s_per_gb for cell in found if cell and cell.cpu_s_per_gb]
        if costs:
            shown = (_both([f"{cost[role]:.1f}" if role in cost else _NONE for cost in costs]) for role in STACK_ROLES)
            rows.append([_short(name), *shown])
    return table(["", *STACK_ROLES], rows)


def ratio_table(found: Sequence[Ratio]) -> str:
    return table(["", "up", "down"], [[one.text, ratio(one.up), ratio(one.down)] for one in found])


def speed(cell: Cell) -> str:
    """Mbit/s in words that tables and pictures have in common."""
    return f"{cell.mbps:,.0f}"


def percent(share: float) -> str:
    """A share, likewise."""
    value = 100 * share
    return f"{value:.0f} %" if value >= 9.95 else f"{value:.1f} %"


def ratio(value: float) -> str:
    """A ratio, likewise."""
    return f"{value:.2f}"


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


def _of_tcp(cells: Sequence[Cell]) -> list[tuple[str, str]]:
    return [
        ("TCP, one stream, up · down", throughput_table(cells)),
        ("Ratios within this run, TCP", ratio_table(comparisons(cells))),
        ("CPU seconds per GB (10⁹ bytes received), TCP, up · down", cpu_table(cells)),
    ]


def _titled(*parts: tuple[str, str]) -> str:
    return "\n".join(f"{title}:\n\n{rows}\n" for title, rows in parts if rows)


def _names(cells: Sequence[Cell]) -> list[str]:
    return list(dict.fromkeys(cell.variant for cell in cells))


def _short(name: str) -> str:
    return _SHORT_NAMES.get(name, name)


def _pair(cells: Sequence[Cell], name: str, stage: Stage = "full") -> list[Cell]:
    """Both directions, or nothing."""
    protocol: Protocol = "tcp" if stage == "full" else "udp"
    found = [cell for way in DIRECTIONS if (cell := find(cells, name, way, protocol, stage)) is not None]
    return found if len(found) == len(DIRECTIONS) else []


def _both(words: Sequence[str]) -> str:
    return " · ".join(words)


def _shown(count: int | None) -> str:
    return _NONE if count is None else f"{count:,}"


def _sent(cell: Cell) -> str:
    return f"{cell.sent or 0:,}"


def _lost(cell: Cell) -> str:
    return f"{100 * (cell.lost or 0) / max(1, cell.sent or 0):.2f} %"


def _most_lost_at(cell: Cell) -> str:
    where = max(_QUEUES, key=lambda queue: cell.lost_in.get(queue, 0))
    return _QUEUES[where] if cell.lost_in.get(where) else _NONE
