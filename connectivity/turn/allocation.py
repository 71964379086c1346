"""The client side of one relay: probing, allocation, keep-alive, channels (RFC 8656 §7 to §12).

    state       holds                                   leaves it by
    probing     Binding requests to all addresses       first answer -> allocating; none -> freed
    allocating  active socket, Allocate pending         success -> active; 401/438 -> again with the nonce;
                                                        437 -> Delete, then again; other error -> suspended
    active      at least one relayed address            437, expiry -> allocating; lost request or wrong credentials
                                                        -> freed; ``delete`` -> leaving
    suspended   active socket, nothing else             ``probe`` -> probing
    leaving     Delete pending                          answered or lost -> freed
    freed       nothing worth keeping                   the owner removes the object (``freed_reason``)

The *active socket* is the relay's address that answered first; the other family only yields candidates. A request lost
on the way to it ends the allocation, unless data or a signed answer has come from the relay since the last copy left:
then the network only loses much, and the request is made again. Seen at another address than before (a NAT forgot us),
we ask the relay at once whether it still holds the allocation.

Nothing here raises because of what a relay sends. The owner calls one method, drains ``poll_event`` and
``poll_transmit``, looks at ``freed_reason`` and arms a timer at ``poll_timeout``.
"""

from collections import deque
from collections.abc import Callable, Sequence
from typing import Final

from connectivity.clock import Instant, earliest
from connectivity.endpoint import Endpoint
from connectivity.ice.candidate import Candidate
from connectivity.run import Transmit
from connectivity.stun import (
    ErrorCode,
    ErrorCodeAttribute,
    Lifetime,
    Message,
    MessageClass,
    Nonce,
    Realm,
    UnknownAttributes,
    XorMappedAddress,
    XorRelayedAddress,
)
from connectivity.turn.allocation_log import AllocationLog
from connectivity.turn.channels import ChannelTable
from connectivity.turn.credentials import REALM
from connectivity.turn.lease import Lease
from connectivity.turn.local_candidates import CandidateAdded, CandidateEvent, CandidateRemoved, CandidateSlots
from connectivity.turn.requests import Allocate, BindChannel, Binding, Delete, Refresh, Request, software_attribute
from connectivity.turn.retransmission import LIMIT_NS
from connectivity.turn.transactions import SINGLE_SHOT_NS, Credentials, Transaction, Transactions

__all__ = ["Allocation", "CandidateAdded", "CandidateEvent", "CandidateRemoved", "software_attribute"]

SILENT: Final = "no response, STUN may be blocked"  # the one end after which asking again may help
QUEUED_BINDS: Final = 100  # bindings that wait for the allocation; the oldest gives way
RETRY_LIMIT: Final = 5  # nonces in a row, or mismatches in a row, after which a relay is not believed any more


