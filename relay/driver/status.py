"""The status of a relay as one JSON document, for ``postern status``. Its names are in docs/operating.md and stay."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any, Final

from connectivity.clock import SECOND, Instant
from connectivity.io.metric import Metric, nested

MOST_ALLOCATIONS: Final = 10  # the busiest; ``postern relay admin list`` has all of them
PREFIX: Final = "postern.relay."


@dataclass(frozen=True, slots=True)
class Identity:
    """Which relay this is; ``name`` is None where it has none in a portal."""

    name: str | None
    public: tuple[str, ...]
    listen: tuple[str, ...]
    started_at: Instant


def build(
    identity: Identity,
    readiness: Mapping[str, Any],
    allocations: Iterable[Mapping[str, Any]],
    metrics: Iterable[Metric],
    now: Instant,
) -> dict[str, Any]:
    """The document.

    Args:
        identity: see there.
        readiness: what ``/readyz`` says.
        allocations: what the admin socket says of each.
        metrics: the relay's, which become ``counters``.
        now: for its age.
    """
    listed = list(allocations)
    busiest = sorted(listed, key=lambda entry: entry["to_peer_bytes"] + entry["to_client_bytes"], reverse=True)
    return {
        "service": "relay",
        "version": version("postern"),
        "name": identity.name,
        "public": list(identity.public),
        "listen": list(identity.listen),
        "uptime_seconds": (now - identity.started_at) // SECOND,
        **readiness,
        "users": len({entry["user"] for entry in listed}),
        "busiest": busiest[:MOST_ALLOCATIONS],
        "counters": nested(metrics, PREFIX),
    }
