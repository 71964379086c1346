"""The status of a relay (``relay.driver.status``) as tables for people."""

from collections.abc import Mapping
from typing import Any, Final

from connectivity.io.status_table import amount, counter_table, duration
from connectivity.io.table import Screen, counted, facts, table

_SHOWN_APART: Final = frozenset(
    {"packets", "bytes", "drops", "xdp_passed", "offload", "xdp_egress", "allocations", "channels", "streams"}
)
_PATHS: Final = {"xdp": "the kernel (XDP)", "python": "user space"}


def render(document: Mapping[str, Any], screen: Screen | None = None) -> str:
    """The whole of it, without a line feed at its end."""
    counters = document["counters"]
    dropped = [
        [reason, _PATHS[path], f"{count:,}"]
        for path, reasons in counters.get("drops", {}).items()
        for reason, count in reasons.items()
        if count
    ]
    passed = [[reason, f"{count:,}"] for reason, count in counters.get("xdp_passed", {}).items() if count]
    parts = [
        facts(_heading(document), screen),
        table(
            ("RELAYED BY", "TO PEERS", "BYTES", "TO CLIENTS", "BYTES"),
            [[words, *_moved(counters, path)] for path, words in _PATHS.items()],
            "",
            right={1, 2, 3, 4},
            screen=screen,
        ),
        _busiest(document, screen),
        table(("DROPPED", "BY", "PACKETS"), dropped, "nothing was dropped", right={2}, screen=screen),
    ]
    if passed:
        parts.append(table(("LEFT TO USER SPACE", "PACKETS"), passed, "", right={1}, screen=screen))
    others = {name: value for name, value in counters.items() if name not in _SHOWN_APART}
    return "\n\n".join((*parts, counter_table(others, screen)))


def _heading(document: Mapping[str, Any]) -> list[tuple[str, str]]:
    counters, offload = document["counters"], document["offload"]
    name = document["name"] or ", ".join(document["public"])
    ready = "draining" if document["draining"] else "ready" if document["ready"] else "not ready"
    portal = {"none": "none: stand-alone", "away": "away"}.get(document["portal"], "joined")
    egress = ", ".join(f"{interface} {state}" for interface, state in offload["egress"].items())
    busy = (
        f"{counted(counters['allocations'], 'allocation')} of {counted(document['users'], 'user')},"
        f" {counted(counters['channels'], 'channel')}, {counted(counters['streams'], 'connection')}"
    )
    return [
        ("relay", f"{name}, {ready}, for {duration(document['uptime_seconds'])}"),
        ("public", ", ".join(document["public"])),
        ("portal", portal),
        ("offload", f"{offload['mode']}: {egress or offload['reason'] or 'no interface'}"),
        ("serves", busy),
    ]


def _moved(counters: Mapping[str, Any], path: str) -> list[str]:
    packets, octets = counters["packets"][path], counters["bytes"][path]
    return [
        text
        for direction in ("to_peer", "to_client")
        for text in (f"{packets[direction]:,}", amount(octets[direction]))
    ]


def _busiest(document: Mapping[str, Any], screen: Screen | None) -> str:
    rows = [
        [entry["client"], entry["user"], entry["port"], entry["transport"], amount(entry["to_peer_bytes"]),
         amount(entry["to_client_bytes"])]
        for entry in document["busiest"]
    ]  # fmt: skip
    header = ("BUSIEST CLIENT", "USER", "PORT", "BY", "TO PEERS", "TO CLIENT")
    return table(header, rows, "no allocations", right={2, 4, 5}, screen=screen)
