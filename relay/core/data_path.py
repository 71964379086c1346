"""Relayed data, both ways (RFC 8656 §11.2, §11.3, §12.6, §12.7).

The unit is the run: one lookup and one copy per run of a channel, whatever number of datagrams it holds. Data that a
client sends to a relayed address of this relay is handed to that allocation here (hairpin): no packet to ourselves
leaves the host, and nothing else of the host can be reached that way.

Permissions are checked before data moves, at every run, and so is the policy where no channel was let through by it.
Bandwidth is spent by the client that sends and by the one that receives. What goes nowhere is counted under a reason.
"""

from collections.abc import Callable, Iterator
from typing import Final, NamedTuple

from connectivity.clock import Instant
from connectivity.endpoint import Endpoint
from connectivity.run import Run, Transmit
from connectivity.stun import (
    TRANSACTION_ID_BYTES,
    Data,
    DontFragment,
    Icmp,
    Message,
    MessageClass,
    Method,
    XorPeerAddress,
    encode,
)
from relay.core import channel_runs
from relay.core.allocation import Allocation, ChannelBinding
from relay.core.configuration import ServerSettings
from relay.core.icmp import IcmpError, attribute_of, is_relayed
from relay.core.outputs import FiveTuple, Relayed, ToClient, ToPeer, Transport
from relay.core.peer_access import PeerAccess
from relay.core.quotas import Accounts
from relay.core.statistics import Direction, DropReason, IcmpFate, Statistics
from relay.core.table import AllocationTable

# XOR-PEER-ADDRESS and DATA leave this much of the largest datagram for the payload: more goes by a channel only.
_LARGEST_INDICATED: Final = 65_000


class Channel(NamedTuple):
    """A binding with its allocation. It may be kept: once it has ended it relays no longer."""

    allocation: Allocation
    binding: ChannelBinding


