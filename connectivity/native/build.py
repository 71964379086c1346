"""Compiles the helper: a shared object, and the description that cffi needs to call it, beside its sources.

``python connectivity/native/build.py``, which imports no package of ours. It needs a C compiler and cffi, no headers of
OpenSSL or Python, and does nothing where what lies there is of the sources that lie there.
"""

import contextlib
import hashlib
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Final

FOLDER: Final = Path(__file__).resolve().parent
BUILT: Final = FOLDER / "built"
LIBRARY: Final = "helper.so"
INTERFACE: Final = "interface.cffi"  # a module that cffi has written, none of ours
_STAMP: Final = "sources"
_COMPILERS: Final = ("gcc", "cc", "clang")
WARNINGS: Final = ("-Wall", "-Wextra", "-Wconversion", "-Werror")
_FLAGS: Final = (
    *("-std=gnu11", "-O3", "-fPIC", "-shared", "-fvisibility=hidden"),
    *("-fstack-protector-strong", "-Wl,-z,relro,-z,now"),
)


def digest() -> str:
    """What tells these sources from others."""
    whole = hashlib.sha256()
    for path in sorted((*FOLDER.glob("*.c"), *FOLDER.glob("*.h"))):
        whole.update(path.read_bytes())
    return whole.hexdigest()[:16]


def build(folder: Path = BUILT, options: Sequence[str] = ()) -> None:
    """Compile into ``folder``, in one step for whoever loads from there meanwhile.

    Raises:
        OSError, ImportError, CalledProcessError: there is no compiler, no cffi, or an error in the sources.
    """
    compiler = os.environ.get("CC") or next(filter(None, map(shutil.which, _COMPILERS)), None)
    if compiler is None:
        raise FileNotFoundError("there is no C compiler")
    sources = digest()
    folder.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        library, interface = Path(scratch, LIBRARY), Path(scratch, INTERFACE)
        files = [str(path) for path in sorted(FOLDER.glob("*.c"))]
        command = [compiler, *_FLAGS, f'-DPOSTERN_SOURCES="{sources}"', *options, *files, "-o", str(library)]
        subprocess.run(command, check=True)
        _describe(interface)
        Path(scratch, _STAMP).write_text(_stamp(), encoding="ascii")
        for name in (LIBRARY, INTERFACE, _STAMP):
            Path(scratch, name).replace(folder / name)


def is_current() -> bool:
    """Whether what lies there was compiled from these sources, for this machine."""
    stamp = BUILT / _STAMP
    return stamp.is_file() and stamp.read_text(encoding="ascii") == _stamp()


def _stamp() -> str:
    return f"{digest()} {platform.machine()}"


def _describe(path: Path) -> None:
    """Write what the header declares in the form that cffi loads without a parser, which costs a tenth of a second."""
    import cffi  # no dependency of who only reads this module

    text = re.sub(r"/\*.*?\*/", "", (FOLDER / "native.h").read_text(encoding="utf-8"), flags=re.DOTALL)
    lines = [line for line in text.splitlines() if not line.startswith(("#", "//"))]
    declarations = cffi.FFI()
    declarations.cdef("\n".join(lines).replace("EXPORTED ", ""))
    declarations.set_source("interface", None)
    with contextlib.redirect_stdout(None):  # it tells the path
        declarations.emit_python_code(str(path))


def main() -> int:
    """Build if that is needed; failing is said, and Python does the work."""
    if is_current():
        return 0
    try:
        build()
    except (OSError, ImportError, subprocess.CalledProcessError) as error:
        print(f"the helper is not compiled, Python does its work: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
