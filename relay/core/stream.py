"""TURN over a stream: where one message ends and the next begins (RFC 8489 §6.2.2, RFC 8656 §12.5).

STUN messages tell their length and are a multiple of four bytes long; ChannelData is padded to one. What arrives in
pieces gives the same parts as if it had come whole; ChannelData of one channel that arrives together comes out as one
run. Nothing is copied but a message that arrives in pieces, and no more than one message is kept.

A stream whose next bytes begin neither is lost for good: there is no way to find the next message in it.
"""

from collections.abc import Iterator
from enum import Enum
from typing import Final

import numpy as np

from connectivity.stun import HEADER_BYTES as STUN_HEADER_BYTES
from connectivity.stun import MAGIC_COOKIE
from connectivity.turn.channel_data import HEADER_BYTES
from relay.core.channel_runs import ChannelRun, is_channel_data

LAST_STUN_BYTE: Final = 0x03
_COOKIE: Final = MAGIC_COOKIE.to_bytes(4, "big")
_COOKIE_END: Final = 8
# Runs are as large as those that UDP brings.
_LARGEST_RUN: Final = 65_535


class Lost(Enum):
    """Instead of a part: the stream carries no TURN."""

    LOST = "lost"


class Stream:
    """The incomplete message at the end of what has come so far."""

    def __init__(self) -> None:
        self._rest = bytearray()
        self.is_lost = False

    def __len__(self) -> int:
        return len(self._rest)

    def feed(self, data: memoryview) -> Iterator[ChannelRun | memoryview | Lost]:
        """The parts that are complete now: runs of ChannelData, and STUN messages. Each is valid until the next."""
        while self._rest and len(data) and not self.is_lost:
            missing = max(HEADER_BYTES, _frame_bytes(self._rest)) - len(self._rest)
            self._rest += data[:missing]
            data = data[missing:]
            size = _frame_bytes(self._rest) if len(self._rest) >= HEADER_BYTES else HEADER_BYTES
            if not size:
                yield self.lose()
            elif size == len(self._rest):
                whole, self._rest = memoryview(self._rest), bytearray()
                yield _channel_run(whole, size) if is_channel_data(whole[0]) else whole
        while len(data) >= HEADER_BYTES and not self.is_lost:
            size = _frame_bytes(data[:_COOKIE_END])
            if not size:
                yield self.lose()
            elif size > len(data):
                break
            elif is_channel_data(data[0]):
                run = _channel_run(data, size)
                data = data[len(run.data) :]
                yield run
            else:
                whole, data = data[:size], data[size:]
                yield whole
        if not self.is_lost:
            self._rest += data

    def lose(self) -> Lost:
        """Take nothing more from this stream, and keep nothing."""
        self.is_lost = True
        self._rest = bytearray()
        return Lost.LOST


def _frame_bytes(head: bytes | bytearray | memoryview) -> int:
    """How long the message is that begins like this (four bytes or more), padding included; 0 if there is none."""
    if len(head) < HEADER_BYTES:
        return HEADER_BYTES
    length = head[2] << 8 | head[3]
    if is_channel_data(head[0]):
        return HEADER_BYTES + length + -length % 4
    is_stun = head[0] <= LAST_STUN_BYTE and not length % 4
    if not is_stun or _COOKIE[: len(head) - 4] != head[4:_COOKIE_END]:
        return 0
    return STUN_HEADER_BYTES + length


def _channel_run(data: memoryview, stride: int) -> ChannelRun:
    """As many messages as begin with the same header, and one more of the channel if it is no longer than these."""
    number, length = data[0] << 8 | data[1], data[2] << 8 | data[3]
    # A run holds one empty message at most.
    whole = max(1, min(len(data), _LARGEST_RUN) // stride) if length else 1
    if whole > 1:
        headers = np.ndarray((whole,), ">u4", data, 0, (stride,))
        others = np.flatnonzero(headers != headers[0])
        whole = int(others[0]) if len(others) else whole
    end = whole * stride
    tail = data[end : end + HEADER_BYTES]
    if len(tail) == HEADER_BYTES and tail[0] << 8 | tail[1] == number:
        last_length = tail[2] << 8 | tail[3]
        last_end = end + HEADER_BYTES + last_length + -last_length % 4
        if 0 < last_length <= length and last_end <= min(len(data), _LARGEST_RUN):
            return ChannelRun(data[:last_end], number, stride, length, whole + 1, last_length)
    return ChannelRun(data[:end], number, stride, length, whole, length)
