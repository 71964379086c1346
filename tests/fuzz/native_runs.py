"""The compiled helper under libFuzzer and sanitizers: ``python -m tests.fuzz.native_runs [libFuzzer's options]``."""

import sys
from pathlib import Path
from typing import Any, Final

from connectivity.native import build as helper
from tests.fuzz.libfuzzer import compile_fuzzer, main
from tests.unit.connectivity.ip_oracle import super_packet, tcp, udp

_SOURCE: Final = Path(__file__).with_suffix(".c")
_OPTIONS: Final = ('-DPOSTERN_SOURCES="fuzzed"', "-ldl")


def build(directory: Path, sources: Path = helper.FOLDER) -> Path | str:
    """The fuzzer of the helper in ``sources``, or why there is none."""
    files = [_SOURCE, *sorted(sources.glob("*.c"))]
    return compile_fuzzer(directory / "native_runs", files, (f"-I{sources}", *_OPTIONS))


def write_seeds(directory: Path) -> None:
    """Runs of either protocol and family, and super-packets, behind the numbers that suit them."""
    for version in (4, 6):
        for name, protocol in (("tcp", 6), ("udp", 17)):
            build_packet: Any = tcp if protocol == 6 else udp
            numbers = [{"sequence": 20 * number} if protocol == 6 else {} for number in range(4)]
            rows = [build_packet(version, bytes(20), **fields) for fields in numbers]
            stride, l4 = len(rows[0]), 20 if version == 4 else 40
            _write(directory / f"{name}{version}", stride, 0, 0, l4, b"".join(rows) + rows[0][:-1])
            virtio, whole = super_packet(version, protocol, bytes(90), 20)
            _write(directory / f"{name}{version}-super", 20, 20, virtio[1], l4, whole)


def _write(path: Path, stride: int, segment: int, kind: int, l4: int, run: bytes) -> None:
    numbers = b"".join(value.to_bytes(2, "big") for value in (stride, 0, segment, 1000))
    path.write_bytes(numbers + bytes((kind,)) + l4.to_bytes(2, "big") + b"\4" + run)


if __name__ == "__main__":
    sys.exit(main(build, write_seeds, sys.argv[1:]))
