"""Refresh: prolonging or deleting an allocation (RFC 8656 §8.2), in the standard's order."""

from connectivity.clock import SECOND
from connectivity.stun import AddressFamily, ErrorCode, Lifetime, RequestedAddressFamily
from relay.core.refusal import Refusal
from relay.core.requests.allocate import Allocator, Answer, lifetime_seconds
from relay.core.requests.owned import owned_allocation
from relay.core.requests.request import Request
from relay.core.table import AllocationTable


def refresh(table: AllocationTable, allocator: Allocator, request: Request) -> Answer:
    """Prolong or delete. Firezone's peers repeat REQUESTED-TRANSPORT and ADDITIONAL-ADDRESS-FAMILY: ignored."""
    allocation = owned_allocation(table, request)
    if isinstance(allocation, Refusal):
        return allocation
    only = request.message.get(RequestedAddressFamily)
    if only is not None and only.family not in allocation.families:
        return Refusal(ErrorCode.PEER_ADDRESS_FAMILY_MISMATCH)
    wanted = request.message.get(Lifetime)
    if wanted is None or wanted.seconds:
        seconds = lifetime_seconds(request)
        table.refresh(allocation, request.now + seconds * SECOND)
        return (Lifetime(seconds),)
    if only is not None and len(allocation.families) > 1:
        table.free_family(allocation, AddressFamily(only.family))
    else:
        allocator.end(allocation, "by its client")
    return (Lifetime(0),)
