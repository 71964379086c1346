"""The log line and the filter of its set-up."""

import logging

import pytest

from connectivity.io.logs import TRACE, _Formatter, parse_filter


def test_a_line_has_time_level_target_message_and_fields() -> None:
    record = logging.LogRecord("connectivity.node", logging.INFO, "f", 1, "Created new connection", None, None)
    record.created, record.msecs = 1_769_860_800.123, 123.0
    record.fields = {"cid": "c-1", "index": "(12|0)"}
    line = _Formatter().format(record)
    assert line == "2026-01-31T12:00:00.123Z  INFO connectivity::node: Created new connection cid=c-1 index=(12|0)"


def test_nothing_breaks_a_line_in_two() -> None:
    record = logging.LogRecord("x", logging.WARNING, "f", 1, "first\nsecond", None, None)
    assert "\n" not in _Formatter().format(record)
    assert " WARN x: " in _Formatter().format(record)


def test_what_a_peer_says_moves_no_cursor() -> None:
    record = logging.LogRecord("x", logging.INFO, "f", 1, "Received candidate", None, None)
    record.fields = {"candidate": "a\r\x1b[2Jb\x9b"}
    assert _Formatter().format(record).endswith("x: Received candidate candidate=a\\x0d\\x1b[2Jb\\x9b")


def test_filters_name_a_default_and_targets() -> None:
    assert parse_filter("debug,wire::api=trace,relay=off") == (
        logging.DEBUG,
        {"wire.api": TRACE, "relay": logging.CRITICAL + 1},
    )
    assert parse_filter("") == (logging.INFO, {})


def test_a_word_that_is_no_level_is_refused() -> None:
    with pytest.raises(ValueError, match="loud"):
        parse_filter("loud")
