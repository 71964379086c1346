"""Kernel headers to compile against: any recent version, because only UAPI structs are used.

In order: what ``BCC_KERNEL_SOURCE`` names; a complete tree of the running kernel; a complete tree or a merged one from
``/usr/src``. Debian splits its headers in two packages that bcc cannot use apart: the common one is copied into a cache
directory and the architecture's ``include`` and ``arch`` over it, once per version.
"""

import os
import platform
import re
import shutil
import tempfile
from pathlib import Path
from typing import Final

from ebpf.settings import OffloadError

VARIABLE: Final = "BCC_KERNEL_SOURCE"
_SOURCES: Final = Path("/usr/src")
_SYSTEM_CACHE: Final = Path("/var/cache/postern")
# What bcc includes by force; a tree with both is complete, half of a split one has one of them.
_COMMON_MARK: Final = Path("include/linux/kconfig.h")
_ARCHITECTURE_MARK: Final = Path("include/generated/autoconf.h")
_COMMON_SUFFIX: Final = "-common"


def find_headers(sources: Path = _SOURCES, cache: Path | None = None) -> Path:
    """A complete tree, made if need be.

    Raises:
        OffloadError: there is none, with what to install or set.
    """
    named = os.environ.get(VARIABLE, "")
    if named:
        if not is_complete(Path(named)):
            raise OffloadError(f"{VARIABLE}={named} is no complete kernel header tree (no {_missing(Path(named))})")
        return Path(named)
    running = Path("/lib/modules") / platform.release() / "build"
    if sources == _SOURCES and is_complete(running):
        return running
    candidates = sorted(sources.glob("linux-headers-*"), key=_version_order, reverse=True)
    for candidate in candidates:
        if is_complete(candidate):
            return candidate
    for candidate in candidates:
        common = _common_of(candidate)
        if common is not None and (candidate / _ARCHITECTURE_MARK).is_file():
            return _merged(common, candidate, _cache_directory() if cache is None else cache)
    raise OffloadError(
        f"no kernel headers in {sources}: install linux-headers for any kernel from 5.18 on, or set {VARIABLE}"
    )


def is_complete(tree: Path) -> bool:
    """Whether bcc can compile against ``tree``; one that this user may not look into is none."""
    # Not Path.is_file: it raises where a unit's ProtectKernelModules closes /lib/modules.
    return os.path.isfile(tree / _COMMON_MARK) and os.path.isfile(tree / _ARCHITECTURE_MARK)


def _missing(tree: Path) -> str:
    return str(next((mark for mark in (_COMMON_MARK, _ARCHITECTURE_MARK) if not (tree / mark).is_file()), ""))


def _version_order(path: Path) -> tuple[list[int], str]:
    return [int(number) for number in re.findall(r"\d+", path.name)], path.name


def _common_of(architecture: Path) -> Path | None:
    """``linux-headers-6.1.0-56-amd64`` belongs to ``linux-headers-6.1.0-56-common``."""
    stem = architecture.name.rpartition("-")[0]
    common = architecture.with_name(stem + _COMMON_SUFFIX)
    return common if architecture.name != common.name and (common / _COMMON_MARK).is_file() else None


def _cache_directory() -> Path:
    try:
        _SYSTEM_CACHE.mkdir(exist_ok=True)
        if os.access(_SYSTEM_CACHE, os.W_OK):
            return _SYSTEM_CACHE
    except OSError:
        pass  # not ours to write: the user's own cache serves as well
    home = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(home) / "postern"


def _architecture_directories(architecture: Path) -> list[Path]:
    """``arch/x86/include``: of the common package only what this architecture uses."""
    return [Path("arch", entry.name, "include") for entry in (architecture / "arch").glob("*")]


def _merged(common: Path, architecture: Path, cache: Path) -> Path:
    target = cache / f"headers-{architecture.name.removeprefix('linux-headers-')}"
    if is_complete(target):
        return target
    try:
        cache.mkdir(parents=True, exist_ok=True)
        # Built aside and renamed, so that a tree under the final name is always whole.
        with tempfile.TemporaryDirectory(dir=cache, prefix=".headers-") as aside:
            for source in (common, architecture):
                for directory in (Path("include"), *_architecture_directories(architecture)):
                    if (source / directory).is_dir():
                        shutil.copytree(
                            source / directory, Path(aside, "tree", directory), symlinks=True, dirs_exist_ok=True
                        )
            Path(aside, "tree").rename(target)
    except FileExistsError:
        pass  # another process was faster; checked below
    except OSError as error:
        if not is_complete(target):
            raise OffloadError(f"cannot merge kernel headers into {target}") from error
    if not is_complete(target):
        raise OffloadError(f"merged kernel headers in {target} lack {_missing(target)}")
    return target
