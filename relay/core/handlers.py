"""What each authenticated TURN request does (RFC 8656 §7, §8, §10, §12), in the standard's order.

A handler answers with the attributes of a success, with a ``Refusal``, or with None: nothing to send now, because the
port of an allocation has yet to be opened, or is being opened for the same client already.

Deviations for Firezone's peers (they name themselves in SOFTWARE): no 441, because they change credentials in the
middle of an allocation and repair it by a Refresh with the new ones; no ADDRESS-ERROR-CODE when a dual-stack request
is met in part.
"""

import logging
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, TypeAlias

from connectivity.clock import SECOND, Instant
from connectivity.endpoint import Endpoint
from connectivity.stun import (
    AdditionalAddressFamily,
    AddressErrorCode,
    AddressFamily,
    Attribute,
    ChannelNumber,
    ErrorCode,
    Lifetime,
    RequestedAddressFamily,
    RequestedTransport,
    XorMappedAddress,
    XorPeerAddress,
    XorRelayedAddress,
)
from connectivity.turn.channel_data import MAX_NUMBER, MIN_NUMBER
from relay.core.allocation import MOST_CHANNELS, MOST_PERMISSIONS, Allocation
from relay.core.configuration import ServerSettings
from relay.core.outputs import FiveTuple, OpenRelayedPort, Output
from relay.core.ports import PortPool
from relay.core.refusal import REASONS, Refusal
from relay.core.request import Request
from relay.core.table import AllocationTable

# Specification constants (RFC 8656 §3.2, §7.2).
DEFAULT_LIFETIME_SECONDS: Final = 600
LONGEST_LIFETIME_SECONDS: Final = 3600
UDP: Final = 17

Answer: TypeAlias = tuple[Attribute, ...] | Refusal | None

_log = logging.getLogger("relay")


@dataclass(slots=True)
class Opening:
    """An Allocate that waits for its port. ``unusable`` ports go back to the pool once it is settled."""

    request: Request
    families: tuple[AddressFamily, ...]
    partial: tuple[AddressErrorCode, ...]
    lifetime_seconds: int
    port: int
    unusable: list[int]


