"""The egresses of one offload: which self-tests are due, and what becomes of their findings."""

import logging
from collections.abc import Callable, Iterable, Sequence
from typing import Final, NamedTuple

from connectivity.clock import Instant
from ebpf import netlink
from ebpf.netlink import Interface, KnownHop
from ebpf.verdict import EgressState, Finding, Verdict

_WARNINGS: Final[dict[EgressState, str]] = {
    "swallows": "frames vanish, flows stay in user space",
    "silent": "no next hop answers, flows stay in user space",
}

_log = logging.getLogger("ebpf")


class Tested(NamedTuple):
    """One self-test: whom it asked, and what it found."""

    name: str
    asked: tuple[KnownHop, ...]
    finding: Finding


class Egresses:
    """A verdict for each interface. ``run_tests`` may be called by another thread while nothing else is called."""

    def __init__(self, names: Iterable[str]) -> None:
        self._verdicts = {name: Verdict() for name in names}

    def states(self) -> dict[str, EgressState]:
        """By interface."""
        return {name: verdict.state for name, verdict in self._verdicts.items()}

    def may_carry(self, name: str) -> bool:
        """Whether flows may leave by it."""
        return self._verdicts[name].may_carry

    def handle_gone(self, name: str) -> None:
        """The interface is no more."""
        self._verdicts[name].handle_gone()

    def handle_return(self, name: str) -> None:
        """It is there again, with the program on it."""
        self._verdicts[name].handle_return()

    def run_tests(
        self,
        interfaces: Sequence[Interface],
        examine: Callable[[Interface, list[KnownHop]], Finding],
        now: Instant,
    ) -> list[Tested]:
        """Run the self-tests that are due."""
        tests = []
        for interface in interfaces:
            try:
                hops = netlink.known_next_hops(interface.index)
            except OSError:
                continue  # gone again, as the next look will say
            if self._verdicts[interface.name].is_due(hops, now):
                tests.append(Tested(interface.name, tuple(hops), examine(interface, hops)))
        return tests

    def without_tests(self) -> list[Tested]:
        """Where there is nothing to test: as if nobody could be asked."""
        return [Tested(name, (), Finding.NOBODY) for name, state in self.states().items() if state == "untested"]

    def take(self, tests: Iterable[Tested], now: Instant) -> bool:
        """Act on what tests found; returns whether an egress may carry flows now that could not, or the reverse."""
        before = [verdict.may_carry for verdict in self._verdicts.values()]
        for test in tests:
            verdict = self._verdicts[test.name]
            known = verdict.state
            if known == "absent" or not verdict.handle_finding(test.finding, test.asked, now):
                continue
            if verdict.state in _WARNINGS:
                _log.warning(_WARNINGS[verdict.state], extra={"fields": {"egress": test.name}})
            elif known != "untested":
                _log.info("an egress may carry flows", extra={"fields": {"egress": test.name, "test": verdict.state}})
        return before != [verdict.may_carry for verdict in self._verdicts.values()]
