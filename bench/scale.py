"""``postern bench scale``: what a packet and a grant cost a gateway that has 2, 200 and 1,000 clients.

Everything happens in this process, without sockets: a gateway's core, real connections, packets of all clients in turn,
sealed before the clock starts, which is that of CPU time. The sizes are measured by turns in many short rounds, and the
best of each counts, so that what the neighbours of the machine do cancels out. Ends with exit code 1 if a packet or a
grant costs the most clients more than the least, beyond the bound.

Bulk is a run of packets at a turn, as streams have them. Single packets, each of another client than the one before,
are shown beside that and not judged: with many clients none finds what it needs in the processor's caches.
"""

import gc
import json
import logging
import sys
import time
import tracemalloc
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from ipaddress import IPv4Address
from itertools import cycle
from pathlib import Path
from typing import Final

from bench.scale_stage import BULK, FORBIDDEN, HOST, LAN, PROXIES, REAL, SMALL, Client, Stage, run_of, udp
from connectivity.errors import FatalError
from connectivity.run import Run
from connectivity.settings import SettingsReader, integer

SIZES: Final = (2, 200, 1000)
BOUND: Final = 1.3  # of the most clients to the least
_CALLS: Final = 100  # a round; the next one goes on with the next clients
_RUN: Final = 32  # packets at a client's turn
_DATA: Final = b"\4\0\0\0"  # what a data message begins with
_MEASURED_CLIENTS: Final = 100  # of which memory is traced

Operation = Callable[[], object]


@dataclass(frozen=True, slots=True)
class Kind:
    """Something to be done again and again: ``prepare`` makes the calls of one round."""

    name: str
    prepare: Callable[[Stage, int], list[Operation]]
    packets: int = 1  # of a call
    is_bound: bool = True


@dataclass(frozen=True, slots=True)
class Figure:
    """Microseconds each, by number of clients."""

    name: str
    microseconds: dict[int, float]
    is_bound: bool

    @property
    def ratio(self) -> float:
        """Of the most clients to the least."""
        return self.microseconds[max(self.microseconds)] / self.microseconds[min(self.microseconds)]


def run(arguments: list[str]) -> int:
    """Measure, print, and judge.

    Raises:
        FatalError: the bound was missed.
    """
    reader = SettingsReader("bench scale", arguments)
    rounds = reader.optional(None, "--rounds", integer(1, 1000), 60, "rounds of which the best counts")
    target = reader.optional(None, "--json", Path, None, "file for the figures")
    reader.finish()
    logging.disable(logging.INFO)
    memory = measure_memory()
    figures = measure(SIZES, rounds)
    print(as_markdown(figures, memory))
    if target is not None:
        target.write_text(json.dumps(as_json(figures, memory), indent=1) + "\n", encoding="utf-8")
    missed = [f"{figure.name}: {figure.ratio:.2f}" for figure in figures if figure.is_bound and figure.ratio > BOUND]
    if missed:
        raise FatalError(f"a gateway with many clients costs more than {BOUND} of one with few: {'; '.join(missed)}")
    return 0


def measure(sizes: tuple[int, ...], rounds: int) -> list[Figure]:
    """All kinds for all sizes, by turns."""
    print(f"connecting {sum(sizes)} clients", file=sys.stderr)
    stages = {size: Stage(size) for size in sizes}
    figures = []
    gc.collect()
    gc.disable()  # a collection looks at all there is, in whosever turn it comes
    try:
        for kind in KINDS:
            best = dict.fromkeys(sizes, float("inf"))
            for number in range(rounds + 1):  # the first one warms up, and is no better
                for size, stage in stages.items():
                    best[size] = min(best[size], _time(kind.prepare(stage, number)) / kind.packets)
            figures.append(Figure(kind.name, best, kind.is_bound))
    finally:
        gc.enable()
    return figures


def measure_memory() -> int:
    """Bytes of Python objects that a gateway keeps of a connected, silent client with a network and a name."""
    Stage(1)  # what is made once
    gc.collect()
    tracemalloc.start()
    try:
        stage = Stage(_MEASURED_CLIENTS)
        gc.collect()
        return stage.grown_bytes // _MEASURED_CLIENTS
    finally:
        tracemalloc.stop()


def as_markdown(figures: list[Figure], memory: int) -> str:
    """The table, and memory below it."""
    sizes = sorted(figures[0].microseconds)
    head = ["| µs each, clients: |", *(f" {size:,} |" for size in sizes), " ratio |"]
    lines = ["".join(head), "|---|" + "---:|" * (len(sizes) + 1)]
    for figure in figures:
        cells = "".join(f" {figure.microseconds[size]:,.1f} |" for size in sizes)
        lines.append(f"| {figure.name} |{cells} {figure.ratio:.2f} |")
    return "\n".join([*lines, "", f"Memory of an idle client: {memory / 1024:.1f} KiB of Python objects."])


def as_json(figures: list[Figure], memory: int) -> dict[str, object]:
    """The same for programs."""
    rows = [{"name": figure.name, "microseconds": figure.microseconds, "ratio": figure.ratio} for figure in figures]
    return {"figures": rows, "bytes_per_idle_client": memory}


def _time(calls: list[Operation]) -> float:
    """Microseconds a call."""
    started = time.thread_time()
    for call in calls:
        call()
    return (time.thread_time() - started) / len(calls) * 1e6


