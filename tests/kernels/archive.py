"""Debian's kernels, from the archive that this machine itself takes its packages from.

``release`` is the kernel of the machine's own release, ``backports`` the newer one that the same archive has for it.
Packages are unpacked into a folder, never installed, and kept there until there is a newer one.
"""

import fcntl
import os
import re
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final, Literal, NamedTuple, TypeAlias

from tests import apt

Suite: TypeAlias = Literal["release", "backports"]

SUITES: Final[tuple[Suite, ...]] = ("release", "backports")
TOOLS: Final = ("qemu-system-x86", "busybox-static", "cpio", "kmod", "xz-utils")
_KERNEL: Final = "linux-image-amd64"  # whose one dependency is the newest kernel of its suite
_KEYRING: Final = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
_SECONDS: Final = 300
_QUIET: Final = ("-qq", "-o", "Dpkg::Use-Pty=0", "-o", "DPkg::Lock::Timeout=120", "-o", "APT::Sandbox::User=root")


class CannotHaveError(Exception):
    """A kernel, or what it takes to boot it, cannot be had here: why, in one line."""


class Kernel(NamedTuple):
    """An unpacked one."""

    version: str
    folder: Path

    @property
    def image(self) -> Path:
        """What a machine boots."""
        return self.folder / "boot" / f"vmlinuz-{self.version}"


@contextmanager
def alone(cache: Path) -> Iterator[None]:
    """Installs and fetches one after another, whichever of pytest's processes wants to."""
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def install_tools() -> None:
    """What boots kernels and fills their first file system.

    Raises:
        CannotHaveError: something of it is not there and cannot be installed.
    """
    with apt.alone():
        listed = _run("dpkg-query", "-W", "-f", "${Package} ${db:Status-Status}\n", *TOOLS, may_fail=True)
        missing = [name for name in TOOLS if f"{name} installed" not in listed.splitlines()]
        if missing:
            os.environ["DEBIAN_FRONTEND"] = "noninteractive"
            _run("apt-get", *_QUIET, "update")
            _run("apt-get", *_QUIET, "install", "-y", "--no-install-recommends", *missing)


def fetch(suite: Suite, cache: Path) -> Kernel:
    """The newest kernel of a suite, unpacked.

    Raises:
        CannotHaveError: this machine's archive has none, or cannot be reached.
    """
    options = [] if suite == "release" else _backports(cache)
    version = _newest(options)
    kernel = Kernel(version, cache / suite / version)
    if not kernel.image.is_file():
        shutil.rmtree(cache / suite, ignore_errors=True)
        (cache / suite).mkdir(parents=True)
        _run("apt-get", *_QUIET, *options, "download", f"linux-image-{version}", folder=cache / suite)
        (package,) = (cache / suite).glob("*.deb")
        _run("dpkg-deb", "-x", str(package), str(kernel.folder))
        package.unlink()
        _run("depmod", "-b", str(kernel.folder), version)
    return kernel


def _newest(options: Sequence[str]) -> str:
    found = re.search(r"Depends: linux-image-(\S+)", _run("apt-cache", *options, "depends", _KERNEL, may_fail=True))
    if found is None:
        raise CannotHaveError(f"no archive of this machine has {_KERNEL}")
    return found[1]


def _backports(cache: Path) -> list[str]:
    """Options that make apt read the suite of backports of the machine's own archive, and nothing else."""
    codename = _codename()
    listed = _run("apt-get", "indextargets", "--format", "$(REPO_URI) $(CODENAME) $(COMPONENT)", "Created-By: Packages")
    archive = next((line.split()[0] for line in listed.splitlines() if line.split()[1:] == [codename, "main"]), None)
    if archive is None:
        raise CannotHaveError(f"no archive of this machine has main of {codename}")
    folder = cache / "apt"
    for name in ("sources", "lists/partial", "cache/archives/partial"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    source = f"Types: deb\nURIs: {archive}\nSuites: {codename}-backports\nComponents: main\n"
    source += f"Signed-By: {_KEYRING}\n" if _KEYRING.is_file() else ""
    (folder / "sources" / "backports.sources").write_text(source, encoding="utf-8")
    options = ["-o", "Acquire::Languages=none"]
    for name, value in {
        "Dir::Etc::SourceList": "/dev/null",
        "Dir::Etc::SourceParts": folder / "sources",
        "Dir::State::Lists": folder / "lists",
        "Dir::Cache": folder / "cache",
    }.items():
        options += ["-o", f"{name}={value}"]
    _run("apt-get", *_QUIET, *options, "update")
    return options


def _codename() -> str:
    found = re.search(r"^VERSION_CODENAME=(\S+)$", Path("/etc/os-release").read_text(encoding="utf-8"), re.MULTILINE)
    if found is None or shutil.which("apt-get") is None:
        raise CannotHaveError("this is no Debian release")
    return found[1]


def _run(*command: str, folder: Path | None = None, may_fail: bool = False) -> str:
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise CannotHaveError(f"{command[0]}: {error}") from None
    if done.returncode and not may_fail:
        said = (done.stderr.strip() or done.stdout.strip()).splitlines()
        raise CannotHaveError(f"{command[0]}: {said[-1] if said else done.returncode}")
    return done.stdout
