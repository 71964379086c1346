"""All allocations, found by five-tuple and by relayed port, and everything that happens to them with time.

Every change to a channel's ability to relay goes through here and comes out as ``InstallChannel`` or
``RemoveChannel``: what an offload has been told equals what the data path would relay.

Bounds: an allocation holds a port, so there are at most as many as ports; permissions and channels are bounded per
allocation.
"""

from collections import deque
from typing import TypeAlias

from connectivity.clock import Duration, Instant
from connectivity.deadlines import DeadlineQueue
from connectivity.endpoint import Endpoint, IPAddress
from connectivity.stun import AddressFamily
from relay.core.allocation import CHANNEL_LIFETIME, PERMISSION_LIFETIME, Allocation, ChannelBinding
from relay.core.outputs import (
    CloseRelayedPort,
    FiveTuple,
    InstallChannel,
    NoteChannel,
    Output,
    RemoveChannel,
    Transport,
)
from relay.core.quotas import Accounts

# The allocation itself, or one of its permissions or channels.
Subject: TypeAlias = Allocation | tuple[Allocation, IPAddress | ChannelBinding]


class AllocationTable:
    """Owns the allocations; writes what follows from a change to ``outputs``."""

    def __init__(self, outputs: deque[Output], accounts: Accounts) -> None:
        self.by_port: dict[int, Allocation] = {}
        self._by_client: dict[Endpoint, list[Allocation]] = {}
        self._outputs = outputs
        self._accounts = accounts
        self._deadlines: DeadlineQueue[Subject] = DeadlineQueue()
        self._bound_count = 0

    def __len__(self) -> int:
        return len(self.by_port)

    @property
    def bound_channel_count(self) -> int:
        """Channels that are bound now, reserved ones not counted."""
        return self._bound_count

    def get(self, five_tuple: FiveTuple) -> Allocation | None:
        """The allocation of a five-tuple. One hash; a client rarely talks to two addresses of ours."""
        for allocation in self._by_client.get(five_tuple.client, ()):
            if allocation.transport is five_tuple.transport and allocation.server == five_tuple.server:
                return allocation
        return None

    def add(self, allocation: Allocation) -> None:
        """Enter a new allocation; its five-tuple and its port must be free."""
        self.by_port[allocation.port] = allocation
        self._by_client.setdefault(allocation.client, []).append(allocation)
        self._deadlines.schedule(allocation, allocation.expires_at)

    def refresh(self, allocation: Allocation, expires_at: Instant) -> None:
        """Move the end of an allocation; its channels may relay longer by it."""
        allocation.expires_at = expires_at
        self._deadlines.schedule(allocation, expires_at)
        self._project_channels(allocation)

    def free(self, allocation: Allocation) -> None:
        """Delete an allocation with all it holds; its port closes."""
        for binding in list(allocation.channels.values()):
            self._delete(allocation, binding)
        for ip in list(allocation.permissions):
            self.withdraw(allocation, ip)
        self._deadlines.cancel(allocation)
        self._accounts.close(allocation.account)
        del self.by_port[allocation.port]
        siblings = self._by_client[allocation.client]
        siblings.remove(allocation)
        if not siblings:
            del self._by_client[allocation.client]
        self._outputs.append(CloseRelayedPort(allocation.port, allocation.families))

    def free_family(self, allocation: Allocation, family: AddressFamily) -> None:
        """Delete one family of a dual-stack allocation (RFC 8656 §8.2)."""
        for binding in list(allocation.channels.values()):
            if binding.peer.ip.version == family.version:
                self._delete(allocation, binding)
        for ip in [ip for ip in allocation.permissions if ip.version == family.version]:
            self.withdraw(allocation, ip)
        allocation.families = tuple(kept for kept in allocation.families if kept is not family)
        self._outputs.append(CloseRelayedPort(allocation.port, (family,)))

    def permit(
        self, allocation: Allocation, ip: IPAddress, now: Instant, lifetime: Duration = PERMISSION_LIFETIME
    ) -> None:
        """Install or refresh a permission (RFC 8656 §9); one that lives longer by a channel stays as it is."""
        expires_at = max(allocation.permissions.get(ip, 0), now + lifetime)
        allocation.permissions[ip] = expires_at
        self._deadlines.schedule((allocation, ip), expires_at)

    def withdraw(self, allocation: Allocation, ip: IPAddress) -> None:
        """End a permission."""
        del allocation.permissions[ip]
        self._deadlines.cancel((allocation, ip))

    def bind(
        self, allocation: Allocation, number: int, peer: Endpoint, now: Instant, *, is_hairpin: bool = False
    ) -> None:
        """Bind or refresh a channel and permit its peer; the caller has ruled out conflicts (RFC 8656 §12.2)."""
        binding = allocation.channels.get(number)
        if binding is None:
            binding = ChannelBinding(number, peer, is_hairpin=is_hairpin)
            allocation.add_binding(binding)
        self._bound_count += not binding.is_bound
        binding.bind(now)
        self._deadlines.schedule((allocation, binding), binding.deadline)
        self.permit(allocation, peer.ip, now, CHANNEL_LIFETIME)
        self._project(allocation, binding)

    def project_all(self) -> None:
        """Tell the offload anew of all channels."""
        for allocation in self.by_port.values():
            self._project_channels(allocation)

    def _project_channels(self, allocation: Allocation) -> None:
        for binding in allocation.channels.values():
            if binding.is_bound:
                self._project(allocation, binding)

    def revoke(self, allocation: Allocation, binding: ChannelBinding) -> None:
        """Let a channel relay no longer; its number and its peer stay reserved."""
        if binding.is_bound:
            self._expire(allocation, binding)
            self._deadlines.schedule((allocation, binding), binding.deadline)

    def next_deadline(self) -> Instant | None:
        """When ``handle_timeout`` wants to be called."""
        return self._deadlines.next_deadline()

    def handle_timeout(self, now: Instant) -> list[Allocation]:
        """Expire what is due; returns the allocations that ended."""
        ended: list[Allocation] = []
        for subject in self._deadlines.pop_due(now):
            if isinstance(subject, Allocation):
                self.free(subject)
                ended.append(subject)
                continue
            allocation, held = subject
            if not isinstance(held, ChannelBinding):
                del allocation.permissions[held]
            elif held.is_bound:
                self.revoke(allocation, held)
            else:
                allocation.remove_binding(held)
        return ended

    def _delete(self, allocation: Allocation, binding: ChannelBinding) -> None:
        if binding.is_bound:
            self._expire(allocation, binding)
        self._deadlines.cancel((allocation, binding))
        allocation.remove_binding(binding)

    def _expire(self, allocation: Allocation, binding: ChannelBinding) -> None:
        binding.is_bound = False
        self._bound_count -= 1
        self._project(allocation, binding)

    def _project(self, allocation: Allocation, binding: ChannelBinding) -> None:
        """What is relayed over streams, or by an account without a bucket of the offload's, is not installed."""
        binding.relays_until = allocation.relays_until(binding)
        bucket = allocation.account.bucket if allocation.transport is Transport.UDP else None
        if binding.relays_until and bucket is not None:
            binding.is_installed = True
            self._outputs.append(
                InstallChannel(
                    allocation.five_tuple, binding.number, binding.peer, allocation.port, binding.relays_until, bucket
                )
            )
        elif binding.is_installed:
            binding.is_installed = False
            self._outputs.append(RemoveChannel(allocation.five_tuple, binding.number))
        if bucket is None:
            relays = binding.relays_until > 0
            self._outputs.append(NoteChannel(allocation.five_tuple, binding.number, allocation.port, relays))