class Allocation:
    """What we hold on one relay, and all that is under way to it."""

    def __init__(
        self,
        *,
        relay_id: str,
        addresses: Sequence[Endpoint],
        username: str,
        password: str,
        software: str,
        rng: Callable[[int], bytes],
        now: Instant,
    ) -> None:
        """Start probing all ``addresses`` (one per family)."""
        self.relay_id = relay_id
        self._log = AllocationLog(relay_id)
        self.active_socket: Endpoint | None = None
        self._addresses = tuple(dict.fromkeys(addresses))
        self._requests = Transactions(credentials=Credentials(username, password), software=software, rng=rng)
        self._slots = CandidateSlots()
        self._channels = ChannelTable()
        self._queued_binds: deque[Endpoint] = deque(maxlen=QUEUED_BINDS)
        self._lease = Lease()
        self._heard_at: Instant | None = None  # the last proof that the relay holds what we have on it
        self._mismatch_count = 0
        self._final_reason: str | None = None  # why nothing but a Delete is sent any more
        self._now = now
        self._probe_addresses(now)

    @property
    def freed_reason(self) -> str | None:
        """Why this object is of no more use; None while it is, or while something waits to be drained."""
        return None if self._slots.has_events or self._requests.has_transmits else self._end()

    def take_credentials(self, username: str, password: str, now: Instant) -> None:
        """Go on with other credentials, which are proven at once if there is something to prove them with."""
        self._requests.use_credentials(Credentials(username, password))
        self.probe(now)

    def matches(self, remote: Endpoint) -> bool:
        """Whether ``remote`` is an address of this relay."""
        return remote in self._addresses

    def relayed_address(self, version: int) -> Endpoint | None:
        """Our address on the relay, of IP version 4 or 6."""
        return self._slots.relayed_address(version)

    def candidates(self) -> list[Candidate]:
        """Host, server-reflexive and relayed candidates held now."""
        return self._slots.all()

    def handle_message(self, local: Endpoint, remote: Endpoint, message: Message, now: Instant) -> bool:
        """Take a STUN message that came from ``remote`` to ``local``. False if it answers nothing of ours."""
        self._now = now
        transaction = self._requests.find(message) if self.matches(remote) else None
        if transaction is None or local.ip.version != remote.ip.version:
            self._log.detail("STUN message answers no request", tid=message.transaction_id.hex().upper())
            return False
        if not self._requests.is_authentic(transaction, message):
            self._log.event("Response without a valid message integrity ignored", method=message.method)
            return False
        self._requests.finish(message)
        self._log.finished(transaction, message, now)
        if not isinstance(transaction.request, Binding):  # whose answers anybody can make
            self._heard_at = now
        if message.message_class is MessageClass.ERROR:
            self._handle_error(transaction, message, now)
        else:
            self._handle_success(transaction, local, message, now)
        return True

    def handle_timeout(self, now: Instant) -> None:
        """Do what is due: repeat, give up, refresh, keep alive."""
        self._now = now
        lease = self._lease
        if lease.expires_at is not None and now >= lease.expires_at:
            # We slept, or the relay refused to refresh. The relay forgot us, so nothing is lost by asking anew.
            self._invalidate("expired")
            self._start(Allocate(), now)
        for lost in self._requests.handle_timeout(now, self.active_socket):
            self._handle_lost(lost, now)
        if self.active_socket is None or lease.expires_at is None:
            return
        if lease.refresh_at is not None and now >= lease.refresh_at and not self._requests.is_pending(Refresh):
            self._start(Refresh(), now)
        if lease.keep_alive_at is not None and now >= lease.keep_alive_at:
            lease.keep_alive(now)
            self._start(Binding(), now)
        pending = self._requests.binds()
        for peer, number in list(self._channels.due(pending, now)):
            self._bind(peer, pending, now, refreshed=number)

    def poll_timeout(self) -> Instant | None:
        """When to call ``handle_timeout``; at once when this object only waits to be removed."""
        if self._end() is not None:
            return self._now
        lease_at = self._lease.poll_timeout(is_refreshing=self._requests.is_pending(Refresh))
        return earliest(self._requests.poll_timeout(), lease_at)

    def poll_transmit(self) -> Transmit | None:
        """The next datagram to send; the operating system chooses its source."""
        return self._requests.poll_transmit()

    def poll_event(self) -> CandidateEvent | None:
        """The next candidate that came or went."""
        return self._slots.poll_event()

    def probe(self, now: Instant) -> None:
        """Find out within a second whether a relay still holds the allocation, or try again after a refusal.

        For relays that a list update did not name: the portal may know that they restarted.
        """
        self._now = now
        if self._end() is not None:
            return
        if self._slots.has_relayed:
            # A longer series under way would hide for 8 s what the short one tells.
            self._requests.discard(lambda transaction: isinstance(transaction.request, Refresh))
            self._start(Refresh(), now, limit=SINGLE_SHOT_NS)
        elif self._is_suspended():
            self.active_socket = self._lease.keep_alive_at = None
            self._probe_addresses(now)

    def delete(self, now: Instant) -> None:
        """Give the allocation back: the relay need not keep it for us any longer, nor wait for us when it drains."""
        self._now = now
        self._final_reason = "not needed any more"
        self._lease.end()
        self._requests.discard(lambda _: True)
        if self._slots.has_relayed:
            self._start(Delete(), now)

    # Channels.

    def bind_channel(self, peer: Endpoint, now: Instant) -> None:
        """Make sure that a channel to ``peer`` exists, is under way, or is asked for once there is an allocation."""
        self._now = now
        if self._is_suspended() or self._end() is not None or self._channels.is_confirmed(peer, now):
            return
        pending = self._requests.binds()
        if peer in pending.values() or peer in self._queued_binds:
            return
        if not self._slots.has_relayed:
            self._queued_binds.append(peer)
        elif self._slots.relayed_address(peer.ip.version) is not None:
            self._bind(peer, pending, now)

    def send_channel(self, peer: Endpoint, now: Instant) -> tuple[int, Endpoint] | None:
        """Channel number and destination for data to ``peer``, on a binding in flight if need be.

        None if there is no channel yet: the caller drops this packet, a binding was started if one is possible.
        """
        if self.active_socket is not None:
            number = self._channels.number_for(peer, now)
            if number is not None:
                return number, self.active_socket
        self.bind_channel(peer, now)
        return None

    def channel_lasts_until(self, number: int, now: Instant) -> Instant:
        """Until when a channel that ``send_channel`` gives now can be sent on."""
        return self._channels.lasts_until(number, now)

    def receive_channel(self, remote: Endpoint, number: int, now: Instant) -> Endpoint | None:
        """The peer whose data arrived from ``remote`` on a channel; None refuses it."""
        peer = self._channels.receive(number, now) if remote in self._addresses else None
        if peer is None or self._slots.relayed_address(peer.ip.version) is None:
            return None
        self._heard_at = now
        return peer

    # Responses.

    def _handle_success(self, transaction: Transaction, local: Endpoint, message: Message, now: Instant) -> None:
        match transaction.request:
            case Binding():
                mapped = message.get(XorMappedAddress)
                moved = self._slots.observe(local, None if mapped is None else mapped.endpoint)
                if self.active_socket is None:
                    self._activate(transaction.destination, now)
                elif moved and transaction.destination == self.active_socket and self._slots.has_relayed:
                    self._start(Refresh(), now)
            case Allocate():
                self._handle_allocated(local, message, now)
            case Refresh() | Delete():
                lifetime = message.get(Lifetime)
                if lifetime is None:
                    self._log.trouble("Refresh success without lifetime ignored")
                    self._lease.refused(now)
                elif lifetime.seconds and self._slots.has_relayed:
                    self._mismatch_count = 0
                    self._set_lifetime(lifetime.seconds, now)
                else:
                    self._invalidate("deleted")
                    self._start(Allocate(), now)
            case BindChannel(peer, number):
                self._mismatch_count = 0
                self._channels.confirm(number, now)
                self._log.detail("Channel bound", peer=peer, number=number)

    def _handle_allocated(self, local: Endpoint, message: Message, now: Instant) -> None:
        lifetime = message.get(Lifetime)
        if lifetime is not None and lifetime.seconds:
            self._slots.allocate([relayed.endpoint for relayed in message.get_all(XorRelayedAddress)], local)
        if lifetime is None or not self._slots.has_relayed:
            self._log.trouble("Allocate success without lifetime or relayed address ignored")
            return
        self._set_lifetime(lifetime.seconds, now)
        while self._queued_binds:
            self.bind_channel(self._queued_binds.popleft(), now)

    def _handle_error(self, transaction: Transaction, message: Message, now: Instant) -> None:
        error = message.get(ErrorCodeAttribute)
        code = 0 if error is None else error.code
        request = transaction.request
        if code == ErrorCode.UNKNOWN_ATTRIBUTE:
            self._log.trouble("Relay does not understand us", unknown=message.get(UnknownAttributes))
            self._fail("protocol failure")
        elif isinstance(request, Binding):
            self._log.trouble("Binding refused", code=code)
        elif code == ErrorCode.UNAUTHENTICATED and transaction.has_nonce:
            self._log.trouble("Credentials refused")
            self._requests.forget_credentials()
            self._fail("authentication error")
        elif code in (ErrorCode.UNAUTHENTICATED, ErrorCode.STALE_NONCE):
            self._authenticate(transaction, message, code, now)
        elif code == ErrorCode.ALLOCATION_MISMATCH:
            self._resynchronise(request, now)
        else:
            self._handle_refused(request, code, now)

    def _authenticate(self, transaction: Transaction, message: Message, code: int, now: Instant) -> None:
        """Repeat the request with the nonce that the relay offers."""
        realm, nonce = message.get(Realm), message.get(Nonce)
        is_foreign = realm is not None and realm.value != REALM
        if is_foreign or nonce is None or transaction.retry_count >= RETRY_LIMIT:
            self._handle_refused(transaction.request, code, now)
        else:
            self._requests.nonce = nonce.value
            self._start(transaction.request, now, retry_count=transaction.retry_count + 1)

    def _resynchronise(self, request: Request, now: Instant) -> None:
        """Relay and we disagree whether there is an allocation for our address."""
        self._mismatch_count += 1
        if self._mismatch_count > RETRY_LIMIT:
            self._mismatch_count = 0
            self._invalidate("mismatch")
            self._handle_refused(Allocate(), ErrorCode.ALLOCATION_MISMATCH, now)
            return
        binds = list(self._requests.binds().values())
        if isinstance(request, BindChannel):
            binds.insert(0, request.peer)
        self._invalidate("mismatch")
        self._queued_binds.extend(peer for peer in binds if peer not in self._queued_binds)
        self._start(Delete() if isinstance(request, Allocate) else Allocate(), now)

    def _handle_refused(self, request: Request, code: int, now: Instant) -> None:
        match request:
            case BindChannel(_, number):
                self._channels.remove(number)
                # 403: the peer named an address that is not, or no more, to be had. Peers may name any.
                tell = self._log.detail if code == ErrorCode.FORBIDDEN else self._log.trouble
                tell("Channel refused", code=code, number=number)
            case Refresh():
                self._log.trouble("Refresh refused", code=code)
                self._lease.refused(now)
            case Allocate() | Delete():
                self._queued_binds.clear()
                self._log.trouble("Allocation refused", code=code)
            case Binding():
                pass  # answered above: the relay lives, and what it says unsigned is not believed

    def _handle_lost(self, transaction: Transaction, now: Instant) -> None:
        """A request was never answered."""
        active = self.active_socket
        self._log.detail("Request timed out", request=transaction.request, remote=transaction.destination)
        if active is None or transaction.destination.ip.version != active.ip.version or self._final_reason is not None:
            return
        if self._heard_at is not None and self._heard_at > transaction.series.sent_at:
            self._start(transaction.request, now, retry_count=transaction.retry_count)
            return
        self._log.trouble("Relay does not answer")
        self._requests.discard(lambda other: other.destination == active)
        self.active_socket = self._lease.keep_alive_at = None
        self._invalidate("no response")

    # State changes.

    def _probe_addresses(self, now: Instant) -> None:
        for address in self._addresses:
            self._requests.start(Binding(), address, now)

    def _activate(self, address: Endpoint, now: Instant) -> None:
        self.active_socket = address
        self._lease.keep_alive(now)
        self._log.detail("Active socket chosen", active_socket=address)
        self._start(Allocate(), now)

    def _set_lifetime(self, seconds: int, now: Instant) -> None:
        self._lease.grant(seconds, now)
        self._log.updated(seconds, self._slots.all())

    def _invalidate(self, reason: str) -> None:
        """The allocation is gone. Binding requests go on: the other family may still answer."""
        if self._slots.has_relayed:
            self._log.event("Allocation invalidated", reason=reason)
        self._slots.invalidate_relayed()
        self._channels.clear()
        self._lease.end()
        self._requests.discard(lambda transaction: not isinstance(transaction.request, Binding))

    def _fail(self, reason: str) -> None:
        """This relay is of no use to us, whatever it answers."""
        self._final_reason = reason
        self._invalidate(reason)
        self._requests.discard(lambda _: True)

    def _is_suspended(self) -> bool:
        return self.active_socket is not None and not self._slots.has_relayed and not len(self._requests)

    def _end(self) -> str | None:
        if len(self._requests):
            return None
        if self._final_reason is not None:
            return self._final_reason
        return SILENT if self.active_socket is None else None

    def _start(self, request: Request, now: Instant, *, limit: int = LIMIT_NS, retry_count: int = 0) -> None:
        allowed = self._final_reason is None or isinstance(request, Delete)
        if allowed and self.active_socket is not None:
            self._requests.start(request, self.active_socket, now, limit=limit, retry_count=retry_count)

    def _bind(self, peer: Endpoint, pending: dict[int, Endpoint], now: Instant, refreshed: int | None = None) -> None:
        number = self._channels.request(peer, pending, now) if refreshed is None else refreshed
        if number is None:
            self._log.trouble("All channel numbers are taken")
            return
        self._start(BindChannel(peer, number), now)
