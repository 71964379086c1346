"""The status of a client or gateway (``connectivity.io.status_document``) as tables for people.

Names come before ids, which are shown where there is no name or it is not the only one. Times are ages, bytes in units
of a thousand; ports and what else is for programs is in the JSON.
"""

import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

from connectivity.io.table import NONE, Screen, facts, table

_UNITS: Final = ("kB", "MB", "GB", "TB")
_SHORT_ID: Final = 8
_LONGEST_ID: Final = 36  # a UUID; hashes are cut
_NEVER: Final = 4_102_444_800  # 2100-01-01: what portals say where the protocol demands a time
_PATHS: Final = {
    "PeerToPeer": "direct {remote}",
    "PeerToRelay": "through the other side's relay {remote}",
    "RelayToPeer": "relay {local}, to {remote}",
    "RelayToRelay": "relays {local} and {remote}",
}


def render(document: Mapping[str, Any], wall_now: float | None = None, screen: Screen | None = None) -> str:
    """The whole of it, without a line feed at its end; ``wall_now`` in unix seconds."""
    wall_now = time.time() if wall_now is None else wall_now
    parts = [_heading(document, screen)]
    is_client = document["service"] == "client"
    label = _labels(document)
    if "resources" in document:
        rows = [[row["name"], row["address"] or NONE, row["state"], label(row["gid"])] for row in document["resources"]]
        parts.append(table(("RESOURCE", "ADDRESS", "STATE", "GATEWAY"), rows, "no resources", screen=screen))
    header = ("GATEWAY" if is_client else "CLIENT", "STATE", "PATH", "RTT", "SENT", "RECEIVED", "HANDSHAKE")
    connections = [_connection(row, label) for row in document["connections"]]
    parts.append(table(header, connections, "no connections", right={3, 4, 5, 6}, screen=screen))
    if "clients" in document:
        grants = _grants(document["clients"], label, wall_now)
        parts.append(table(("CLIENT", "OF", "MAY REACH", "EXPIRES"), grants, "no clients", screen=screen))
    if document.get("dns", {}).get("servers"):
        rows = [[row["sentinel"], row["server"]] for row in document["dns"]["servers"]]
        parts.append(table(("NAME SERVER", "ASKS"), rows, "", screen=screen))
    parts.append(counter_table(document["counters"], screen))
    return "\n\n".join(parts)


def counter_table(counters: Mapping[str, Any], screen: Screen | None = None) -> str:
    """What has been counted, by its whole name, but for what is zero."""
    counted = [[name, f"{count:,}"] for name, count in _counters("", counters) if count]
    return table(("COUNTER", "COUNT"), counted, "all counters are zero", right={1}, screen=screen)


def portal_words(document: Mapping[str, Any]) -> str:
    """How it stands with the portal."""
    lasted = duration(document["portal_seconds"])
    if document["portal"]:
        return f"joined for {lasted}"
    reason = document["portal_away_reason"]
    return f"away for {lasted}: {reason}" if reason else f"not joined yet, after {lasted}"


def _heading(document: Mapping[str, Any], screen: Screen | None) -> str:
    addresses = [document[family] for family in ("ipv4", "ipv6") if document[family] is not None]
    device_id = document["id"]
    if len(device_id) > _LONGEST_ID:
        device_id = f"{device_id[:_SHORT_ID]}…"
    rows = [
        (document["service"], f"{document['name']} ({device_id})"),
        ("tunnel", ", ".join(addresses) or "no addresses yet"),
        ("portal", f"{document['portal_url']}, {portal_words(document)}"),
    ]
    return facts(rows, screen)


class _Labels:
    """What peers are called: by name, by name and the id's beginning where others have that name, or by id."""

    def __init__(self, names: Mapping[str, str]) -> None:
        self._names = names
        self._counts = Counter(names.values())

    def __call__(self, peer_id: str | None) -> str | None:
        name = self._names.get(peer_id or "")
        if name is None:
            return peer_id
        return name if self._counts[name] == 1 else f"{name} ({str(peer_id)[:_SHORT_ID]})"


def _labels(document: Mapping[str, Any]) -> _Labels:
    names: dict[str, str] = {}
    for row in (*document["connections"], *document.get("clients", ())):
        if row.get("name"):
            names[row.get("gid") or row["cid"]] = row["name"]
    for row in document.get("resources", ()):
        if row.get("gateway"):
            names[row["gid"]] = row["gateway"]
    return _Labels(names)


def _grants(clients: Iterable[Mapping[str, Any]], label: _Labels, wall_now: float) -> Iterator[list[object]]:
    for client in clients:
        who = [label(client["cid"]), client["actor"]]
        for grant in client["grants"]:
            address = grant["address"] or grant["type"]
            until = grant["expires_at"]
            left = "never" if until is None or until >= _NEVER else f"in {duration(max(0, until - wall_now))}"
            yield [*who, f"{grant['name']} {address}" if grant["name"] else f"{address} ({grant['rid']})", left]
            who = ["", ""]  # once is enough
        if not client["grants"]:
            yield [*who, None, None]


def _connection(row: Mapping[str, Any], label: _Labels) -> list[object]:
    round_trip, handshake = row["round_trip_ms"], row["handshake_seconds"]
    return [
        label(row.get("gid", row.get("cid"))),
        row["state"],
        path_words(row),
        None if round_trip is None else f"{round_trip:.1f} ms",
        amount(row["sent_bytes"]),
        amount(row["received_bytes"]),
        None if handshake is None else duration(handshake, 1),
    ]


def path_words(row: Mapping[str, Any]) -> str | None:
    """The path of a connection; addresses without their ports."""
    if row["path"] is None:
        return None
    ends = {name: str(row[name]).rpartition(":")[0].strip("[]") for name in ("local", "remote")}
    return _PATHS.get(row["path"], str(row["path"])).format_map(ends)


def _counters(prefix: str, value: object) -> Iterator[tuple[str, int]]:
    """Nested counts, each by its whole name."""
    if isinstance(value, Mapping):
        for name, inner in value.items():
            yield from _counters(f"{prefix}.{name}" if prefix else str(name), inner)
    elif isinstance(value, int):
        yield prefix, value


def duration(seconds: float, most: int = 2) -> str:
    """At most so many units: ``12 s``, ``3 min 20 s``, ``5 h 1 min``, ``2 d 4 h``."""
    left = int(seconds)
    parts: list[tuple[int, str]] = []
    for name, size in (("d", 86400), ("h", 3600), ("min", 60), ("s", 1)):
        count, left = divmod(left, size)
        if count or parts or name == "s":
            parts.append((count, name))
    return " ".join(f"{count} {name}" for count, name in parts[:most] if count or len(parts) == 1)


def amount(count: int) -> str:
    """Bytes in units of a thousand, two decimals."""
    if count < 1000:
        return f"{count} B"
    power = min((len(str(count)) - 1) // 3, len(_UNITS))
    return f"{count / 1000**power:.2f} {_UNITS[power - 1]}"
