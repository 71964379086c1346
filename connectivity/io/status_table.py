"""The status of a client or gateway (``connectivity.io.status_document``) as tables for people.

Whatever a portal or a peer chose is escaped. Times are ages, bytes in units of a thousand.
"""

import time
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

from connectivity.printable import printable

_UNITS: Final = ("kB", "MB", "GB", "TB")
_NONE: Final = "-"
_PATHS: Final = {
    "PeerToPeer": "direct {remote}",
    "PeerToRelay": "through the other side's relay {remote}",
    "RelayToPeer": "relay {local}, to {remote}",
    "RelayToRelay": "relays {local} and {remote}",
}


def render(document: Mapping[str, Any], wall_now: float | None = None) -> str:
    """The whole of it, without a line feed at its end; ``wall_now`` in unix seconds."""
    wall_now = time.time() if wall_now is None else wall_now
    parts = [_heading(document)]
    peer = "GATEWAY" if document["service"] == "client" else "CLIENT"
    if "resources" in document:
        rows = [[row["name"], row["address"] or _NONE, row["state"], row["gid"]] for row in document["resources"]]
        parts.append(_table(("RESOURCE", "ADDRESS", "STATE", "GATEWAY"), rows, "no resources"))
    if "clients" in document:
        parts.append(_table(("CLIENT", "MAY REACH", "EXPIRES"), _grants(document["clients"], wall_now), "no clients"))
    header = (peer, "STATE", "ROUND TRIP", "SENT", "RECEIVED", "HANDSHAKE", "PATH")
    parts.append(_table(header, map(_connection, document["connections"]), "no connections", right={2, 3, 4}))
    if document.get("dns", {}).get("servers"):
        rows = [[row["sentinel"], row["server"]] for row in document["dns"]["servers"]]
        parts.append(_table(("NAME SERVER", "ASKS"), rows, ""))
    counted = [[name, f"{count:,}"] for name, count in _counters("", document["counters"]) if count]
    parts.append(_table(("COUNTER", "COUNT"), counted, "all counters are zero", right={1}))
    return "\n\n".join(parts)


def _heading(document: Mapping[str, Any]) -> str:
    addresses = [document[family] for family in ("ipv4", "ipv6") if document[family] is not None]
    lasted = duration(document["portal_seconds"])
    if document["portal"]:
        portal = f"joined for {lasted}"
    else:
        reason = document["portal_away_reason"]
        portal = f"away for {lasted}: {reason}" if reason else f"not joined yet, after {lasted}"
    rows = [
        [document["service"], f"{document['name']} ({document['id']})"],
        ["tunnel", ", ".join(addresses) or "no addresses yet"],
        ["portal", f"{document['portal_url']}, {portal}"],
    ]
    return "\n".join(f"{name:7}  {printable(text)}" for name, text in rows)


def _grants(clients: Iterable[Mapping[str, Any]], wall_now: float) -> Iterator[list[object]]:
    for client in clients:
        named = f"{client['cid']} ({', '.join(client['addresses'])})"
        for grant in client["grants"]:
            address = grant["address"] or grant["type"]
            until = grant["expires_at"]
            left = "never" if until is None else f"in {duration(max(0, until - wall_now))}"
            yield [named, f"{address} ({grant['rid']})", left]
            named = ""  # once is enough
        if not client["grants"]:
            yield [named, _NONE, _NONE]


def _connection(row: Mapping[str, Any]) -> list[object]:
    round_trip, handshake = row["round_trip_ms"], row["handshake_seconds"]
    path = _NONE if row["path"] is None else _PATHS.get(row["path"], row["path"]).format_map(row)
    return [
        row.get("gid", row.get("cid")),
        row["state"],
        None if round_trip is None else f"{round_trip:.1f} ms",
        amount(row["sent_bytes"]),
        amount(row["received_bytes"]),
        None if handshake is None else f"{duration(handshake)} ago",
        path,
    ]


def _counters(prefix: str, value: object) -> Iterator[tuple[str, int]]:
    """Nested counts, each by its whole name."""
    if isinstance(value, Mapping):
        for name, inner in value.items():
            yield from _counters(f"{prefix}.{name}" if prefix else str(name), inner)
    elif isinstance(value, int):
        yield prefix, value


def _table(header: Sequence[str], rows: Iterable[Sequence[object]], nothing: str, right: Collection[int] = ()) -> str:
    """Columns as wide as their widest cell; ``nothing`` where there are no rows."""
    cells = [[_NONE if cell is None else printable(str(cell)) for cell in row] for row in rows]
    if not cells:
        return nothing
    cells.insert(0, list(header))
    widths = [max(len(row[index]) for row in cells) for index in range(len(header))]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if index in right else cell.ljust(width)
            for index, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in cells
    )


def duration(seconds: float) -> str:
    """Two units at most: ``12 s``, ``3 min 20 s``, ``5 h 1 min``, ``2 d 4 h``."""
    left = int(seconds)
    parts: list[tuple[int, str]] = []
    for name, size in (("d", 86400), ("h", 3600), ("min", 60), ("s", 1)):
        count, left = divmod(left, size)
        if count or parts or name == "s":
            parts.append((count, name))
    return " ".join(f"{count} {name}" for count, name in parts[:2] if count or len(parts) == 1)


def amount(count: int) -> str:
    """Bytes in units of a thousand, two decimals."""
    if count < 1000:
        return f"{count} B"
    power = min((len(str(count)) - 1) // 3, len(_UNITS))
    return f"{count / 1000**power:.2f} {_UNITS[power - 1]}"
