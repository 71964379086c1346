"""Flows: a client asks for a resource, a gateway is chosen and authorized, both learn what they need to connect.

    client  create_flow     → gateway authorize_flow
    gateway flow_authorized → client  flow_created      (only then do candidates of a new connection make sense)

A *grant* remembers that a gateway lets a client reach a resource until a time. Grants are compared with what the
configuration says whenever that or the time changes: the gateway is told a new expiry or to reject the access. One
that is away hears it right after its next ``init``. A flow whose gateway leaves before it has confirmed gets another
gateway, or waits a moment for one.
"""

import logging
from collections.abc import Callable, Collection, Iterable
from enum import Enum, auto
from typing import Final

from connectivity.clock import Instant
from connectivity.phoenix.message import Json
from portal import access, views
from portal.configuration import Configuration, Resource, Token, TokenType
from portal.derivation import ice_credentials, preshared_key
from portal.devices import Devices
from portal.grants import Grant, Grants
from portal.pending import Pending, PendingFlows
from portal.session import Device, Outbox, Session
from portal.statistics import FlowResult, Statistics
from portal.waiting_flows import FlowRequest, WaitingFlows

MAXIMUM_LISTED: Final = 256  # ids or candidates in one message
LONGEST_CANDIDATE: Final = 512
LONGEST_ID: Final = 64  # real ones are UUIDs

_REFERENCE_BYTES: Final = 16

_logger = logging.getLogger("portal.flows")


class Handled(Enum):
    """What became of a message."""

    DONE = auto()
    MALFORMED = auto()
    TOO_MUCH = auto()  # beyond the sender's means


