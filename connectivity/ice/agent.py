"""A full ICE agent for one UDP component (RFC 8445) with trickled candidates (RFC 8838), without any IO.

What differs from the RFC, because both ends of a tunnel live on for days and must find better paths while they do:

- Every pair is checked for its whole life, by both sides; there is no frozen state, no pacing and no end of ICE.
- The controlling side nominates the best pair that succeeded and uses it at once; it nominates anew whenever a better
  one succeeds. Old nominated pairs stay nominated and take over when the current one is lost.
- The controlled side uses the best pair that its peer nominated, whether it succeeded locally or not.
- Roles are fixed by who connects to whom. Role conflicts are not resolved.

Pulled as all cores are: after each ``handle_*``, ``add_*``, ``remove_*`` or ``set_*`` call drain ``poll_transmit`` and
``poll_event``, then arm one timer at ``poll_timeout``. All due checks leave in one wake-up, best pair first.
"""

import logging
from collections import Counter, deque
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Final

from connectivity.clock import Duration, Instant, earliest
from connectivity.endpoint import Endpoint
from connectivity.ice import messages, timing
from connectivity.ice.candidate import RTP_COMPONENT, Candidate, peer_reflexive, peer_reflexive_priority
from connectivity.ice.checklist import CheckList
from connectivity.ice.credentials import IceCredentials
from connectivity.ice.events import AgentState, Event, Nominated, StateChanged
from connectivity.ice.local import LocalCandidates
from connectivity.ice.pair import CandidatePair
from connectivity.ice.policy import CandidateRefusal, refusal
from connectivity.ice.remote import RemoteCandidate, RemoteCandidates
from connectivity.log_fields import OwnedLog
from connectivity.run import Run, Transmit
from connectivity.stun import (
    TRANSACTION_ID_BYTES,
    IceControlled,
    IceControlling,
    Message,
    MessageClass,
    Priority,
    UseCandidate,
)

logger = logging.getLogger(__name__)

TIE_BREAKER_BYTES: Final = 8  # RFC 8445 §16.1


