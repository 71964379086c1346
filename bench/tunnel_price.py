"""Price of a packet of a known flow in the cores, without IO: ``python -m bench.tunnel_price [--json]``.

*seal*: a gateway's host sends to a client, from the run that the TUN device gives to what the socket is handed. *open*:
a client's datagrams, from the run that the socket gives to what the device is handed. Each figure is the best of many
short rounds, all shapes by turns; beside it is how many functions of Python and C are called for one run, which no
neighbour of the machine can change.
"""

import gc
import json
import logging
import struct
import sys
import time
from collections.abc import Callable
from ipaddress import IPv4Address
from types import FrameType
from typing import Final, NamedTuple

from bench.scale_stage import BULK, HOST, Client, Stage, run_of, udp
from connectivity.ip.checksum import ones_sum, store, transport_sum
from connectivity.ip.protocols import PROTOCOL_TCP

_ROUNDS: Final = 60
_CALLS: Final = 60  # a round
_ACKNOWLEDGEMENT_BYTES: Final = 52


class Shape(NamedTuple):
    """What lies together in one run."""

    name: str
    packets: int
    size: int
    is_tcp: bool


SHAPES: Final = (
    Shape("50 of TCP, 1280 B", 50, BULK, True),
    Shape("1 of TCP, 1280 B", 1, BULK, True),
    Shape("1 of TCP, 52 B", 1, _ACKNOWLEDGEMENT_BYTES, True),
    Shape("1 of UDP, 200 B", 1, 200, False),
)


class Figure(NamedTuple):
    """Of one shape in one direction."""

    name: str
    microseconds: float  # of a packet
    calls: int  # of a run


def main() -> None:
    """Print the figures."""
    logging.disable(logging.INFO)
    figures = measure(_ROUNDS)
    if "--json" in sys.argv[1:]:
        print(json.dumps([figure._asdict() for figure in figures]))
        return
    for figure in figures:
        print(f"{figure.name:<28}{figure.microseconds:>8.2f} µs a packet{figure.calls:>6} calls a run")


def measure(rounds: int) -> list[Figure]:
    """All shapes, both ways, by turns."""
    stage = Stage(1)
    (client,) = stage.clients
    prepared: list[tuple[Shape, str, Callable[[int], list[Callable[[], object]]]]] = [
        (shape, way, prepare(stage, client, shape))
        for shape in SHAPES
        for way, prepare in (("seal", sealing), ("open", opening))
    ]
    best = [float("inf")] * len(prepared)
    gc.collect()
    gc.disable()
    for _ in range(rounds + 1):
        for number, (_, _, operations) in enumerate(prepared):
            best[number] = min(best[number], _time(operations(_CALLS)))
    gc.enable()
    return [
        Figure(f"{way}, {shape.name}", microseconds / shape.packets, count_calls(operations(1)[0]))
        for (shape, way, operations), microseconds in zip(prepared, best, strict=True)
    ]


def tcp(source: IPv4Address, destination: IPv4Address, ports: tuple[int, int], size: int) -> bytes:
    """A segment of zeros with a time stamp's worth of options."""
    built = bytearray(struct.pack(">BBHHHBBH", 0x45, 0, size, 0, 0, 64, PROTOCOL_TCP, 0))
    built += source.packed + destination.packed + struct.pack(">HHIIBBHHH", *ports, 1, 1, 8 << 4, 0x10, 500, 0, 0)
    built += bytes(size - len(built))
    view = memoryview(built)
    store(view, 36, transport_sum(view, 20, PROTOCOL_TCP))
    store(view, 10, ones_sum(view[:20]))
    return bytes(built)


def _packet(shape: Shape, source: IPv4Address, destination: IPv4Address, port: int) -> bytes:
    ports = (port, 443)
    return (
        tcp(source, destination, ports, shape.size)
        if shape.is_tcp
        else udp(source, destination, ports, size=shape.size)
    )


def sealing(stage: Stage, client: Client, shape: Shape) -> Callable[[int], list[Callable[[], object]]]:
    """So many calls that seal a run."""
    packet = _packet(shape, HOST, client.tunnel, 5000)

    def operations(count: int) -> list[Callable[[], object]]:
        return [_send(stage, packet, shape.packets) for _ in range(count)]

    return operations


def _send(stage: Stage, packet: bytes, count: int) -> Callable[[], object]:
    run, errors = run_of(packet, count), list[Exception]()
    return lambda: stage.core.handle_packets(run, stage.now, errors)


def opening(stage: Stage, client: Client, shape: Shape) -> Callable[[int], list[Callable[[], object]]]:
    """So many calls that open a run."""
    packet = _packet(shape, client.tunnel, HOST, 6000)

    def operations(count: int) -> list[Callable[[], object]]:
        return [_receive(stage, client, packet, shape.packets) for _ in range(count)]

    return operations


def _receive(stage: Stage, client: Client, packet: bytes, count: int) -> Callable[[], object]:
    received = stage.from_client(client, packet * count, len(packet))
    errors: list[Exception] = []
    wall_now = stage.wall_now
    return lambda: stage.core.handle_datagrams(received, stage.now, wall_now, _nothing, errors)


def _nothing(_: object) -> None:
    pass


def _time(operations: list[Callable[[], object]]) -> float:
    started = time.perf_counter()
    for operation in operations:
        operation()
    return (time.perf_counter() - started) * 1e6 / len(operations)


def count_calls(operation: Callable[[], object]) -> int:
    """How many functions of Python and C are called, the operation's own and what ends the counting left out."""
    calls = 0

    def note(_frame: FrameType, event: str, _argument: object) -> None:
        nonlocal calls
        calls += event in {"call", "c_call"}

    before = sys.getprofile()
    sys.setprofile(note)
    try:
        operation()
    finally:
        sys.setprofile(before)
    return calls - 2


if __name__ == "__main__":
    main()
