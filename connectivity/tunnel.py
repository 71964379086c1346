"""What client and gateway have in common: a node, a flow table, the portal's words about peers, a role that decides.

A role is asked once per flow (``judge_outbound``, ``judge_inbound``). Its verdict is remembered in the flow table and
carried out here for all that follows, run by run.
"""

import logging
from collections import deque
from collections.abc import Callable
from dataclasses import replace

from connectivity import p2p
from connectivity.clock import Instant, WallTime, earliest
from connectivity.endpoint import Endpoint, IPAddress
from connectivity.errors import chain
from connectivity.flow_table import FlowTable, translate
from connectivity.fragment_table import FragmentDrop
from connectivity.ip import icmp, packet
from connectivity.ip.flow import PacketRun
from connectivity.ip.packet import FRAGMENT
from connectivity.ip.protocols import ICMP_PROTOCOLS
from connectivity.known_peers import KnownPeers
from connectivity.milestones import Milestone
from connectivity.node import (
    CandidatesAdded,
    CandidatesRemoved,
    ConnectionClosed,
    ConnectionEstablished,
    ConnectionFailed,
    ConnectionSilent,
    ConnectionStatus,
    NoRelaysError,
    Opened,
    PathChanged,
    Statistics,
    UnknownConnectionError,
    datagrams_of,
)
from connectivity.portal import values
from connectivity.portal.values import mapping, text
from connectivity.role import (
    PEERS_IPV4,
    PEERS_IPV6,
    Action,
    ConfigureTun,
    ReconnectPortal,
    RoleTunnel,
    SendToPortal,
    TunnelDrop,
    TunnelRole,
)
from connectivity.run import Received, Transmit
from connectivity.status import RoleStatus
from connectivity.verdict import Answer, Drop, Forward, Hold, Reflect, Verdict
from connectivity.wireguard import KeyPair

__all__ = [
    "PEERS_IPV4",
    "PEERS_IPV6",
    "Action",
    "ConfigureTun",
    "ReconnectPortal",
    "RoleTunnel",
    "SendToPortal",
    "TunnelCore",
    "TunnelDrop",
    "TunnelRole",
    "is_echo",
    "is_icmp_error",
    "quoted_error",
]

log = logging.getLogger("connectivity.tunnel")


def is_icmp_error(packets: PacketRun) -> bool:
    """Whether this is an ICMP error, which is always a run of one."""
    return packets.flow[1] in ICMP_PROTOCOLS and icmp.is_error(packet.parse(packets.run.data))


def quoted_error(packets: PacketRun) -> icmp.IcmpError | None:
    """The ICMP error that this is, if it quotes a packet that can be told."""
    return icmp.read_error(packet.parse(packets.run.data)) if packets.flow[1] in ICMP_PROTOCOLS else None


def is_echo(packets: PacketRun) -> bool:
    """Whether this is an ICMP echo request or reply."""
    return packets.flow[1] in ICMP_PROTOCOLS and packet.parse(packets.run.data).is_echo


