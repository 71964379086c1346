"""The TURN server without its sockets (RFC 8489, RFC 8656): bytes and time in, bytes and wishes out.

Use: hand each received run to ``handle_client`` (listen socket), each read of a connection to ``handle_stream``, what
comes to a relayed port to ``handle_peer`` and ``handle_icmp``, and send what they yield at once, for it borrows scratch
memory; then take ``poll_output`` until None, and call ``handle_timeout`` at ``poll_timeout``. ``OpenRelayedPort`` wants
its answer before the next input. A connection that is gone is told by ``stream_closed``, whoever closed it.

How it is built: ``transactions`` answers requests, with ``authentication`` for who asks, ``allocate`` and ``handlers``
for what is asked, ``responder`` for the words; ``data_path`` moves data; all state of clients is in ``table``.

It never raises because of what it receives. Same inputs, same outputs.
"""

from collections import deque
from collections.abc import Callable, Container, Iterator
from typing import Final

from connectivity.clock import Instant, WallTime, earliest
from connectivity.endpoint import Endpoint, IPAddress
from connectivity.run import Received
from connectivity.stun import HEADER_BYTES, MAGIC_COOKIE, DecodeError, MessageClass, Method, decode
from relay.core.admission import Admission
from relay.core.authentication import Authenticator, NonceSource
from relay.core.channel_runs import ChannelRun, Malformed, split
from relay.core.configuration import ServerSettings
from relay.core.credentials import CredentialSource
from relay.core.data_path import DataPath
from relay.core.icmp import IcmpError
from relay.core.outputs import CloseStream, FiveTuple, Output, Relayed, Transport
from relay.core.peer_access import PeerAccess
from relay.core.quotas import Accounts, Numbers
from relay.core.requests.allocate import Allocator
from relay.core.requests.dispatch import RequestDispatch
from relay.core.requests.request import nonce_of
from relay.core.responder import Responder
from relay.core.statistics import DropReason, QuotaKind, Snapshot, Statistics
from relay.core.stream import LAST_STUN_BYTE, Lost, Stream
from relay.core.table import AllocationTable
from relay.core.view import AllocationView, view_of

_CLASS_BITS: Final = 0x0110
_LIMITER_SECRET_BYTES: Final = 32
_COOKIE: Final = MAGIC_COOKIE.to_bytes(4, "big")
# Implementation constant: more than any request has, and all that a stranger's connection can make us keep.
_MOST_KEPT_FOR_STRANGERS: Final = 2048


