"""What the requests about an allocation have in common: whose it is, and which peers it may name."""

import logging

from connectivity.endpoint import Endpoint
from connectivity.stun import ErrorCode
from relay.core.allocation import Allocation
from relay.core.peers import PeerRefusal
from relay.core.refusal import Refusal
from relay.core.requests.request import Request
from relay.core.table import AllocationTable

_log = logging.getLogger("relay")


def owned_allocation(table: AllocationTable, request: Request) -> Allocation | Refusal:
    """The allocation that a request is about (RFC 8656 §5).

    Deviation for Firezone's peers (they name themselves in SOFTWARE): no 441, because they change credentials in the
    middle of an allocation and repair it by a Refresh with the new ones.
    """
    allocation = table.get(request.five_tuple)
    if allocation is None:
        return Refusal(ErrorCode.ALLOCATION_MISMATCH)
    if allocation.username != request.username and not request.is_firezone:
        return Refusal(ErrorCode.WRONG_CREDENTIALS)
    if allocation.username == request.username:
        allocation.key = request.signature.key  # another one while a secret is being replaced
    return allocation


def refuse_peer(allocation: Allocation, peer: Endpoint, kind: PeerRefusal | None) -> Refusal | None:
    """What to answer to who names this peer; None: he may."""
    if not allocation.has_family_of(peer.ip):
        return Refusal(ErrorCode.PEER_ADDRESS_FAMILY_MISMATCH)
    if kind is None:
        return None
    _log.debug("Refused peer", extra={"fields": {"peer": peer, "class": kind.value}})
    return Refusal(ErrorCode.FORBIDDEN)
