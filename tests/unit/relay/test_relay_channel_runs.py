"""ChannelData by runs against a reader that takes one message at a time."""

from itertools import groupby

import pytest
from hypothesis import given
from hypothesis import strategies as st

from connectivity.run import Run
from connectivity.turn.channel_data import encode_header
from relay.core.channel_runs import SCRATCH_BYTES, ChannelRun, Malformed, frame, split, strip, strip_uniform

SCRATCH = memoryview(bytearray(SCRATCH_BYTES))


def message(number: int, payload: bytes, padding: int = 0) -> bytes:
    return encode_header(number, len(payload)) + payload + bytes(padding)


def read(run: Run) -> list[tuple[int, bytes] | bytes | None]:
    """What the run holds, in order: (channel, payload), another datagram, or None for a malformed one."""
    found: list[tuple[int, bytes] | bytes | None] = []
    for part in split(run):
        if isinstance(part, ChannelRun):
            payloads = strip(part, SCRATCH)
            assert payloads.segment_count == part.messages
            found += [(part.number, bytes(payload)) for payload in payloads.segments()]
        elif isinstance(part, Malformed):
            found += [None] * part.datagrams
        else:
            found.append(bytes(part.data))
    return found


@pytest.mark.parametrize("last", [b"", b"end"])
def test_a_super_packet_may_end_with_a_shorter_or_an_empty_message(last: bytes) -> None:
    packet = message(0x4000, b"first") + message(0x4000, b"other") + message(0x4000, last)
    assert read(Run.single(packet)) == [(0x4000, b"first"), (0x4000, b"other"), (0x4000, last)]


def read_one(datagram: bytes) -> tuple[int, bytes] | bytes | None:
    """The same for one datagram that holds one message, written plainly."""
    if not 0x40 <= datagram[0] <= 0x7F:
        return datagram
    if len(datagram) < 4:
        return None
    number, length = int.from_bytes(datagram[:2], "big"), int.from_bytes(datagram[2:4], "big")
    return (number, datagram[4 : 4 + length]) if 0 <= len(datagram) - 4 - length <= 3 else None


def as_run(datagrams: list[bytes]) -> Run:
    return Run(memoryview(b"".join(datagrams)), len(datagrams[0]))


def test_a_run_of_one_channel_is_one_part() -> None:
    datagrams = [message(0x4001, bytes([index]) * 1312) for index in range(45)] + [message(0x4001, b"tail")]
    (part,) = split(as_run(datagrams))
    assert isinstance(part, ChannelRun)
    payloads = strip(part, SCRATCH)
    assert payloads.segment_size == 1312
    assert [bytes(payload) for payload in payloads.segments()] == [datagram[4:] for datagram in datagrams]


def test_a_single_message_is_not_copied() -> None:
    datagram = memoryview(bytearray(message(0x4001, b"payload")))
    (part,) = split(Run(datagram, len(datagram)))
    assert isinstance(part, ChannelRun)
    payload = strip(part, SCRATCH)
    datagram[4] = ord("P")
    assert bytes(payload.data) == b"Payload"


def test_channels_in_one_run_come_apart_at_the_seams() -> None:
    datagrams = [message(number, bytes([number & 0xFF]) * 100) for number in (0x4000, 0x4000, 0x4001, 0x4002, 0x4002)]
    parts = list(split(as_run([*datagrams, message(0x4002, b"x")])))
    assert [(part.number, part.messages) for part in parts if isinstance(part, ChannelRun)] == [
        (0x4000, 2),
        (0x4001, 1),
        (0x4002, 3),
    ]


@pytest.mark.parametrize("padding", [0, 1, 2, 3])
def test_padding_is_taken_off(padding: int) -> None:
    datagrams = [message(0x4000, b"abcde", padding), message(0x4000, b"fghij", padding)]
    assert read(as_run(datagrams)) == [(0x4000, b"abcde"), (0x4000, b"fghij")]
    assert read(as_run(datagrams[:1])) == [(0x4000, b"abcde")]


@pytest.mark.parametrize(
    "datagram",
    [
        bytes.fromhex("40"),
        bytes.fromhex("400000"),
        bytes.fromhex("40000005") + b"four",
        bytes.fromhex("40000000") + b"four",
        bytes.fromhex("40000001") + b"five5",
        bytes.fromhex("4000ffff") + bytes(100),
    ],
)
def test_lengths_that_do_not_fit_are_malformed(datagram: bytes) -> None:
    assert read(as_run([datagram])) == [None]
    assert read(as_run([datagram, datagram])) == [None, None]