def _turns(stage: Stage, number: int) -> list[Client]:
    """Whose turn it is in a round."""
    first = number * _CALLS
    return [stage.clients[index % len(stage.clients)] for index in range(first, first + _CALLS)]


def _to(destination: IPv4Address, stage: Stage, number: int) -> list[Operation]:
    return _received(stage, number, lambda client: udp(client.tunnel, destination, (5000, 80)))


def _run_to(destination: IPv4Address, stage: Stage, number: int) -> list[Operation]:
    return _received(stage, number, lambda client: udp(client.tunnel, destination, (5000, 80), size=BULK) * _RUN, BULK)


def _received(
    stage: Stage, number: int, packets: Callable[[Client], bytes], size: int | None = None
) -> list[Operation]:
    sealed = [stage.from_client(client, packets(client), size) for client in _turns(stage, number)]
    return [partial(stage.receive, received) for received in sealed]


def _first_to_name(stage: Stage, number: int) -> list[Operation]:
    """A new flow each, of ports that no round before had."""
    sealed = []
    for index, client in enumerate(_turns(stage, number), number * _CALLS):
        port = 10_000 + index // len(stage.clients)
        sealed.append(stage.from_client(client, udp(client.tunnel, PROXIES[0], (port, 53))))
    return [partial(stage.receive, received) for received in sealed]


def _new_to_network(stage: Stage, number: int) -> list[Operation]:
    """A new flow each, as in ``_first_to_name``."""
    ports = iter(range(10_000 + number * _CALLS, 65_536))
    return _received(stage, number, lambda client: udp(client.tunnel, HOST, (next(ports), 80)))


def _of_many_sizes(stage: Stage, number: int) -> list[Operation]:
    sizes = cycle(range(SMALL, BULK, 97))
    return _received(stage, number, lambda client: udp(client.tunnel, HOST, (5000, 80), size=next(sizes)))


def _forged(stage: Stage, number: int) -> list[Operation]:
    """Runs of a client's session of which nothing is authentic."""
    sealed = [
        stage.from_client(client, udp(client.tunnel, HOST, (5000, 80), size=BULK) * _RUN, BULK)
        for client in _turns(stage, number)
    ]
    for received in sealed:
        data, size = received.run
        for end in range(size, len(data) + 1, size):
            data[end - 1] ^= 1
    return [partial(stage.receive, received) for received in sealed]


def _refused(stage: Stage, number: int) -> list[Operation]:
    """Runs to where the client may not go; it is told of some only."""
    return _run_to(FORBIDDEN, stage, number)


def _strange(head: bytes, length: int, stage: Stage, number: int) -> list[Operation]:
    """Runs of what is for nobody: datagrams that begin so and are random from there on."""
    sealed = []
    for client in _turns(stage, number):
        datagrams = b"".join(head + stage.random.randbytes(BULK - len(head)) for _ in range(length))
        run = Run(memoryview(datagrams), BULK)
        sealed.append(stage.from_client(client, bytes(SMALL))._replace(run=run))
    return [partial(stage.receive, received) for received in sealed]


def _from_name(stage: Stage, number: int) -> list[Operation]:
    turns = _turns(stage, number)
    return [partial(stage.send, run_of(udp(REAL, client.tunnel, (80, 5000)))) for client in turns]


def _run_from_name(stage: Stage, number: int) -> list[Operation]:
    turns = _turns(stage, number)
    return [partial(stage.send, run_of(udp(REAL, client.tunnel, (80, 5000), size=BULK), _RUN)) for client in turns]


def _nothing_due(stage: Stage, _number: int) -> list[Operation]:
    """A look at the clock, as once a second while data flows."""
    return [stage.look_at_the_clock] * _CALLS


def _grants(stage: Stage, number: int) -> list[Operation]:
    return [partial(stage.grant, stage.authorization(client, LAN)) for client in _turns(stage, number)]


KINDS: Final = (
    Kind("packet to a network, in bulk", partial(_run_to, HOST), _RUN),
    Kind("packet to a name, in bulk", partial(_run_to, PROXIES[0]), _RUN),
    Kind("packet from a name, in bulk", _run_from_name, _RUN),
    Kind("first packet to a name", _first_to_name),
    Kind("grant", _grants),
    Kind("single packet to a network", partial(_to, HOST), is_bound=False),
    Kind("single packet to a name", partial(_to, PROXIES[0]), is_bound=False),
    Kind("single packet from a name", _from_name, is_bound=False),
    Kind("first packet to a network", _new_to_network, is_bound=False),
    Kind("single packet of ever another size", _of_many_sizes, is_bound=False),
    Kind("forged packet, in bulk", _forged, _RUN, is_bound=False),
    Kind("refused packet, in bulk", _refused, _RUN, is_bound=False),
    Kind("datagram of an unknown session", partial(_strange, _DATA, 1), is_bound=False),
    Kind("datagram of ever another unknown session, in bulk", partial(_strange, _DATA, _RUN), _RUN, is_bound=False),
    Kind("random bytes", partial(_strange, b"\xee", 1), is_bound=False),
    Kind("random bytes, in bulk", partial(_strange, b"\xee", _RUN), _RUN, is_bound=False),
    Kind("timers of which none is due", _nothing_due, is_bound=False),
)
