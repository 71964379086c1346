"""CreatePermission: letting peers send to an allocation (RFC 8656 §10.2), in the standard's order."""

from connectivity.stun import ErrorCode, XorPeerAddress
from relay.core.allocation import MOST_PERMISSIONS
from relay.core.peer_access import PeerAccess
from relay.core.refusal import Refusal
from relay.core.requests.allocate import Answer
from relay.core.requests.owned import owned_allocation, refuse_peer
from relay.core.requests.request import Request
from relay.core.table import AllocationTable


def create_permission(table: AllocationTable, peer_access: PeerAccess, request: Request) -> Answer:
    """Permit all the peers named, or none of them."""
    allocation = owned_allocation(table, request)
    if isinstance(allocation, Refusal):
        return allocation
    peers = [attribute.endpoint for attribute in request.message.get_all(XorPeerAddress)]
    if not peers:
        return Refusal(ErrorCode.BAD_REQUEST)
    for peer in peers:
        kind = peer_access.permission_refusal(peer)
        if (refusal := refuse_peer(allocation, peer, kind)) is not None:
            return refusal
    if len(allocation.permissions.keys() | {peer.ip for peer in peers}) > MOST_PERMISSIONS:
        return Refusal(ErrorCode.INSUFFICIENT_CAPACITY)
    for peer in peers:
        table.permit(allocation, peer.ip, request.now)
    return ()
