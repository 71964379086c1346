"""How long programs run, by the kernel's own count (run_time_ns / run_cnt), and a bare program to compare with.

The kernel counts while ``counting()`` holds; it costs every program some 20 ns a run. For a program that serves, take a
``RunTime`` before and after. For two programs on the same frames, ``compare`` runs both by turns on a machine that may
be busy with other things, and takes the median of many short rounds.
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Final, NamedTuple

from ebpf import bpf_syscall
from ebpf.loader import INCLUDE, LoadedProgram, load_source

_BARE: Final = Path(__file__).resolve().parent / "bare_xdp.c"


class RunTime(NamedTuple):
    """What a program has used so far."""

    nanoseconds: int
    runs: int

    @classmethod
    def of(cls, program_fd: int) -> "RunTime":
        """As it is now."""
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


def compare(programs: Sequence[int], frames: Sequence[bytes], *, rounds: int = 25, runs: int = 400) -> list[float]:
    """Nanoseconds per run of each program, the i-th on the i-th frame; a frame's changes are not kept."""
    samples: list[list[float]] = [[] for _ in programs]
    with counting():
        for _ in range(rounds):
            for program_fd, frame, found in zip(programs, frames, samples, strict=True):
                before = RunTime.of(program_fd)
                for _ in range(runs):
                    bpf_syscall.run_program(program_fd, frame)
                found.append(RunTime.of(program_fd).mean_since(before))
    return [median(found) for found in samples]
