"""C compiled with libFuzzer, the address and the undefined-behaviour sanitizer, and run.

Needs clang and its runtime library (Debian: ``clang-14 libclang-rt-14-dev``).
"""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

NO_CLANG: Final = "clang is not installed"
_COMPILERS: Final = ("clang", *(f"clang-{version}" for version in range(22, 13, -1)))
_FLAGS: Final = (
    *("-g", "-O1", "-std=gnu11", "-Wall", "-Wextra", "-Werror"),
    # Packet headers lie where they lie; that is right on the machines that the programs run on.
    *("-fsanitize=fuzzer,address,undefined", "-fno-sanitize=alignment", "-fno-sanitize-recover=all"),
)


def compile_fuzzer(fuzzer: Path, sources: Sequence[Path], options: Sequence[str]) -> Path | str:
    """The fuzzer, or why there is none: no clang, or a clang without libFuzzer. A fault in the source raises."""
    compiler = next(filter(None, map(shutil.which, _COMPILERS)), None)
    if compiler is None:
        return NO_CLANG
    probe = fuzzer.with_name("probe.c")
    probe.write_text("int LLVMFuzzerTestOneInput(const char *d, long n) { return d == 0 && n < 0; }\n")
    found = subprocess.run([compiler, "-fsanitize=fuzzer,address,undefined", probe, "-o", fuzzer], capture_output=True)
    if found.returncode:
        return f"{compiler} has no libFuzzer"
    subprocess.run([compiler, *_FLAGS, *options, *sources, "-o", fuzzer], check=True)
    return fuzzer


def main(build: Callable[[Path], Path | str], write_seeds: Callable[[Path], None], options: Sequence[str]) -> int:
    """Build and fuzz; 0 means that nothing was found. Files among the options are replayed instead."""
    os.environ.setdefault("UBSAN_OPTIONS", "print_stacktrace=1")
    with tempfile.TemporaryDirectory() as directory, tempfile.TemporaryDirectory() as seeds:
        fuzzer = build(Path(directory))
        if isinstance(fuzzer, str):
            print(f"cannot fuzz: {fuzzer}", file=sys.stderr)
            return 1
        write_seeds(Path(seeds))
        is_replay = any(Path(option).is_file() for option in options)
        return subprocess.run([fuzzer, *options, *([] if is_replay else [seeds])], check=False).returncode
