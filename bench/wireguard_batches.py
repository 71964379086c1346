"""Price of sealing and opening WireGuard batches, as a ratio to the bare AEAD over prepared slices in the same run.

``python -m bench.wireguard_batches``. Each figure is processor time, the best of several rounds: what the code costs,
not what the neighbours on the machine do. The floor is one ``map`` of ``encrypt_into`` or ``decrypt_into`` and nothing
else. The last columns are the same with the compiled helper, if there is one, and how many times less that is.
"""

import os
import time
from collections import Counter, deque
from collections.abc import Callable
from itertools import repeat
from typing import Final, NamedTuple

from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from bench.helper import optional_helper
from connectivity import accelerator
from connectivity.run import Run
from connectivity.wireguard.errors import DropReason
from connectivity.wireguard.noise import TransportKeys
from connectivity.wireguard.session import Session
from connectivity.wireguard.workspace import Workspace

_ROUNDS: Final = 25
_ROUND_SECONDS: Final = 0.02
_CHANNEL_HEADER_BYTES: Final = 4


class Shape(NamedTuple):
    """One batch size to measure."""

    rows: int
    packet_bytes: int


def main() -> None:
    """Print one line per shape and operation."""
    head = f"{'operation':<26}{'floor µs/packet':>16}{'µs/packet':>12}{'ratio':>8}{'added µs/batch':>16}"
    print(head if _HELPER is None else f"{head}{'helper µs/packet':>18}{'gain':>7}")
    for shape in (Shape(48, 1280), Shape(1, 80), Shape(8, 80), Shape(1, 1280)):
        for name, floor, whole in (("seal", _seal_floor, _seal), ("open", _open_floor, _open)):
            with accelerator.using(_HELPER):
                helped = whole(shape)  # sessions ask for the helper when they are made
            base, total, best = _interleaved(floor(shape), whole(shape), helped)
            label = f"{name} {shape.rows} x {shape.packet_bytes} B"
            per_packet = f"{base / shape.rows:>16.2f}{total / shape.rows:>12.2f}"
            gain = "" if _HELPER is None else f"{best / shape.rows:>18.2f}{total / best:>7.2f}"
            print(f"{label:<26}{per_packet}{total / base:>8.2f}{total - base:>16.1f}{gain}")


def _interleaved(*operations: Callable[[], object]) -> list[float]:
    """Microseconds per call of each, measured in turns so that they see the same machine."""
    rounds = [[_round(operation) for operation in operations] for _ in range(_ROUNDS)]
    return [min(found) for found in zip(*rounds, strict=True)]


def _round(operation: Callable[[], object]) -> float:
    operation()
    calls = 0
    started = now = time.thread_time()
    while now - started < _ROUND_SECONDS:
        for _ in range(20):
            operation()
        calls += 20
        now = time.thread_time()
    return (now - started) / calls * 1e6


def _seal_floor(shape: Shape) -> Callable[[], object]:
    encrypt_into = ChaCha20Poly1305(os.urandom(32)).encrypt_into
    nonces, packets, messages = _rows(shape)
    return lambda: deque(map(encrypt_into, nonces, packets, repeat(None), messages), maxlen=0)


def _open_floor(shape: Shape) -> Callable[[], object]:
    cipher = ChaCha20Poly1305(os.urandom(32))
    nonces, packets, messages = _rows(shape)
    deque(map(cipher.encrypt_into, nonces, packets, repeat(None), messages), maxlen=0)
    return lambda: deque(map(cipher.decrypt_into, nonces, messages, repeat(None), packets), maxlen=0)


def _seal(shape: Shape) -> Callable[[], object]:
    sender, _ = _sessions()
    run = Run(memoryview(os.urandom(shape.rows * shape.packet_bytes)), shape.packet_bytes)
    return lambda: sender.seal(run, _CHANNEL_HEADER_BYTES)


def _open(shape: Shape) -> Callable[[], object]:
    """Opens the same batch again and again, the replay window set back each time (which costs 0.1 µs)."""
    sender, receiver = _sessions()
    run = Run(memoryview(os.urandom(shape.rows * shape.packet_bytes)), shape.packet_bytes)
    sealed = sender.seal(run, _CHANNEL_HEADER_BYTES)
    copy = Run(memoryview(bytearray(sealed.data)), sealed.segment_size)
    drops: Counter[DropReason] = Counter()
    window = receiver.window

    def operation() -> None:
        window.highest = -1
        authentic, _ = receiver.open(copy, _CHANNEL_HEADER_BYTES, drops)
        assert authentic == shape.rows, "the benchmark measures the successful path"

    return operation


def _sessions() -> tuple[Session, Session]:
    first, second = os.urandom(32), os.urandom(32)
    workspace = Workspace()
    return (
        Session(
            keys=TransportKeys(first, second),
            local_index=1,
            remote_index=2,
            is_initiator=True,
            workspace=workspace,
            now=0,
        ),
        Session(
            keys=TransportKeys(second, first),
            local_index=2,
            remote_index=1,
            is_initiator=False,
            workspace=workspace,
            now=0,
        ),
    )


def _rows(shape: Shape) -> tuple[list[memoryview], list[memoryview], list[memoryview]]:
    """Nonces, packets and room for messages, as slices of contiguous memory."""
    nonces = memoryview(bytearray(12 * shape.rows))
    packets = memoryview(bytearray(shape.packet_bytes * shape.rows))
    messages = memoryview(bytearray((shape.packet_bytes + 16) * shape.rows))
    return (_cut(nonces, 12), _cut(packets, shape.packet_bytes), _cut(messages, shape.packet_bytes + 16))


def _cut(memory: memoryview, size: int) -> list[memoryview]:
    return [memory[offset : offset + size] for offset in range(0, len(memory), size)]


_HELPER: Final = optional_helper()

if __name__ == "__main__":
    main()
