"""What people are shown of an allocation: a copy that no longer changes."""

from dataclasses import dataclass

from connectivity.clock import Instant
from connectivity.endpoint import Endpoint, IPAddress
from connectivity.stun import AddressFamily
from relay.core.allocation import Allocation
from relay.core.outputs import FiveTuple


@dataclass(frozen=True, slots=True)
class ChannelView:
    """A channel that is bound."""

    number: int
    peer: Endpoint
    expires_at: Instant


@dataclass(frozen=True, slots=True)
class AllocationView:
    """``user`` is whom quotas count. Packets and bytes are those that this process relayed, and those that an offload
    relayed for channels that have ended.

    ``flows`` names what an offload may have relayed besides: five-tuple and channel.
    """

    port: int
    families: tuple[AddressFamily, ...]
    five_tuple: FiveTuple
    username: str
    user: str
    expires_at: Instant
    permissions: tuple[tuple[IPAddress, Instant], ...]
    channels: tuple[ChannelView, ...]
    to_peer_packets: int
    to_peer_bytes: int
    to_client_packets: int
    to_client_bytes: int

    @property
    def flows(self) -> tuple[tuple[FiveTuple, int], ...]:
        """The keys under which an offload counts."""
        return tuple((self.five_tuple, channel.number) for channel in self.channels)


def view_of(allocation: Allocation) -> AllocationView:
    """The allocation as it is now."""
    return AllocationView(
        port=allocation.port,
        families=allocation.families,
        five_tuple=allocation.five_tuple,
        username=allocation.username,
        user=allocation.account.user,
        expires_at=allocation.expires_at,
        permissions=tuple(allocation.permissions.items()),
        channels=tuple(
            ChannelView(binding.number, binding.peer, binding.bound_until)
            for binding in allocation.channels.values()
            if binding.is_bound
        ),
        to_peer_packets=allocation.to_peer.packets,
        to_peer_bytes=allocation.to_peer.size,
        to_client_packets=allocation.to_client.packets,
        to_client_bytes=allocation.to_client.size,
    )
