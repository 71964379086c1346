"""The program that chooses the process of a datagram, run by a small interpreter and by the kernel."""

import random
import select
import socket
import struct
from collections.abc import Iterator
from contextlib import ExitStack
from ipaddress import ip_address

import pytest

from connectivity.io.udp import UdpSocket
from connectivity.io.workers import steering
from connectivity.io.workers.steering import Instruction
from connectivity.run import Received, Run, Transmit
from gateway import settings

RNG = random.Random(14)


def data_message(index: int, size: int = 64) -> bytes:
    return struct.pack("<II", 4, index) + bytes(size)


def framed(message: bytes, number: int = 0x4001) -> bytes:
    return struct.pack(">HH", number, len(message)) + message


def run(instructions: list[Instruction], datagram: bytes) -> int:
    """Classic BPF as far as this program uses it; a load beyond the end ends it with 0."""
    accumulator = at = 0
    while True:
        code, jump_true, jump_false, value = instructions[at]
        at += 1
        match code:
            case steering.LOAD_BYTE:
                if value >= len(datagram):
                    return 0
                accumulator = datagram[value]
            case steering.JUMP_EQUAL:
                at += jump_true if accumulator == value else jump_false
            case steering.JUMP:
                at += value
            case steering.AND:
                accumulator &= value
            case steering.MODULO:
                accumulator %= value
            case steering.ADD:
                accumulator += value
            case steering.RETURN_A:
                return accumulator
            case steering.RETURN:
                return value
            case _:
                raise AssertionError(f"unknown code {code:#x}")


def wanted(datagram: bytes, workers: int) -> int:
    """The same in words."""
    if datagram[:1] and 0x40 <= datagram[0] <= 0x4F:
        datagram = datagram[4:]
    elif datagram[:1] != b"\x04":
        return steering.CORE
    if datagram[:1] != b"\x04" or len(datagram) < 6:
        return steering.CORE
    return 1 + datagram[5] % workers


def datagrams() -> Iterator[bytes]:
    for _ in range(2000):
        index = RNG.getrandbits(32)
        yield data_message(index)
        yield framed(data_message(index), RNG.randrange(0x4000, 0x5000))
    for first in range(256):
        yield bytes((first,)) + RNG.randbytes(40)
        yield framed(bytes((first,)) + RNG.randbytes(40))
    for size in range(12):
        yield data_message(0xFFFF_FFFF)[:size]
        yield framed(data_message(0xFFFF_FFFF))[:size]


def test_as_many_workers_as_may_be_asked_for_can_be_steered_to() -> None:
    assert settings.MAX_WORKERS == steering.MAX_WORKERS


@pytest.mark.parametrize("workers", [1, 2, 3, 7, 64])
def test_the_program_finds_the_owner(workers: int) -> None:
    instructions = steering.program(workers)
    seen = {slot for datagram in datagrams() if (slot := run(instructions, datagram)) is not None}
    assert all(run(instructions, datagram) == wanted(datagram, workers) for datagram in datagrams())
    assert seen == set(range(workers + 1))


@pytest.mark.parametrize("workers", [1, 2, 5])
def test_program_and_owner_agree(workers: int) -> None:
    for _ in range(1000):
        index = RNG.getrandbits(32)
        slot = 1 + steering.owner(index, workers)
        assert run(steering.program(workers), data_message(index)) == slot
        assert run(steering.program(workers), framed(data_message(index))) == slot
        assert steering.owner(index & ~0xFF, workers) == slot - 1  # whatever the session


def bind(stack: ExitStack, address: str, port: int = 0, *, shares_port: bool = False) -> UdpSocket:
    bound = UdpSocket.bind(address, port, send_buffer_bytes=None, receive_buffer_bytes=None, shares_port=shares_port)
    stack.callback(bound.close)
    return bound


@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
def test_the_kernel_steers(address: str) -> None:
    with ExitStack() as stack:
        first = bind(stack, address)
        others = steering.share(first, 3, lambda port: bind(stack, address, port, shares_port=True))
        slots = [first, *others]
        sender = stack.enter_context(
            socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM)
        )
        for sent in [
            data_message(0x500),
            framed(data_message(0x20100)),
            b"\x01\x01" + bytes(18),
            framed(b"\x01" + bytes(20)),
            b"\x04",
        ]:
            sender.sendto(sent, (address, first.local.port))
            assert [bytes(got.run.data) for got in received(slots[wanted(sent, 3)])] == [sent]


def test_what_the_kernel_has_merged_goes_where_its_first_datagram_does() -> None:
    """So a worker gets what is another's, or the core's, and has to hand it over."""
    with ExitStack() as stack:
        first = bind(stack, "127.0.0.1")
        others = steering.share(first, 2, lambda port: bind(stack, "127.0.0.1", port, shares_port=True))
        relay = bind(stack, "127.0.0.1")
        merged = [framed(data_message(index)) for index in (0x100, 0x200, 0x100)] + [framed(b"\1" + bytes(71))]
        target = first.local._replace(ip=ip_address("127.0.0.1"))
        run_of = Run(memoryview(b"".join(merged)), len(merged[0]))
        assert relay.send(Transmit(None, target, run_of)) is None
        assert [bytes(got.run.data) for got in received(others[1])] == [b"".join(merged)]
        assert not select.select([first, others[0]], [], [], 0.05)[0]


def test_the_core_reads_for_a_worker_that_is_gone() -> None:
    """What a worker has is a duplicate: that it closes it moves nobody's slot."""
    with ExitStack() as stack:
        first = bind(stack, "127.0.0.1")
        others = steering.share(first, 2, lambda port: bind(stack, "127.0.0.1", port, shares_port=True))
        duplicate = socket.socket(fileno=socket.dup(others[0].fileno()))
        duplicate.close()
        sender = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        for index in (0x000, 0x100):
            sender.sendto(data_message(index), ("127.0.0.1", first.local.port))
            (got,) = received(others[steering.owner(index, 2)])
            assert bytes(got.run.data) == data_message(index)


def test_a_port_that_somebody_has_is_not_shared() -> None:
    """Two gateways on one host must not steal each other's datagrams, whoever shares a port with its workers."""
    with ExitStack() as stack:
        first = bind(stack, "127.0.0.1")
        steering.share(first, 2, lambda port: bind(stack, "127.0.0.1", port, shares_port=True))
        with pytest.raises(OSError, match="in use"):
            bind(stack, "127.0.0.1", first.local.port)


def received(opened: UdpSocket) -> list[Received]:
    assert select.select([opened], [], [], 2)[0], "nothing came"
    return [got._replace(run=got.run._replace(data=memoryview(bytes(got.run.data)))) for got in opened.receive()]
