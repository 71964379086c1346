"""Allocate: giving a client a relayed address (RFC 8656 §7.2), in the standard's order.

The answer has to wait until the port is open, so an Allocate is an ``Opening`` for a while: the driver is asked for a
port, and answers; if another program has that port, the next one is tried.

EVEN-PORT with R opens two neighbouring ports. The upper one is held for 30 s for whoever of the same user brings its
RESERVATION-TOKEN; nothing is relayed by it meanwhile.

Deviation for Firezone's peers: no ADDRESS-ERROR-CODE when a dual-stack request is met in part.
"""

import logging
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, TypeAlias

from connectivity.clock import SECOND, Duration, Instant
from connectivity.endpoint import Endpoint
from connectivity.stun import (
    AdditionalAddressFamily,
    AddressErrorCode,
    AddressFamily,
    AlternateServer,
    Attribute,
    ErrorCode,
    EvenPort,
    Lifetime,
    RequestedAddressFamily,
    RequestedTransport,
    ReservationToken,
    XorMappedAddress,
    XorRelayedAddress,
)
from relay.core.allocation import Allocation
from relay.core.configuration import ServerSettings
from relay.core.outputs import CloseRelayedPort, OpenRelayedPort, Output
from relay.core.ports import PortPool
from relay.core.quotas import Account, Accounts
from relay.core.refusal import REASONS, Refusal
from relay.core.requests.request import Request
from relay.core.table import AllocationTable

# Specification constants (RFC 8656 §3.2, §7.2, §18.10).
DEFAULT_LIFETIME_SECONDS: Final = 600
LONGEST_LIFETIME_SECONDS: Final = 3600
RESERVATION_LIFETIME: Final[Duration] = 30 * SECOND
UDP: Final = 17
_TOKEN_BYTES: Final = 8
# Ports that one request may find taken by other programs: looking for more would hold everybody up.
_MOST_UNUSABLE: Final = 256
# Allocations keep what they are given; all of one kind keep the same.
_ALONE: Final[dict[int, tuple[AddressFamily, ...]]] = {family: (family,) for family in AddressFamily}

Answer: TypeAlias = tuple[Attribute, ...] | Refusal | None

_log = logging.getLogger("relay")


@dataclass(slots=True)
class Opening:
    """An Allocate that waits for the driver to open its ``port``, or the one above.

    ``unusable`` ports go back to the pool once it is settled.
    """

    request: Request
    families: tuple[AddressFamily, ...]
    partial: tuple[AddressErrorCode, ...]
    is_even: bool = False
    reserves: bool = False
    port: int = 0
    unusable: list[int] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Reservation:
    """An open port that waits for its token. It counts as an allocation of its user."""

    port: int
    families: tuple[AddressFamily, ...]
    username: str
    account: Account
    expires_at: Instant


