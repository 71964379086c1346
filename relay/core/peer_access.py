"""Whether a client may exchange data with a peer: the one place that every way to a peer asks.

CreatePermission, ChannelBind, Send and Data indications and data between two of our clients all come here, and no
channel is installed in an offload before it was asked. To the policy's word on addresses and ports it adds what only
the server knows: of the relay's own addresses a port is a peer while it is an allocation's (RFC 8656 leaves that open;
browsers of one relay must meet, its host stays closed), and a port that we listen on never is, or the relay would talk
to itself.
"""

from connectivity.endpoint import Endpoint, IPAddress
from relay.core.allocation import Allocation
from relay.core.configuration import ServerSettings
from relay.core.peers import PeerRefusal, Refused
from relay.core.table import AllocationTable


class PeerAccess:
    """Judges by the settings' policy and by the allocations that live at that moment."""

    def __init__(self, settings: ServerSettings, table: AllocationTable) -> None:
        self.settings = settings
        self._table = table

    def refusal(self, peer: Endpoint) -> PeerRefusal | None:
        """Why no data may go to this peer or come from it, now."""
        kind = self.settings.policy.refusal(peer)
        if kind is Refused.OWN and self.receiver(peer) is not None:
            return None
        if kind is None and peer.port in self.settings.listen_ports and peer.ip in self.settings.policy.own:
            return Refused.OWN
        return kind

    def permission_refusal(self, peer: Endpoint) -> PeerRefusal | None:
        """Why there can be no permission for this peer. Its port counts for our own addresses only."""
        if self.settings.policy.is_own(peer):
            return self.refusal(peer)
        return self.settings.policy.permission_refusal(peer.ip)

    def is_hairpin(self, peer: Endpoint) -> bool:
        """Whether data for this peer is handed over inside the relay."""
        return self.settings.policy.is_own(peer)

    def receiver(self, peer: Endpoint) -> Allocation | None:
        """The allocation that has this as a relayed address; the caller knows that the address is ours."""
        allocation = self._table.by_port.get(peer.port)
        return allocation if allocation is not None and allocation.has_family_of(peer.ip) else None

    def enforce(self) -> None:
        """End the permissions and channels that would be refused now."""
        for allocation in self._table.by_port.values():
            for binding in allocation.channels.values():
                if self.refusal(binding.peer) is not None:
                    self._table.revoke(allocation, binding)
                binding.is_hairpin = self.is_hairpin(binding.peer)
            for ip in [ip for ip in allocation.permissions if self._ends(ip)]:
                self._table.withdraw(allocation, ip)

    def _ends(self, ip: IPAddress) -> bool:
        # Of our own addresses the port decides, which each datagram is asked for.
        return self.settings.policy.permission_refusal(ip) not in {None, Refused.OWN}
