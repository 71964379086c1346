"""Loads XDP programs, ``relay_xdp.c`` above all, by a process of their own that compiles them (``ebpf.compiler``).

What that process writes to standard error, its compiler's words and the verifier's log, is only told if something
fails, as the reason.
"""

import json
import logging
import os
import re
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Final, Self

from ebpf import bpf_syscall, layout
from ebpf.compiler import BccMissingError, import_bcc
from ebpf.headers import VARIABLE, find_headers
from ebpf.outcomes import OUTCOME_COUNT, Direction
from ebpf.settings import OffloadError

PROGRAM_NAME: Final = "postern_relay"  # at most 15 characters: the kernel keeps no more
_DIRECTORY: Final = Path(__file__).resolve().parent
INCLUDE: Final = _DIRECTORY / "include"
_SOURCE: Final = _DIRECTORY / "relay_xdp.c"
_COMPILER: Final = _DIRECTORY / "compiler.py"
_INTERESTING: Final = re.compile(r"error|invalid|not allowed|denied|too complex|unknown|exceeded|R\d+ ", re.IGNORECASE)
_COMPILE_SECONDS: Final = 300.0  # slow processors take a minute; what hangs must end some time
_ANSWER_BYTES: Final = 65_536
_MAPS: Final = ("flows_v4", "flows_v6", "bindings", "buckets", "config", "next_hops", "outcome_stats")

_log = logging.getLogger("ebpf.loader")


@dataclass(frozen=True, slots=True)
class BuildOptions:
    """All that may be defined at compile time; everything else is configuration in a map."""

    flow_entries: int
    bindings: int
    poison_headroom: bool = False  # tests only

    def flags(self) -> list[str]:
        """Compiler flags. Warnings are errors: bcc's own headers are clean under -Wall."""
        defines = [f"-DFLOW_ENTRIES={self.flow_entries}", f"-DBINDINGS={self.bindings}"]
        if self.poison_headroom:
            defines.append("-DPOISON_HEADROOM")
        return ["-Wall", "-Werror", f"-I{INCLUDE}", *defines]


class LoadedProgram:
    """The program and its maps, loaded and not attached, as descriptors. Closing frees both."""

    def __init__(self, fd: int, maps: Mapping[str, int]) -> None:
        self.fd = fd
        self.maps = maps
        self._is_open = True

    def close(self) -> None:
        """Free program and maps; once is enough."""
        if self._is_open:
            self._is_open = False
            for descriptor in (self.fd, *self.maps.values()):
                os.close(descriptor)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def load(options: BuildOptions) -> LoadedProgram:
    """Compile and verify the relay's program.

    Raises:
        OffloadError: bcc or headers are missing, or compiler or verifier refused; the text says which and why.
    """
    program = load_source(_SOURCE, PROGRAM_NAME, options.flags(), _MAPS)
    _check_geometry(program, options)
    return program


def load_source(source: Path, name: str, flags: Sequence[str], maps: Sequence[str]) -> LoadedProgram:
    """Compile and verify the XDP function ``name``.

    Raises:
        OffloadError: as ``load``.
    """
    headers = find_headers()
    started = time.monotonic()
    request = {"source": str(source), "name": name, "flags": list(flags), "maps": list(maps)}
    with tempfile.TemporaryFile() as noise:
        answer, descriptors = _compile(request, headers, noise)
        if "missing" in answer:
            raise OffloadError(answer["missing"])
        if not descriptors:
            refusal = OffloadError(f"cannot load the relay's program ({_reason(noise)})")
            raise refusal from OffloadError(answer.get("refused", "the compiler ended without a word"))
    milliseconds = round((time.monotonic() - started) * 1000)
    _log.debug("program loaded", extra={"fields": {"headers": str(headers), "milliseconds": milliseconds}})
    return LoadedProgram(descriptors[0], dict(zip(maps, descriptors[1:], strict=True)))


def bcc_problem() -> str:
    """Why bcc cannot be used, or nothing. Imports it into this process."""
    try:
        import_bcc()
    except BccMissingError as error:
        return str(error)
    return ""


def _compile(request: Mapping[str, Any], headers: Path, noise: IO[bytes]) -> tuple[dict[str, str], list[int]]:
    """What the compiling process answers, and the descriptors that come with it: program, then maps.

    Raises:
        OffloadError: it takes too long.
    """
    ours, theirs = socket.socketpair()
    with ours, theirs:
        child = subprocess.Popen(
            [sys.executable, "-P", str(_COMPILER), json.dumps(request), str(theirs.fileno())],
            pass_fds=[theirs.fileno()],
            env={**os.environ, VARIABLE: str(headers)},
            stdin=subprocess.DEVNULL,
            stdout=noise,
            stderr=noise,
        )
        with child:
            theirs.close()
            ours.settimeout(_COMPILE_SECONDS)
            try:
                data, descriptors, _, _ = socket.recv_fds(ours, _ANSWER_BYTES, 1 + len(request["maps"]))
            except TimeoutError:
                raise OffloadError(f"the compiler did not end within {_COMPILE_SECONDS:.0f} s") from None
            finally:
                child.kill()  # it has nothing more to do, and frees its memory at once
    for descriptor in descriptors:
        os.set_inheritable(descriptor, False)
    return json.loads(data) if data else {}, descriptors


def _check_geometry(program: LoadedProgram, options: BuildOptions) -> None:
    """The maps must be what layout.py packs; a difference would be silent nonsense in the kernel."""
    flows = options.flow_entries
    expected = {
        "flows_v4": (layout.KEY_BYTES[4], layout.FLOW_BYTES, flows),
        "flows_v6": (layout.KEY_BYTES[6], layout.FLOW_BYTES, flows),
        "bindings": (4, layout.BINDING.itemsize, options.bindings),
        "buckets": (4, layout.BUCKET.size, layout.BUCKETS),
        "config": (4, layout.CONFIG_BYTES, 1),
        "next_hops": (4, layout.NEXT_HOP_BYTES, layout.MAX_NEXT_HOPS),
        "outcome_stats": (4, layout.COUNTER.size, OUTCOME_COUNT * len(Direction)),
    }
    for name, geometry in expected.items():
        info = bpf_syscall.map_info(program.maps[name])
        if (info.key_bytes, info.value_bytes, info.max_entries) != geometry:
            program.close()
            raise AssertionError(f"map {name} is {info}, layout.py says {geometry}")


def _reason(noise: IO[bytes]) -> str:
    """The telling lines of compiler or verifier, the last ones first to matter."""
    noise.seek(0)
    lines = [line.strip() for line in noise.read().decode("utf-8", "replace").splitlines() if line.strip()]
    telling = [line for line in lines if _INTERESTING.search(line) and not line.startswith(";")]
    chosen = (telling or lines)[-3:]
    return " | ".join(chosen)[-600:] or "no reason given"
