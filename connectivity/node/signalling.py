"""Candidates as the peers tell each other of them, through the portal.

Outgoing ones are gathered and leave in one batch, best first: a peer that is not told of a candidate's end goes on to
check it. Incoming ones are read one by one, since a faulty one must cost only itself.
"""

import logging
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from connectivity.clock import Instant
from connectivity.ice import Candidate
from connectivity.ice.candidate import parse
from connectivity.node.events import CandidatesAdded, CandidatesRemoved
from connectivity.turn.channels import COOL_DOWN_NS, LIFETIME_NS

log = logging.getLogger("connectivity.node")

MAX_SIGNALLED_CANDIDATES: Final = 100  # in one message: as many as an agent can pair
_WINDOW: Final = LIFETIME_NS + COOL_DOWN_NS  # after that a relay's channel numbers can be used again
_IN_WINDOW: Final = 256


class Signalling:
    """What the peer was told, and what it is to be told next."""

    def __init__(self, connection_id: str, fields: Mapping[str, object]) -> None:
        """``fields`` name the connection in the log."""
        self._fields = fields
        self._connection_id = connection_id
        self._told: dict[str, Candidate] = {}
        self._to_tell: dict[str, Candidate] = {}
        self._to_revoke: dict[str, Candidate] = {}

    def add(self, candidate: Candidate) -> None:
        """Tell the peer of a candidate."""
        text = candidate.to_text()
        self._to_revoke.pop(text, None)
        self._to_tell[text] = candidate

    def remove(self, candidate: Candidate) -> None:
        """Revoke a candidate, whatever number it was told with; one that was never told is just not told."""
        for text, held in [*self._told.items(), *self._to_tell.items()]:
            if held.kind is candidate.kind and held.address == candidate.address:
                self._to_tell.pop(text, None)
                if self._told.pop(text, None) is not None:
                    self._to_revoke[text] = held

    def repeat(self) -> None:
        """Tell everything again: the peer may have lost its half."""
        self._to_tell = {**self._told, **self._to_tell}

    def drain(self) -> Iterator[CandidatesAdded | CandidatesRemoved]:
        """What is to be said now, revocations first."""
        if self._to_revoke:
            revoked, self._to_revoke = self._to_revoke, {}
            yield CandidatesRemoved(self._connection_id, _by_priority(revoked))
        if self._to_tell:
            fresh, self._to_tell = self._to_tell, {}
            self._told.update(fresh)
            texts = _by_priority(fresh)
            log.debug("Sending candidates", extra={"fields": {**self._fields, "candidates": list(texts)}})
            yield CandidatesAdded(self._connection_id, texts)


class Allowance:
    """Bounds the candidates of a peer: each can take a channel number, which all connections of a relay share."""

    def __init__(self, now: Instant) -> None:
        self._since, self._taken = now, 0

    def is_used_up(self, now: Instant) -> bool:
        """Whether another one is too many."""
        if now - self._since >= _WINDOW:
            self._since, self._taken = now, 0
        return self._taken >= _IN_WINDOW

    def take(self) -> None:
        """One was taken."""
        self._taken += 1


def readable(fields: Mapping[str, object], texts: Sequence[str]) -> Iterator[Candidate]:
    """The candidates of one message that can be used, in their order; ``fields`` name the connection in the log."""
    if len(texts) > MAX_SIGNALLED_CANDIDATES:
        log.info("More candidates than any peer has", extra={"fields": {**fields, "count": len(texts)}})
    for text in texts[:MAX_SIGNALLED_CANDIDATES]:
        try:
            yield parse(text)
        except ValueError as error:
            log.debug("Skipping faulty candidate", extra={"fields": {**fields, "candidate": text, "reason": error}})


def _by_priority(candidates: dict[str, Candidate]) -> tuple[str, ...]:
    return tuple(sorted(candidates, key=lambda text: (-candidates[text].priority, text)))
