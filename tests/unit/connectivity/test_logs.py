"""The log line and the filter of its set-up."""

import json
import logging
import sys
from io import StringIO

import pytest

from connectivity.endpoint import Endpoint
from connectivity.io.logs import TRACE, _Formatter, _Handler, _JsonFormatter, parse_filter, set_filter


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


def test_a_line_is_written_in_one_piece_and_what_fails_ends_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[str] = []

    class Pipe(StringIO):
        def write(self, text: str) -> int:
            written.append(text)
            if len(written) > 1:
                raise BlockingIOError
            return len(text)

    handler = _Handler(Pipe())
    handler.setFormatter(_Formatter())
    failed: list[logging.LogRecord] = []
    monkeypatch.setattr(handler, "handleError", failed.append)
    record = logging.LogRecord("x", logging.INFO, "f", 1, "said", None, None)
    handler.handle(record)
    handler.handle(record)
    assert (len(written), written[0], failed) == (2, _Formatter().format(record) + "\n", [record])


def test_what_a_peer_says_moves_no_cursor() -> None:
    record = logging.LogRecord("x", logging.INFO, "f", 1, "Received candidate", None, None)
    record.fields = {"candidate": "a\r\x1b[2Jb\x9b"}
    assert _Formatter().format(record).endswith("x: Received candidate candidate=a\\x0d\\x1b[2Jb\\x9b")


def test_what_a_peer_says_hides_and_turns_nothing() -> None:
    record = logging.LogRecord("x", logging.INFO, "f", 1, "Received candidate", None, None)
    record.fields = {"candidate": "a\u202e\u200bb\ud800\u2028"}
    line = _Formatter().format(record)
    assert line.endswith("candidate=a\\u202e\\u200bb\\ud800\\u2028")
    try:
        raise ValueError("from a peer: \x1b[2J\u202e")
    except ValueError:
        record.exc_info = sys.exc_info()
    assert all(line.isprintable() for line in _Formatter().format(record).split("\n"))


def test_filters_name_a_default_and_targets() -> None:
    assert parse_filter("debug,wire::api=trace,relay=off") == (
        logging.DEBUG,
        {"wire.api": TRACE, "relay": logging.CRITICAL + 1},
    )
    assert parse_filter("") == (logging.INFO, {})


def test_a_word_that_is_no_level_is_refused() -> None:
    with pytest.raises(ValueError, match="loud"):
        parse_filter("loud")


def test_a_line_may_be_an_object() -> None:
    record = logging.LogRecord("relay.core", logging.WARNING, "f", 1, "Refused\n%s", ("x",), None)
    record.created, record.msecs = 1_769_860_800.123, 123.0
    record.fields = {"port": 5, "reason": ValueError("no"), "client": Endpoint.parse("[::1]:3"), "message": "not this"}
    line = _JsonFormatter().format(record)
    assert "\n" not in line
    assert json.loads(line) == {
        "time": "2026-01-31T12:00:00.123Z",
        "severity": "WARNING",
        "target": "relay::core",
        "message": "Refused\nx",
        "port": 5,
        "reason": "no",
        "client": "[::1]:3",
    }


def test_a_new_filter_forgets_the_one_before_and_a_wrong_one_changes_nothing() -> None:
    root, before = logging.getLogger(), logging.getLogger().level
    named = logging.getLogger("filtered.by.name")
    try:
        set_filter("warn,filtered::by::name=debug")
        assert (root.level, named.level) == (logging.WARNING, logging.DEBUG)
        with pytest.raises(ValueError, match="loud"):
            set_filter("loud")
        assert (root.level, named.level) == (logging.WARNING, logging.DEBUG)
        set_filter("info")
        assert (root.level, named.level) == (logging.INFO, logging.NOTSET)
    finally:
        root.setLevel(before)


def test_a_line_that_cannot_be_written_is_named_without_what_came_from_outside(
    capsys: pytest.CaptureFixture[str],
) -> None:
    stream = StringIO()
    handler = _Handler(stream)
    stream.close()
    try:
        raise LookupError("unknown encoding: secret-of-somebody")
    except LookupError:
        handler.emit(logging.LogRecord("connectivity.io.http", logging.ERROR, "f", 1, "A request failed", None, None))
    assert capsys.readouterr().err == "a line of connectivity.io.http cannot be written: ValueError\n"
