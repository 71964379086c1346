"""What every test may rely on: the rules for privileged tests and for tests with programs that no package brings.

``root`` marks a test that needs root, network namespaces or ``/dev/net/tun``: without them it skips with its reason on
a developer's machine and fails under ``CI=true``, for a job that silently tests nothing is worse than a red one.
``peers`` marks one that runs upstream's programs (of 2025; ``peers(2026)``: of 2026), ``helm`` one that runs Helm,
``kube`` one that runs Kubernetes too, ``recordings`` one that reads what upstream's programs said: without them it
skips, and the last line says so.
"""

import ctypes
import functools
import logging
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Final, NoReturn

import hypothesis
import pytest

from bench.peers import PROGRAMS, executable, unpack
from connectivity.io import logs
from tests.programs import KUBE, Absences, require_peers, require_recordings
from tests.scheduling import GroupScheduling
from tests.told import Told

_CLONE_NEWNET: Final = 0x40000000
# A busy machine is no defect; a test that hangs is ended by pytest's own limit.
hypothesis.settings.register_profile("untimed", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow])
hypothesis.settings.load_profile("untimed")


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(Absences())
    config.pluginmanager.register(Told())
    # Ignored where pytest runs by ``nohup`` or ``&``, and what a test starts would inherit that.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if not hasattr(config, "workerinput"):  # a worker of pytest-xdist ends with the process that made it
        signal.signal(signal.SIGTERM, _leave_in_order)


def _leave_in_order(number: int, _: FrameType | None) -> NoReturn:
    """A termination takes the way of Ctrl-C: through every clean-up, so that no process or namespace stays."""
    pytest.exit("terminated", 128 + number)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Those that take minutes begin first."""
    items.sort(key=lambda item: item.get_closest_marker("long") is None)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> GroupScheduling | None:
    """``--dist loadgroup``: by our groups."""
    return GroupScheduling(config, log) if config.getvalue("dist") == "loadgroup" else None


@pytest.fixture(autouse=True)
def _own_logging() -> Iterator[None]:
    """What a command that a test calls sets up for its process is not there for the next test."""
    root = logging.getLogger()
    level = root.level
    yield
    for handler in [one for one in root.handlers if type(one).__module__ == logs.__name__]:
        root.removeHandler(handler)
        root.setLevel(level)


def pytest_runtest_setup(item: pytest.Item) -> None:
    for marker in item.iter_markers("peers"):
        require_peers(*marker.args)
    if item.get_closest_marker("recordings") is not None:
        require_recordings()
    for name, needed in {"helm": ("helm",), "kube": ("helm", "kube")}.items():
        if item.get_closest_marker(name) is not None:
            KUBE.require(*needed)
    if item.get_closest_marker("root") is not None and (missing := _missing_privilege()):
        if os.environ.get("CI") == "true":
            pytest.fail(f"under CI=true this test must run, but {missing}", pytrace=False)
        pytest.skip(missing)


@pytest.fixture(scope="session")
def peer_programs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Path]]:
    """Upstream's programs of 2025 by name, executable."""
    unpacked = tmp_path_factory.mktemp("peers")
    yield unpack(require_peers(), unpacked)
    for name in PROGRAMS:
        (unpacked / name).unlink(missing_ok=True)


@pytest.fixture(scope="session")
def helm_program(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Helm, executable."""
    unpacked = tmp_path_factory.mktemp("helm")
    yield executable(KUBE.require("helm"), "helm", unpacked)
    (unpacked / "helm").unlink(missing_ok=True)


@pytest.fixture(scope="session")
def kube_program(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Kubernetes' programs, executable: one file that acts by the name it is called by."""
    unpacked = tmp_path_factory.mktemp("kube")
    yield executable(KUBE.require("kube"), "kube", unpacked)
    (unpacked / "kube").unlink(missing_ok=True)


@pytest.fixture(scope="session")
def kube_tool() -> Path:
    """The folder of the tool that makes a node."""
    return KUBE.require("kube.sh", "coredns", "pause")


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