class Agent:
    """One side of one connection; active timing at first."""

    def __init__(
        self,
        *,
        controlling: bool,
        local: IceCredentials,
        remote: IceCredentials,
        rng: Callable[[int], bytes],
        now: Instant,
        owner: Mapping[str, object] = MappingProxyType({}),
    ) -> None:
        """``owner`` names the connection in the log."""
        self._log = OwnedLog(logger, **owner)
        tie_breaker = int.from_bytes(rng(TIE_BREAKER_BYTES), "big")
        self._controlling = controlling
        self._role = IceControlling(tie_breaker) if controlling else IceControlled(tie_breaker)
        self._credentials = local
        self._peer_credentials = remote
        self._rng = rng
        self._timing = timing.ACTIVE
        self._state = AgentState.NEW
        self._checks = CheckList(controlling=controlling)
        self._locals = LocalCandidates(local.username)
        self._remotes = RemoteCandidates(self._checks.uses)
        self._current: CandidatePair | None = None
        self._transmits: deque[Transmit] = deque()
        self._events: deque[Event] = deque()
        self._now = now
        self._wake_at: Instant | None = now
        self._warned = False
        self.answered_at: Instant | None = None  # when a check of ours was answered last
        self.refused: Counter[CandidateRefusal] = Counter()  # candidates of the peer that are not checked

    @property
    def state(self) -> AgentState:
        """The agent's state as of its last wake-up."""
        return self._state

    @property
    def round_trip(self) -> Duration | None:
        """Of the last answered check on the nominated pair; None before one."""
        return None if self._current is None else self._current.round_trip

    @property
    def local_candidates(self) -> tuple[Candidate, ...]:
        """Our live candidates as numbered: host and relayed ones, in order of arrival."""
        return tuple(self._locals.live())

    @property
    def remote_candidates(self) -> tuple[Candidate, ...]:
        """The peer's live candidates: signalled, peer-reflexive and optimistic ones, in order of arrival."""
        return tuple(entry.candidate for entry in self._remotes.live())

    def add_local_candidate(self, candidate: Candidate) -> Candidate | None:
        """Use an address of ours.

        Returns:
            The candidate to signal, with its priority and ufrag; None if it was known, or is of a kind that is only
            ever signalled.
        """
        numbered = self._locals.add(candidate)
        if numbered is None:
            return None
        self._log.debug("Added local candidate", extra={"fields": {"candidate": numbered.to_text()}})
        for entry in list(self._remotes.live()):
            self._form(numbered, entry, self._now)
        return numbered

    def remove_local_candidate(self, candidate: Candidate) -> bool:
        """Stop using an address of ours; its pairs go at once. Returns whether it was in use."""
        numbered = self._locals.discard(candidate)
        if numbered is None:
            return False
        self._log.debug("Discarded local candidate", extra={"fields": {"candidate": numbered.to_text()}})
        self._remove_pairs(lambda pair: pair.local is numbered, self._now)
        return True

    def add_remote_candidate(self, candidate: Candidate, now: Instant) -> bool:
        """Take a signalled candidate of the peer, and perhaps a guess or two that follow from it.

        Returns:
            False if it is of no use: another component or ufrag, known and alive, one too many, or an address that no
            peer may have us send to.
        """
        self._now = now
        if candidate.component != RTP_COMPONENT or candidate.ufrag not in (None, self._peer_credentials.username):
            self._log.debug("Rejected remote candidate", extra={"fields": {"candidate": candidate.to_text()}})
            return False
        reason = refusal(candidate.address, list(self._locals.live()))
        if reason is not None:
            self.refuse(reason, candidate)
            return False
        entry = self._signalled(candidate)
        if entry is None:
            return False
        self._log.debug("Added remote candidate", extra={"fields": {"candidate": candidate.to_text()}})
        self._pair_with_all(entry, now)
        for guessed in self._remotes.guess():
            self._log.debug("Added optimistic candidate", extra={"fields": {"candidate": guessed.candidate.to_text()}})
            self._pair_with_all(guessed, now)
        return True

    def refuse(self, reason: CandidateRefusal, candidate: Candidate) -> None:
        """Count a candidate that is not checked; the first is told, since a peer can name as many as it likes."""
        level = logging.DEBUG if self.refused else logging.INFO
        self.refused[reason] += 1
        fields = {"reason": reason.value, "candidate": candidate.to_text()}
        self._log.log(level, "Not checking a candidate of the peer", extra={"fields": fields})

    def remove_remote_candidate(self, candidate: Candidate, now: Instant) -> bool:
        """The peer invalidated a candidate; its pairs go at once. Returns whether it was in use."""
        self._now = now
        entry = self._remotes.same(candidate)
        if entry is None or entry.discarded:
            return False
        self._log.debug("Discarded remote candidate", extra={"fields": {"candidate": candidate.to_text()}})
        entry.discarded = True
        self._remove_pairs(lambda pair: pair.remote is entry, now)
        twin = self._remotes.at(candidate.address)
        if twin is not None and not twin.discarded:  # the same address under another kind had shared those pairs
            self._pair_with_all(twin, now)
        return True

    def set_idle(self, idle: bool, now: Instant) -> None:
        """Choose between the two timetables; takes effect for the checks that are waiting, too."""
        self._now = now
        self._timing = timing.IDLE if idle else timing.ACTIVE
        for pair in self._checks:
            pair.reschedule(self._timing, now)

    def check_again(self, now: Instant) -> None:
        """Check what is in use beside the timetable: does the peer still answer? Without an answer nothing changes."""
        for pair in self._checks:
            if pair.nominated:
                self._send_check(pair, now, is_extra=True)

    def accepts(self, message: Message) -> bool:
        """Whether a message is for this agent. Pure: several agents may be asked about one message."""
        if message.message_class in (MessageClass.REQUEST, MessageClass.INDICATION):
            return messages.is_check_for(message, self._credentials, self._peer_credentials)
        if self._checks.sent(message.transaction_id) is None:
            return False
        if message.message_class is MessageClass.ERROR:
            return True  # ours, if only to be ignored: no peer makes them
        return messages.is_answer_of(message, self._peer_credentials)

    def handle_message(self, message: Message, *, source: Endpoint, destination: Endpoint, now: Instant) -> None:
        """Take a message that came from ``source`` to our address ``destination``; ignored unless accepted."""
        self._now = now
        if not self.accepts(message):
            return
        if message.message_class is MessageClass.REQUEST:
            self._handle_check(message, source, destination, now)
        elif message.message_class is MessageClass.SUCCESS:
            self._handle_answer(message, source, destination, now)

    def handle_timeout(self, now: Instant) -> None:
        """Remove what failed, choose the path, send what is due, tell the state."""
        self._now = now
        self._wake_at = None
        self._remove_pairs(lambda pair: pair.has_failed(self._timing, now), now)
        self._choose_path(now)
        for pair in self._checks:
            if pair.next_check_at <= now:
                self._send_check(pair, now)
        self._update_state()
        self._wake_at = None

    def poll_timeout(self) -> Instant | None:
        """When ``handle_timeout`` wants to be called; None while there is nothing to check."""
        return earliest(self._wake_at, *(pair.next_check_at for pair in self._checks))

    def poll_transmit(self) -> Transmit | None:
        """The next message to send. A relayed address as source means: over its channel."""
        return self._transmits.popleft() if self._transmits else None

    def poll_event(self) -> Event | None:
        """The next event."""
        return self._events.popleft() if self._events else None

    def _signalled(self, candidate: Candidate) -> RemoteCandidate | None:
        """The entry that ``candidate`` is from now on; None if that changes nothing."""
        entry = self._remotes.same(candidate)
        if entry is not None and not entry.discarded and self._checks.uses(entry):
            if entry.candidate.priority == candidate.priority:
                return None
        elif entry is None:
            entry = self._remotes.provisional_at(candidate.address)
        if entry is None:
            entry = self._remotes.add(candidate)
            if entry is None:
                self._warn("Too many remote candidates")
            return entry
        entry.candidate, entry.provisional, entry.discarded = candidate, False, False
        self._checks.reprioritise(entry)
        return entry

    def _handle_check(self, check: Message, source: Endpoint, destination: Endpoint, now: Instant) -> None:
        nominating = check.get(UseCandidate) is not None
        priority = check.get(Priority)
        local = self._locals.at(destination)
        if local is None or priority is None or (nominating and self._controlling):
            return
        entry = self._remotes.at(source)
        if entry is not None and entry.discarded:
            return
        pair = self._checks.find(local.base, source)
        if pair is None:
            entry = entry or self._discover(source, priority.value)
            pair = self._form(local, entry, now) if entry is not None else None
        self._transmit(destination, source, messages.encode_answer(check, source, self._credentials))
        if pair is None:
            return
        pair.trigger(now)
        if nominating:
            self._nominate(pair, now)

    def _discover(self, source: Endpoint, priority: int) -> RemoteCandidate | None:
        candidate = peer_reflexive(source, source, priority)
        # Something answered from there, so that an address of ours may be a neighbour behind the same translation.
        reason = refusal(source, [local for local in self._locals.live() if local.address.ip != source.ip])
        if reason is not None:
            self.refuse(reason, candidate)
            return None
        entry = self._remotes.add(candidate, provisional=True)
        if entry is None:
            self._warn("Too many remote candidates")
        else:
            self._log.debug("Discovered remote candidate", extra={"fields": {"remote": str(source)}})
        return entry

    def _handle_answer(self, answer: Message, source: Endpoint, destination: Endpoint, now: Instant) -> None:
        pair = self._checks.sent(answer.transaction_id)
        if pair is None or (pair.source, pair.destination) != (destination, source):
            return  # RFC 8445 §7.2.5.2.1: an answer that took another way proves nothing about this pair
        pair.record_answer(answer.transaction_id, self._timing, now)
        self.answered_at = now
        if self._controlling:
            self._choose_path(now)

    def _pair_with_all(self, entry: RemoteCandidate, now: Instant) -> None:
        for local in list(self._locals.live()):
            self._form(local, entry, now)

    def _form(self, local: Candidate, entry: RemoteCandidate, now: Instant) -> CandidatePair | None:
        pair = self._checks.form(local, entry, now)
        if self._checks.overflowed:
            self._warn("Too many candidate pairs")
        self._wake_at = earliest(self._wake_at, now)  # even without a pair: the state may be another one now
        return pair

    def _remove_pairs(self, doomed: Callable[[CandidatePair], bool], now: Instant) -> None:
        removed = self._checks.remove(doomed)
        if self._current in removed:
            self._current = None
        if removed:
            self._wake_at = earliest(self._wake_at, now)
        for pair in removed:
            self._log.debug("Removed candidate pair", extra={"fields": {"pair": str(pair)}})

    def _choose_path(self, now: Instant) -> None:
        """Move to the best pair that succeeded (controlling) or is nominated (controlled); equals do not take turns."""
        usable = (pair for pair in self._checks if (pair.succeeded if self._controlling else pair.nominated))
        best = next(usable, None)
        current = self._current
        if best is None or best is current or (current is not None and best.priority == current.priority):
            return
        self._current = best
        self._nominate(best, now)
        self._events.append(Nominated(best.source, best.destination))
        self._log.debug("Nominated candidate pair", extra={"fields": {"pair": str(best)}})

    def _nominate(self, pair: CandidatePair, now: Instant) -> None:
        """Mark ``pair``; the first check after that does not wait for its turn, which wakes the agent up, too."""
        if not pair.nominated:
            pair.nominated = True
            pair.next_check_at = now

    def _send_check(self, pair: CandidatePair, now: Instant, *, is_extra: bool = False) -> None:
        transaction_id = self._rng(TRANSACTION_ID_BYTES)
        check = messages.encode_check(
            transaction_id,
            local=self._credentials,
            remote=self._peer_credentials,
            role=self._role,
            priority=peer_reflexive_priority(pair.local),
            nominate=self._controlling and pair.nominated,
        )
        if is_extra:
            pair.record_extra(transaction_id, now)
        else:
            pair.record_check(transaction_id, self._timing, now)
        self._transmit(pair.source, pair.destination, check)

    def _transmit(self, source: Endpoint, destination: Endpoint, message: bytes) -> None:
        self._transmits.append(Transmit(source, destination, Run.single(message)))

    def _update_state(self) -> None:
        nominated = any(pair.nominated for pair in self._checks)
        possible = not all(pair.nominated for pair in self._checks) or not len(self._locals) or not len(self._remotes)
        if self._state is AgentState.NEW:
            state = AgentState.CHECKING
        elif nominated:
            state = AgentState.CONNECTED if possible else AgentState.COMPLETED
        else:
            state = AgentState.CHECKING if possible else AgentState.DISCONNECTED
        if state is not self._state:
            self._log.debug("State changed", extra={"fields": {"from": self._state.value, "to": state.value}})
            self._state = state
            self._events.append(StateChanged(state))

    def _warn(self, message: str) -> None:
        if not self._warned:  # a peer can cause it: once per connection is enough
            self._warned = True
            self._log.warning(message)