class DataPath:
    """Moves data by the state of the table; changes none of it."""

    def __init__(
        self,
        settings: ServerSettings,
        table: AllocationTable,
        peer_access: PeerAccess,
        accounts: Accounts,
        statistics: Statistics,
        rng: Callable[[int], bytes],
    ) -> None:
        self.settings = settings
        self._table = table
        self._peer_access = peer_access
        self._accounts = accounts
        self._statistics = statistics
        self._rng = rng
        self._stripped = memoryview(bytearray(channel_runs.SCRATCH_BYTES))
        self._framed = memoryview(bytearray(channel_runs.SCRATCH_BYTES))

    def relay_channel(
        self, five_tuple: FiveTuple, messages: channel_runs.ChannelRun, tos: int, now: Instant
    ) -> Iterator[Relayed]:
        """ChannelData from a client (RFC 8656 §12.6)."""
        allocation = self._table.get(five_tuple)
        if allocation is None:
            self._statistics.drops[DropReason.NO_ALLOCATION] += messages.messages
            return
        binding = allocation.channels.get(messages.number)
        if binding is None or binding.relays_until <= now:
            self._statistics.drops[DropReason.NO_CHANNEL] += messages.messages
            return
        payloads = channel_runs.strip(messages, self._stripped)
        if self._accounts.is_metered:
            payloads = self._accounts.admit(allocation.account, Direction.TO_PEER, payloads, now)
            if not payloads.segment_count:
                return
        if binding.is_hairpin:
            yield from self._hairpin(allocation, binding.peer, payloads, tos, now)
            return
        self._count(allocation, Direction.TO_PEER, payloads)
        yield ToPeer(allocation.port, Transmit(None, binding.peer, payloads, tos))

    def relay_send(self, five_tuple: FiveTuple, message: Message, tos: int, now: Instant) -> Iterator[Relayed]:
        """A Send indication (RFC 8656 §11.2)."""
        peer, data = message.get(XorPeerAddress), message.get(Data)
        if peer is None or data is None or not peer.endpoint.port or message.unknown_required:
            self._statistics.drops[DropReason.MALFORMED_INDICATION] += 1
            return
        allocation = self._table.get(five_tuple)
        if allocation is None:
            self._statistics.drops[DropReason.NO_ALLOCATION] += 1
        elif not allocation.is_permitted(peer.endpoint.ip, now):
            self._statistics.drops[DropReason.NO_PERMISSION] += 1
        elif self._peer_access.refusal(peer.endpoint) is not None:
            self._statistics.drops[DropReason.PEER_REFUSED] += 1
        else:
            run = Run.single(data.value)
            if self._accounts.is_metered:
                run = self._accounts.admit(allocation.account, Direction.TO_PEER, run, now)
                if not run.segment_count:
                    return
            if self._peer_access.is_hairpin(peer.endpoint):
                yield from self._hairpin(allocation, peer.endpoint, run, tos, now)
                return
            self._count(allocation, Direction.TO_PEER, run)
            transmit = Transmit(None, peer.endpoint, run, tos)
            yield ToPeer(allocation.port, transmit, dont_fragment=message.get(DontFragment) is not None)

    def relay_from_peer(self, port: int, peer: Endpoint, run: Run, tos: int, now: Instant) -> Iterator[Relayed]:
        """Datagrams that arrived at a relayed address (RFC 8656 §11.3, §12.7)."""
        allocation = self._table.by_port.get(port)
        if allocation is None:
            self._statistics.drops[DropReason.NO_ALLOCATION] += run.segment_count
            return
        yield from self._deliver(allocation, peer, run, tos, now)

    def relay_icmp(self, port: int, icmp: IcmpError, now: Instant) -> Iterator[Relayed]:
        """An ICMP error about a datagram that we sent from a relayed address (RFC 8656 §11.5)."""
        allocation = self._table.by_port.get(port)
        if (
            allocation is None
            or not is_relayed(icmp)
            or self._refuse_indications(allocation, icmp.peer, now) is not None
        ):
            self._statistics.icmp_errors[IcmpFate.DROPPED] += 1
            return
        self._statistics.icmp_errors[IcmpFate.RELAYED] += 1
        yield from self._indicate(allocation, icmp.peer, attribute_of(icmp), 0)

    def _hairpin(self, sender: Allocation, peer: Endpoint, run: Run, tos: int, now: Instant) -> Iterator[Relayed]:
        """Hand data from one client to another as if it had come in at the other's relayed address."""
        receiver = self._peer_access.receiver(peer)
        relayed_ip = self.settings.public.get(peer.ip.version)
        if receiver is None or relayed_ip is None:
            self._statistics.drops[DropReason.PEER_REFUSED] += run.segment_count
            return
        yield from self._deliver(receiver, Endpoint(relayed_ip, sender.port), run, tos, now, sender)

    def _deliver(
        self,
        allocation: Allocation,
        peer: Endpoint,
        run: Run,
        tos: int,
        now: Instant,
        sender: Allocation | None = None,
    ) -> Iterator[Relayed]:
        """To the client by the peer's channel, else by Data indications, if the client lets this peer in.

        ``sender`` is the peer where it is a client of ours. The relay's totals count that once, as data to a client.
        """
        binding = allocation.channels_by_peer.get(peer)
        if binding is not None and binding.relays_until <= now:
            binding = None
        reason = self._refuse_indications(allocation, peer, now) if binding is None else None
        if reason is None and binding is None and run.segment_size > _LARGEST_INDICATED:
            reason = DropReason.TOO_LARGE
        if reason is not None:
            self._statistics.drops[reason] += run.segment_count
            return
        if self._accounts.is_metered:
            run = self._accounts.admit(allocation.account, Direction.TO_CLIENT, run, now)
            if not run.segment_count:
                return
        if sender is not None:
            sender.to_peer.add(run.segment_count, len(run.data))
        self._count(allocation, Direction.TO_CLIENT, run)
        if binding is None:
            for datagram in run.segments():
                yield from self._indicate(allocation, peer, Data(bytes(datagram)), tos)
            return
        frame = channel_runs.frame if allocation.transport is Transport.UDP else channel_runs.frame_padded
        framed = frame(run, binding.number, self._framed)
        yield ToClient(Transmit(allocation.server, allocation.client, framed, tos), allocation.transport)

    def _refuse_indications(self, allocation: Allocation, peer: Endpoint, now: Instant) -> DropReason | None:
        """Why what comes from this peer by no channel is dropped."""
        if allocation.channels_only:
            return DropReason.NO_CHANNEL
        if not allocation.is_permitted(peer.ip, now):
            return DropReason.NO_PERMISSION
        return None if self._peer_access.refusal(peer) is None else DropReason.PEER_REFUSED

    def _indicate(self, allocation: Allocation, peer: Endpoint, content: Data | Icmp, tos: int) -> Iterator[ToClient]:
        """A Data indication (RFC 8656 §11.3, §11.5)."""
        transaction_id = self._rng(TRANSACTION_ID_BYTES)
        encoded = encode(Method.DATA, MessageClass.INDICATION, transaction_id, (XorPeerAddress(peer), content))
        transmit = Transmit(allocation.server, allocation.client, Run.single(encoded), tos)
        yield ToClient(transmit, allocation.transport)

    def channel_to_peer(self, five_tuple: FiveTuple, number: int) -> Channel | None:
        """What the datagrams of a client over UDP go by, if they leave this relay."""
        allocation = self._table.get(five_tuple)
        binding = None if allocation is None else allocation.channels.get(number)
        if allocation is None or binding is None or binding.is_hairpin:
            return None
        return Channel(allocation, binding)

    def channel_to_client(self, port: int, peer: Endpoint) -> Channel | None:
        """What datagrams from a peer to a relayed port go by, if the client is one over UDP."""
        allocation = self._table.by_port.get(port)
        if allocation is None or allocation.transport is not Transport.UDP:
            return None
        binding = allocation.channels_by_peer.get(peer)
        return None if binding is None else Channel(allocation, binding)

    def lets_pass(self, channel: Channel, direction: Direction, size: int, segment: int, now: Instant) -> bool:
        """Whether so many bytes, one datagram or a run of segments, may go by this channel now.

        Then their tokens are taken, and they are still to be counted. If not (the channel has ended, is between two of
        our clients now, or has too few tokens), they have to come here.
        """
        binding, accounts = channel.binding, self._accounts
        if binding.relays_until <= now or binding.is_hairpin:
            return False
        return not accounts.is_metered or accounts.spends(channel.allocation.account, direction, size, segment, now)

    def returns_tokens(self, channel: Channel, direction: Direction, size: int) -> None:
        """What ``lets_pass`` has let pass at this moment has not gone."""
        if self._accounts.is_metered:
            self._accounts.gives_back(channel.allocation.account, direction, size)

    def count_passed(self, direction: Direction, packets: int, size: int) -> None:
        """So many bytes have passed in so many packets; each allocation's own are counted already."""
        self._statistics.moved[direction].add(packets, size)

    def _count(self, allocation: Allocation, direction: Direction, run: Run) -> None:
        packets, size = run.segment_count, len(run.data)
        allocation.moved(direction).add(packets, size)
        self._statistics.moved[direction].add(packets, size)