class Allocator:
    """Turns Allocate requests into allocations in the table; owns the ports that no allocation has."""

    def __init__(
        self,
        settings: ServerSettings,
        table: AllocationTable,
        accounts: Accounts,
        outputs: deque[Output],
        rng: Callable[[int], bytes],
    ) -> None:
        self.settings = settings
        self.takes_allocations = True
        self._table = table
        self._accounts = accounts
        self._outputs = outputs
        self._rng = rng
        self._ports = PortPool(settings.lowest_port, settings.highest_port, settings.listen_ports, rng)
        # By the port awaited. Drivers answer at once, so there is hardly ever one that another request could see.
        self._openings: dict[int, Opening] = {}
        self._reservations: dict[bytes, Reservation] = {}  # the order of insertion is the order of expiry

    def allocate(self, request: Request) -> Answer:
        """Start giving the client a relayed address; None while its port is not open yet."""
        if self._table.get(request.five_tuple) is not None:
            return Refusal(ErrorCode.ALLOCATION_MISMATCH)
        if any(opening.request.five_tuple == request.five_tuple for opening in self._openings.values()):
            return None
        message = request.message
        transport, even = message.get(RequestedTransport), message.get(EvenPort)
        if transport is None:
            return Refusal(ErrorCode.BAD_REQUEST)
        if transport.protocol != UDP:
            return Refusal(ErrorCode.UNSUPPORTED_TRANSPORT_PROTOCOL)
        token = message.get(ReservationToken)
        if token is not None:
            return self._redeem(request, token)
        wanted = _wanted_families(request)
        if isinstance(wanted, Refusal):
            return wanted
        families, partial = self._split_by_service(wanted)
        if not families:
            return Refusal(ErrorCode.ADDRESS_FAMILY_NOT_SUPPORTED)
        if not self.takes_allocations:
            return self._refuse_full(request)
        if request.is_firezone:
            partial = ()
        reserves = even is not None and even.reserve
        quota = self._accounts.refuse_allocation(request.user, 2 if reserves else 1)
        if quota is not None:
            return self._refuse_full(request) if quota is ErrorCode.INSUFFICIENT_CAPACITY else Refusal(quota)
        return self._try_port(Opening(request, families, partial, is_even=even is not None, reserves=reserves))

    def port_opened(self, port: int, now: Instant) -> tuple[Request, Answer] | None:
        """The driver has bound a port of an opening; with the last one, the allocation exists."""
        opening = self._openings.pop(port, None)
        if opening is None:
            return None
        if opening.reserves and port == opening.port:
            self._open(opening, port + 1)
            return None
        request = opening.request
        self._give_back_unusable(opening)
        answer = self._create(request, opening.port, opening.families, self._accounts.open(request.user), now)
        if opening.reserves:
            token = self._rng(_TOKEN_BYTES)
            expires_at = now + RESERVATION_LIFETIME
            self._reservations[token] = Reservation(
                port, opening.families, request.username, self._accounts.open(request.user), expires_at
            )
            answer = (*answer, ReservationToken(token))
        return request, (*answer, *opening.partial)

    def port_failed(self, port: int, *, may_retry: bool) -> tuple[Request, Answer] | None:
        """The driver could not bind the port: try another one, or refuse."""
        opening = self._openings.pop(port, None)
        if opening is None:
            return None
        if port != opening.port:
            self._outputs.append(CloseRelayedPort(opening.port, opening.families))
        opening.unusable += [opening.port, opening.port + 1] if opening.reserves else [opening.port]
        may_retry = may_retry and len(opening.unusable) < _MOST_UNUSABLE
        answer = self._try_port(opening) if may_retry else self._give_up(opening)
        return opening.request, answer

    def end(self, allocation: Allocation, reason: str) -> None:
        """Delete an allocation before its time."""
        self._table.free(allocation)
        self.ended(allocation, reason)

    def ended(self, allocation: Allocation, reason: str) -> None:
        """The table has freed this allocation: its port may be handed out again."""
        self._ports.give_back(allocation.port)
        _log.info("Deleted allocation", extra={"fields": {"port": allocation.port, "reason": reason}})

    def next_deadline(self) -> Instant | None:
        """When ``handle_timeout`` wants to be called."""
        return next(iter(self._reservations.values())).expires_at if self._reservations else None

    def handle_timeout(self, now: Instant) -> None:
        """Close the ports whose tokens nobody has brought."""
        while (deadline := self.next_deadline()) is not None and deadline <= now:
            reservation = self._reservations.pop(next(iter(self._reservations)))
            self._outputs.append(CloseRelayedPort(reservation.port, reservation.families))
            self._ports.give_back(reservation.port)
            self._accounts.close(reservation.account)

    def _split_by_service(
        self, wanted: tuple[AddressFamily, ...]
    ) -> tuple[tuple[AddressFamily, ...], tuple[AddressErrorCode, ...]]:
        """The families that can be given, and what to say of the others."""
        if all(map(self.settings.serves, wanted)):
            return wanted, ()
        code = ErrorCode.ADDRESS_FAMILY_NOT_SUPPORTED
        families = tuple(family for family in wanted if self.settings.serves(family))
        others = (family for family in wanted if family not in families)
        return families, tuple(AddressErrorCode(family, code, REASONS[code]) for family in others)

    def _redeem(self, request: Request, token: ReservationToken) -> Answer:
        """Give the reserved port. Its families are those that were reserved, so none can be asked for."""
        message = request.message
        if any(message.get(kind) for kind in (EvenPort, RequestedAddressFamily, AdditionalAddressFamily)):
            return Refusal(ErrorCode.BAD_REQUEST)
        reservation = self._reservations.get(token.value)
        is_valid = reservation is not None and reservation.expires_at > request.now
        if reservation is None or not is_valid or reservation.username != request.username:
            return Refusal(ErrorCode.INSUFFICIENT_CAPACITY)
        if not self.takes_allocations:
            return self._refuse_full(request)
        del self._reservations[token.value]
        return self._create(request, reservation.port, reservation.families, reservation.account, request.now)

    def _create(
        self, request: Request, port: int, families: tuple[AddressFamily, ...], account: Account, now: Instant
    ) -> tuple[Attribute, ...]:
        lifetime = lifetime_seconds(request)
        allocation = Allocation(
            request.five_tuple,
            port,
            families,
            username=request.username,
            account=account,
            key=request.signature.key,
            channels_only=request.is_firezone,
            expires_at=now + lifetime * SECOND,
        )
        self._table.add(allocation)
        fields = {"port": port, "families": len(families), "lifetime": lifetime}
        _log.info("Created allocation", extra={"fields": fields})
        _log.debug("Allocation belongs to", extra={"fields": {"port": port, "client": request.five_tuple.client}})
        public = self.settings.public
        relayed = [XorRelayedAddress(Endpoint(public[family.version], port)) for family in families]
        return (*relayed, XorMappedAddress(request.five_tuple.client), Lifetime(lifetime))

    def _try_port(self, opening: Opening) -> Answer:
        port = self._ports.take_even(with_next=opening.reserves) if opening.is_even else self._ports.take()
        if port is None:
            return self._give_up(opening)
        opening.port = port
        self._open(opening, port)
        return None

    def _open(self, opening: Opening, port: int) -> None:
        self._openings[port] = opening
        self._outputs.append(OpenRelayedPort(port, opening.families))

    def _give_up(self, opening: Opening) -> Refusal:
        self._give_back_unusable(opening)
        _log.debug("No relayed port could be opened", extra={"fields": {"tried": len(opening.unusable)}})
        return self._refuse_full(opening.request)

    def _give_back_unusable(self, opening: Opening) -> None:
        for port in opening.unusable:
            self._ports.give_back(port)

    def _refuse_full(self, request: Request) -> Refusal:
        """Send the client to the server that stands in for us, if there is one (RFC 8489 §10)."""
        alternate = self.settings.alternate.get(request.five_tuple.client.ip.version)
        if alternate is None:
            return Refusal(ErrorCode.INSUFFICIENT_CAPACITY)
        return Refusal(ErrorCode.TRY_ALTERNATE, (AlternateServer(alternate),))


def lifetime_seconds(request: Request) -> int:
    """What the client wants, but neither less than the default nor more than the maximum (RFC 8656 §7.2)."""
    wanted = request.message.get(Lifetime)
    seconds = DEFAULT_LIFETIME_SECONDS if wanted is None else wanted.seconds
    return max(DEFAULT_LIFETIME_SECONDS, min(seconds, LONGEST_LIFETIME_SECONDS))


def _wanted_families(request: Request) -> tuple[AddressFamily, ...] | Refusal:
    message = request.message
    requested, additional = message.get(RequestedAddressFamily), message.get(AdditionalAddressFamily)
    if additional is None:
        family = AddressFamily.IPV4 if requested is None else requested.family
        return _ALONE.get(family) or Refusal(ErrorCode.ADDRESS_FAMILY_NOT_SUPPORTED)
    even = message.get(EvenPort)
    reserves = even is not None and even.reserve
    if requested is not None or reserves or additional.family is not AddressFamily.IPV6:
        return Refusal(ErrorCode.BAD_REQUEST)
    return AddressFamily.IPV4, AddressFamily.IPV6
