"""The connections of a client or gateway, and what its role has to show, as metrics: how many of what kind, no ids."""

from collections import Counter
from collections.abc import Sequence
from statistics import median_low
from typing import Final

from connectivity.clock import SECOND
from connectivity.io.metric import Metric, Row, one
from connectivity.node import ConnectionStatus, PathKind
from connectivity.status import RoleStatus

_STATES: Final = ("connecting", "connected", "idle")
_PATHS: Final = ("direct", "relayed")
_FAMILIES: Final = ("ipv4", "ipv6")
_ONLINE: Final = ("online", "offline", "unknown")


def collect(connections: Sequence[ConnectionStatus], role: RoleStatus, *, joined: bool) -> list[Metric]:
    """The metrics of connections and role, always the same series for one role."""
    states = Counter(each.state for each in connections)
    paths = Counter(
        ("direct" if path.kind is PathKind.PEER_TO_PEER else "relayed", f"ipv{path.destination.ip.version}")
        for path in (each.socket for each in connections)
        if path is not None
    )
    return [
        Metric("postern.link.joined", "gauge", "1", "1 if the portal has let this service in", one(int(joined))),
        Metric(
            "postern.tunnel.connections",
            "gauge",
            "{connection}",
            "Connections to peers",
            [({"state": state}, states[state]) for state in _STATES],
        ),
        Metric(
            "postern.tunnel.paths",
            "gauge",
            "{connection}",
            "Connections by the path that their packets take",
            [({"path": path, "network.type": family}, paths[path, family]) for path in _PATHS for family in _FAMILIES],
        ),
        Metric("postern.tunnel.round_trip", "gauge", "s", "Round-trip times of the paths", _round_trips(connections)),
        *_of_role(role),
    ]


def _round_trips(connections: Sequence[ConnectionStatus]) -> list[Row]:
    """Zero where nothing was measured."""
    found = [each.round_trip for each in connections if each.round_trip is not None and each.socket is not None] or [0]
    return [({"of": "median"}, median_low(found) / SECOND), ({"of": "slowest"}, max(found) / SECOND)]


def _of_role(role: RoleStatus) -> list[Metric]:
    if role.clients is not None:
        in_use = {grant.resource_id for client in role.clients for grant in client.grants}
        return [
            Metric("postern.gateway.clients", "gauge", "{client}", "Clients with an access", one(len(role.clients))),
            Metric(
                "postern.gateway.resources", "gauge", "{resource}", "Resources that clients may reach", one(len(in_use))
            ),
        ]
    known = Counter(resource.state for resource in role.resources or ())
    rows = [({"state": state}, known[state]) for state in _ONLINE]
    return [Metric("postern.client.resources", "gauge", "{resource}", "Resources of this client", rows)]
