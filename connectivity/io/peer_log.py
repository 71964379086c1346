"""The lines that tell people who came, moved and left: ``laptop → gateway-1, direct over IPv4, 15 ms``."""

import logging
from typing import Final

from connectivity.clock import MILLISECOND, Duration
from connectivity.milestones import Milestone, PeerConnected, PeerLeft, PeerMoved, path_words

log = logging.getLogger("connectivity.peers")

_SHORT_ID: Final = 8


class PeerLog:
    """The end of one service's tunnels: a client's name comes first, whoever tells of it."""

    def __init__(self, own_name: str, peer_field: str) -> None:
        self._own_name = own_name
        self._peer_field = peer_field

    def tell(self, milestone: Milestone) -> None:
        """Write the line, if it is one of these three; the rest is for traces."""
        match milestone:
            case PeerConnected(peer_id, name, path, round_trip):
                words = f"{path_words(path)}{_rounded(round_trip)}"
                log.info("%s → %s, %s", *self._ends(peer_id, name), words, extra=self._fields(peer_id))
            case PeerMoved(peer_id, name, path, round_trip):
                words = f"{path_words(path)}{_rounded(round_trip)}"
                log.info("%s → %s, now %s", *self._ends(peer_id, name), words, extra=self._fields(peer_id))
            case PeerLeft(peer_id, name, reason):
                log.info("%s → %s, left: %s", *self._ends(peer_id, name), reason, extra=self._fields(peer_id))
            case _:
                pass

    def _ends(self, peer_id: str, name: str) -> tuple[str, str]:
        peer = name or peer_id[:_SHORT_ID]
        return (self._own_name, peer) if self._peer_field == "gid" else (peer, self._own_name)

    def _fields(self, peer_id: str) -> dict[str, dict[str, str]]:
        return {"fields": {self._peer_field: peer_id}}


def _rounded(round_trip: Duration | None) -> str:
    if round_trip is None:
        return ""
    return ", below 1 ms" if round_trip < MILLISECOND else f", {round(round_trip / MILLISECOND)} ms"