class TunnelCore:
    """A role's tunnel without IO. Runs and transmits that hot calls hand out are borrowed until the next call."""

    def __init__(self, tunnel: RoleTunnel, role: TunnelRole) -> None:
        self._tunnel = tunnel
        self._role = role
        self._data_path = tunnel.node.data_path
        self._data_path.use_flows(tunnel.flows.get)
        self._peers = KnownPeers(tunnel, role)
        self._was_asked = False  # by the data path, in the call that goes on

    @property
    def flows(self) -> FlowTable:
        """What was decided."""
        return self._tunnel.flows

    # Traffic -------------------------------------------------------------------------------------------------------

    def handle_packets(self, packets: PacketRun, now: Instant, errors: list[Exception]) -> Transmit | None:
        """Packets of one flow that the host sends into the tunnel; they may be rewritten in place."""
        transmit = self._data_path.seal(packets, now)
        if transmit is not None:
            return transmit
        tunnel = self._tunnel
        verdict: Verdict | None = tunnel.flows.get(packets.flow)
        if verdict is None:
            verdict = self._judge(None, packets, now)
        if type(verdict) is not Forward:
            self._carry_out(verdict, packets, now, tunnel.write_to_host)
            return None
        if verdict.translation is not None:
            packets = translate(packets, verdict.translation, now)
        try:
            return tunnel.node.seal(verdict.peer_id, packets.run, packets.tos, now)
        except UnknownConnectionError as error:  # gone, and what was decided about its flows is not
            errors.append(error)
            return None

    def handle_batch(
        self, batch: list[PacketRun], now: Instant, send: Callable[[Transmit], None], ask: Callable[[PacketRun], None]
    ) -> None:
        """All that the host had ready, as it came: ``send`` gets what leaves, borrowed for the call.

        ``ask`` gets what has to go through ``handle_packets``; without that nothing has happened to drain.
        """
        self._data_path.seal_batch(batch, now, send, ask)

    def handle_datagrams(
        self,
        received: Received,
        now: Instant,
        wall_now: WallTime,
        sink: Callable[[PacketRun], None],
        errors: list[Exception],
    ) -> bool:
        """Datagrams from the network; ``sink`` gets what the host is to receive, borrowed for the call.

        Returns:
            Whether there may be something to drain.
        """
        self._was_asked = False
        if self._data_path.open(received, now, sink, self, errors):
            return self._was_asked

        def handle_opened(opened: Opened) -> None:
            self._data_path.deliver(opened, now, sink, self, errors)

        refused: list[Exception] = []
        self._tunnel.node.open_others(received, now, wall_now, handle_opened, refused)
        if refused:
            self._handle_refused(received, refused, errors)
        self._handle_node_events()
        return True

    def peer_stirred(self, index: int, now: Instant) -> None:
        """The data path has received something of which a connection wants to know."""
        self._was_asked = True
        self._tunnel.node.peer_stirred(index, now)
        self._handle_node_events()

    def renew_path(self, index: int, now: Instant) -> None:
        """A data path wants to know how to send to a peer from now on."""
        self._tunnel.node.renew_path(index, now)

    def renew_channel(self, server: Endpoint, number: int, now: Instant) -> None:
        """A data path wants to know whether this still is a channel of ours."""
        self._tunnel.node.renew_channel(server, number, now)

    def judge_inbound(self, peer_id: str, packets: PacketRun, now: Instant) -> Forward | None:
        """Packets of a flow that the data path does not know to forward; None: they were seen to."""
        self._was_asked = True
        tunnel = self._tunnel
        verdict: Verdict | None = tunnel.flows.get((peer_id, packets.flow))
        if verdict is None:
            verdict = self._judge_inbound(peer_id, packets, now)
        if isinstance(verdict, Forward):
            return verdict
        if verdict is not None:
            self._carry_out(verdict, packets, now, lambda reply: tunnel.send(peer_id, reply, 0, now))
        self._handle_node_events()
        return None

    def _handle_refused(self, received: Received, refused: list[Exception], errors: list[Exception]) -> None:
        """Datagrams of nobody known: an error, or, where they are to be expected, only counted."""
        if not self._role.expects_strays:
            errors += refused
            return
        self._tunnel.drops[TunnelDrop.STRAY_DATAGRAM] += sum(map(datagrams_of, refused))
        if log.isEnabledFor(logging.DEBUG):
            fields = {"local": received.local, "from": received.remote, "num_bytes": len(received.run.data)}
            for error in refused:
                log.debug("Cannot decapsulate", extra={"fields": fields | {"error": chain(error)}})

    def _judge_inbound(self, peer_id: str, packets: PacketRun, now: Instant) -> Verdict | None:
        """None for a control message: these are handled here and never pass."""
        if p2p.is_control(packets.run.data):  # always a run of one
            self._handle_control(peer_id, packets.run.data, now)
            return None
        return self._judge(peer_id, packets, now)

    def _judge(self, sender: str | None, packets: PacketRun, now: Instant) -> Verdict:
        """Ask the role about a flow of a peer, or of the host (None). A fragment is of its first one's flow."""
        flows = self._tunnel.flows
        if packets.flow[1] == FRAGMENT:
            resolved = self._tunnel.fragments.resolve(sender, packets, now)
            if isinstance(resolved, FragmentDrop):
                return Drop(resolved)
            packets = resolved
            known = flows.get(packets.flow if sender is None else (sender, packets.flow))
            if known is not None:
                return known
        if sender is None:
            verdict = self._role.judge_outbound(packets, now)
        else:
            verdict = self._role.judge_inbound(sender, packets, now)
        if isinstance(verdict, Forward | Reflect | Drop):
            flows.remember(packets.flow if sender is None else (sender, packets.flow), verdict)
        return verdict

    def _carry_out(self, verdict: Verdict, packets: PacketRun, now: Instant, reply: Callable[[bytes], None]) -> None:
        """What does not go on: count it, or send something back."""
        match verdict:
            case Drop(reason):
                self._tunnel.drops[reason] += packets.run.segment_count
            case Answer(answers, reason):
                self._tunnel.drops[reason] += packets.run.segment_count
                for answer in answers:
                    reply(answer)
            case Reflect(translation):
                for segment in translate(packets, translation, now).run.segments():
                    reply(bytes(segment))
            case Forward() | Hold():
                pass

    def _handle_control(self, peer_id: str, message: memoryview, now: Instant) -> None:
        try:
            event = p2p.parse(message)
        except p2p.ControlError as error:
            self._tunnel.drops[TunnelDrop.CONTROL_UNREADABLE] += 1
            fields = {self._role.peer_field: peer_id, "reason": str(error)}
            log.debug("Ignoring control message", extra={"fields": fields})
            return
        if isinstance(event, p2p.Goodbye):
            self._tunnel.node.remove(peer_id, "goodbye")
            self._peers.left(peer_id, "goodbye")
            self._role.forget_peer(peer_id)
        else:
            self._role.handle_control(peer_id, event, now)

    # Portal --------------------------------------------------------------------------------------------------------

    def handle_portal(self, event: str, payload: object, now: Instant, wall_now: WallTime) -> None:
        """A message of the portal.

        Raises:
            MessageError: it cannot be read, or nobody knows such an event.
        """
        node = self._tunnel.node
        match event:
            case "relays_presence":
                gone, servers = values.relays_presence(payload)
                node.update_relays(gone, servers, now)
            case "ice_candidates":
                peer_id, candidates = self._candidates(payload)
                node.add_remote_candidates(peer_id, candidates, now, wall_now)
            case "invalidate_ice_candidates":
                peer_id, candidates = self._candidates(payload)
                node.remove_remote_candidates(peer_id, candidates, now, wall_now)
            case _:
                try:
                    self._role.handle_message(event, payload, now, wall_now)
                except NoRelaysError as error:
                    log.info("Reconnecting to the portal", extra={"fields": {"event": event, "reason": str(error)}})
                    self._tunnel.act(ReconnectPortal())
        self._handle_node_events()

    def _candidates(self, payload: object) -> tuple[str, list[str]]:
        message = mapping(payload)
        return text(message, f"{self._role.peer}_id"), values.candidates(message)

    # Time and output -----------------------------------------------------------------------------------------------

    def handle_timeout(self, now: Instant, wall_now: WallTime) -> None:
        """Run what is due."""
        self._tunnel.fragments.expire(now)
        self._role.handle_timeout(now, wall_now)
        self._tunnel.node.handle_timeout(now, wall_now)
        self._handle_node_events()

    def poll_timeout(self) -> Instant | None:
        """The next deadline."""
        return earliest(self._tunnel.node.poll_timeout(), self._role.poll_timeout())

    def poll_transmit(self) -> Transmit | None:
        """The next datagram of the control path."""
        return self._tunnel.node.poll_transmit()

    def poll_host_packet(self) -> bytes | None:
        """The next IP packet that the host is to receive from the core itself."""
        packets = self._tunnel.host_packets
        return packets.popleft() if packets else None

    def poll_action(self) -> object | None:
        """The next thing to do for the core: an ``Action``, or one of the role's own."""
        actions = self._tunnel.actions
        return actions.popleft() if actions else None

    def reset(self, keys: KeyPair, now: Instant) -> None:
        """Begin anew with other keys, from other sockets. Peers are not told, and the portal knows no old key."""
        tunnel = self._tunnel
        tunnel.actions = deque(action for action in tunnel.actions if not isinstance(action, SendToPortal))
        self._peers.all_left("beginning anew")
        self._role.reset(now)  # what connections there were is still to be seen
        tunnel.node.reset(keys, now)
        tunnel.flows.clear()

    def listen(self, listener: Callable[[Milestone], None]) -> None:
        """Have somebody told of each ``Milestone`` from now on."""
        self._tunnel.tell = listener

    @property
    def public_key(self) -> bytes:
        """Ours, until the next reset."""
        return self._tunnel.node.keys.public

    def relay_addresses(self) -> list[IPAddress]:
        """Where the relays are that are known now."""
        return self._tunnel.node.relay_addresses()

    def close(self, now: Instant) -> None:
        """Say goodbye on every connection; the transmits that are left are the last ones but for the relays'."""
        for connection in self.connections():
            self._tunnel.dismiss(connection.peer_id, now)
            self._role.forget_peer(connection.peer_id)
        self._handle_node_events()

    def leave_relays(self, now: Instant) -> None:
        """Give back what the relays lend us, once every goodbye has left: some lead through them."""
        self._tunnel.node.leave_relays(now)

    def connections(self) -> list[ConnectionStatus]:
        """What to show."""
        return self._tunnel.node.connections()

    def status(self) -> RoleStatus:
        """What the role has to show beside its connections."""
        return self._role.status()

    def statistics(self) -> Statistics:
        """What to count."""
        counted, drops = self._tunnel.node.statistics(), self._tunnel.drops
        return replace(
            counted,
            waiting_packets=counted.waiting_packets + self._role.waiting_packets,
            flow_drops={reason: drops[reason] for reason in (*TunnelDrop, *FragmentDrop, *self._role.reasons)},
        )

    # Private -------------------------------------------------------------------------------------------------------

    def _handle_node_events(self) -> None:
        node = self._tunnel.node
        while (event := node.poll_event()) is not None:
            match event:
                case CandidatesAdded(peer_id, candidates):
                    self._signal("broadcast_ice_candidates", peer_id, candidates)
                case CandidatesRemoved(peer_id, candidates):
                    self._signal("broadcast_invalidated_ice_candidates", peer_id, candidates)
                case ConnectionFailed(peer_id, reason):
                    self._peers.left(peer_id, reason)
                    self._role.peer_failed(peer_id)
                case ConnectionSilent(peer_id, at):
                    self._role.peer_silent(peer_id, at)
                case ConnectionEstablished(peer_id):
                    self._peers.connected(peer_id)
                case PathChanged(peer_id):
                    self._peers.path_changed(peer_id)
                case ConnectionClosed(peer_id):
                    self._peers.left(peer_id, "closed by us")

    def _signal(self, event: str, peer_id: str, candidates: tuple[str, ...]) -> None:
        payload = {f"{self._role.peer}_ids": [peer_id], "candidates": list(candidates)}
        self._tunnel.act(SendToPortal(event, payload))
