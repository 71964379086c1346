"""Compiles and loads XDP programs, ``relay_xdp.c`` above all: the only importer of bcc, and lazily.

bcc comes from the distribution and writes its compiler's words and the verifier's log to standard error. Both are held
back and only told if something fails, as the reason. While it compiles (about a second) nothing else of this process
should write to standard error.
"""

import importlib
import logging
import os
import re
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Final, Self

from ebpf import bpf_syscall, layout
from ebpf.headers import VARIABLE, find_headers
from ebpf.outcomes import OUTCOME_COUNT, Direction
from ebpf.settings import OffloadError

PROGRAM_NAME: Final = "postern_relay"  # at most 15 characters: the kernel keeps no more
_DIRECTORY: Final = Path(__file__).resolve().parent
INCLUDE: Final = _DIRECTORY / "include"
_SOURCE: Final = _DIRECTORY / "relay_xdp.c"
_INTERESTING: Final = re.compile(r"error|invalid|not allowed|denied|too complex|unknown|exceeded|R\d+ ", re.IGNORECASE)
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
    """The program and its maps, loaded and not attached. Closing frees both."""

    def __init__(self, module: Any, fd: int, maps: Mapping[str, int]) -> None:
        self._module = module
        self.fd = fd
        self.maps = maps

    def close(self) -> None:
        """Free program and maps; once is enough."""
        if self._module is not None:
            self._module.cleanup()
            self._module = None

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
    bcc = _import_bcc()
    headers = find_headers()
    started = time.monotonic()
    previous = os.environ.get(VARIABLE)
    os.environ[VARIABLE] = str(headers)
    module = None
    with _held_back_stderr() as noise:
        try:
            module = bcc.BPF(src_file=os.fsencode(source), cflags=list(flags))
            function = module.load_func(name.encode(), bcc.BPF.XDP)
        except Exception as error:  # bcc raises the bare class for everything
            if module is not None:
                module.cleanup()
            raise OffloadError(f"cannot load the relay's program ({_reason(noise)})") from error
        finally:
            if previous is None:
                del os.environ[VARIABLE]
            else:
                os.environ[VARIABLE] = previous
    descriptors = {each: int(bcc.lib.bpf_table_fd(module.module, each.encode())) for each in maps}
    milliseconds = round((time.monotonic() - started) * 1000)
    _log.debug("program loaded", extra={"fields": {"headers": str(headers), "milliseconds": milliseconds}})
    return LoadedProgram(module, function.fd, descriptors)


def bcc_problem() -> str:
    """Why bcc cannot be used, or nothing."""
    try:
        _import_bcc()
    except OffloadError as error:
        return f"{error}: {error.__cause__}"
    return ""


def _import_bcc() -> Any:
    try:
        return importlib.import_module("bcc")
    except (ImportError, OSError) as error:
        version = f"{sys.version_info.major}.{sys.version_info.minor}"
        raise OffloadError(
            f"bcc cannot be imported by Python {version} (install python3-bpfcc; a virtual environment needs "
            "--system-site-packages)"
        ) from error


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


@contextmanager
def _held_back_stderr() -> Iterator[IO[bytes]]:
    """Sends descriptor 2, which bcc's C++ half writes to, into a file."""
    sys.stderr.flush()
    saved = os.dup(2)
    with tempfile.TemporaryFile() as noise:
        os.dup2(noise.fileno(), 2)
        try:
            yield noise
        finally:
            os.dup2(saved, 2)
            os.close(saved)