@pytest.mark.parametrize("payload_bytes", [1, 5, 160, 1311, 1312])
@pytest.mark.parametrize("last", [b"", b"x", b"xy"])
@pytest.mark.parametrize("padded", [False, True])
def test_one_datagram_of_many_messages_is_read_as_a_run(payload_bytes: int, last: bytes, padded: bool) -> None:
    last = last[:payload_bytes]  # the last one is never the longest
    payloads = [bytes([index]) * payload_bytes for index in range(9)] + ([last] if last else [])
    datagram = b"".join(message(0x4ABC, payload, -len(payload) % 4 if padded else 0) for payload in payloads)
    assert read(as_run([datagram])) == [(0x4ABC, payload) for payload in payloads]


def test_other_datagrams_pass_unread() -> None:
    assert read(as_run([b"\x00\x01abcdef", b"\x80bcdefgh"])) == [b"\x00\x01abcdef", b"\x80bcdefgh"]


NUMBERS = st.sampled_from([0x4000, 0x4001, 0x7FFF])


@st.composite
def runs(draw: st.DrawFn) -> list[bytes]:
    """Datagrams as UDP_GRO delivers them: one size, the last one possibly shorter."""
    size = draw(st.integers(1, 40))
    count = draw(st.integers(1, 8))
    datagrams = []
    for index in range(count):
        length = size if index < count - 1 else draw(st.integers(1, size))
        padding = draw(st.integers(0, 3))
        body = max(0, length - 4 - padding)
        good = (encode_header(draw(NUMBERS), body) + draw(st.binary(min_size=length, max_size=length)))[:length]
        bad = draw(st.binary(min_size=length, max_size=length))
        datagrams.append(good if draw(st.booleans()) else bad)
    return datagrams


@given(runs())
def test_any_run_reads_like_its_datagrams(datagrams: list[bytes]) -> None:
    # A datagram that is no single message may still be several; the plain reader does not know those.
    expected: list[tuple[int, bytes] | bytes | None] = []
    for datagram in datagrams:
        alone = read(as_run([datagram]))
        if read_one(datagram) is not None:
            assert alone == [read_one(datagram)]
        expected += alone
    assert read(as_run(datagrams)) == expected


@given(st.lists(st.binary(min_size=7, max_size=7), min_size=1, max_size=70), st.binary(max_size=7), NUMBERS)
def test_frame_and_strip_are_inverse(rows: list[bytes], tail: bytes, number: int) -> None:
    datagrams = [*rows, tail] if tail else rows
    framed = frame(as_run(datagrams), number, SCRATCH)
    assert [bytes(segment) for segment in framed.segments()] == [message(number, datagram) for datagram in datagrams]
    received = Run(memoryview(bytes(framed.data)), framed.segment_size)
    assert read(received) == [(number, datagram) for datagram in datagrams]
    channels = [key for key, _ in groupby(part.number for part in split(received) if isinstance(part, ChannelRun))]
    assert channels == [number]


def test_the_scratch_holds_the_worst_run() -> None:
    worst = Run(memoryview(bytes(65_535)), 1)
    assert len(frame(worst, 0x4000, SCRATCH).data) == 65_535 * 5


@given(
    others=st.lists(st.sampled_from((0x4000, 0x4000, 0x4000, 0x4001, 0x0001)), max_size=5),
    length=st.integers(0, 9),
    said=st.sampled_from((0, 0, 0, 1, -1)),
    padding=st.sampled_from((0, 0, 1, 3, 4)),
    tail=st.just(b"") | st.binary(max_size=8) | st.builds(message, st.just(0x4000), st.binary(max_size=8)),
)
def test_what_is_stripped_for_less_is_what_is_stripped(
    others: list[int], length: int, said: int, padding: int, tail: bytes
) -> None:
    numbers, stride = [0x4000, *others], 4 + length + padding
    rows = [
        encode_header(number, max(0, length + said)) + bytes((index,)) * length for index, number in enumerate(numbers)
    ]
    data = memoryview(b"".join(row.ljust(stride, b"p") for row in rows) + tail[: stride - 1])
    payloads = strip_uniform(data, stride, length, SCRATCH)
    if payloads is None:
        return
    found = [bytes(payloads[start : start + length]) for start in range(0, len(payloads), length)]
    assert [(numbers[0], payload) for payload in found] == read(Run(data, stride))


def test_uniform_runs_are_stripped_for_less() -> None:
    for tail in (b"", message(0x4000, b"end"), message(0x4000, b"end", 2)):
        data = memoryview(message(0x4000, b"payload", 1) * 3 + tail)
        payloads = strip_uniform(data, 12, 7, SCRATCH)
        assert payloads is not None
        assert bytes(payloads) == b"payload" * 3 + tail[4:7]
