"""Errors of packets are counted by reason and told once a minute."""

import errno
import logging

import pytest

from connectivity.io.refusals import MAX_REASONS, TELL_EVERY, Refusals, reason_of
from connectivity.ip.packet import IpError, IpReason
from connectivity.node import NodeError, StrayDatagramError, UnknownConnectionError

FRAGMENT = IpError("first fragment of a UDP datagram of 1400 bytes", IpReason.FRAGMENT)


def told(caplog: pytest.LogCaptureFixture) -> list[tuple[str, dict[str, object]]]:
    found = [(record.getMessage(), record.__dict__["fields"]) for record in caplog.records]
    caplog.clear()
    return found


def test_four_thousand_fragments_are_two_lines(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    refusals = Refusals()
    for number in range(4000):
        refusals.note(FRAGMENT, number)
        refusals.tell(number)
    assert told(caplog) == [("Tunnel error", {"reason": "fragment_packet", "error": str(FRAGMENT)})]
    refusals.tell(TELL_EVERY)
    assert told(caplog) == [("More tunnel errors in the last minute", {"fragment_packet": 3999})]
    assert refusals.counts == {"fragment_packet": 4000}
    refusals.note(FRAGMENT, TELL_EVERY + 1)
    assert told(caplog) == []  # it goes on: its count is told
    refusals.tell(2 * TELL_EVERY)
    assert told(caplog) == [("More tunnel errors in the last minute", {"fragment_packet": 1})]
    refusals.tell(3 * TELL_EVERY)
    refusals.note(FRAGMENT, 4 * TELL_EVERY)
    assert [phrase for phrase, _ in told(caplog)] == ["Tunnel error"]  # after a quiet minute it is news again


def test_reasons_are_told_apart_and_the_rest_at_the_end(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    refusals = Refusals()
    for error in (FRAGMENT, OSError(errno.EMSGSIZE, "too long"), FRAGMENT, NodeError("handshake packet")):
        refusals.note(error, 0)
    assert [fields["reason"] for _, fields in told(caplog)] == ["fragment_packet", "emsgsize", "handshake"]
    refusals.tell()
    assert told(caplog) == [("More tunnel errors in the last minute", {"fragment_packet": 1})]


def test_what_strangers_and_changing_networks_do_is_counted_only(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    refusals = Refusals()
    for error in (StrayDatagramError("x"), UnknownConnectionError("y"), OSError(errno.ENETUNREACH, "z")):
        refusals.note(error, 0)
    refusals.tell()
    assert told(caplog) == []
    assert refusals.counts == {"stray_datagram": 1, "unknown_connection": 1, "enetunreach": 1}


def test_datagrams_that_came_together_are_counted_each_and_told_of_once(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    refusals = Refusals()
    refusals.note(UnknownConnectionError("no connection for index {}", 7, datagrams=32), 0)
    assert told(caplog) == [("Tunnel error", {"error": "no connection for index 7 (32 datagrams)"})]
    assert refusals.counts == {"unknown_connection": 32}


def test_the_table_of_reasons_is_bounded() -> None:
    refusals = Refusals()
    for number in range(1, 2 * MAX_REASONS):
        refusals.note(type(f"Error{number}", (Exception,), {})(), 0)
    assert len(refusals.counts) == MAX_REASONS + 1
    assert refusals.counts["other"] == MAX_REASONS - 1
    assert reason_of(OSError("no number")) == "OSError"
