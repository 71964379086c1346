"""The control server without IO: sessions, joins, messages, and what follows from a new configuration or from time.

``now`` is the monotonic clock, ``wall_now`` nanoseconds since the epoch. After each call, drain ``poll_output`` until
None, then call ``handle_timeout`` again at ``poll_timeout``.

Invariants: a session gets nothing but replies before it joined; ``init`` follows the reply to the join; of a device's
sessions only the newest joined one gets its messages; a client's ``sent resources`` equal what it was told.
"""

import logging
from collections.abc import Callable, Mapping
from dataclasses import replace
from http import HTTPStatus
from typing import Final

from connectivity.clock import SECOND, Instant, WallTime, earliest
from connectivity.phoenix import message as frames
from connectivity.phoenix.message import Json, Message, MessageError
from portal import access, views
from portal.budgets import Allowance
from portal.configuration import NEVER, Configuration, TokenType
from portal.devices import FORGOTTEN_AFTER_NS, Devices
from portal.flows import Flows, Handled
from portal.login import DeviceLogin, Refusal, RelayLogin, TokenTable, authenticate
from portal.online import Online, online
from portal.pending import Pending
from portal.presence import HELD_RETRY_SECONDS, RelayPresence, is_stamp_secret, set_turn_expiry
from portal.session import Device, Outbox, Output, Relay, SendText, Session
from portal.statistics import LoginResult, Sizes, Statistics
from portal.throttle import RETRY_AFTER_SECONDS, WrongTokens

# Nothing received for so long closes the connection; components send a heartbeat every 30 s.
IDLE_LIMITS_NS: Final = {TokenType.GATEWAY: 37 * SECOND, TokenType.RELAY: 41 * SECOND, TokenType.CLIENT: 307 * SECOND}
HOUSEKEEPING_INTERVAL_NS: Final = SECOND
RENEW_INTERVAL_NS: Final = 60 * SECOND
MAXIMUM_SESSIONS: Final = 16_384
_SECRET_BYTES: Final = 32

_CANDIDATE_EVENTS: Final = {
    "broadcast_ice_candidates": "ice_candidates",
    "broadcast_invalidated_ice_candidates": "invalidate_ice_candidates",
}

_LOGIN_RESULTS: Final[dict[int, LoginResult]] = {
    HTTPStatus.UNAUTHORIZED: LoginResult.WRONG_TOKEN,
    HTTPStatus.UNPROCESSABLE_ENTITY: LoginResult.MALFORMED,
    HTTPStatus.SERVICE_UNAVAILABLE: LoginResult.BUSY,
}

TRACE: Final = 5

_logger = logging.getLogger("portal")
_wire = logging.getLogger("wire.portal")  # names of events only: payloads hold keys