class Server:
    """One relay: all its allocations, on all its addresses."""

    def __init__(
        self,
        settings: ServerSettings,
        *,
        source: CredentialSource,
        nonces: NonceSource,
        rng: Callable[[int], bytes],
    ) -> None:
        self._settings = settings
        self._outputs: deque[Output] = deque()
        self._statistics = Statistics()
        self._streams: dict[FiveTuple, Stream] = {}
        self._accounts = Accounts(settings.quotas, self._outputs, self._statistics)
        self._admission = Admission(settings.quotas, rng(_LIMITER_SECRET_BYTES))
        self._table = AllocationTable(self._outputs, self._accounts)
        self._peer_access = PeerAccess(settings, self._table)
        self._authenticator = Authenticator(realm=settings.realm, source=source, nonces=nonces)
        self._allocator = Allocator(settings, self._table, self._accounts, self._outputs, rng)
        self.data_path = DataPath(settings, self._table, self._peer_access, self._accounts, self._statistics, rng)
        responder = Responder(settings.software, self._outputs, self._statistics)
        self._requests = RequestDispatch(
            self._authenticator, self._table, self._peer_access, self._allocator, responder
        )

    def handle_client(self, received: Received, now: Instant, wall_now: WallTime) -> Iterator[Relayed]:
        """Datagrams that came to a listen socket; yields relayed data, each valid until the next."""
        if not received.remote.port:
            # Scanners do this; an answer could not be sent.
            self._statistics.drops[DropReason.SOURCE_PORT_ZERO] += received.run.segment_count
            return
        five_tuple = FiveTuple(received.remote, received.local)
        for part in split(received.run):
            if isinstance(part, ChannelRun):
                yield from self.data_path.relay_channel(five_tuple, part, received.tos, now)
            elif isinstance(part, Malformed):
                self._statistics.drops[DropReason.MALFORMED_CHANNEL_DATA] += part.datagrams
            else:
                yield from self._handle_message(five_tuple, part.data, received.tos, now, wall_now)

    def handle_stream(
        self, five_tuple: FiveTuple, data: memoryview, now: Instant, wall_now: WallTime
    ) -> Iterator[Relayed]:
        """Bytes that came over a connection, cut anywhere; yields relayed data, each valid until the next."""
        stream = self._streams.get(five_tuple)
        if stream is None:
            stream = self._streams[five_tuple] = Stream()
        for part in stream.feed(data):
            if isinstance(part, ChannelRun):
                yield from self.data_path.relay_channel(five_tuple, part, 0, now)
            elif isinstance(part, Lost):
                self._lose(five_tuple)
            else:
                yield from self._handle_message(five_tuple, part, 0, now, wall_now)
        if len(stream) > _MOST_KEPT_FOR_STRANGERS and self._table.get(five_tuple) is None:
            stream.lose()
            self._lose(five_tuple)

    def admits_stream(self, source: IPAddress, now: Instant) -> bool:
        """Whether this source may open one more connection."""
        is_admitted = self._admission.admits_connection(source, now)
        if not is_admitted:
            self._statistics.quota_refusals[QuotaKind.CONNECTIONS_PER_SOURCE] += 1
        return is_admitted

    def stream_closed(self, five_tuple: FiveTuple, now: Instant) -> None:  # noqa: ARG002 - as all inputs
        """A connection is gone, and its allocation with it (RFC 8656 §3.1)."""
        self._streams.pop(five_tuple, None)
        allocation = self._table.get(five_tuple)
        if allocation is not None:
            self._allocator.end(allocation, "connection closed")

    def handle_peer(self, port: int, received: Received, now: Instant) -> Iterator[Relayed]:
        """Datagrams that came to a relayed port; yields relayed data, each valid until the next."""
        return self.data_path.relay_from_peer(port, received.remote, received.run, received.tos, now)

    def handle_icmp(self, port: int, icmp: IcmpError, now: Instant) -> Iterator[Relayed]:
        """An error about a datagram that left from a relayed port."""
        return self.data_path.relay_icmp(port, icmp, now)

    def relayed_port_opened(self, port: int, now: Instant) -> None:
        """``OpenRelayedPort`` succeeded."""
        self._requests.finish(self._allocator.port_opened(port, now))

    def relayed_port_failed(self, port: int, *, may_retry: bool) -> None:
        """``OpenRelayedPort`` failed; ``may_retry`` if another port may be free where this one is not."""
        self._requests.finish(self._allocator.port_failed(port, may_retry=may_retry))

    def handle_own_addresses(self, own: Container[IPAddress]) -> None:
        """What the host takes as its own is this now, the public addresses included; channels to what is new end."""
        if own != self._settings.policy.own:
            self._settings.policy.replace_own(own)
            self._peer_access.enforce()

    def reconfigure(
        self,
        settings: ServerSettings,
        source: CredentialSource,
        now: Instant,  # noqa: ARG002 - as all inputs
    ) -> int:
        """Count these credentials, realm, policy, quotas and alternate servers from now on.

        What the policy refuses ends at once, and so do the allocations of those who could not make them now: removed,
        or with another password or realm. Addresses, ports and SOFTWARE stay what they were.

        Returns:
            How many allocations ended.
        """
        self._settings = self._allocator.settings = self.data_path.settings = self._peer_access.settings = settings
        self._authenticator.use(settings.realm, source)
        if self._accounts.replace(settings.quotas):
            self._table.project_all()
        self._admission.replace(settings.quotas)
        knows = self._authenticator.knows
        foreign = [each for each in self._table.by_port.values() if not knows(each.username, each.key)]
        for allocation in foreign:
            self._allocator.end(allocation, "its credentials count no more")
        self._peer_access.enforce()
        return len(foreign)

    @property
    def names_in_milliseconds(self) -> int:
        """Requests under names whose time can only be meant in milliseconds, so that they do not end."""
        return self._authenticator.in_milliseconds

    def has_allocation(self, five_tuple: FiveTuple) -> bool:
        """Whether a connection is in use."""
        return self._table.get(five_tuple) is not None

    @property
    def allocation_count(self) -> int:
        """Allocations that live now."""
        return len(self._table)

    def allocations(self) -> Iterator[AllocationView]:
        """All allocations, for people to look at."""
        return (view_of(allocation) for allocation in list(self._table.by_port.values()))

    def allocation(self, port: int) -> AllocationView | None:
        """The allocation that has this relayed port."""
        allocation = self._table.by_port.get(port)
        return None if allocation is None else view_of(allocation)

    def end_allocation(self, port: int, now: Instant) -> bool:  # noqa: ARG002 - as all inputs
        """Delete an allocation because the operator wants it; False if there is none."""
        allocation = self._table.by_port.get(port)
        if allocation is None:
            return False
        self._allocator.end(allocation, "by the operator")
        return True

    def share_buckets(self, memory: Numbers | None) -> None:
        """An offload's token buckets are in this memory: spend from them too; None: they are no more."""
        self._accounts.share(memory)

    def count_offloaded(
        self,
        five_tuple: FiveTuple,
        to_peer_packets: int,
        to_peer_bytes: int,
        to_client_packets: int,
        to_client_bytes: int,
    ) -> None:
        """What an offload relayed for a channel that has ended counts for its allocation, if that lives on."""
        allocation = self._table.get(five_tuple)
        if allocation is not None:
            allocation.to_peer.add(to_peer_packets, to_peer_bytes)
            allocation.to_client.add(to_client_packets, to_client_bytes)

    def count_unanswered(self, requests: int) -> None:
        """So many requests came faster than they could be answered."""
        self._statistics.drops[DropReason.OVERLOAD] += requests

    def stop_allocating(self) -> None:
        """Refuse whoever wants an allocation from now on (RFC 8656 §7.2); those that live are served on."""
        self._allocator.takes_allocations = False

    def poll_output(self) -> Output | None:
        """The next thing to do; None when there is nothing left."""
        return self._outputs.popleft() if self._outputs else None

    def poll_timeout(self) -> Instant | None:
        """When ``handle_timeout`` wants to be called."""
        return earliest(self._table.next_deadline(), self._allocator.next_deadline())

    def handle_timeout(self, now: Instant) -> None:
        """Expire what is due."""
        self._requests.forget_expired(now)
        self._allocator.handle_timeout(now)
        for allocation in self._table.handle_timeout(now):
            self._allocator.ended(allocation, "expired")

    def statistics(self) -> Snapshot:
        """The counters now."""
        return self._statistics.snapshot(allocations=len(self._table), channels=self._table.bound_channel_count)

    def _handle_message(
        self, five_tuple: FiveTuple, data: memoryview, tos: int, now: Instant, wall_now: WallTime
    ) -> Iterator[Relayed]:
        """One datagram, or one frame of a stream, that is not ChannelData."""
        if not _looks_like_stun(data):
            self._statistics.drops[DropReason.NOT_TURN] += 1
            return
        if is_request(data) and self._admission.limits_requests and not self._admits(five_tuple, data, now):
            self._statistics.drops[DropReason.TOO_MANY_REQUESTS] += 1
            return
        try:
            message = decode(data)
        except DecodeError as error:
            if error.message_class is MessageClass.REQUEST:
                self._statistics.consumed += 1
                self._requests.refuse_malformed(five_tuple, data, error)
            else:
                self._statistics.drops[DropReason.MALFORMED_STUN] += 1
            return
        if message.has_fingerprint and not message.verify_fingerprint():
            self._statistics.drops[DropReason.BAD_FINGERPRINT] += 1
        elif message.message_class is MessageClass.REQUEST:
            self._statistics.consumed += 1
            self._expire_before(now)
            self._requests.handle_request(five_tuple, message, now, wall_now)
        elif message.message_class is MessageClass.INDICATION and message.method == Method.SEND:
            yield from self.data_path.relay_send(five_tuple, message, tos, now)
        else:
            self._statistics.drops[DropReason.UNEXPECTED_CLASS] += 1

    def _admits(self, five_tuple: FiveTuple, data: memoryview, now: Instant) -> bool:
        client = five_tuple.client
        is_proven = five_tuple.transport is not Transport.UDP or self._has_our_nonce(client, data, now)
        has_allocation = self._table.get(five_tuple) is not None
        is_admitted = self._admission.admits_request(client, now, is_proven=is_proven, has_allocation=has_allocation)
        if not is_admitted:
            self._statistics.quota_refusals[QuotaKind.REQUESTS_PER_SOURCE] += 1
        return is_admitted

    def _has_our_nonce(self, client: Endpoint, data: memoryview, now: Instant) -> bool:
        nonce = nonce_of(data)
        return nonce is not None and self._authenticator.is_our_nonce(nonce, client, now)

    def _expire_before(self, now: Instant) -> None:
        """A timer may come late, most of all after the machine has slept: no request finds what is over."""
        deadline = self.poll_timeout()
        if deadline is not None and deadline <= now:
            self.handle_timeout(now)

    def _lose(self, five_tuple: FiveTuple) -> None:
        self._statistics.drops[DropReason.NOT_TURN] += 1
        self._outputs.append(CloseStream(five_tuple))


def _looks_like_stun(data: memoryview) -> bool:
    return len(data) >= HEADER_BYTES and data[0] <= LAST_STUN_BYTE and data[4:8] == _COOKIE


def is_request(data: memoryview) -> bool:
    """Whether these bytes, of which there are a header's, are a request if they are STUN at all."""
    return data[0] <= LAST_STUN_BYTE and not (data[0] << 8 | data[1]) & _CLASS_BITS
