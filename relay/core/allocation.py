"""One allocation with its permissions and channels (RFC 8656 §3.2, §9, §12).

The permission that comes with a channel lives as long as the binding: with 300 s, as the standard has it, clients that
refresh their channels late and nothing else (Firezone's) would lose data every ten minutes. So a live binding always
has its permission, and relays while it and the allocation live. ``channels_only`` says that the client knows no Data
indications (Firezone's): what comes to it by no channel is dropped. ``key`` is the one that its client proved to know
last.

Invariants: within an allocation, channel numbers and peers map to each other one to one, reserved bindings included;
``ChannelBinding.relays_until`` is never later than the binding, the permission of its peer or the allocation.
"""

from typing import Final

from connectivity.clock import SECOND, Duration, Instant
from connectivity.endpoint import Endpoint, IPAddress
from connectivity.stun import AddressFamily
from relay.core.outputs import FiveTuple
from relay.core.quotas import Account
from relay.core.statistics import Direction, Volume

# Specification constants (RFC 8656 §9, §12); a channel's permission deviates, see above.
PERMISSION_LIFETIME: Final[Duration] = 300 * SECOND
CHANNEL_LIFETIME: Final[Duration] = 600 * SECOND
CHANNEL_RESERVATION: Final[Duration] = 300 * SECOND
# Implementation constants: the count that RFC 8656's channel range gives. The next one is refused with 508.
MOST_CHANNELS: Final = 4096
MOST_PERMISSIONS: Final = 4096


class ChannelBinding:
    """A channel number bound to a peer.

    ``relays_until`` is what the data path checks; ``is_hairpin`` says that the peer is a relayed address of ours,
    ``is_installed`` that an offload was told about the binding.
    """

    __slots__ = (
        "bound_until",
        "is_bound",
        "is_hairpin",
        "is_installed",
        "number",
        "peer",
        "relays_until",
        "reserved_until",
    )

    def __init__(self, number: int, peer: Endpoint, *, is_hairpin: bool = False) -> None:
        self.number = number
        self.peer = peer
        self.is_hairpin = is_hairpin
        self.is_bound = False
        self.is_installed = False
        self.bound_until: Instant = 0
        self.reserved_until: Instant = 0
        self.relays_until: Instant = 0

    def bind(self, now: Instant) -> None:
        """Bind for the full life, or refresh."""
        self.is_bound = True
        self.bound_until = now + CHANNEL_LIFETIME
        self.reserved_until = self.bound_until + CHANNEL_RESERVATION

    @property
    def deadline(self) -> Instant:
        """When the next thing happens to it by itself."""
        return self.bound_until if self.is_bound else self.reserved_until


class Allocation:
    """What one client holds: a port, its families, permissions and channels."""

    __slots__ = (
        "account",
        "channels",
        "channels_by_peer",
        "channels_only",
        "client",
        "expires_at",
        "families",
        "five_tuple",
        "key",
        "permissions",
        "port",
        "server",
        "to_client",
        "to_peer",
        "transport",
        "username",
    )

    def __init__(
        self,
        five_tuple: FiveTuple,
        port: int,
        families: tuple[AddressFamily, ...],
        *,
        username: str,
        account: Account,
        key: bytes,
        channels_only: bool,
        expires_at: Instant,
    ) -> None:
        self.five_tuple = five_tuple
        self.client, self.server, self.transport = five_tuple
        self.port = port
        self.families = families
        self.username = username
        self.account = account
        self.key = key
        self.channels_only = channels_only
        self.expires_at = expires_at
        self.permissions: dict[IPAddress, Instant] = {}
        self.channels: dict[int, ChannelBinding] = {}
        self.channels_by_peer: dict[Endpoint, ChannelBinding] = {}
        self.to_peer = Volume()
        self.to_client = Volume()

    def add_binding(self, binding: ChannelBinding) -> None:
        """Enter a new binding into both indices."""
        self.channels[binding.number] = binding
        self.channels_by_peer[binding.peer] = binding

    def remove_binding(self, binding: ChannelBinding) -> None:
        """Take a binding out of both indices."""
        del self.channels[binding.number], self.channels_by_peer[binding.peer]

    def moved(self, direction: Direction) -> Volume:
        """What it has moved so far."""
        return self.to_peer if direction is Direction.TO_PEER else self.to_client

    def has_family_of(self, ip: IPAddress) -> bool:
        """Whether peers of this IP version can be reached."""
        return any(family.version == ip.version for family in self.families)

    def is_permitted(self, ip: IPAddress, now: Instant) -> bool:
        """Whether a live permission for this peer address exists; none outlives the allocation."""
        return self.permissions.get(ip, 0) > now and self.expires_at > now

    def relays_until(self, binding: ChannelBinding) -> Instant:
        """How long this binding may relay as things stand."""
        return min(binding.bound_until, self.expires_at) if binding.is_bound else 0
