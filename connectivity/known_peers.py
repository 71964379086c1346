"""The peers of a tunnel that are connected, by the names under which they were told of: who comes, moves and goes."""

from connectivity.milestones import PathChosen, PeerConnected, PeerLeft, PeerMoved
from connectivity.role import RoleTunnel, TunnelRole


class KnownPeers:
    """Tells each coming and going once."""

    def __init__(self, tunnel: RoleTunnel, role: TunnelRole) -> None:
        self._tunnel = tunnel
        self._role = role
        self._names: dict[str, str] = {}

    def connected(self, peer_id: str) -> None:
        """The first handshake is done."""
        status, name = self._tunnel.node.connection(peer_id), self._role.peer_name(peer_id)
        self._names[peer_id] = name
        if status is not None:
            self._tunnel.tell(PeerConnected(peer_id, name, status.socket, status.round_trip))

    def path_changed(self, peer_id: str) -> None:
        """Packets go another way from now on; of who is not connected yet it is the first one."""
        status, name = self._tunnel.node.connection(peer_id), self._names.get(peer_id)
        if status is None or status.socket is None:
            return
        if name is None:
            self._tunnel.tell(PathChosen(peer_id, status.socket, self._tunnel.node.relay_user(status.socket.relay_id)))
        else:
            self._tunnel.tell(PeerMoved(peer_id, name, status.socket, status.round_trip))

    def left(self, peer_id: str, reason: str) -> None:
        """Told once, and only of who was connected."""
        self._tunnel.unanswered.forget(peer_id)
        name = self._names.pop(peer_id, None)
        if name is not None:
            self._tunnel.tell(PeerLeft(peer_id, name, reason))

    def all_left(self, reason: str) -> None:
        """All connections end."""
        for peer_id in list(self._names):
            self.left(peer_id, reason)
