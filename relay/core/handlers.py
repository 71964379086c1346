"""What each authenticated request about an allocation does (RFC 8656 §8, §10, §12), in the standard's order.

Deviation for Firezone's peers (they name themselves in SOFTWARE): no 441, because they change credentials in the
middle of an allocation and repair it by a Refresh with the new ones.
"""

import logging

from connectivity.clock import SECOND
from connectivity.endpoint import Endpoint
from connectivity.stun import AddressFamily, ChannelNumber, ErrorCode, Lifetime, RequestedAddressFamily, XorPeerAddress
from connectivity.turn.channel_data import MAX_NUMBER, MIN_NUMBER
from relay.core.allocate import Allocator, Answer, lifetime_seconds
from relay.core.allocation import MOST_CHANNELS, MOST_PERMISSIONS, Allocation
from relay.core.outputs import FiveTuple
from relay.core.peer_access import PeerAccess
from relay.core.peers import PeerRefusal
from relay.core.refusal import Refusal
from relay.core.request import Request
from relay.core.table import AllocationTable

_log = logging.getLogger("relay")


class Handlers:
    """Acts on the table. Answers with the attributes of a success or with a ``Refusal``."""

    def __init__(self, table: AllocationTable, peer_access: PeerAccess, allocator: Allocator) -> None:
        self._table = table
        self._peer_access = peer_access
        self._allocator = allocator

    def holder(self, five_tuple: FiveTuple) -> str | None:
        """Whose allocation a client's address has, if it has one."""
        allocation = self._table.get(five_tuple)
        return None if allocation is None else allocation.username

    # RFC 8656 §8.2: Refresh.

    def refresh(self, request: Request) -> Answer:
        """Prolong or delete. Firezone's peers repeat REQUESTED-TRANSPORT and ADDITIONAL-ADDRESS-FAMILY: ignored."""
        allocation = self._owned_allocation(request)
        if isinstance(allocation, Refusal):
            return allocation
        only = request.message.get(RequestedAddressFamily)
        if only is not None and only.family not in allocation.families:
            return Refusal(ErrorCode.PEER_ADDRESS_FAMILY_MISMATCH)
        wanted = request.message.get(Lifetime)
        if wanted is None or wanted.seconds:
            seconds = lifetime_seconds(request)
            self._table.refresh(allocation, request.now + seconds * SECOND)
            return (Lifetime(seconds),)
        if only is not None and len(allocation.families) > 1:
            self._table.free_family(allocation, AddressFamily(only.family))
        else:
            self._allocator.end(allocation, "by its client")
        return (Lifetime(0),)

    # RFC 8656 §10.2: CreatePermission.

    def create_permission(self, request: Request) -> Answer:
        """Permit all the peers named, or none of them."""
        allocation = self._owned_allocation(request)
        if isinstance(allocation, Refusal):
            return allocation
        peers = [attribute.endpoint for attribute in request.message.get_all(XorPeerAddress)]
        if not peers:
            return Refusal(ErrorCode.BAD_REQUEST)
        for peer in peers:
            kind = self._peer_access.permission_refusal(peer)
            if (refusal := self._refuse_peer(allocation, peer, kind)) is not None:
                return refusal
        if len(allocation.permissions.keys() | {peer.ip for peer in peers}) > MOST_PERMISSIONS:
            return Refusal(ErrorCode.INSUFFICIENT_CAPACITY)
        for peer in peers:
            self._table.permit(allocation, peer.ip, request.now)
        return ()

    # RFC 8656 §12.2: ChannelBind.

    def channel_bind(self, request: Request) -> Answer:
        """Bind a number to a peer, or refresh that binding."""
        allocation = self._owned_allocation(request)
        if isinstance(allocation, Refusal):
            return allocation
        number, peer = request.message.get(ChannelNumber), request.message.get(XorPeerAddress)
        if number is None or peer is None or not MIN_NUMBER <= number.number <= MAX_NUMBER or not peer.endpoint.port:
            return Refusal(ErrorCode.BAD_REQUEST)
        kind = self._peer_access.refusal(peer.endpoint)
        if (refusal := self._refuse_peer(allocation, peer.endpoint, kind)) is not None:
            return refusal
        by_number = allocation.channels.get(number.number)
        by_peer = allocation.channels_by_peer.get(peer.endpoint)
        if by_number is not by_peer:
            return Refusal(ErrorCode.BAD_REQUEST)
        permits = allocation.permissions
        if by_number is None and len(allocation.channels) >= MOST_CHANNELS:
            return Refusal(ErrorCode.INSUFFICIENT_CAPACITY)
        if peer.endpoint.ip not in permits and len(permits) >= MOST_PERMISSIONS:
            return Refusal(ErrorCode.INSUFFICIENT_CAPACITY)
        is_hairpin = self._peer_access.is_hairpin(peer.endpoint)
        self._table.bind(allocation, number.number, peer.endpoint, request.now, is_hairpin=is_hairpin)
        fields = {"port": allocation.port, "channel": f"0x{number.number:04x}", "peer": peer.endpoint}
        _log.debug("Bound channel", extra={"fields": fields})
        return ()

    def _owned_allocation(self, request: Request) -> Allocation | Refusal:
        allocation = self._table.get(request.five_tuple)
        if allocation is None:
            return Refusal(ErrorCode.ALLOCATION_MISMATCH)
        if allocation.username != request.username and not request.is_firezone:
            return Refusal(ErrorCode.WRONG_CREDENTIALS)
        if allocation.username == request.username:
            allocation.key = request.signature.key  # another one while a secret is being replaced
        return allocation

    @staticmethod
    def _refuse_peer(allocation: Allocation, peer: Endpoint, kind: PeerRefusal | None) -> Refusal | None:
        if not allocation.has_family_of(peer.ip):
            return Refusal(ErrorCode.PEER_ADDRESS_FAMILY_MISMATCH)
        if kind is None:
            return None
        _log.debug("Refused peer", extra={"fields": {"peer": peer, "class": kind.value}})
        return Refusal(ErrorCode.FORBIDDEN)
