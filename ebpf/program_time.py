"""How long programs run, by the kernel's own count (run_time_ns / run_cnt), and a bare program to compare with.

The kernel counts while ``counting()`` holds; it costs every program some 20 ns a run. For a program that serves, take a
``RunTime`` before and after. To compare two, ``by_turns`` puts one after the other on the same link, under the same
traffic, for some milliseconds each: what else a machine does meets both alike, and the median of the turns leaves out
where it met one. Test runs (``BPF_PROG_TEST_RUN``) would be quieter and tell less: repeated, they meet the packet as
the run before left it; one by one, each comes out of a system call, with caches that hold something else.
"""

import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Final, NamedTuple

from ebpf import bpf_syscall
from ebpf.loader import INCLUDE, LoadedProgram, load_source

_BARE: Final = Path(__file__).resolve().parent / "bare_xdp.c"
_TURN_SECONDS: Final = 0.004
_LEAST_RUNS: Final = 100  # of a turn that counts


class RunTime(NamedTuple):
    """What a program has used so far."""

    nanoseconds: int
    runs: int

    @classmethod
    def of(cls, program_fd: int) -> "RunTime":
        """The kernel's count of a program, as it is now."""
        info = bpf_syscall.program_info(program_fd)
        return cls(info.run_time_ns, info.run_count)

    def mean_since(self, earlier: "RunTime") -> float:
        """Nanoseconds per run between two readings; 0 without a run."""
        runs = self.runs - earlier.runs
        return (self.nanoseconds - earlier.nanoseconds) / runs if runs else 0.0


@contextmanager
def counting() -> Iterator[None]:
    """Let the kernel measure all programs, for as long as this lasts. Needs CAP_SYS_ADMIN."""
    held = bpf_syscall.enable_run_time_statistics()
    try:
        yield
    finally:
        os.close(held)


def load_bare() -> LoadedProgram:
    """The program that only parses, looks up the FIB and redirects."""
    return load_source(_BARE, "postern_bare", [f"-I{INCLUDE}"], maps=())


def by_turns(programs: Sequence[int], link: int, is_over: Callable[[], bool]) -> list[float]:
    """Nanoseconds per run of each program on a link, 0 without runs; afterwards it has the first one again."""
    samples: list[list[float]] = [[] for _ in programs]
    try:
        while not is_over():
            for program_fd, found in zip(programs, samples, strict=True):
                bpf_syscall.replace_program(link, program_fd)
                before = RunTime.of(program_fd)
                time.sleep(_TURN_SECONDS)
                after = RunTime.of(program_fd)
                if after.runs - before.runs >= _LEAST_RUNS:
                    found.append(after.mean_since(before))
    finally:
        bpf_syscall.replace_program(link, programs[0])
    return [median(found) if found else 0.0 for found in samples]
