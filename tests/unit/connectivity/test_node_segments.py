"""Runs are kept whole when their segments belong together, and only then."""

from connectivity.node.segments import groups, uniform
from connectivity.run import Run


def message(index: int, size: int = 64) -> bytes:
    return bytes((4, 0, 0, 0)) + index.to_bytes(4, "little") + bytes(size - 8)


def framed(number: int, payload: bytes) -> bytes:
    return number.to_bytes(2, "big") + len(payload).to_bytes(2, "big") + payload


def run_of(*segments: bytes) -> Run:
    return Run(memoryview(b"".join(segments)), len(segments[0]))


def test_equal_prefixes_stay_one_run_even_with_a_shorter_last_segment() -> None:
    run = run_of(message(7), message(7), message(7, 32))
    assert uniform(run, 0)
    assert list(groups(run, 0)) == [run]


def test_another_receiver_index_splits_the_run() -> None:
    run = run_of(message(7), message(8), message(7))
    assert [len(group.data) for group in groups(run, 0)] == [64, 64, 64]


def test_a_last_segment_too_short_for_a_prefix_is_alone() -> None:
    run = run_of(message(7), b"\x04\x00\x00")
    assert [len(group.data) for group in groups(run, 0)] == [64, 3]


def test_frames_of_one_channel_stay_together() -> None:
    run = run_of(framed(0x4000, message(7)), framed(0x4000, message(7)), framed(0x4000, message(7, 40)))
    assert list(groups(run, 4)) == [run]


def test_frames_of_two_channels_are_split() -> None:
    run = run_of(framed(0x4000, message(7)), framed(0x4001, message(7)))
    assert [group.data[1] for group in groups(run, 4)] == [0, 1]


def test_a_frame_whose_length_is_not_its_size_is_dropped_alone() -> None:
    lying = bytearray(framed(0x4000, message(7)))
    lying[3] -= 1
    run = run_of(framed(0x4000, message(7)), bytes(lying), framed(0x4000, message(7)))
    assert not uniform(run, 4)
    assert [bytes(group.data) for group in groups(run, 4)] == [framed(0x4000, message(7))] * 2


def test_a_single_frame_is_checked_too() -> None:
    assert list(groups(Run.single(b"\x40\x00\x00\x09abc"), 4)) == []
    assert list(groups(Run.single(b"\x40"), 4)) == []
