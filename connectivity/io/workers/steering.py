"""Which process a datagram goes to: a classic BPF program chooses among the sockets that share the gateway's port.

Slot 0 is the core's, slot n + 1 that of worker n. A data message names its connection in bits 8 to 31 of its receiver
index (``wireguard.index``); the lowest eight of these, modulo the number of workers, say whose it is. Channel data goes
by the message in it. Everything else, and whatever is too short, goes to the core.

The kernel numbers the sockets in the order in which they were bound, and the last one takes the place of one that is
closed; so the core binds all of them and keeps all open, whatever becomes of the workers. The program needs no
privilege. It sees the first bytes behind the UDP header; of datagrams that the kernel has merged, those of the first.
"""

import ctypes
import socket
import struct
from collections.abc import Callable
from typing import Final, NamedTuple

from connectivity.io.udp import UdpSocket
from connectivity.turn.channel_data import HEADER_BYTES
from connectivity.wireguard import DATA, connection_of

# asm-generic/socket.h
SO_ATTACH_REUSEPORT_CBPF: Final = 51

# linux/filter.h, linux/bpf_common.h
LOAD_BYTE: Final = 0x30  # BPF_LD | BPF_B | BPF_ABS: beyond the datagram the program ends with 0
JUMP_EQUAL: Final = 0x15  # BPF_JMP | BPF_JEQ | BPF_K
JUMP: Final = 0x05  # BPF_JMP | BPF_JA
AND: Final = 0x54  # BPF_ALU | BPF_AND | BPF_K
MODULO: Final = 0x94  # BPF_ALU | BPF_MOD | BPF_K
ADD: Final = 0x04  # BPF_ALU | BPF_ADD | BPF_K
RETURN: Final = 0x06  # BPF_RET | BPF_K
RETURN_A: Final = 0x16  # BPF_RET | BPF_A

CORE: Final = 0
MAX_WORKERS: Final = 64
_CHANNEL: Final = 0x40  # the upper half of a channel number's first byte, as far as channels are used
_CONNECTION_BYTE: Final = 5  # bits 8 to 15 of the index that begins at byte 4
_OWNER_MASK: Final = 0xFF

_INSTRUCTION: Final = struct.Struct("@HBBI")
_PROGRAM: Final = struct.Struct("@H6xQ")


class Instruction(NamedTuple):
    """One of classic BPF's: jumps count from the next one."""

    code: int
    jump_true: int
    jump_false: int
    value: int


def owner(index: int, workers: int) -> int:
    """Which of the workers carries the connection that a receiver index names."""
    return owner_of_connection(connection_of(index), workers)


def owner_of_connection(index: int, workers: int) -> int:
    """Which of the workers carries a connection, by its index."""
    return (index & _OWNER_MASK) % workers


def program(workers: int) -> list[Instruction]:
    """What chooses the slot."""
    inner = HEADER_BYTES
    return [
        Instruction(LOAD_BYTE, 0, 0, 0),
        Instruction(JUMP_EQUAL, 0, 2, DATA),
        Instruction(LOAD_BYTE, 0, 0, _CONNECTION_BYTE),
        Instruction(JUMP, 0, 0, 5),  # to the modulo
        Instruction(AND, 0, 0, 0xF0),
        Instruction(JUMP_EQUAL, 0, 6, _CHANNEL),  # else to the end
        Instruction(LOAD_BYTE, 0, 0, inner),
        Instruction(JUMP_EQUAL, 0, 4, DATA),  # else to the end
        Instruction(LOAD_BYTE, 0, 0, inner + _CONNECTION_BYTE),
        Instruction(MODULO, 0, 0, workers),
        Instruction(ADD, 0, 0, 1),
        Instruction(RETURN_A, 0, 0, 0),
        Instruction(RETURN, 0, 0, CORE),
    ]


def share(first: UdpSocket, workers: int, bind: Callable[[int], UdpSocket]) -> list[UdpSocket]:
    """Sockets for workers, in their order, beside the core's own; datagrams are told apart from now on.

    ``first`` was bound to its port alone, so nobody else has it; only then is it open to others, which are ours: the
    kernel lets none in but those of the same user.

    Args:
        first: The core's.
        workers: How many.
        bind: Binds one more socket to this port of the same address, sharing it (``UdpSocket.bind``).

    Raises:
        OSError: the kernel cannot do this.
    """
    if not 0 < workers <= MAX_WORKERS:
        raise ValueError(f"1 to {MAX_WORKERS} workers, not {workers}")
    first.set_option(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    sockets: list[UdpSocket] = []
    try:
        for _ in range(workers):
            sockets.append(bind(first.local.port))  # noqa: PERF401  # what was bound is closed if the next fails
        _attach(first, program(workers))
    except BaseException:
        for opened in sockets:
            opened.close()
        raise
    return sockets


def _attach(member: UdpSocket, instructions: list[Instruction]) -> None:
    code = bytearray(b"".join(_INSTRUCTION.pack(*instruction) for instruction in instructions))
    at = ctypes.addressof(ctypes.c_char.from_buffer(code))
    member.set_option(socket.SOL_SOCKET, SO_ATTACH_REUSEPORT_CBPF, _PROGRAM.pack(len(instructions), at))