class Handlers:
    """Acts on the table; tells the driver through ``outputs``."""

    def __init__(
        self,
        settings: ServerSettings,
        table: AllocationTable,
        outputs: deque[Output],
        rng: Callable[[int], bytes],
    ) -> None:
        self._settings = settings
        self._table = table
        self._outputs = outputs
        self._ports = PortPool(settings.lowest_port, settings.highest_port, settings.listen_ports, rng)
        self._openings: dict[FiveTuple, Opening] = {}
        self.takes_allocations = True

    @property
    def free_port_count(self) -> int:
        """Ports that may still be handed out."""
        return len(self._ports)

    # RFC 8656 §7.2: Allocate.

    def allocate(self, request: Request) -> Answer:
        """Start giving the client a relayed address; the answer follows when its port is open."""
        if self._table.get(request.five_tuple) is not None:
            return Refusal(ErrorCode.ALLOCATION_MISMATCH)
        if request.five_tuple in self._openings:
            return None
        transport = request.message.get(RequestedTransport)
        if transport is None:
            return Refusal(ErrorCode.BAD_REQUEST)
        if transport.protocol != UDP:
            return Refusal(ErrorCode.UNSUPPORTED_TRANSPORT_PROTOCOL)
        wanted = _wanted_families(request)
        if isinstance(wanted, Refusal):
            return wanted
        families = tuple(family for family in wanted if self._settings.serves(family))
        if not families:
            return Refusal(ErrorCode.ADDRESS_FAMILY_NOT_SUPPORTED)
        if not self.takes_allocations:
            return Refusal(ErrorCode.INSUFFICIENT_CAPACITY)
        code = ErrorCode.ADDRESS_FAMILY_NOT_SUPPORTED
        partial = tuple(
            AddressErrorCode(family, code, REASONS[code])
            for family in wanted
            if family not in families and not request.is_firezone
        )
        opening = Opening(request, families, partial, _lifetime_seconds(request), 0, [])
        return self._try_port(opening)

    def port_opened(self, port: int, now: Instant) -> tuple[Request, Answer] | None:
        """The driver has bound the port of an opening: the allocation exists from now on."""
        opening = self._opening_of(port)
        if opening is None:
            return None
        request = opening.request
        self._settle(opening)
        allocation = Allocation(
            request.five_tuple,
            port,
            opening.families,
            username=request.username,
            channels_only=request.is_firezone,
            expires_at=now + opening.lifetime_seconds * SECOND,
            sources={version: Endpoint(ip, port) for version, ip in self._settings.sources.items()},
        )
        self._table.add(allocation)
        fields = {"port": port, "families": len(opening.families), "lifetime": opening.lifetime_seconds}
        _log.info("Created allocation", extra={"fields": fields})
        _log.debug("Allocation belongs to", extra={"fields": {"port": port, "client": request.five_tuple.client}})
        relayed = tuple(
            XorRelayedAddress(Endpoint(self._settings.public[family.version], port)) for family in opening.families
        )
        mapped = XorMappedAddress(request.five_tuple.client)
        return request, (*relayed, mapped, *opening.partial, Lifetime(opening.lifetime_seconds))

    def port_failed(self, port: int, *, may_retry: bool) -> tuple[Request, Answer] | None:
        """The driver could not bind the port: try another one, or refuse."""
        opening = self._opening_of(port)
        if opening is None:
            return None
        opening.unusable.append(port)
        answer = self._try_port(opening) if may_retry else self._give_up(opening)
        return opening.request, answer

    def release_port(self, port: int) -> None:
        """The port of a freed allocation may be handed out again."""
        self._ports.give_back(port)

    def _try_port(self, opening: Opening) -> Answer:
        port = self._ports.take()
        if port is None:
            return self._give_up(opening)
        opening.port = port
        self._openings[opening.request.five_tuple] = opening
        self._outputs.append(OpenRelayedPort(port, opening.families))
        return None

    def _give_up(self, opening: Opening) -> Refusal:
        self._settle(opening)
        _log.debug("No relayed port could be opened", extra={"fields": {"tried": len(opening.unusable)}})
        return Refusal(ErrorCode.INSUFFICIENT_CAPACITY)

    def _settle(self, opening: Opening) -> None:
        self._openings.pop(opening.request.five_tuple, None)
        for port in opening.unusable:
            self._ports.give_back(port)

    def _opening_of(self, port: int) -> Opening | None:
        # At most one per client that asks right now; drivers answer at once, so in practice there is one.
        return next((opening for opening in self._openings.values() if opening.port == port), None)

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
            seconds = _lifetime_seconds(request)
            self._table.refresh(allocation, request.now + seconds * SECOND)
            return (Lifetime(seconds),)
        if only is not None and len(allocation.families) > 1:
            self._table.free_family(allocation, only.family)
        else:
            self._table.free(allocation)
            self.release_port(allocation.port)
            _log.info("Deleted allocation", extra={"fields": {"port": allocation.port, "reason": "by its client"}})
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
            if (refusal := self._refuse_peer(allocation, peer)) is not None:
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
        if (refusal := self._refuse_peer(allocation, peer.endpoint)) is not None:
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
        is_hairpin = self._settings.policy.is_own(peer.endpoint.ip)
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
        return allocation

    def _refuse_peer(self, allocation: Allocation, peer: Endpoint) -> Refusal | None:
        if not allocation.has_family_of(peer.ip):
            return Refusal(ErrorCode.PEER_ADDRESS_FAMILY_MISMATCH)
        if self._settings.policy.is_own(peer.ip):
            # Only a live relayed address of ours, never another port of this host.
            other = self._table.by_port.get(peer.port)
            is_live = other is not None and other.has_family_of(peer.ip)
            return None if is_live else Refusal(ErrorCode.FORBIDDEN)
        kind = self._settings.policy.refusal(peer.ip)
        if kind is None:
            return None
        _log.debug("Refused peer", extra={"fields": {"peer": peer, "class": kind.value}})
        return Refusal(ErrorCode.FORBIDDEN)


def _wanted_families(request: Request) -> tuple[AddressFamily, ...] | Refusal:
    requested = request.message.get(RequestedAddressFamily)
    additional = request.message.get(AdditionalAddressFamily)
    if additional is None:
        return (AddressFamily.IPV4 if requested is None else requested.family,)
    if requested is not None or additional.family is not AddressFamily.IPV6:
        return Refusal(ErrorCode.BAD_REQUEST)
    return AddressFamily.IPV4, AddressFamily.IPV6


def _lifetime_seconds(request: Request) -> int:
    """What the client wants, but neither less than the default nor more than the maximum (RFC 8656 §7.2)."""
    wanted = request.message.get(Lifetime)
    seconds = DEFAULT_LIFETIME_SECONDS if wanted is None else wanted.seconds
    return max(DEFAULT_LIFETIME_SECONDS, min(seconds, LONGEST_LIFETIME_SECONDS))
