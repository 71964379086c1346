"""ChannelData: exact lengths on the way in, headers written in place on the way out."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from connectivity.run import Run
from connectivity.stun import DecodeError, DecodeReason
from connectivity.turn import channel_data
from connectivity.turn.channel_data import HEADER_BYTES, MAX_NUMBER, MIN_NUMBER


def test_header_bytes() -> None:
    assert channel_data.encode_header(0x4001, 0x0203) == b"\x40\x01\x02\x03"


def test_payload_is_a_view() -> None:
    buffer = bytearray(b"\x40\x00\x00\x02ab")
    number, payload = channel_data.decode(buffer)
    buffer[4:] = b"xy"
    assert (number, bytes(payload)) == (0x4000, b"xy")


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", DecodeReason.TOO_SHORT),
        (b"\x40\x00\x00", DecodeReason.TOO_SHORT),
        (b"\x3f\xff\x00\x00", DecodeReason.CHANNEL_NUMBER),
        (b"\x80\x00\x00\x00", DecodeReason.CHANNEL_NUMBER),
        (b"\x40\x00\x00\x01", DecodeReason.LENGTH),
        (b"\x40\x00\x00\x01a\x00\x00\x00", DecodeReason.LENGTH),
    ],
)
def test_what_is_not_channel_data(data: bytes, reason: DecodeReason) -> None:
    with pytest.raises(DecodeError) as caught:
        channel_data.decode(data)
    assert caught.value.reason is reason


@given(st.binary(max_size=64))
def test_any_bytes_give_a_channel_or_a_decode_error(data: bytes) -> None:
    try:
        number, payload = channel_data.decode(data)
    except DecodeError:
        return
    assert channel_data.encode_header(number, len(payload)) + payload == data


@given(
    st.integers(MIN_NUMBER, MAX_NUMBER),
    st.integers(HEADER_BYTES, 80),
    st.integers(0, 60),
    st.integers(0, 80),
    st.integers(0, 3),
)
def test_framing_writes_every_header_and_nothing_else(
    number: int, size: int, whole: int, rest: int, misalignment: int
) -> None:
    last = 0 if rest < HEADER_BYTES or rest >= size else rest
    length = whole * size + last
    body = bytes(index % 251 for index in range(length))
    buffer = bytearray(misalignment) + bytearray(body)
    run = channel_data.frame(Run(memoryview(buffer)[misalignment:], size), number)
    segments = list(run.segments())
    assert len(segments) == whole + (last > 0)
    for index, segment in enumerate(segments):
        read, payload = channel_data.decode(segment)
        assert read == number
        assert payload == body[index * size + HEADER_BYTES :][: len(segment) - HEADER_BYTES]
