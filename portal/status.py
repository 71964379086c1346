"""Who is on line at a portal: one JSON document for its socket, and tables of it for people."""

from collections.abc import Iterable, Mapping
from importlib.metadata import version
from typing import Any, Final

from connectivity.clock import SECOND, Instant
from connectivity.endpoint import Endpoint
from connectivity.io.metric import Metric, nested
from connectivity.io.status_table import counter_table, duration
from connectivity.io.table import Screen, counted, facts, table
from portal.online import Online

PREFIX: Final = "postern.portal."
_SHOWN_APART: Final = frozenset({"online", "connections", "devices", "relays", "grants", "waiting_flows"})


def build(
    listen: Endpoint, online: Iterable[Online], metrics: Iterable[Metric], started_at: Instant, now: Instant
) -> dict[str, Any]:
    """The document; its names are in docs/operating.md and stay."""
    return {
        "service": "portal",
        "version": version("postern"),
        "listen": str(listen),
        "ready": True,
        "uptime_seconds": (now - started_at) // SECOND,
        "online": [_entry(each, now) for each in online],
        "counters": nested(metrics, PREFIX),
    }


def _entry(each: Online, now: Instant) -> dict[str, Any]:
    return {
        "type": each.type.value,
        "id": each.id,
        "name": each.name or None,
        "token": each.entry,
        "token_text": each.text,
        "owner": each.owner or None,
        "addresses": [str(address) for address in each.addresses],
        "version": each.version or None,
        "online_seconds": (now - each.joined_at) // SECOND,
        "resources": each.resources,
    }


def render(document: Mapping[str, Any], screen: Screen | None = None) -> str:
    """The whole of it, without a line feed at its end."""
    online, counters = document["online"], document["counters"]
    counts = {kind: sum(row["type"] == kind for row in online) for kind in ("client", "gateway", "relay")}
    words = ", ".join(counted(count, kind) for kind, count in counts.items())
    heading = facts(
        [
            ("portal", f"listens on {document['listen']}, for {duration(document['uptime_seconds'])}"),
            ("on line", words),
            ("access", f"{counters['grants']:,} granted, {counters['waiting_flows']:,} wait for their gateway"),
        ],
        screen,
    )
    rows = [
        [row["type"], row["name"] or row["token"], row["owner"], row["addresses"][0] if row["addresses"] else None,
         row["version"], duration(row["online_seconds"], 1)]
        for row in sorted(online, key=lambda row: (row["type"], row["name"] or "", row["id"]))
    ]  # fmt: skip
    header = ("ON LINE", "NAME", "OF", "ADDRESS", "VERSION", "SINCE")
    others = {name: value for name, value in counters.items() if name not in _SHOWN_APART}
    listed = table(header, rows, "nobody is on line", screen=screen)
    return "\n\n".join((heading, listed, counter_table(others, screen)))
