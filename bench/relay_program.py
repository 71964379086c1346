"""The relay's XDP program beside a bare one: on the same links, under the same frames, by turns of some milliseconds.

The relay stands still meanwhile: it would miss its program on its interfaces and put it there again. The bare program
parses, looks up the FIB and redirects, back to where a frame came from, because it has no flow to tell it another way.
"""

import os
import signal
import threading
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from types import TracebackType
from typing import Final, Self

from bench.relay_stage import RelayStage
from ebpf import bpf_syscall, program_time
from lab.errors import LabError
from lab.processes import Process

_LEAST_SECONDS: Final = 0.5  # the kernel takes some 10 ms to put another program on a link


@dataclass(frozen=True, slots=True)
class ProgramTimes:
    """Nanoseconds per frame, of which counting itself takes some 20 of either."""

    ours_ns: float
    bare_ns: float

    @property
    def ratio(self) -> float:
        return self.ours_ns / max(1.0, self.bare_ns)


class Turns:
    """A relay that stands still, and its links, on which programs take turns. Left, all is as it was."""

    def __init__(self, stage: RelayStage, process: Process) -> None:
        self._stage = stage
        self._process = process

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            program_id = self._stage.program_id()
            if not program_id:
                raise LabError("there is no program on the relay's interfaces")
            self._ours = bpf_syscall.open_program(program_id)
            stack.callback(os.close, self._ours)
            self._bare = stack.enter_context(program_time.load_bare()).fd
            self._links: dict[int, int] = {}
            for link in bpf_syscall.xdp_links():
                if link.program_id == program_id:
                    self._links[link.ifindex] = bpf_syscall.open_link(link.id)
                    stack.callback(os.close, self._links[link.ifindex])
            self._process.popen.send_signal(signal.SIGSTOP)
            stack.callback(self._process.popen.send_signal, signal.SIGCONT)
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def during(self, ingress: int, send: Callable[[float], object], seconds: float) -> ProgramTimes:
        """What both take of the frames that ``send``, in this thread, makes for an interface of the relay."""
        link = self._links[ingress]
        found: list[float] = []
        is_over = threading.Event()

        def take_turns() -> None:
            found.extend(program_time.by_turns([self._ours, self._bare], link, is_over.is_set))

        thread = threading.Thread(target=take_turns, name="postern-bench-turns")
        thread.start()
        try:
            send(max(seconds, _LEAST_SECONDS))
        finally:
            is_over.set()
            thread.join()
        if len(found) != 2 or not all(found):
            raise LabError("the programs had no frames")
        return ProgramTimes(*found)
