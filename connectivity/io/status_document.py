"""The status of a client or gateway as one JSON document: the same over its socket and by HTTP at ``/status``.

Its names are in docs/operating.md and stay; more may be added.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

from connectivity.clock import MILLISECOND, SECOND, Instant
from connectivity.node import ConnectionStatus
from connectivity.status import ClientStatus, GrantStatus, ResourceStatus, RoleStatus
from connectivity.tunnel import ConfigureTun


@dataclass(frozen=True, slots=True)
class Identity:
    """Who runs here.

    Attributes:
        service: ``client`` or ``gateway``.
        peer_field: what ids of the other side are called, ``gid`` or ``cid``.
        device_id: as the portal knows it.
        portal_url: without the token.
    """

    service: str
    peer_field: str
    name: str
    device_id: str
    portal_url: str


@dataclass(slots=True)
class PortalState:
    """The link to the portal as it was last heard of; ``away_reason`` is one line, empty while it is joined."""

    since: Instant
    joined: bool = False
    away_reason: str = ""

    def changed(self, now: Instant, *, joined: bool, away_reason: str = "") -> None:
        """Take over what the link says; an absence lasts from its first failure on."""
        if joined != self.joined:
            self.since = now
        self.joined, self.away_reason = joined, away_reason


def build(
    identity: Identity,
    portal: PortalState,
    configuration: ConfigureTun | None,
    connections: list[ConnectionStatus],
    role: RoleStatus,
    counters: Mapping[str, Any],
    now: Instant,
) -> dict[str, Any]:
    """The document; ``configuration`` is that of the device, None before its first one."""
    document: dict[str, Any] = {
        "service": identity.service,
        "version": version("postern"),
        "name": identity.name,
        "id": identity.device_id,
        "ipv4": None if configuration is None else str(configuration.interface.ipv4),
        "ipv6": None if configuration is None else str(configuration.interface.ipv6),
        "ready": configuration is not None,
        "portal": portal.joined,
        "portal_url": identity.portal_url,
        "portal_seconds": (now - portal.since) // SECOND,
        "portal_away_reason": portal.away_reason or None,
        "connections": [_connection(each, identity.peer_field, role.names, now) for each in connections],
    }
    if role.resources is not None:
        document["resources"] = [_resource(each) for each in role.resources]
        document["dns"] = _dns(configuration)
    if role.clients is not None:
        document["clients"] = [_client(each) for each in role.clients]
    return document | {"counters": counters}


def _connection(status: ConnectionStatus, peer_field: str, names: Mapping[str, str], now: Instant) -> dict[str, Any]:
    path, round_trip, handshake = status.socket, status.round_trip, status.handshake_at
    return {
        peer_field: status.peer_id,
        "name": names.get(status.peer_id) or None,
        "state": status.state,
        "path": None if path is None else path.kind.value,
        "family": None if path is None else f"ipv{path.destination.ip.version}",
        "local": None if path is None else str(path.source),
        "remote": None if path is None else str(path.destination),
        "relay": None if path is None else path.relay_id,
        "round_trip_ms": None if round_trip is None else round(round_trip / MILLISECOND, 3),
        "sent_bytes": status.sent_bytes,
        "received_bytes": status.received_bytes,
        "handshake_seconds": None if handshake is None else (now - handshake) // SECOND,
    }


def _resource(status: ResourceStatus) -> dict[str, Any]:
    return {
        "rid": status.resource_id,
        "name": status.name,
        "type": status.kind,
        "address": status.address,
        "state": status.state,
        "gid": status.gateway_id,
        "gateway": status.gateway_name or None,
    }


def _client(status: ClientStatus) -> dict[str, Any]:
    return {
        "cid": status.client_id,
        "name": status.name or None,
        "actor": status.actor or None,
        "addresses": [str(address) for address in status.addresses],
        "grants": [_grant(grant) for grant in status.grants],
    }


def _grant(status: GrantStatus) -> dict[str, Any]:
    return {
        "rid": status.resource_id,
        "name": status.name or None,
        "type": status.kind,
        "address": status.address,
        "expires_at": status.expires_at,
    }


def _dns(configuration: ConfigureTun | None) -> dict[str, Any]:
    if configuration is None:
        return {"servers": [], "search_domain": None}
    servers = [{"sentinel": str(sentinel), "server": str(server)} for sentinel, server in configuration.sentinels]
    return {"servers": servers, "search_domain": configuration.search_domain}
