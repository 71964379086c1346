"""ChannelBind: binding a channel number to a peer (RFC 8656 §12.2), in the standard's order."""

import logging

from connectivity.stun import ChannelNumber, ErrorCode, XorPeerAddress
from connectivity.turn.channel_data import MAX_NUMBER, MIN_NUMBER
from relay.core.allocation import MOST_CHANNELS, MOST_PERMISSIONS
from relay.core.peer_access import PeerAccess
from relay.core.refusal import Refusal
from relay.core.requests.allocate import Answer
from relay.core.requests.owned import owned_allocation, refuse_peer
from relay.core.requests.request import Request
from relay.core.table import AllocationTable

_log = logging.getLogger("relay")


def channel_bind(table: AllocationTable, peer_access: PeerAccess, request: Request) -> Answer:
    """Bind a number to a peer, or refresh that binding."""
    allocation = owned_allocation(table, request)
    if isinstance(allocation, Refusal):
        return allocation
    number, peer = request.message.get(ChannelNumber), request.message.get(XorPeerAddress)
    if number is None or peer is None or not MIN_NUMBER <= number.number <= MAX_NUMBER or not peer.endpoint.port:
        return Refusal(ErrorCode.BAD_REQUEST)
    kind = peer_access.refusal(peer.endpoint)
    if (refusal := refuse_peer(allocation, peer.endpoint, kind)) is not None:
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
    is_hairpin = peer_access.is_hairpin(peer.endpoint)
    table.bind(allocation, number.number, peer.endpoint, request.now, is_hairpin=is_hairpin)
    fields = {"port": allocation.port, "channel": f"0x{number.number:04x}", "peer": peer.endpoint}
    _log.debug("Bound channel", extra={"fields": fields})
    return ()