class Flows:
    """Pending flows and grants of all gateways."""

    def __init__(
        self,
        configuration: Configuration,
        devices: Devices,
        outbox: Outbox,
        rng: Callable[[int], bytes],
        statistics: Statistics,
    ) -> None:
        self._configuration = configuration
        self._devices = devices
        self._outbox = outbox
        self._rng = rng
        self._statistics = statistics
        self._pending = PendingFlows()
        self._waiting = WaitingFlows()
        self._grants: dict[str, Grants] = {}  # by gateway
        self.tell_created: Callable[[Pending], None] = _nobody_listens

    def create(self, session: Session, client: Device, payload: dict[str, Json], now: Instant, wall: int) -> Handled:
        """``create_flow`` from a client."""
        resource_id, connected = payload["resource_id"], payload["connected_gateway_ids"]
        if isinstance(resource_id, (list, dict)) or len(str(resource_id)) > LONGEST_ID:
            return Handled.MALFORMED  # the answer would repeat it
        if not client.allowance.may_ask(now):
            self._refuse(session, resource_id, FlowResult.LIMIT_REACHED)
            return Handled.TOO_MUCH
        self._create(FlowRequest(session, resource_id, _known_ids(connected)), client, now, wall)
        return Handled.DONE

    def _create(self, request: FlowRequest, client: Device, now: Instant, wall: int) -> None:
        session, resource_id = request.session, request.resource_id
        resource = self._configuration.resources_by_id.get(resource_id) if isinstance(resource_id, str) else None
        if resource is None or not access.supports(client.version, resource):
            self._refuse(session, resource_id, FlowResult.NOT_FOUND)
            return
        expires_at = access.access_expiry(self._configuration, session.token, resource, wall)
        if expires_at is None:
            expired = access.has_expired_policy(self._configuration, session.token, resource, wall)
            violated = ["current_utc_datetime"] if expired else []
            self._refuse(session, resource_id, FlowResult.FORBIDDEN if expired else FlowResult.NOT_FOUND, violated)
            return
        gateway = self._pick(client, resource, request.connected)
        if gateway is None or gateway.session is None:
            if not self._waiting.hold(request._replace(site_ids=resource.site_ids), now):
                self._refuse(session, resource_id, FlowResult.OFFLINE)
            return
        grants, pair = self._grants.setdefault(gateway.id, Grants()), (client.id, resource.id)
        if not grants.has_room(pair, session.token) or not self._pending.make_room(client, gateway, resource.id):
            self._refuse(session, resource_id, FlowResult.LIMIT_REACHED)
            return
        grants.add(pair, Grant(session.token, resource, expires_at))
        self._authorize(gateway, gateway.session, client, resource, expires_at, now)

    def confirm(self, gateway: Device, reference: object) -> bool:
        """``flow_authorized`` from a gateway; False when the reference is not one of its own."""
        pending = self._pending.take(reference, gateway) if isinstance(reference, str) else None
        if pending is None:
            return False
        client = pending.client
        if client.session is not None and client.public_key == pending.client_key:
            self.tell_created(pending)
            self._outbox.push(client.session, "flow_created", pending.answer)
            self._statistics.flows[FlowResult.CREATED] += 1
            _logger.debug("Flow created", extra={"fields": {"cid": client.id, "gid": gateway.id}})
        return True

    def relay_candidates(self, sender: Device, event: str, payload: dict[str, Json], now: Instant) -> Handled:
        """Pass candidates on as they are to those of the named peers whom policy lets the sender meet.

        Whether there is a grant does not matter: this process may be younger than their connection.
        """
        to_gateways = sender.type is TokenType.CLIENT
        ids = payload.get("gateway_ids" if to_gateways else "client_ids")
        candidates = payload.get("candidates")
        if not isinstance(ids, list) or not isinstance(candidates, list):
            return Handled.MALFORMED
        if max(len(ids), len(candidates)) > MAXIMUM_LISTED or not all(map(_is_candidate, candidates)):
            return Handled.MALFORMED
        peer_type = TokenType.GATEWAY if to_gateways else TokenType.CLIENT
        name = "client_id" if to_gateways else "gateway_id"
        size = sum(map(len, candidates))
        result = Handled.DONE
        for peer_id in _known_ids(ids):
            peer = self._devices.get(peer_id, peer_type)
            if peer is None or peer.session is None:
                continue
            client, gateway = (sender, peer) if to_gateways else (peer, sender)
            if client.session is None or gateway.owner not in client.session.site_ids:
                continue
            if not sender.allowance.may_signal(peer.id, size, now):
                result = Handled.TOO_MUCH
                continue
            self._outbox.push(peer.session, event, {name: sender.id, "candidates": candidates}, is_droppable=True)
        return result

    def authorizations(self, gateway: Device, wall: int) -> list[dict[str, Json]]:
        """The list for a gateway's ``init``.

        For each client with a grant it names all that the client may reach through this site, because the gateway keeps
        only listed resources of listed clients, and this process may be younger than the gateway's state.
        """
        listed = []
        for client_id, used in self._grants.get(gateway.id, Grants()).tokens().items():
            for resource in self._configuration.resources:
                expires_at = self._expiry(gateway, used, resource, wall)
                if expires_at is not None:
                    listed.append({"client_id": client_id, "resource_id": resource.id, "expires_at": expires_at})
        return listed

    def refresh(self, configuration: Configuration, wall: int) -> None:
        """Tell every gateway that is there what has changed for its grants."""
        self._configuration = configuration
        for gateway_id in list(self._grants):
            gateway = self._devices.get(gateway_id, TokenType.GATEWAY)
            if gateway is None:
                del self._grants[gateway_id]
            elif gateway.session is not None:
                self.refresh_gateway(gateway, gateway.session, wall)

    def refresh_gateway(self, gateway: Device, session: Session, wall: int) -> None:
        """Tell one gateway what has changed for its grants."""
        grants = self._grants.get(gateway.id, Grants())
        updated: set[str] = set()
        for (client_id, resource_id), grant in grants.items():
            resource = self._configuration.resources_by_id.get(resource_id)
            expires_at = self._expiry(gateway, grant.token, resource, wall)
            pair = {"client_id": client_id, "resource_id": resource_id}
            if expires_at is None or resource is None or resource.shape != grant.resource.shape:
                grants.remove((client_id, resource_id))
                self._outbox.push(session, "reject_access", pair)
                _logger.info("Access revoked", extra={"fields": {"cid": client_id, "gid": gateway.id}})
                continue
            if grant.expires_at <= wall:  # the gateway has dropped it by itself: the client has to ask again
                grants.remove((client_id, resource_id))
                continue
            if resource.filters != grant.resource.filters and resource_id not in updated:
                updated.add(resource_id)
                self._outbox.push(session, "resource_updated", views.gateway_resource(resource))
            if expires_at != grant.expires_at:
                self._outbox.push(session, "access_authorization_expiry_updated", {**pair, "expires_at": expires_at})
            grant.resource, grant.expires_at = resource, expires_at

    def gateway_left(self, gateway: Device, now: Instant) -> None:
        """It is gone; what it had not confirmed begins anew with the next ``handle_timeout``, which is due at once."""
        self._waiting.gateway_left(gateway.owner, now)
        for pending in self._pending.take_all(gateway):
            session = pending.client.session
            if session is not None and pending.client.public_key == pending.client_key:
                self._waiting.begin_anew(FlowRequest(session, pending.resource_id), now)

    def gateway_joined(self, gateway: Device, now: Instant, wall: int) -> None:
        """What waited for one of its site goes on."""
        self._resume(self._waiting.gateway_joined(gateway.owner), now, wall)

    def poll_timeout(self) -> Instant | None:
        """When a flow begins anew, or has waited long enough for a gateway."""
        return self._waiting.poll_timeout()

    def handle_timeout(self, now: Instant, wall: int) -> None:
        """Forget flows that no gateway confirmed, and look anew at those for which none came back."""
        self._pending.handle_timeout(now)
        self._resume(self._waiting.take_due(now), now, wall)

    def _resume(self, flows: Iterable[FlowRequest], now: Instant, wall: int) -> None:
        for flow in flows:
            client = flow.session.party
            if isinstance(client, Device) and client.session is flow.session:
                self._create(flow, client, now, wall)

    def sizes(self) -> tuple[int, int]:
        """How many grants there are, and how many flows wait for their gateway."""
        return sum(map(len, self._grants.values())), len(self._pending) + len(self._waiting)

    def _expiry(self, gateway: Device, used: Token, resource: Resource | None, wall: int) -> int | None:
        """When access by the token that a grant was made for ends now."""
        token = self._configuration.renewed(used)
        if token is None or resource is None or gateway.owner not in resource.site_ids:
            return None
        return access.access_expiry(self._configuration, token, resource, wall)

    def _pick(self, client: Device, resource: Resource, connected: Collection[str]) -> Device | None:
        """One of the gateways in use if possible, else one of the highest version."""
        candidates = [
            gateway
            for gateway in self._devices.online_gateways(resource.site_ids)
            if access.compatible(client.version, gateway.version) and access.supports(gateway.version, resource)
        ]
        in_use = [gateway for gateway in candidates if gateway.id in connected]
        if not in_use:
            newest = max((gateway.version for gateway in candidates), default=None)
            in_use = [gateway for gateway in candidates if gateway.version == newest]
        if not in_use:
            return None
        return in_use[int.from_bytes(self._rng(8), "big") % len(in_use)]

    def _authorize(
        self, gateway: Device, session: Session, client: Device, resource: Resource, expires_at: int, now: Instant
    ) -> None:
        reference = self._rng(_REFERENCE_BYTES).hex()
        psk = preshared_key(client.party, gateway.party)
        for_client, for_gateway = ice_credentials(self._configuration.secret, client.party, gateway.party)
        credentials = {
            "client_ice_credentials": {"username": for_client.username, "password": for_client.password},
            "gateway_ice_credentials": {"username": for_gateway.username, "password": for_gateway.password},
        }
        answer = {
            "resource_id": resource.id,
            "gateway_id": gateway.id,
            "gateway_name": gateway.name,
            "gateway_group_id": gateway.owner,
            "gateway_public_key": gateway.public_key,
            "gateway_ipv4": str(gateway.ipv4),
            "gateway_ipv6": str(gateway.ipv6),
            "preshared_key": psk,
            **credentials,
        }
        pending = Pending(client, client.public_key, gateway, resource.id, now, answer)
        self._pending.add(reference, pending)
        request = {
            "ref": reference,
            "resource": views.gateway_resource(resource),
            "client": {
                "id": client.id,
                "name": client.name,
                "public_key": client.public_key,
                "preshared_key": psk,
                "ipv4": str(client.ipv4),
                "ipv6": str(client.ipv6),
            },
            "subject": {"actor_name": client.owner},
            **credentials,
            "expires_at": expires_at,
        }
        self._outbox.push(session, "authorize_flow", request, is_droppable=True)

    def _refuse(
        self, session: Session, resource_id: Json, reason: FlowResult, violated: list[str] | None = None
    ) -> None:
        self._statistics.flows[reason] += 1
        answer = {"resource_id": resource_id, "reason": reason.value, "violated_properties": violated or []}
        self._outbox.push(session, "flow_creation_failed", answer)
        _logger.debug("Flow refused", extra={"fields": {"cid": session.party.id, "reason": reason.value}})


def _known_ids(value: Json) -> dict[str, None]:
    """The texts of a list that is not too long, once each and in order; anything else names nobody."""
    if not isinstance(value, list) or len(value) > MAXIMUM_LISTED:
        return {}
    return dict.fromkeys(entry for entry in value if isinstance(entry, str))


def _is_candidate(value: Json) -> bool:
    """Text that may be passed on; what it means is for the peer to say."""
    return isinstance(value, str) and len(value) <= LONGEST_CANDIDATE and value.isascii() and value.isprintable()


def _nobody_listens(_: Pending) -> None:
    """Until somebody does."""
