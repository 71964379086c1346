"""Endpoints, runs, deadlines and error chains."""

import pytest

from connectivity.clock import earliest
from connectivity.endpoint import Endpoint
from connectivity.errors import FatalError, chain
from connectivity.run import Run, Transmit, owned


@pytest.mark.parametrize("text", ["192.0.2.1:3478", "[2001:db8::1]:52625", "0.0.0.0:0"])
def test_endpoints_print_as_they_are_read(text: str) -> None:
    assert str(Endpoint.parse(text)) == text


@pytest.mark.parametrize(
    "text", ["192.0.2.1", "2001:db8::1:80", "[192.0.2.1]:80", "host:80", "192.0.2.1:65536", "192.0.2.1:+5", ":80"]
)
def test_what_is_no_endpoint_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        Endpoint.parse(text)


def test_a_run_has_equal_segments_and_a_shorter_last_one() -> None:
    run = Run(memoryview(b"aaabbbcc"), 3)
    assert run.segment_count == 3
    assert [bytes(segment) for segment in run.segments()] == [b"aaa", b"bbb", b"cc"]
    assert Run.single(b"x").segment_count == 1
    empty, nothing = Run.single(b""), Run(memoryview(b""), 3)
    assert (empty.segment_count, [bytes(segment) for segment in empty.segments()]) == (1, [b""])
    assert (nothing.segment_count, list(nothing.segments())) == (0, [])


def test_an_owned_transmit_does_not_follow_the_scratch_memory() -> None:
    scratch = bytearray(b"first")
    kept = owned(Transmit(None, Endpoint.parse("192.0.2.1:1"), Run.single(scratch)))
    scratch[:] = b"later"
    assert bytes(kept.run.data) == b"first"


def test_earliest_ignores_what_has_no_deadline() -> None:
    assert earliest(None, 5, 3, None) == 3
    assert earliest(None) is None


def test_errors_chain_into_one_line() -> None:
    error = FatalError("cannot listen on\n0.0.0.0:3478")
    error.__cause__ = OSError(98, "Address already in use")
    assert chain(error) == "cannot listen on 0.0.0.0:3478: Address already in use"


def test_errors_of_the_system_show_their_words_and_the_file() -> None:
    assert (
        chain(PermissionError(1, "Operation not permitted", "/dev/net/tun")) == "Operation not permitted: /dev/net/tun"
    )
    assert chain(OSError("no address known")) == "no address known"
    assert chain(OSError()) == "OSError"


def test_a_suppressed_context_stays_out_and_a_lone_member_of_a_group_speaks_for_itself() -> None:
    error = FatalError("clear")
    error.__context__, error.__suppress_context__ = KeyError("secret"), True
    assert chain(ExceptionGroup("group", [error])) == "clear"
