"""Relay presence: who is there, who was told about whom, and telling them when that changes.

A relay whose link breaks counts for 3 s more, so that a portal hiccup on its side re-allocates nothing. Coming back
with another stamp secret means another process without our users' allocations: everybody who uses it is told at once.
The choice is by rendezvous hashing over the device's key, so that it survives a restart of the portal.
"""

import hashlib
import logging
from typing import Final

from connectivity.clock import SECOND, Instant, earliest
from connectivity.phoenix.message import Json
from portal import views
from portal.configuration import NEVER
from portal.derivation import named_id
from portal.login import RelayLogin
from portal.session import Device, Outbox, Relay, Session

RELAYS_PER_DEVICE: Final = 2
HELD_RETRY_SECONDS: Final = 41  # by then a link that broke without a word is known to be gone
LEAVE_DEBOUNCE_NS: Final = 3 * SECOND
MAXIMUM_RELAYS: Final = 1024
MAXIMUM_RELAYS_PER_TOKEN: Final = 256  # so that one entry of the tokens leaves room for others
LONGEST_STAMP_SECRET: Final = 256  # relays send 64

# TURN credentials of devices whose token sets no end: they last 45 to 90 days, in steps that a restart does not move.
CREDENTIAL_STEP_SECONDS: Final = 45 * 24 * 3600
CREDENTIAL_MARGIN_SECONDS: Final = 24 * 3600

_logger = logging.getLogger("portal.relays")


class RelayPresence:
    """The relays and the devices that use them."""

    def __init__(self, outbox: Outbox) -> None:
        self._outbox = outbox
        self._relays: dict[str, Relay] = {}
        self._watchers: dict[int, Session] = {}

    def __len__(self) -> int:
        return len(self._relays)

    def upsert(self, login: RelayLogin) -> Relay | None:
        """The relay of a login; None when there are too many, or another entry's is there.

        A relay is its address and port.
        """
        relay_id = named_id("relay", f"{login.ipv4 or login.ipv6}:{login.port}")
        relay = self._relays.get(relay_id)
        if self.is_held(login):
            return None
        if relay is None:
            of_entry = sum(held.entry == login.token.name for held in self._relays.values())
            if len(self._relays) >= MAXIMUM_RELAYS or of_entry >= MAXIMUM_RELAYS_PER_TOKEN:
                return None
            relay = Relay(relay_id, login.name, login.ipv4, login.ipv6, login.port, login.token.name)
            self._relays[relay_id] = relay
        return relay

    def is_held(self, login: RelayLogin) -> bool:
        """Whether a relay of another entry of the tokens is at one of these addresses, or was until a moment ago."""
        wanted = set(login.addresses)
        return any(
            relay.stamp_secret
            and relay.entry != login.token.name
            and relay.port == login.port
            and not wanted.isdisjoint({relay.ipv4, relay.ipv6})
            for relay in self._relays.values()
        )

    def join(self, relay: Relay, session: Session, stamp_secret: str) -> bool:
        """A relay is there, with the secret that its users' passwords are made from.

        False if one of another entry was there first.
        """
        login = session.login
        assert isinstance(login, RelayLogin), "a relay has a relay's login"
        if self.is_held(login):
            return False
        self._relays[relay.id] = relay  # a session that left meanwhile may have taken it away
        relay.name, relay.ipv4, relay.ipv6, relay.port = login.name, login.ipv4, login.ipv6, login.port
        was_known = bool(relay.stamp_secret)
        changed = was_known and relay.stamp_secret != stamp_secret
        relay.session, relay.leaves_at, relay.stamp_secret = session, None, stamp_secret
        relay.entry = login.token.name
        _logger.info("Relay joined", extra={"fields": {"rid": relay.id, "name": relay.name}})
        for watcher in list(self._watchers.values()):
            if relay.id in watcher.relay_ids:
                if changed:
                    self._announce(watcher, [relay.id])
            elif len(watcher.relay_ids) < RELAYS_PER_DEVICE:
                self._announce(watcher, [])
        return True

    def leave(self, relay: Relay, session: Session, now: Instant) -> None:
        """A relay's link is gone; a newer one may have taken its place already."""
        if relay.session is session:
            relay.session = None
            relay.leaves_at = now + LEAVE_DEBOUNCE_NS
        elif not relay.stamp_secret:  # it never joined
            self._relays.pop(relay.id, None)

    def watch(self, session: Session, device: Device) -> list[dict[str, Json]]:
        """Choose relays for a device that just joined and keep it informed from now on."""
        self._watchers[session.number] = session
        return self._choose(session, device)

    def unwatch(self, session: Session) -> None:
        """The device's session is gone."""
        self._watchers.pop(session.number, None)

    def renew(self, wall_seconds: int) -> None:
        """Replace credentials that are about to end, for devices that stay connected for months."""
        for session in list(self._watchers.values()):
            device = session.party
            if isinstance(device, Device) and set_turn_expiry(session, device, wall_seconds):
                self._announce(session, [])

    def poll_timeout(self) -> Instant | None:
        """When the next debounce ends."""
        return earliest(*(relay.leaves_at for relay in self._relays.values()))

    def handle_timeout(self, now: Instant) -> None:
        """Give up relays that did not come back."""
        for relay in list(self._relays.values()):
            if relay.leaves_at is None or now < relay.leaves_at:
                continue
            _logger.info("Relay left", extra={"fields": {"rid": relay.id, "name": relay.name}})
            del self._relays[relay.id]
            for watcher in list(self._watchers.values()):
                if relay.id in watcher.relay_ids:
                    self._announce(watcher, [relay.id])

    def _announce(self, session: Session, disconnected_ids: list[str]) -> None:
        assert isinstance(session.party, Device), "only devices watch relays"
        connected = self._choose(session, session.party)
        self._outbox.push(session, "relays_presence", {"disconnected_ids": disconnected_ids, "connected": connected})

    def _choose(self, session: Session, device: Device) -> list[dict[str, Json]]:
        present = [relay for relay in self._relays.values() if relay.stamp_secret]
        held = [relay for relay in present if relay.id in session.relay_ids]
        others = sorted(
            (relay for relay in present if relay.id not in session.relay_ids and relay.session is not None),
            key=lambda relay: _score(device, relay),
        )
        chosen = [*held, *others][:RELAYS_PER_DEVICE]
        session.relay_ids = tuple(relay.id for relay in chosen)
        return views.turn_relays(chosen, device)


def set_turn_expiry(session: Session, device: Device, wall_seconds: int) -> bool:
    """Decide when the device's TURN credentials end; True if that is another time than before.

    A client's end with its token. The others' stay the same for one public key until a day before they end.
    """
    if session.token.expires_at != NEVER:
        wanted = session.token.expires_at
    elif device.turn_expiry > wall_seconds + CREDENTIAL_MARGIN_SECONDS:
        wanted = device.turn_expiry
    else:
        wanted = (wall_seconds // CREDENTIAL_STEP_SECONDS + 2) * CREDENTIAL_STEP_SECONDS
    changed = wanted != device.turn_expiry
    device.turn_expiry = wanted
    return changed


def is_stamp_secret(text: str) -> bool:
    """Whether passwords can be made from it."""
    return 0 < len(text) <= LONGEST_STAMP_SECRET and text.isascii() and text.isprintable()


def _score(device: Device, relay: Relay) -> bytes:
    return hashlib.sha256(f"{device.public_key}:{relay.id}".encode()).digest()
