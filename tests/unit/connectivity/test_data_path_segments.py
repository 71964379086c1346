"""A run is kept whole when its segments belong together, and only then."""

import pytest

from connectivity.data_path.segments import stretches, uniform
from connectivity.run import Run


def message(index: int, size: int = 64) -> bytes:
    return bytes((4, 0, 0, 0)) + index.to_bytes(4, "little") + bytes(size - 8)


def framed(number: int, payload: bytes) -> bytes:
    return number.to_bytes(2, "big") + len(payload).to_bytes(2, "big") + payload


def run_of(*segments: bytes) -> Run:
    return Run(memoryview(b"".join(segments)), len(segments[0]))


def test_equal_prefixes_stay_one_run_even_with_a_shorter_last_segment() -> None:
    assert uniform(run_of(message(7), message(7), message(7, 32)), 0)


@pytest.mark.parametrize("last", [message(8), b"\x04\x00\x00", b"\x00\x01\x00\x00!\x12\xa4B"])
def test_another_index_or_a_stub_or_another_protocol_splits_the_run(last: bytes) -> None:
    assert not uniform(run_of(message(7), message(7), last), 0)


def test_frames_of_one_channel_stay_together() -> None:
    assert uniform(run_of(framed(0x4000, message(7)), framed(0x4000, message(7)), framed(0x4000, message(7, 40))), 4)


def test_frames_of_two_channels_are_split() -> None:
    assert not uniform(run_of(framed(0x4000, message(7)), framed(0x4001, message(7))), 4)


@pytest.mark.parametrize("position", [0, 1, 2])
def test_a_frame_whose_length_is_not_its_size_is_no_part_of_a_run(position: int) -> None:
    frames = [bytearray(framed(0x4000, message(7))) for _ in range(3)]
    frames[position][3] -= 1
    assert not uniform(run_of(*map(bytes, frames)), 4)


@pytest.mark.parametrize("segment", [b"\x40\x00\x00\x09abc", b"\x40"])
def test_a_single_frame_is_checked_too(segment: bytes) -> None:
    assert not uniform(Run.single(segment), 4)


@pytest.mark.parametrize("numbers", [None, (0x4000, 0x4001)])
def test_messages_of_several_sessions_are_cut_where_these_change(numbers: tuple[int, int] | None) -> None:
    first, second = (message(7), message(8)) if numbers is None else (framed(n, message(7)) for n in numbers)
    run = run_of(first, first, second, first, first[:-1])
    parts = list(stretches(run))
    headroom = 0 if numbers is None else 4
    assert b"".join(part.data for part in parts) == bytes(run.data)
    assert [part.segment_count for part in parts] == [2, 1, 2]
    assert [uniform(part, headroom) for part in parts] == [True, True, numbers is None]  # a length that is none


@pytest.mark.parametrize("segment", [b"@", b"@@@", bytes(7)])
def test_no_segment_is_too_short_to_be_looked_at(segment: bytes) -> None:
    parts = list(stretches(run_of(segment, segment, segment[:1])))
    assert b"".join(part.data for part in parts) == segment + segment + segment[:1]
    assert all(part.segment_size <= len(segment) for part in parts)