class ControlServer:
    """All of the portal's state."""

    def __init__(
        self, configuration: Configuration, *, rng: Callable[[int], bytes], now: Instant, wall_now: WallTime
    ) -> None:
        self._fallback_secret = rng(_SECRET_BYTES).hex()  # where the configuration has none
        self._configuration = configuration = self._with_secret(configuration)
        self._tokens = TokenTable(configuration)
        self._wrong_tokens = WrongTokens()
        self._outbox = Outbox()
        self._devices = Devices()
        self._relays = RelayPresence(self._outbox)
        self.statistics = Statistics()
        self._flows = Flows(configuration, self._devices, self._outbox, rng, self.statistics)
        self._sessions: dict[int, Session] = {}
        self._next_number = 0
        self._housekeeping_at = now + HOUSEKEEPING_INTERVAL_NS
        self._refresh_at = self._next_end(wall_now // SECOND)
        self._renew_at = now + RENEW_INTERVAL_NS

    def authenticate(
        self,
        kind: TokenType,
        parameters: Mapping[str, str],
        headers: Mapping[str, str],
        source: str,
        now: Instant,
        wall_now: WallTime,
    ) -> DeviceLogin | RelayLogin | Refusal:
        """Decide about an upgrade request from the address ``source``."""
        answer = self._authenticate(kind, parameters, headers, source, now, wall_now)
        result = _LOGIN_RESULTS[answer.status] if isinstance(answer, Refusal) else LoginResult.ACCEPTED
        self.statistics.logins[kind, result] += 1
        return answer

    def _authenticate(
        self,
        kind: TokenType,
        parameters: Mapping[str, str],
        headers: Mapping[str, str],
        source: str,
        now: Instant,
        wall_now: WallTime,
    ) -> DeviceLogin | RelayLogin | Refusal:
        if len(self._sessions) >= MAXIMUM_SESSIONS:
            return Refusal(503, "Too many connections")
        login = authenticate(self._tokens, kind, parameters, headers, wall_now // SECOND)
        if isinstance(login, Refusal):
            return self._refuse(login, source, now)
        if isinstance(login, RelayLogin):
            if self._relays.is_held(login):
                fields = {
                    "name": login.token.name,
                    "addresses": ",".join(map(str, login.addresses)),
                    "port": login.port,
                }
                _logger.warning("A relay announces the address of another token's relay", extra={"fields": fields})
                return Refusal(503, "Another relay has this address", HELD_RETRY_SECONDS)
        elif not self._devices.has_room(login, now):
            _logger.warning("Too many devices for one token", extra={"fields": {"name": login.token.name}})
            return Refusal(503, "Too many devices", FORGOTTEN_AFTER_NS // SECOND)
        return login

    def handle_connected(self, login: DeviceLogin | RelayLogin, now: Instant) -> Session | None:
        """The upgrade is done; None means that a table is full and the connection must go."""
        party: Device | Relay | None
        if isinstance(login, DeviceLogin):
            party = self._devices.find(login, self._configuration.secret, now)
        else:
            party = self._relays.upsert(login)
        if party is None:
            return None
        self._next_number += 1
        allowance = party.allowance if isinstance(party, Device) else Allowance(login.token.type, now)
        session = Session(self._next_number, login, login.token, party, now, allowance)
        self._sessions[session.number] = session
        return session

    def handle_closed(self, session: Session, now: Instant) -> None:
        """The WebSocket is gone."""
        if self._sessions.pop(session.number, None) is None:
            return
        party = session.party
        if isinstance(party, Relay):
            self._relays.leave(party, session, now)
            return
        self._relays.unwatch(session)
        party.seen_at = now
        if party.session is session:
            party.session = None
            _logger.info("%s left", _title(session), extra={"fields": _fields(session)})
            if party.type is TokenType.GATEWAY:
                self._flows.gateway_left(party, now)

    def handle_text(self, session: Session, text: str, now: Instant, wall_now: WallTime) -> None:
        """A frame from a component. What cannot be read ends the connection."""
        session.last_received_at = now
        self.statistics.received[session.token.type] += 1
        if session.number not in self._sessions:
            return
        if not session.allowance.may_speak(now):
            self._cut_off(session, now)
            return
        try:
            message = frames.decode(text)
        except MessageError as error:
            _logger.debug("Unreadable frame", extra={"fields": {**_fields(session), "error": str(error)}})
            self._end(session, now)
            return
        _wire.log(TRACE, "Received", extra={"fields": {**_fields(session), "event": message.event}})
        if message.topic == frames.SYSTEM_TOPIC and message.event == frames.HEARTBEAT_EVENT:
            self._outbox.reply(session, message)
        elif message.topic == session.topic and message.event == frames.JOIN_EVENT:
            self._join(session, message, now, wall_now // SECOND)
        elif message.topic != session.topic or not session.joined:
            self._outbox.reply(session, message, frames.UNMATCHED_TOPIC)
        else:
            match self._dispatch(session, message, now, wall_now // SECOND):
                case Handled.MALFORMED:
                    self._outbox.reply(session, message, "unknown_message")
                case Handled.TOO_MUCH:
                    if not session.allowance.may_be_refused(now):
                        self._cut_off(session, now)
                case Handled.DONE:
                    pass

    def apply(self, configuration: Configuration, now: Instant, wall_now: WallTime) -> None:
        """Replace the configuration; whoever is connected is told what that changes for them."""
        self._configuration = configuration = self._with_secret(configuration)
        self._tokens = TokenTable(configuration)
        for session in list(self._sessions.values()):
            token = configuration.renewed(session.token)
            if token is None:
                self._revoke(session, now)
            else:
                session.token = token
        self._refresh(wall_now // SECOND)

    def listen(self, listener: Callable[[Pending], None]) -> None:
        """Have somebody told of each flow that is created from now on."""
        self._flows.tell_created = listener

    def poll_output(self) -> Output | None:
        """The next thing to send or close."""
        output = self._outbox.poll()
        if isinstance(output, SendText):
            self.statistics.sent[output.session.token.type] += 1
        return output

    def poll_timeout(self) -> Instant:
        """When ``handle_timeout`` wants to be called."""
        deadlines = (self._housekeeping_at, self._relays.poll_timeout(), self._flows.poll_timeout())
        return earliest(*deadlines) or self._housekeeping_at

    def handle_timeout(self, now: Instant, wall_now: WallTime) -> None:
        """Debounces, idle connections, and everything that ends at a point in time."""
        self._relays.handle_timeout(now)
        self._flows.handle_timeout(now, wall_now // SECOND)
        if now < self._housekeeping_at:
            return
        self._housekeeping_at = now + HOUSEKEEPING_INTERVAL_NS
        self._wrong_tokens.handle_timeout(now)
        self._report_wrong_tokens()
        for session in list(self._sessions.values()):
            if now - session.last_received_at >= IDLE_LIMITS_NS[session.token.type]:
                _logger.debug("Connection is silent", extra={"fields": _fields(session)})
                self._end(session, now)
            elif session.token.expires_at <= wall_now // SECOND:
                self._revoke(session, now)
        if wall_now // SECOND >= self._refresh_at:
            self._refresh(wall_now // SECOND)
        if now >= self._renew_at:
            self._renew_at = now + RENEW_INTERVAL_NS
            self._relays.renew(wall_now // SECOND)

    def online(self) -> list[Online]:
        """Who has joined."""
        return list(online(self._sessions.values(), self._configuration))

    def sizes(self) -> Sizes:
        """How full the tables are."""
        grants, waiting = self._flows.sizes()
        return Sizes(len(self._sessions), self._devices.counts(), len(self._relays), grants, waiting)

    def _with_secret(self, configuration: Configuration) -> Configuration:
        return configuration if configuration.secret else replace(configuration, secret=self._fallback_secret)

    def _refuse(self, refusal: Refusal, source: str, now: Instant) -> Refusal:
        """The answer to one that is not let in; of many wrong tokens from one address most get another."""
        if refusal.status != 401:
            return refusal
        is_honest = self._wrong_tokens.note(source, now)
        self._report_wrong_tokens()
        return refusal if is_honest else Refusal(503, "Try again later", RETRY_AFTER_SECONDS)

    def _report_wrong_tokens(self) -> None:
        while (report := self._wrong_tokens.poll()) is not None:
            fields = {"address": report.source, "count": report.count}
            _logger.warning("Wrong tokens", extra={"fields": fields})

    def _join_relay(self, session: Session, relay: Relay, message: Message, now: Instant) -> None:
        secret = message.payload.get("stamp_secret") if isinstance(message.payload, dict) else None
        if not isinstance(secret, str) or not is_stamp_secret(secret):
            self._outbox.reply(session, message, "invalid_payload")
            return
        if not self._relays.join(relay, session, secret):
            self._end(session, now)  # no error in words: that would end the program
            return
        session.joined, session.joined_at = True, now
        self._outbox.reply(session, message)
        self._outbox.push(session, "init", {})

    def _join(self, session: Session, message: Message, now: Instant, wall: int) -> None:
        party = session.party
        if isinstance(party, Relay):
            self._join_relay(session, party, message, now)
            return
        assert isinstance(session.login, DeviceLogin), "a device has a device's login"
        self._devices.identify(party, session.login, self._configuration)
        session.joined, session.joined_at = True, now
        previous, party.session = party.session, session
        if previous is not None and previous is not session:
            self._relays.unwatch(previous)
        set_turn_expiry(session, party, wall)
        self._outbox.reply(session, message)
        session.relay_ids = ()
        relays = self._relays.watch(session, party)
        if party.type is TokenType.CLIENT:
            self._init_client(session, party, relays, wall)
        else:
            listed = self._flows.authorizations(party, wall)
            self._outbox.push(session, "init", views.gateway_init(party, relays, listed))
            self._flows.refresh_gateway(party, session, wall)
            self._flows.gateway_joined(party, now, wall)
        _logger.info("%s joined", _title(session), extra={"fields": {**_fields(session), "name": party.name}})

    def _init_client(self, session: Session, device: Device, relays: list[dict[str, Json]], wall: int) -> None:
        session.resources = self._client_resources(session, device, wall)
        session.interface = views.client_interface(self._configuration, device)
        payload = {"interface": session.interface, "resources": list(session.resources.values()), "relays": relays}
        self._outbox.push(session, "init", payload)

    def _dispatch(self, session: Session, message: Message, now: Instant, wall: int) -> Handled:
        """Handle an application message of a joined component."""
        party, payload = session.party, message.payload
        if isinstance(party, Relay) or not isinstance(payload, dict):
            return Handled.MALFORMED
        if party.session is not session:
            return Handled.DONE  # a connection that the device has replaced
        if message.event in _CANDIDATE_EVENTS:
            return self._flows.relay_candidates(party, _CANDIDATE_EVENTS[message.event], payload, now)
        if party.type is TokenType.CLIENT:
            if message.event != "create_flow" or not {"resource_id", "connected_gateway_ids"} <= payload.keys():
                return Handled.MALFORMED
            return self._flows.create(session, party, payload, now, wall)
        if message.event != "flow_authorized" or "ref" not in payload:
            return Handled.MALFORMED
        confirmed = self._flows.confirm(party, payload["ref"])
        self._outbox.reply(session, message, None if confirmed else "invalid_ref")
        return Handled.DONE

    def _refresh(self, wall: int) -> None:
        """Compare what everybody was told with what is right now, and tell the differences."""
        self._refresh_at = self._next_end(wall)
        self._flows.refresh(self._configuration, wall)
        for session in list(self._sessions.values()):
            party = session.party
            if session.joined and isinstance(party, Device) and party.type is TokenType.CLIENT:
                self._refresh_client(session, party, wall)
        self._relays.renew(wall)

    def _refresh_client(self, session: Session, device: Device, wall: int) -> None:
        interface = views.client_interface(self._configuration, device)
        if interface != session.interface:
            self._outbox.push(session, "config_changed", {"interface": interface})
        session.interface = interface
        old, new = session.resources, self._client_resources(session, device, wall)
        session.resources = new
        for resource_id, view in old.items():
            # A client does not notice that a known resource has other sites.
            if resource_id not in new or new[resource_id]["gateway_groups"] != view["gateway_groups"]:
                self._outbox.push(session, "resource_deleted", resource_id)
        for resource_id, view in new.items():
            if old.get(resource_id) != view:
                self._outbox.push(session, "resource_created_or_updated", view)

    def _client_resources(self, session: Session, device: Device, wall: int) -> dict[str, dict[str, Json]]:
        resources = access.connectable(self._configuration, session.token, device.version, wall)
        session.site_ids = frozenset(site_id for resource in resources for site_id in resource.site_ids)
        return {resource.id: views.client_resource(self._configuration, resource) for resource in resources}

    def _next_end(self, wall: int) -> int:
        """When time alone changes what somebody may do."""
        return next((end for end in self._configuration.ends if end > wall), NEVER)

    def _revoke(self, session: Session, now: Instant) -> None:
        """The token is no good any more; a device learns that by its next attempt, a relay is told."""
        _logger.info("Token revoked or expired", extra={"fields": _fields(session)})
        if session.joined and isinstance(session.party, Relay):
            self._outbox.push(session, "disconnect", {"reason": "token_expired"})
        self._end(session, now)

    def _cut_off(self, session: Session, now: Instant) -> None:
        self.statistics.cut_off[session.token.type] += 1
        _logger.warning("Cut off a component that floods the portal", extra={"fields": _fields(session)})
        self._end(session, now)

    def _end(self, session: Session, now: Instant) -> None:
        self._outbox.close(session)
        self.handle_closed(session, now)


def _title(session: Session) -> str:
    return session.token.type.value.capitalize()


def _fields(session: Session) -> dict[str, object]:
    names = {TokenType.CLIENT: "cid", TokenType.GATEWAY: "gid", TokenType.RELAY: "rid"}
    return {names[session.token.type]: session.party.id}
