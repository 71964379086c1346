"""The XDP program's parser under libFuzzer: ``python -m tests.fuzz.relay_parser [options of libFuzzer, folders]``.

Compiles ``relay_parser.c`` with the address and the undefined-behaviour sanitizer and runs it from frames as the oracle
builds them, by default until a finding. Needs clang and its runtime library (Debian: ``clang-14 libclang-rt-14-dev``).
"""

import os
import shutil
import subprocess
import sys
import tempfile
from ipaddress import ip_address
from pathlib import Path
from typing import Final

import ebpf
from connectivity.endpoint import Endpoint
from ebpf.oracle import Datagram

NO_CLANG: Final = "clang is not installed"
_SOURCE: Final = Path(__file__).with_suffix(".c")
_INCLUDE: Final = Path(ebpf.__file__).parent / "include"
_COMPILERS: Final = ("clang", *(f"clang-{version}" for version in range(22, 13, -1)))
_FLAGS: Final = (
    *("-g", "-O1", "-std=gnu11", "-Wall", "-Wextra", "-Werror"),
    *("-Wno-unused-function", "-Wno-sign-compare", "-Wno-address-of-packed-member"),
    # Packet headers lie where they lie; that is right on the machines that the program runs on.
    *("-fsanitize=fuzzer,address,undefined", "-fno-sanitize=alignment", "-fno-sanitize-recover=all"),
)
_CHOICES: Final = bytes((0, 1, 2, 3, 4, 5, 1, 0))


def build(directory: Path) -> Path | str:
    """The fuzzer, or why there is none: no clang, or a clang without libFuzzer. A fault in the source raises."""
    compiler = next(filter(None, map(shutil.which, _COMPILERS)), None)
    if compiler is None:
        return NO_CLANG
    probe = directory / "probe.c"
    probe.write_text("int LLVMFuzzerTestOneInput(const char *d, long n) { return d == 0 && n < 0; }\n")
    fuzzer = directory / "relay_parser"
    found = subprocess.run([compiler, "-fsanitize=fuzzer,address,undefined", probe, "-o", fuzzer], capture_output=True)
    if found.returncode:
        return f"{compiler} has no libFuzzer"
    subprocess.run([compiler, *_FLAGS, f"-I{_INCLUDE}", _SOURCE, "-o", fuzzer], check=True)
    return fuzzer


def write_seeds(directory: Path) -> None:
    """A frame of either family: channel data, padded channel data, and a peer's datagram."""
    for version, (ours, theirs) in {4: ("192.0.2.1", "192.0.2.9"), 6: ("2001:db8::1", "2001:db8::9")}.items():
        remote, relay = Endpoint(ip_address(theirs), 40_000), ip_address(ours)
        for number, (port, payload) in enumerate(
            ((3478, b"\x40\x01\0\5hello"), (3478, b"\x40\x01\0\5hello\0\0\0"), (50_000, b"hello"), (3478, b""))
        ):
            packet = Datagram(remote, Endpoint(relay, port), payload).packet()
            ethertype = b"\x08\x00" if version == 4 else b"\x86\xdd"
            (directory / f"{version}-{number}").write_bytes(_CHOICES + bytes(12) + ethertype + packet)


def run(fuzzer: Path, *options: str) -> int:
    """Fuzz; 0 means that nothing was found."""
    with tempfile.TemporaryDirectory() as seeds:
        write_seeds(Path(seeds))
        is_replay = any(Path(option).is_file() for option in options)
        return subprocess.run([fuzzer, *options, *([] if is_replay else [seeds])], check=False).returncode


def main(options: list[str]) -> int:
    """Build and fuzz."""
    with tempfile.TemporaryDirectory() as directory:
        fuzzer = build(Path(directory))
        if isinstance(fuzzer, str):
            print(f"cannot fuzz: {fuzzer}", file=sys.stderr)
            return 1
        return run(fuzzer, *options)


if __name__ == "__main__":
    os.environ.setdefault("UBSAN_OPTIONS", "print_stacktrace=1")
    sys.exit(main(sys.argv[1:]))
