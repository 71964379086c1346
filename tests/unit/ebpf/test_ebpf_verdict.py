"""What becomes of an egress under self-tests that are lost, come late, or are never answered; in virtual time."""

from ipaddress import ip_address
from typing import Final

from connectivity.clock import SECOND
from ebpf.netlink import KnownHop
from ebpf.verdict import FAILURES_TO_DOUBT, FIRST_RETRY, LAST_RETRY, RECHECK, Finding, Verdict

HOP: Final = KnownHop(ip_address("192.0.2.254"), has_answered=False)
OTHER: Final = KnownHop(ip_address("192.0.2.253"), has_answered=False)


def test_a_next_hop_that_answers_late_is_asked_until_it_does() -> None:
    verdict, now = Verdict(), 0
    assert verdict.is_due([HOP], now)
    assert not verdict.may_carry
    waits: list[int] = []
    for _ in range(6):
        assert verdict.handle_finding(Finding.SILENT, [HOP], now) == (not waits)
        assert (verdict.state, verdict.may_carry) == ("silent", False)
        due = verdict.poll_timeout()
        assert due is not None
        assert not verdict.is_due([HOP], due - 1)
        assert verdict.is_due([HOP], due)
        waits.append(due - now)
        now = due
    assert waits == [FIRST_RETRY * factor for factor in (1, 2, 4, 8)] + [LAST_RETRY] * 2
    assert verdict.handle_finding(Finding.ANSWERED, [HOP], now)
    assert (verdict.state, verdict.may_carry) == ("verified", True)


def test_frames_that_vanish_are_no_reason_to_give_up() -> None:
    verdict = Verdict()
    assert verdict.handle_finding(Finding.SWALLOWED, [HOP], 0)
    assert (verdict.state, verdict.may_carry) == ("swallows", False)
    assert verdict.handle_finding(Finding.ANSWERED, [HOP], FIRST_RETRY)
    assert verdict.may_carry


def test_the_wait_stays_bounded_however_long_it_takes() -> None:
    verdict = Verdict()
    for now in range(1000):
        verdict.handle_finding(Finding.SILENT, [HOP], now)
    assert verdict.poll_timeout() == 999 + LAST_RETRY


def test_a_next_hop_that_appears_is_asked_at_once() -> None:
    verdict = Verdict()
    assert verdict.handle_finding(Finding.NOBODY, [], 0)
    assert (verdict.state, verdict.may_carry) == ("unverified", True)
    assert not verdict.is_due([], SECOND)
    assert verdict.is_due([HOP], SECOND)
    verdict.handle_finding(Finding.SILENT, [HOP], SECOND)
    assert not verdict.is_due([HOP], 2 * SECOND)
    assert verdict.is_due([HOP, OTHER], 2 * SECOND)
    assert verdict.is_due([HOP._replace(has_answered=True)], 2 * SECOND), "it is up now"


def test_a_verified_egress_is_doubted_after_several_failures_in_a_row_only() -> None:
    verdict = Verdict()
    verdict.handle_finding(Finding.ANSWERED, [HOP], 0)
    assert not verdict.is_due([HOP, OTHER], RECHECK - 1)
    assert verdict.is_due([HOP], RECHECK)
    for _ in range(FAILURES_TO_DOUBT - 1):
        assert not verdict.handle_finding(Finding.SWALLOWED, [HOP], RECHECK)
    assert not verdict.handle_finding(Finding.ANSWERED, [HOP], RECHECK)
    for _ in range(FAILURES_TO_DOUBT - 1):
        assert not verdict.handle_finding(Finding.SWALLOWED, [HOP], RECHECK)
    assert verdict.may_carry
    assert verdict.handle_finding(Finding.SWALLOWED, [HOP], RECHECK)
    assert (verdict.state, verdict.may_carry) == ("swallows", False)


def test_a_next_hop_that_is_down_does_not_undo_what_was_verified() -> None:
    verdict = Verdict()
    verdict.handle_finding(Finding.ANSWERED, [HOP], 0)
    for _ in range(10):
        assert not verdict.handle_finding(Finding.SILENT, [HOP], RECHECK)
        assert not verdict.handle_finding(Finding.NOBODY, [], RECHECK)
    assert verdict.may_carry


def test_an_interface_that_went_is_not_tested_until_it_returns() -> None:
    verdict = Verdict()
    verdict.handle_finding(Finding.SWALLOWED, [HOP], 0)
    verdict.handle_gone()
    assert (verdict.state, verdict.may_carry, verdict.poll_timeout()) == ("absent", False, None)
    assert not verdict.is_due([OTHER], LAST_RETRY)
    verdict.handle_return()
    assert (verdict.state, verdict.may_carry) == ("untested", False)
    assert verdict.is_due([HOP], 0)
