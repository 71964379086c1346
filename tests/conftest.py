"""What every test may rely on: the rules for privileged tests and for tests with upstream's own programs.

``root`` marks a test that needs root, network namespaces or ``/dev/net/tun``; ``peers`` one that runs upstream's
programs; ``helm`` one that runs Helm, ``kube`` one that runs Kubernetes too. What is missing skips the test with its
reason on a developer's machine and fails it under ``CI=true``: a job that silently tests nothing is worse than a red
one.
"""

import ctypes
import functools
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from bench.peers import PROGRAMS, executable, unpack

_CHECKOUT: Final = Path(__file__).resolve().parent.parent
_CLONE_NEWNET: Final = 0x40000000


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("root") is not None:
        _require(_missing_privilege())
    if item.get_closest_marker("peers") is not None:
        # "none" is how a CI without upstream's programs says so knowingly: the one skip it is allowed.
        _require(_missing_peers(), excused=os.environ.get("POSTERN_TEST_PEERS") == "none")
    for marker, names in {"helm": ("helm",), "kube": ("helm", "kube")}.items():
        if item.get_closest_marker(marker) is not None:
            _require(_missing_kube(names), excused=_is_kube_excused())


@pytest.fixture(scope="session")
def peer_programs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Path]]:
    """Upstream's programs by name, executable."""
    unpacked = tmp_path_factory.mktemp("peers")
    yield unpack(_peers_directory(), unpacked)
    for name in PROGRAMS:
        (unpacked / name).unlink(missing_ok=True)


@pytest.fixture(scope="session")
def helm_program(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Helm, executable."""
    unpacked = tmp_path_factory.mktemp("helm")
    yield executable(_kube_directory(), "helm", unpacked)
    (unpacked / "helm").unlink(missing_ok=True)


@pytest.fixture(scope="session")
def kube_program(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Kubernetes' programs, executable: one file that acts by the name it is called by."""
    unpacked = tmp_path_factory.mktemp("kube")
    yield executable(_kube_directory(), "kube", unpacked)
    (unpacked / "kube").unlink(missing_ok=True)


@pytest.fixture(scope="session")
def kube_tool() -> Path:
    """The folder of the tool that makes a node."""
    _require(_missing_kube(("helm", "kube", "coredns", "pause", "kube.sh")), excused=_is_kube_excused())
    return _kube_directory()


def _require(missing: str, *, excused: bool = False) -> None:
    if not missing:
        return
    if os.environ.get("CI") == "true" and not excused:
        pytest.fail(f"under CI=true this test must run, but {missing}", pytrace=False)
    pytest.skip(missing)


@functools.cache
def _missing_privilege() -> str:
    if os.geteuid() != 0:
        return "root is needed"
    if not Path("/dev/net/tun").is_char_device():
        return "/dev/net/tun is missing"
    # Asked in a child: a process that has unshared its network cannot go back.
    child = os.fork()
    if child == 0:
        os._exit(0 if ctypes.CDLL(None).unshare(_CLONE_NEWNET) == 0 else 1)
    _, status = os.waitpid(child, 0)
    return "" if status == 0 else "network namespaces cannot be made"


def _peers_directory() -> Path:
    named = os.environ.get("POSTERN_TEST_PEERS", "")
    return Path(named) if named else _CHECKOUT.parent / "shared" / "peers"


def _kube_directory() -> Path:
    named = os.environ.get("POSTERN_TEST_KUBE", "")
    return Path(named) if named else _CHECKOUT.parent / "shared" / "kube"


def _is_kube_excused() -> bool:
    return os.environ.get("POSTERN_TEST_KUBE") == "none"


def _missing_kube(names: tuple[str, ...]) -> str:
    source = _kube_directory()
    absent = [n for n in names if not (source / n).is_file() and not (source / f"{n}.xz").is_file()]
    return f"programs are missing in {source} (POSTERN_TEST_KUBE): {', '.join(absent)}" if absent else ""


def _missing_peers() -> str:
    source = _peers_directory()
    absent = [n for n in PROGRAMS if not (source / n).is_file() and not (source / f"{n}.xz").is_file()]
    return f"upstream's programs are missing in {source} (POSTERN_TEST_PEERS): {', '.join(absent)}" if absent else ""
