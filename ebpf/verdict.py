"""Whether flows may leave by an egress: a state machine over what its self-tests found. No clock, no socket.

    untested ──> verified     a next hop answered what the program sent
             ──> swallows     next hops answer what the stack sends, but not what the program sends
             ──> silent       nobody answers anything, as at boot before the next hop is up
             ──> unverified   nobody to ask
             absent           the interface is gone

Nothing is decided for good. What is not verified is tested again, ever later up to a limit, and at once when a next hop
appears that was not asked, or answers the kernel where it had not. What is verified is looked at again as well, and
loses that only by failing several times in a row, because a lost frame is no proof. Flows leave by a verified egress,
and by one where nobody can be asked.
"""

from collections.abc import Iterable
from enum import Enum
from typing import Final, Literal, TypeAlias

from connectivity.clock import SECOND, Instant
from ebpf.netlink import KnownHop

EgressState: TypeAlias = Literal["untested", "verified", "swallows", "silent", "unverified", "absent"]

# Implementation constants.
FIRST_RETRY: Final = 5 * SECOND  # as often as the host is looked at
LAST_RETRY: Final = 60 * SECOND  # a test costs a few broadcasts
RECHECK: Final = 60 * SECOND  # the far end of a verified egress may change
FAILURES_TO_DOUBT: Final = 3


class Finding(Enum):
    """What one self-test found."""

    ANSWERED = "answered"
    SWALLOWED = "swallowed"
    SILENT = "silent"
    NOBODY = "nobody"


_STATES: Final[dict[Finding, EgressState]] = {
    Finding.ANSWERED: "verified",
    Finding.SWALLOWED: "swallows",
    Finding.SILENT: "silent",
    Finding.NOBODY: "unverified",
}


class Verdict:
    """What is known of one egress, and when to test it next."""

    def __init__(self) -> None:
        self.state: EgressState = "untested"
        self._due: Instant | None = 0
        self._failures = 0
        self._asked: frozenset[KnownHop] = frozenset()

    @property
    def may_carry(self) -> bool:
        """Whether flows may leave by it."""
        return self.state in ("verified", "unverified")

    def handle_gone(self) -> None:
        """The interface is no more."""
        self.state, self._due = "absent", None

    def handle_return(self) -> None:
        """An interface of that name has the program again: nothing is known of it."""
        self.state, self._due, self._failures, self._asked = "untested", 0, 0, frozenset()

    def handle_finding(self, finding: Finding, asked: Iterable[KnownHop], now: Instant) -> bool:
        """Take over what a test found when it asked these; returns whether the state is another now."""
        before = self.state
        self._asked = frozenset(asked)
        if finding is Finding.ANSWERED:
            self.state, self._failures, self._due = "verified", 0, now + RECHECK
            return self.state != before
        self._failures += 1
        self._due = now + min(FIRST_RETRY << min(self._failures - 1, 10), LAST_RETRY)
        if before != "verified" or (finding is Finding.SWALLOWED and self._failures >= FAILURES_TO_DOUBT):
            self.state = _STATES[finding]
        return self.state != before

    def is_due(self, next_hops: Iterable[KnownHop], now: Instant) -> bool:
        """Whether to test now, given whom it could ask."""
        if self._due is None:
            return False
        is_news = self.state != "verified" and not self._asked.issuperset(next_hops)
        return is_news or now >= self._due

    def poll_timeout(self) -> Instant | None:
        """When it is tested next, if no next hop appears before."""
        return self._due
